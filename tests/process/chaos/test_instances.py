"""A short run of many instances on PostgreSQL: everything happens, and no login is lost."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.process.chaos.instances import KINDS, Plan, run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("postgresql")]


@pytest.mark.parametrize("rules", ["notion", "strict"])
def test_no_login_is_lost_and_no_token_is_wrong(rules: Literal["notion", "strict"]) -> None:
    """The run ends when everything has happened once; the seconds only limit it on a busy machine."""
    plan = Plan(expiries=25, seconds=90, logins=20, tasks=4, seed=3, rules=rules, faults=0.3, disrupt_every=0.6)
    results = run(plan)
    assert not results.failures, f"\n{results}"
    assert results.lost == 0
    assert results.disruptions.keys() == set(KINDS[rules])
    assert results.faults.total() > 0
    assert results.expiries >= 25
