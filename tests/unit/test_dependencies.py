"""Nothing is depended on without a reason in the README."""

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
    ("beginning", "wanted"),
    [("The dependencies: ", USED), ("The extras: ", EXTRAS), ("For the tests and checks alone: ", DEVELOPMENT)],
    ids=["used", "extras", "development"],
)
def test_the_readme_gives_a_reason_for_each_dependency(beginning: str, wanted: set[str]) -> None:
    told = re.sub(r"\s+", " ", (ROOT / "README.md").read_text()).partition(beginning)[2].partition("MIT licence")[0]
    for name in ("API", "SDK"):
        told = told.replace(f"OpenTelemetry's {name}", f"opentelemetry-{name}")
    assert {name for name in wanted if not re.search(rf"(?i)(?<![\w-]){re.escape(name)}(?![\w-])", told)} == set()
