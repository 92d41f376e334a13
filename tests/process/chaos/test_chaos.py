"""A short chaos run: the faults happen, and no login is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from tests.process.chaos.disruptions import DISK, KINDS, Disks
from tests.process.chaos.report import Report
from tests.process.chaos.runner import Plan, run
from tests.process.chaos.server_events import FAULTS


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["notion", "strict"])
def test_no_avoidable_loss_of_a_login(rules: Literal["notion", "strict"]) -> None:
    """The run ends when everything has happened once; the seconds only limit it on a busy machine."""
    plan = Plan(seconds=150, expiries=6, logins=2, processes=2, seed=7, rules=rules, disrupt_every=0.7, faults=0.5)
    report = run(plan)
    assert not report.failures, f"\n{report}"
    assert rules == "strict" or not report.losses
    assert report.disruptions.keys() >= set(KINDS) - ({"disk full"} if report.skipped else set())
    assert report.faults.keys() >= set(FAULTS)
    assert report.torn == 0
    assert report.refreshes > 2
    assert report.expiries >= 6
    assert report.received > 20


@pytest.mark.slow
def test_disks_can_be_filled(tmp_path: Path) -> None:
    """Otherwise the test above leaves them out."""
    with Disks([tmp_path / "disk"]) as disks:
        if disks.skipped:
            pytest.skip(f"full disks are not tested: {disks.skipped}")
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "disk" / "file").write_bytes(bytes(2 * DISK))


def test_run_without_disks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # without the command mount
    with Disks([tmp_path / "disk"]) as disks:
        report = Report(
            seconds=1,
            started=0,
            expiries=0,
            refreshes=0,
            disruptions=Counter(),
            skipped=disks.skipped,
            faults=Counter(),
            received=0,
            refused=Counter(),
            transient=Counter(),
            storage=0,
            busy=0,
            reads=0,
            torn=0,
            losses=[],
            errors=[],
        )
    assert "SKIPPED: no disk was filled: [Errno 2] No such file or directory: 'mount'" in str(report)
