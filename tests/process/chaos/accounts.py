"""Why a login was lost, and why a token was refused: from what the server did, the workers met and the file held.

A lost login is accounted for where a strict server ended it because a refresh token came twice, and whoever had sent
it first could not have stored what the server gave for it: the answer was lost, came later than a client waits, or
its asker was killed. Two things speak against each of these: an answer that had arrived at a worker that lived on,
and a successor that had been seen in the token file. Then somebody went back to an older token, and that is no loss
that had to be.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from tests.process.chaos.journals import Journals
from tests.process.chaos.ledger import Ledger, Refresh, Refusal
from tests.process.chaos.watching import Watcher

REUSED = "Refresh token reuse detected"
ON_THE_WAY = "expired between the asking and the use"
NOT_KNOWN = "expired at the server, not yet by the moment its answer arrived"
EXPIRED = "EXPIRED BEFORE IT WAS ASKED FOR"
GOOD = "WITHIN ITS LIFETIME AND NOT REPLACED"
UNKNOWN = "NEVER ISSUED"
WRONG = (EXPIRED, GOOD, UNKNOWN)


@dataclass
class Loss:
    """A login that is gone, and whether it had to be."""

    login: int
    at: float
    unavoidable: bool
    cause: str


@dataclass
class Accounts:
    """Compares the records. `killed` says when each worker was killed; a client waits for `patience` seconds."""

    ledger: Ledger
    journals: Journals
    watcher: Watcher
    killed: dict[str, float]
    patience: float

    def cause(self, grant: str) -> tuple[bool, str]:
        """Whether the loss of a login was unavoidable with a strict server, and what led to it."""
        end = self.ledger.end_of(grant)
        if end is None:
            return False, "the server has not ended it"
        first = self._first_use(end)
        if end.why != REUSED or first is None:
            return False, f"the server said {end.why!r}, and the token had not been used before"
        seen = self.watcher.stored.get(first.issued)
        if seen is not None and seen < end.arrived:
            return False, "an older token was sent although the file held a newer one"
        return self._unstored(first, end)

    def _first_use(self, end: Refresh) -> Refresh | None:
        return next((one for one in self.ledger.refreshes if one.used == end.used and one.status == 200), None)

    def _unstored(self, first: Refresh, end: Refresh) -> tuple[bool, str]:
        """Why what the server gave for the first use of a token came into no file."""
        killed = self.killed.get(first.asker.rpartition(".")[0])
        arrived = self.journals.answered.get(first.asker)
        if first.fault == "lost":
            return True, "the answer to its refresh was lost"
        if first.fault == "slow" and arrived is None:
            return True, "the answer to its refresh came too late"
        if killed is not None and first.arrived - 1 < killed < min(end.arrived, first.done + self.patience + 1):
            return True, f"its refresher was killed {'before' if arrived is None else 'after'} the answer arrived"
        given_up = self.journals.unanswered.get(first.asker)
        if arrived is None and given_up is not None and given_up - first.arrived > self.patience / 2:
            return True, "the machine was too slow for the time-out"
        return False, "the answer to its refresh had arrived, and was not stored"

    def refusals(self) -> Counter[str]:
        """Tokens that /mcp refused, by the reason."""
        return Counter(self._reason(refusal) for refusal in self.ledger.refusals)

    def _reason(self, refusal: Refusal) -> str:
        token, handed = self.ledger.tokens.get(refusal.token), self.journals.handed.get(refusal.asker)
        if token is None or handed is None:
            return UNKNOWN
        if token.ended is not None and token.ended <= refusal.at:
            return token.why
        if token.expires > refusal.at:
            return GOOD
        if token.expires > handed.asked:
            return ON_THE_WAY
        known_until = self.watcher.known_until.get(refusal.token, token.expires)
        return NOT_KNOWN if known_until > handed.asked else EXPIRED

    def expiries(self, now: float) -> int:
        """Access tokens that a worker was given, and whose lifetime is over."""
        given = {handed.token for handed in self.journals.handed.values()}
        return sum(token in given and access.expires <= now for token, access in self.ledger.tokens.copy().items())
