"""Why a login was lost and why a token was refused, from the events of the server, the workers and the token file.

A loss was unavoidable if a strict server ended the login because a refresh token was used twice, and its first sender
could not store the new tokens: the response was lost, it came after the time-out, or the sender was killed. A loss was
avoidable if the response had arrived at a worker that was not killed, or if the token file already had the next token:
then a process went back to an older token.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tests.process.chaos.file_watcher import FileWatcher
from tests.process.chaos.server_events import Refresh, Refusal, ServerEvents
from tests.process.chaos.worker_events import WorkerEvents

REUSED = "Refresh token reuse detected"
IN_TRANSIT = "expired between the request for it and its use"
EXPIRY_UNKNOWN = "expired at the server, not yet by the time of its response"
EXPIRED = "EXPIRED BEFORE IT WAS REQUESTED"
VALID = "WITHIN ITS LIFETIME AND NOT REPLACED"
UNKNOWN = "NEVER ISSUED"
UNEXPECTED = (EXPIRED, VALID, UNKNOWN)


@dataclass
class Loss:
    """A lost login, and whether the loss was unavoidable."""

    login: int
    at: float
    unavoidable: bool
    cause: str


@dataclass
class Analysis:
    """Compares the events. `killed` has the time when each worker was killed; `timeout` is a client's, in seconds."""

    server_events: ServerEvents
    worker_events: WorkerEvents
    watcher: FileWatcher
    killed: dict[str, float]
    timeout: float

    def cause(self, grant: str) -> tuple[bool, str]:
        """Whether the loss of a login was unavoidable with a strict server, and its cause."""
        end = self.server_events.end_of(grant)
        if end is None:
            return False, "the server has not ended it"
        first = self._first_use(end)
        if end.why != REUSED or first is None:
            return False, f"the server answered {end.why!r}, but the token had not been used before"
        seen = self.watcher.stored.get(first.issued)
        if seen is not None and seen < end.arrived:
            return False, "an older token was sent although the file had a newer one"
        return self._unstored(first, end)

    def _first_use(self, end: Refresh) -> Refresh | None:
        return next(
            (each for each in self.server_events.refreshes if each.used == end.used and each.status == 200), None
        )

    def _unstored(self, first: Refresh, end: Refresh) -> tuple[bool, str]:
        """Why the new tokens for the first use of a refresh token were not stored."""
        killed = self.killed.get(first.sender.rpartition(".")[0])
        arrived = self.worker_events.answered.get(first.sender)
        if first.fault == "lost":
            return True, "the response to its refresh was lost"
        if first.fault == "slow" and arrived is None:
            return True, "the response to its refresh came too late"
        if killed is not None and first.arrived - 1 < killed < min(end.arrived, first.done + self.timeout + 1):
            return True, f"its refresher was killed {'before' if arrived is None else 'after'} the response arrived"
        unanswered = self.worker_events.unanswered.get(first.sender)
        if arrived is None and unanswered is not None and unanswered - first.arrived > self.timeout / 2:
            return True, "the machine was too slow for the time-out"
        return False, "the response to its refresh had arrived, but was not stored"

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
        known_until = self.watcher.known_until.get(refusal.token, token.expires)
        return EXPIRY_UNKNOWN if known_until > received.requested else EXPIRED

    def expiries(self, now: float) -> int:
        """How many of the access tokens that workers received have expired."""
        tokens = {received.token for received in self.worker_events.received.values()}
        return sum(
            token in tokens and access.expires <= now for token, access in self.server_events.tokens.copy().items()
        )
