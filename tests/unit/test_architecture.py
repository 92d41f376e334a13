"""The rooms of the package, and which of them may import which."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "notion_oauth"
# From top to bottom. A package may import packages of lower rows, but no other package of the same row.
ROWS = (
    {"__main__"},
    {"cli"},
    {"app"},
    {"router", "gateway"},
    {"auth", "interactive", "web"},
    {"service"},
    {"tokens"},
    {"stores", "transport"},
    {"storage", "settings"},
    {"files", "pages"},
    {"protocol", "observability", "humanize"},
    {"errors", "models", "clock", "concurrency", "profile_names"},
)
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))
IMPURE = {"anyio", "asyncio", "httpx", "logging", "os", "pathlib", "random", "secrets", "socket", "time"}


def relative(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file) for file in FILES}


def room_of(module: str) -> str:
    """The first name below the package: `protocol` for `notion_oauth.protocol.token`."""
    return module.split(".")[1]


def imports_of(file: Path) -> set[str]:
    """The modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else f"{node.module}" for name in names}
    return found


def ours(file: Path) -> set[str]:
    return {name for name in imports_of(file) if name.startswith("notion_oauth.")}


def test_every_module_is_in_a_room() -> None:
    assert {room_of(module) for module in MODULES - {"notion_oauth"}} <= {*ROW, "sandbox"}


@pytest.mark.parametrize("file", [file for file in FILES if file != PACKAGE / "__init__.py"], ids=relative)
def test_imports_go_to_lower_rows(file: Path) -> None:
    room = room_of(module_of(file))
    used = {room_of(module) for module in ours(file)} - {room}
    if room == "sandbox":
        assert not used, "the sandbox is independent, so that one wrong constant cannot pass on both sides"
    else:
        allowed = {other for other, row in ROW.items() if row > ROW[room]} | ({"sandbox"} if room == "cli" else set())
        assert used <= allowed


@pytest.mark.slow
def test_no_circular_imports() -> None:
    graph = {module_of(file): ours(file) - {module_of(file)} for file in FILES if file.name != "__init__.py"}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("file", sorted((PACKAGE / "protocol").glob("*.py")), ids=relative)
def test_the_protocol_is_pure(file: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(file)} & IMPURE
    tree = ast.parse(file.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Await | ast.AsyncFunctionDef)]
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not attributes & {"now", "utcnow", "today"}


@pytest.mark.parametrize("package", sorted({file.parent for file in FILES} - {PACKAGE}), ids=relative)
def test_every_package_says_what_it_is_for(package: Path) -> None:
    assert ast.get_docstring(ast.parse((package / "__init__.py").read_text()))
