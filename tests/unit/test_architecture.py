"""The shape of the code: who may import whom, and how long a file may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "notion_oauth"
LAYERS = (
    {
        "errors",
        "models",
        "places",
        "protection",
        "keychain_process",
        "surroundings",
        "prompt",
        "correlation",
        "redaction",
    },
    {"protocol"},
    {"folders", "keychain", "finishing", "blocking", "patience", "status", "addresses", "certificates", "audit"},
    {"guarding", "sealing"},
    {"settings", "proxies", "files"},
    {"route"},
    {"reach"},
    {"connecting"},
    {"words", "tokenfile", "transport", "flights", "glance", "asking", "logs"},
    {"storage"},
    {"oauth_client", "stores"},
    {"clients", "memory", "telemetry", "signing_out"},
    {"refresh", "observing"},
    {"service"},
    {"background", "session", "pages", "bearer", "hosts", "server_logs"},
    {"guard", "forms", "gate", "unfinished", "sweeping", "ratelimits", "described", "request_log"},
    {"profiles"},
    {"statuspages", "health"},
    {"admission"},
    {"auth", "auth_httpx2", "router", "dependency", "loopback", "pasted"},
    {"app", "login", "practice", "running", "checks"},
    {"demo", "console", "doctor"},
    {"commands"},
    {"cli"},
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str:
    """The first name below the package: `protocol` for all of its files."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(file: Path) -> set[str]:
    """Every dotted name that the file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who is meant"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("notion_oauth.")}


def test_every_module_has_its_place() -> None:
    assert {module_of(file) for file in FILES} - {"__init__", "sandbox"} == set(LEVEL)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_down(file: Path) -> None:
    module = module_of(file)
    if module == "__init__":
        return  # names everything, and imports it when it is asked for
    used = ours(imports_of(file))
    if module == "sandbox":
        assert used <= {"sandbox"}, "one wrong constant must not pass on both sides"
        return
    used.discard("sandbox" if module in ("demo", "practice") else "")
    upward = {name for name in used if LEVEL[name] > LEVEL[module] and name != module}
    assert not upward


@pytest.mark.parametrize("file", sorted((PACKAGE / "protocol").glob("*.py")), ids=lambda file: file.name)
def test_the_protocol_is_pure(file: Path) -> None:
    imported = {name.split(".")[0] for name in imports_of(file)}
    assert not imported & {
        "anyio",
        "asyncio",
        "httpx",
        "logging",
        "os",
        "pathlib",
        "random",
        "secrets",
        "socket",
        "time",
    }
    tree = ast.parse(file.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Await | ast.AsyncFunctionDef)]
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not attributes & {"now", "utcnow", "today"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_has_one_purpose_and_300_lines(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 300
