"""Every dependency has a reason in CONTRIBUTING.md."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from itertools import chain

import pytest

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def names(requirements: Iterable[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower() for requirement in requirements}


USED = names(PROJECT["project"]["dependencies"])
EXTRAS = names(chain(*PROJECT["project"]["optional-dependencies"].values()))
DEVELOPMENT = names(chain(*PROJECT["dependency-groups"].values())) - EXTRAS


@pytest.mark.parametrize(
    ("heading", "wanted"),
    [("Package", USED), ("Extra", EXTRAS), ("Development", DEVELOPMENT)],
    ids=["used", "extras", "development"],
)
def test_each_dependency_has_a_reason(heading: str, wanted: set[str]) -> None:
    table = (
        (ROOT / "CONTRIBUTING.md").read_text().partition(f"| {heading} | What it is for |\n")[2].partition("\n\n")[0]
    )
    rows = [row.strip("| ").split(" | ") for row in table.splitlines()[1:]]
    assert all(reason for _, reason in rows)
    assert {name for names, _ in rows for name in names.split(", ")} == wanted
