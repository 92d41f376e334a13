"""What the server did: every refresh with its fault, every token with its life, every refusal."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from notion_oauth.sandbox import RecordedRequest, Sandbox
from tests.process.chaos.fingerprints import fingerprint

Fault = Literal["dropped", "lost", "slow", "garbled", "429", "503"]
FAULTS: tuple[Fault, ...] = ("dropped", "lost", "slow", "garbled", "429", "503")
ENDED_EARLY, REPLACED, LOGIN_LOST = "ended early by the runner", "replaced by a refresh", "the login was lost"


@dataclass
class Refresh:
    """A request for new tokens. `status` is the server's answer, which may not have arrived; 0: it did nothing."""

    asker: str
    grant: str
    used: str  # the fingerprint of the refresh token
    arrived: float
    fault: Fault | None
    status: int = 0
    why: str = ""
    done: float = 0
    issued: str = ""  # the fingerprint of the new refresh token


@dataclass
class Access:
    """An access token's life."""

    grant: str
    expires: float
    ended: float | None = None
    why: str = ""

    def end(self, at: float, why: str) -> None:
        if self.ended is None and at < self.expires:
            self.ended, self.why = at, why


@dataclass
class Refusal:
    """A token that /mcp did not take."""

    asker: str
    token: str
    at: float


@dataclass
class Ledger:
    """Watches a practice server, and lets refreshes fail at `rate`; only those of workers, who number their requests.

    `tell` hears of each refresh when the server has done it, before its answer goes out.
    """

    sandbox: Sandbox
    chance: random.Random
    rate: float
    late: float  # seconds; longer than a client waits
    tell: Callable[[Refresh], None] = lambda refresh: None
    refreshes: list[Refresh] = field(default_factory=list)
    tokens: dict[str, Access] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _open: dict[int, Refresh] = field(default_factory=dict)
    _arrived_at: dict[int, float] = field(default_factory=dict)  # of all requests for tokens
    _ended_early: float = 0

    def __post_init__(self) -> None:
        self.sandbox.observe(on_arrival=self._arrived, on_answer=self._answered)

    def end_tokens_early(self) -> None:
        """As a server may that thinks better of it: every access token, and no login."""
        with self.lock:
            self.sandbox.expire_access_tokens()
            self.faults["tokens ended early"] += 1
            self._ended_early = time.time()
            for token in self.tokens.values():
                token.end(self._ended_early, ENDED_EARLY)

    def failed_answers(self) -> int:
        """How many of the answers to workers were made to go wrong."""
        return sum(self.faults[kind] for kind in FAULTS)

    def end_of(self, grant: str) -> Refresh | None:
        """The refresh that ended a login."""
        with self.lock:
            return next((one for one in self.refreshes if one.grant == grant and one.status in (400, 401)), None)

    def _arrived(self, request: RecordedRequest) -> None:
        if request.path != "/token":
            return
        self._arrived_at[id(request)] = time.time()  # the sandbox keeps its requests: no other has this id
        if request.form.get("grant_type") != "refresh_token":
            return
        token, asker = request.form.get("refresh_token", ""), request.headers.get("x-asker", "")
        with self.lock:
            refresh = Refresh(asker, _grant(token), fingerprint(token), time.time(), self._fault() if asker else None)
            self.refreshes.append(refresh)
            self._open[id(request)] = refresh

    def _fault(self) -> Fault | None:
        if self.chance.random() >= self.rate:
            return None
        fault = self.chance.choice(FAULTS)
        self.faults[fault] += 1
        if fault == "429":
            self.sandbox.fail_next("/token", status=429, error="temporarily_unavailable", headers={"Retry-After": "1"})
        elif fault == "503":
            self.sandbox.fail_next("/token", status=503, body="<html>unavailable")
        elif fault == "slow":
            self.sandbox.misbehave_next("/token", "slow", seconds=self.late)
        elif fault == "lost":
            self.sandbox.misbehave_next("/token", "lose_response")
        else:
            self.sandbox.misbehave_next("/token", "drop" if fault == "dropped" else "garble")
        return fault

    def _answered(self, request: RecordedRequest, status: int, body: bytes) -> None:
        with self.lock:
            now = time.time()
            if request.path == "/token":
                self._token_answered(request, status, json.loads(body), now)
            elif request.path == "/mcp" and status == 401 and "authorization" in request.headers:
                token = request.headers["authorization"].removeprefix("Bearer ")
                self.refusals.append(Refusal(request.headers.get("x-asker", ""), fingerprint(token), now))

    def _token_answered(self, request: RecordedRequest, status: int, document: dict[str, str], now: float) -> None:
        # The server did what it did at some moment since then: a busy machine takes its time to tell of it
        refresh, since = self._open.pop(id(request), None), self._arrived_at.pop(id(request))
        if "access_token" in document:
            grant = _grant(document["access_token"])
            if not self.sandbox.options.access_token_survives_refresh:
                self._end(grant, since, REPLACED)
            access = Access(grant, since + self.sandbox.options.access_token_lifetime)
            if self._ended_early >= since:
                access.end(self._ended_early, ENDED_EARLY)
            self.tokens[fingerprint(document["access_token"])] = access
        if refresh is None:
            return
        refresh.status, refresh.done, refresh.why = status, now, document.get("error_description", "")
        if status in (400, 401):
            self._end(refresh.grant, since, LOGIN_LOST)
        refresh.issued = fingerprint(document.get("refresh_token", ""))
        self.tell(refresh)

    def _end(self, grant: str, now: float, why: str) -> None:
        for token in self.tokens.values():
            if token.grant == grant:
                token.end(now, why)


def _grant(token: str) -> str:
    """The middle of a practice server's token names its grant, and is no secret."""
    return token.split(":")[1] if token.count(":") == 2 else ""
