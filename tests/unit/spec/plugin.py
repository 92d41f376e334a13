"""Which test holds which requirement: the marker `spec`, and the option `--spec` that prints them all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import pytest

from tests.unit.spec.requirements import REQUIREMENTS, Requirement

Held = dict[Requirement, list[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--spec", action="store_true", help="print what the specifications ask for and which tests hold it; run nothing"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With --spec: one process, all tests, and no output but the table."""
    if config.getoption("spec"):
        config.option.numprocesses, config.option.tx, config.option.dist = 0, [], "no"
        config.option.markexpr = ""  # the slow tests, too
        config.option.verbose = -2


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A mark that names no requirement is an error of its test."""
    held_by(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With --spec, the table in the place of the tests."""
    if not session.config.getoption("spec"):
        return None
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    for row in table(holders(session.items)):
        reporter.write_line(row)
    return True


def held_by(item: pytest.Item) -> list[Requirement]:
    """What the test's marks name. Raises UsageError where one is not in the list."""
    marks = list(item.iter_markers("spec"))
    for mark in marks:
        if mark.kwargs or mark.args not in REQUIREMENTS:
            raise pytest.UsageError(f"{item.nodeid}: {mark.args} is not in tests/unit/spec/requirements.py")
    return [Requirement(*mark.args) for mark in marks]


def holders(items: Iterable[pytest.Item]) -> Held:
    """The tests that hold each requirement, a test with parameters once."""
    held: Held = {requirement: [] for requirement in REQUIREMENTS}
    for item in items:
        test = item.nodeid.partition("[")[0]
        for requirement in held_by(item):
            if test not in held[requirement]:
                held[requirement].append(test)
    return held


def table(held: Held) -> Iterator[str]:
    """The lines of a Markdown table, sorted by document and section; a line of its own for each test."""
    rows = [("Section", "Requirement", "Tests")]
    for requirement in sorted(held, key=lambda each: _order(each.section)):
        first, *more = held[requirement] or ["none"]
        rows += [(*requirement, first), *(("", "", test) for test in more)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type] # three columns, three widths
    for row in rows:
        yield f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"


def _order(section: str) -> list[tuple[int, str]]:
    """Numbers by their value, and before letters."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", section)]
