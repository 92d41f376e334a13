"""The list of requirements is complete in both directions, and `--spec` prints it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.unit.spec.plugin import requirements_of
from tests.unit.spec.requirements import REQUIREMENTS, Requirement

TESTS = ROOT / "tests"
FIRST = REQUIREMENTS[0]


def marked(source: str) -> set[Requirement]:
    """The requirements that the marks of tests in this source name; only functions that pytest collects count."""
    return {
        Requirement(*(ast.literal_eval(argument) for argument in mark.args))
        for test in ast.walk(ast.parse(source))
        if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef) and test.name.startswith("test_")
        for mark in test.decorator_list
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.spec"
    }


@pytest.mark.slow
def test_every_requirement_has_a_test() -> None:
    """Read from the sources, so that the selection of tests does not matter."""
    proved = set().union(*(marked(file.read_text()) for file in TESTS.rglob("test_*.py")))
    assert [requirement for requirement in REQUIREMENTS if requirement not in proved] == []


def test_no_requirement_is_listed_twice() -> None:
    assert len(set(REQUIREMENTS)) == len(REQUIREMENTS)


def run(directory: Path, requirement: Requirement, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on one test with this mark; the test creates a file when it runs."""
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = spec\n")
    (directory / "test_it.py").write_text(
        f"import pytest\n\n@pytest.mark.spec{tuple(requirement)}\n@pytest.mark.parametrize('x', [1, 2])\n"
        "def test_it(x, pytestconfig):\n    (pytestconfig.rootpath / 'was-run').touch()\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.unit.spec.plugin", "-p", "no:cacheprovider", *options]
    return subprocess.run(
        [*command, "-c", str(directory / "pytest.ini"), str(directory)],
        cwd=TESTS.parent,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_spec_prints_the_table_and_runs_nothing(tmp_path: Path) -> None:
    printed = run(tmp_path, FIRST, "--spec", "-p", "xdist", "-n", "2")
    assert printed.returncode == 0
    lines = [row for row in printed.stdout.splitlines() if row]
    header, line, *rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in lines]
    assert header == ["Section", "Requirement", "Tests"]
    assert {*"".join(line)} == {"-"}
    assert {tuple(row[:2]) for row in rows} == {tuple(requirement) for requirement in REQUIREMENTS}
    assert [row for row in rows if row[2] != "none"] == [[*FIRST, "test_it.py::test_it"]]
    assert len({len(row) for row in lines}) == 1, "the columns are aligned"
    sections = list(dict.fromkeys(row[0] for row in rows if row[0].startswith("RFC 6749")))
    assert sections[:4] == ["RFC 6749 §2.3", "RFC 6749 §2.3.1", "RFC 6749 §3.1", "RFC 6749 §3.2"]
    assert sections[-2:] == ["RFC 6749 §10.12", "RFC 6749 §B"], "by number, appendices last"
    assert not (tmp_path / "was-run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "code"), [("-q", pytest.ExitCode.TESTS_FAILED), ("--spec", pytest.ExitCode.USAGE_ERROR)]
)
def test_a_mark_with_an_unknown_requirement_fails_the_run(tmp_path: Path, option: str, code: int) -> None:
    refused = run(tmp_path, Requirement(FIRST.section, "Be kind"), option)
    assert refused.returncode == code
    assert "'Be kind') is not in tests/unit/spec/requirements.py" in refused.stdout + refused.stderr
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("arguments", [(FIRST.section,), (), (*FIRST, "more"), ([FIRST.section], FIRST.line)])
def test_an_invalid_mark_is_an_error(request: pytest.FixtureRequest, arguments: tuple[Any, ...]) -> None:
    request.node.add_marker(pytest.mark.spec(*arguments))  # after the setup: it is not checked again
    with pytest.raises(pytest.UsageError, match="is not in"):
        requirements_of(request.node)
