"""Why a login was lost and why a token was refused, from the events of the server, the workers and the token file.

With a strict server, which ends a login when a refresh token is used twice, a loss was unavoidable if the first sender
could not store the new tokens (the response was lost, it came after the time-out, or the sender was killed), if a
request arrived after its sender had timed out, or if a backup with a used refresh token was restored. A loss was
avoidable if the response had arrived at a worker that was not killed, or if the token file already had the next token:
then a process went back to an older token. With Notion's rules every loss was avoidable.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from notion_oauth.tokens.source import REFUSAL_PAUSE
from tests.process.chaos.disruptions import Disruption, Disruptions, Kind
from tests.process.chaos.file_watcher import FileWatcher
from tests.process.chaos.server_events import Refresh, Refusal, ServerEvents
from tests.process.chaos.worker_events import Problem, WorkerEvents

REUSED = "Refresh token reuse detected"
RESTORED = "a backup was restored"
IN_TRANSIT = "expired between the request for it and its use"
EXPIRY_UNKNOWN = "expired at the server, not yet by the time of its response"
CLOCK_SET = "expired while the clock was set"
EXPIRED = "EXPIRED BEFORE IT WAS REQUESTED"
VALID = "WITHIN ITS LIFETIME AND NOT REPLACED"
UNKNOWN = "NEVER ISSUED"
UNEXPECTED = (EXPIRED, VALID, UNKNOWN)
HOLDERS = 2  # for which a worker may have to wait, one after the other
TOLERANCE = 0.1  # seconds between an event and its record
BEFORE = 10.0  # seconds of the record that are shown before a loss


@dataclass
class Loss:
    """A lost login, whether the loss was unavoidable, and the events that led to it, with their times."""

    login: int
    at: float
    unavoidable: bool
    cause: str
    record: list[tuple[float, str]]


@dataclass
class Analysis:
    """Compares the events. `timeout` is a worker's for a request, `lock_wait` for the lock, in seconds."""

    server_events: ServerEvents
    worker_events: WorkerEvents
    watcher: FileWatcher
    disruptions: Disruptions
    timeout: float
    lock_wait: float

    def cause(self, login: int, grant: str) -> tuple[bool, str]:
        """Whether the loss of a login was unavoidable with a strict server, and its cause."""
        end = self.server_events.end_of(grant)
        if end is None:
            return False, "a worker gave up, although the server has not ended the login"
        first = self._first_use(end)
        if end.why != REUSED or first is None:
            return False, f"the server answered {end.why!r}, but the token had not been used before"
        if self._restored(login, end, first):
            return True, RESTORED
        if end.fault == "late":
            return True, "a request came after its sender had timed out"
        seen = self.watcher.stored.get(first.issued)
        if seen is not None and seen < end.sent:
            return False, "an older token was sent although the file had a newer one"
        return self._unstored(first, end)

    def _first_use(self, end: Refresh) -> Refresh | None:
        return next(
            (each for each in self.server_events.refreshes if each.used == end.used and each.status == 200), None
        )

    def _restored(self, login: int, end: Refresh, first: Refresh) -> bool:
        """Whether the refused token came from a backup that was restored after its first use."""
        restored = self.disruptions.find("backup restored", login, first.done, end.sent)
        return any(each.token == end.used for each in restored)

    def _unstored(self, first: Refresh, end: Refresh) -> tuple[bool, str]:
        """Why the new tokens for the first use of a refresh token were not stored."""
        sender = first.sender.rpartition(".")[0]
        arrived = self.worker_events.answered.get(first.sender)
        unanswered = self.worker_events.unanswered.get(first.sender)
        killed = self.disruptions.killed.get(sender, math.inf)
        if first.fault == "lost":
            return True, "the response to its refresh was lost"
        if first.fault == "late":
            return True, "a request came after its sender had timed out"
        if first.sent - 1 < killed < end.sent and unanswered is None and self._had_no_time(sender, arrived, killed):
            return True, f"its refresher was killed {'before' if arrived is None else 'after'} the response arrived"
        timed_out = self.worker_events.started.get(first.sender, first.sent) + self.timeout
        if self.disruptions.find("stopped", sender, timed_out, timed_out):
            return False, "its refresher was stopped, and the response was not used when it went on"
        if first.fault == "slow" and arrived is None:
            return True, "the response to its refresh came too late"
        if arrived is None and unanswered is not None and unanswered > timed_out - TOLERANCE:
            return True, "the machine was too slow for the time-out"
        return False, "the response to its refresh had arrived, but was not stored"

    def _had_no_time(self, sender: str, arrived: float | None, killed: float) -> bool:
        """Whether a worker was killed before it could store the response that had arrived."""
        if arrived is None or killed < arrived + self.timeout + 1:
            return True
        login = int(sender.partition("-")[0])
        return bool(
            self.disruptions.find("stopped", sender, arrived, killed)
            or self.disruptions.find("disk full", login, arrived, killed)
        )

    def record(self, login: int, grant: str, *, brief: bool) -> list[tuple[float, str]]:
        """What happened to a login before it was lost; if `brief`, only since the first use of the refused token."""
        refreshes = [each for each in self.server_events.refreshes.copy() if each.grant == grant]
        end = self.server_events.end_of(grant)
        first = self._first_use(end) if end is not None else None
        until = refreshes[-1].sent if refreshes else math.inf
        since = until - BEFORE
        if brief and end is not None and first is not None:
            since, until = first.sent, end.arrived
            refreshes = [each for each in refreshes if each.used == end.used]
        return self._events(login, refreshes, since, until)

    def _events(self, login: int, refreshes: list[Refresh], since: float, until: float) -> list[tuple[float, str]]:
        sent = [each for each in refreshes if since <= each.sent <= until]
        hit = [each for each in self.disruptions.record.copy() if each.login == login and each.overlaps(since, until)]
        return sorted(
            [*((each.sent, self._line(each)) for each in sent), *((each.began, each.describe()) for each in hit)]
        )

    def _line(self, refresh: Refresh) -> str:
        outcome = f"{refresh.status} {refresh.why}".strip() if refresh.status else refresh.why or "not processed"
        issued = f", which issued {refresh.issued[:6]}" if refresh.status == 200 else ""
        arrived = refresh.arrived - refresh.sent
        late = f" arrived {arrived:.2f} s later" if arrived else ""
        known = self.worker_events.answered.get(refresh.sender)
        received = f", received {known - refresh.sent:.2f} s later" if known else ", no response received"
        if started := self.worker_events.started.get(refresh.sender):
            received += f" (started {refresh.sent - started:.2f} s before)"
        fault = f" ({refresh.fault})" if refresh.fault else ""
        return (
            f"{refresh.sender or 'runner'}: refresh with {refresh.used[:6]}{fault}{late}: {outcome}{issued}{received}"
        )

    def unexpected_problems(self) -> list[str]:
        """Problems with the store that no disruption explains."""
        found = [each for each in self.worker_events.storage if not self._overlapping("disk full", each)]
        for each in self.worker_events.busy:
            # Each holder may send a refused token again, after a pause, and then the previous one
            stopped = sum(stop.ended - stop.began for stop in self._overlapping("stopped", each))
            if stopped + HOLDERS * (REFUSAL_PAUSE + 3 * self.timeout) < self.lock_wait:
                found.append(each)
        return [self._describe(each) for each in found]

    def _describe(self, problem: Problem) -> str:
        login = problem.worker.partition("-")[0]
        refreshes = [each for each in self.server_events.refreshes if each.sender.startswith(f"{login}-")]
        events = self._events(int(login), refreshes, problem.requested - 1, problem.at)
        return "\n    ".join([f"worker {problem.worker}: {problem.message}", *(event for _, event in events)])

    def _overlapping(self, kind: Kind, problem: Problem) -> list[Disruption]:
        return self.disruptions.find(kind, int(problem.worker.partition("-")[0]), problem.requested - 1, problem.at)

    def refusals(self) -> Counter[str]:
        """Tokens that /mcp refused, by reason."""
        return Counter(self._reason(refusal) for refusal in self.server_events.refusals)

    def _reason(self, refusal: Refusal) -> str:
        token, received = self.server_events.tokens.get(refusal.token), self.worker_events.received.get(refusal.sender)
        if token is None or received is None:
            return UNKNOWN
        if token.ended is not None and token.ended <= refusal.at:
            return token.why
        if token.expires > refusal.at:
            return VALID
        if token.expires > received.requested:
            return IN_TRANSIT
        login = int(refusal.sender.partition("-")[0])
        if self.disruptions.find("clock set", login, token.issued - self.timeout, refusal.at):
            return CLOCK_SET
        known_until = self.watcher.known_until.get(refusal.token, token.expires) - self.disruptions.ahead(login)
        return EXPIRY_UNKNOWN if known_until > received.requested else EXPIRED

    def expiries(self, now: float) -> int:
        """How many of the access tokens that workers received have expired."""
        tokens = {received.token for received in self.worker_events.received.values()}
        return sum(
            token in tokens and access.expires <= now for token, access in self.server_events.tokens.copy().items()
        )
