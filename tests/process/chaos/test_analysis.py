"""The chaos run's own judgement: which losses of a login a strict server makes unavoidable, and which need not be."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from notion_oauth.sandbox import Sandbox
from tests.process.chaos.analysis import RESTORED, REUSED, Analysis
from tests.process.chaos.disruptions import KINDS, Disruption, Disruptions
from tests.process.chaos.file_watcher import FileWatcher
from tests.process.chaos.server_events import REPLACED_TOKEN, Fault, Refresh, ServerEvents
from tests.process.chaos.worker_events import WorkerEvents

FIRST, SECOND = "0-1.7", "0-2.9"  # a worker of login 0, and the number of its request
Change = Callable[[Analysis], Any]


def refresh(sender: str, sent: float, status: int, *, fault: Fault | None = None, why: str = "") -> Refresh:
    issued = "new" if status == 200 else ""
    return Refresh(sender, "grant", "old", sent, fault, sent, status, why, sent + 0.1, issued)


def lost_after(
    *changes: Change, fault: Fault | None = None, second: Fault | None = None, seconds: float = 1
) -> list[Change]:
    """Two workers have used one refresh token, `seconds` apart: with `fault` the first, with `second` the other."""

    def refreshes(analysis: Analysis) -> None:
        analysis.server_events.refreshes += [
            refresh(FIRST, 10, 200, fault=fault),
            refresh(SECOND, 10 + seconds, 400, fault=second, why=REUSED),
        ]

    return [refreshes, *changes]


def answered(analysis: Analysis) -> None:
    analysis.worker_events.answered[FIRST] = 10.2


def timed_out(analysis: Analysis) -> None:
    analysis.worker_events.unanswered[FIRST] = 10.6


def killed(at: float) -> Change:
    return lambda analysis: analysis.disruptions.killed.update({"0-1": at})


def disrupted(*arguments: Any, **options: Any) -> Change:
    return lambda analysis: analysis.disruptions.record.append(Disruption(*arguments, **options))


def stored(at: float) -> Change:
    return lambda analysis: analysis.watcher.stored.update(new=at)


RESTORE = disrupted("backup restored", 0, 10.5, token="old", ended=10.5)
LOSSES: dict[str, tuple[bool, str, list[Change]]] = {
    "response lost": (True, "was lost", lost_after(timed_out, fault="lost")),
    "response late": (True, "too late", lost_after(timed_out, fault="slow")),
    "first request late": (True, "had timed out", lost_after(timed_out, fault="late")),
    "second request late": (True, "had timed out", lost_after(answered, stored(10.3), second="late")),
    "killed before the response": (True, "killed before", lost_after(killed(10.1))),
    "killed after the response": (True, "killed after", lost_after(answered, killed(10.3))),
    "killed long after the response": (
        False,
        "not stored",
        lost_after(lambda a: a.worker_events.answered.update({FIRST: 8}), killed(10.9)),
    ),
    "request delayed by a busy machine": (
        True,
        "too slow",
        lost_after(
            lambda a: (a.worker_events.started.update({FIRST: 9.5}), a.worker_events.unanswered.update({FIRST: 10.1}))
        ),
    ),
    "connection broken before the time-out": (
        False,
        "not stored",
        lost_after(lambda a: a.worker_events.unanswered.update({FIRST: 10.2})),
    ),
    "killed later, after a time-out": (True, "too slow", lost_after(timed_out, killed(10.9))),
    "backup restored": (True, RESTORED, lost_after(answered, stored(10.3), RESTORE)),
    "backup restored of another login": (
        False,
        "file had a newer",
        lost_after(answered, stored(10.3), disrupted("backup restored", 1, 10.5, token="old", ended=10.5)),
    ),
    "backup restored before the first use": (
        False,
        "file had a newer",
        lost_after(answered, stored(10.3), disrupted("backup restored", 0, 9, token="old", ended=9)),
    ),
    "older token sent": (False, "file had a newer", lost_after(answered, stored(10.3))),
    "response not stored": (False, "not stored", lost_after(answered)),
    "response not stored on a full disk": (False, "not stored", lost_after(answered, disrupted("disk full", 0, 9))),
    "lock deleted": (False, "not stored", lost_after(answered, disrupted("lock deleted", 0, 10.05, ended=10.05))),
    "stopped before the time-out": (
        True,
        "too late",
        lost_after(timed_out, disrupted("stopped", 0, 10.05, worker="0-1", ended=10.3), fault="slow"),
    ),
    "stopped": (False, "stopped", lost_after(timed_out, disrupted("stopped", 0, 10.05, worker="0-1", ended=12))),
    "given up": (
        False,
        "gave up",
        [lambda analysis: analysis.server_events.refreshes.append(refresh(FIRST, 10, 400, why=REPLACED_TOKEN))],
    ),
    "revoked": (
        False,
        "'revoked'",
        [lambda analysis: analysis.server_events.refreshes.append(refresh(FIRST, 10, 400, why="revoked"))],
    ),
}


@pytest.fixture
def analysis(tmp_path: Path) -> Analysis:
    server_events = ServerEvents(Sandbox(), random.Random(0), 0, timeout=0.6)  # noqa: S311 - no secret
    watcher = FileWatcher([], lambda _: False, tmp_path / "scratch")
    disruptions = Disruptions([], server_events, watcher, seed=0, stops=(1,), kinds=KINDS, is_ready=lambda _: True)
    return Analysis(server_events, WorkerEvents(tmp_path), watcher, disruptions, timeout=0.6, lock_wait=5)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_told_apart(analysis: Analysis, name: str) -> None:
    unavoidable, cause, changes = LOSSES[name]
    for change in changes:
        change(analysis)
    found = analysis.cause(0, "grant")
    assert (found[0], cause in found[1]) == (unavoidable, True), found
    assert any(FIRST in event for _, event in analysis.record(0, "grant", brief=unavoidable))
