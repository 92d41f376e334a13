"""The chaos run in its short form: what it counts is really met, and no login is lost."""

from __future__ import annotations

import pytest

from tests.process.chaos.runner import Plan, run


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["notion", "strict"])
def test_no_avoidable_loss_of_a_login(rules: str) -> None:
    # It ends when enough has happened; the seconds only bound it on a machine that is busy
    plan = Plan(seconds=150, expiries=6, logins=2, processes=2, seed=7, rules=rules, kill_every=2, faults=0.4)  # type: ignore[arg-type]
    report = run(plan)
    assert not report.failures, f"\n{report}"
    assert rules == "strict" or not report.losses
    assert report.torn == 0
    assert report.kills > 0
    assert report.faults.total() - report.faults["tokens ended early"] > 0, "answers were made to fail"
    assert report.refreshes > 2
    assert report.expiries >= 6
    assert report.served > 20
