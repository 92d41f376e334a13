"""Which test proves which requirement: the mark `spec`, and the option `--spec` that prints a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import pytest

from tests.unit.spec.requirements import REQUIREMENTS, Requirement

TestsByRequirement = dict[Requirement, list[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--spec",
        action="store_true",
        help="print the requirements of the specifications and the tests that prove them; run no test",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With --spec: one process, all tests, and only the table as output."""
    if config.getoption("spec"):
        config.option.numprocesses, config.option.tx, config.option.dist = 0, [], "no"
        config.option.markexpr = ""  # include the slow tests
        config.option.verbose = -2


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A mark with an unknown requirement is an error of its test."""
    requirements_of(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With --spec, print the table instead of running the tests."""
    if not session.config.getoption("spec"):
        return None
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    for row in table(tests_by_requirement(session.items)):
        reporter.write_line(row)
    return True


def requirements_of(item: pytest.Item) -> list[Requirement]:
    """The requirements that the test's marks name. Raises UsageError for one that is not in the list."""
    marks = list(item.iter_markers("spec"))
    for mark in marks:
        if mark.kwargs or mark.args not in REQUIREMENTS:
            raise pytest.UsageError(f"{item.nodeid}: {mark.args} is not in tests/unit/spec/requirements.py")
    return [Requirement(*mark.args) for mark in marks]


def tests_by_requirement(items: Iterable[pytest.Item]) -> TestsByRequirement:
    """The tests of each requirement; a parametrized test counts once."""
    found: TestsByRequirement = {requirement: [] for requirement in REQUIREMENTS}
    for item in items:
        test = item.nodeid.partition("[")[0]
        for requirement in requirements_of(item):
            if test not in found[requirement]:
                found[requirement].append(test)
    return found


def table(found: TestsByRequirement) -> Iterator[str]:
    """The lines of a Markdown table, sorted by document and section; one line for each test."""
    rows = [("Section", "Requirement", "Tests")]
    for requirement in sorted(found, key=lambda each: _order(each.section)):
        first, *more = found[requirement] or ["none"]
        rows += [(*requirement, first), *(("", "", test) for test in more)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type] # three columns, three widths
    for row in rows:
        yield f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"


def _order(section: str) -> list[tuple[int, str]]:
    """Sort key: numbers by value, and before letters."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", section)]
