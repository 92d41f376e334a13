"""A short chaos run: the faults happen, and no login is lost."""

from __future__ import annotations

import pytest

from tests.process.chaos.runner import Plan, run


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["notion", "strict"])
def test_no_avoidable_loss_of_a_login(rules: str) -> None:
    # The run ends after enough expiries; the seconds only limit it on a busy machine
    plan = Plan(seconds=150, expiries=6, logins=2, processes=2, seed=7, rules=rules, kill_every=2, faults=0.4)  # type: ignore[arg-type]
    report = run(plan)
    assert not report.failures, f"\n{report}"
    assert rules == "strict" or not report.losses
    assert report.torn == 0
    assert report.kills > 0
    assert report.faults.total() - report.faults["tokens ended early"] > 0, "responses were made to fail"
    assert report.refreshes > 2
    assert report.expiries >= 6
    assert report.received > 20
