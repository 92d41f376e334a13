"""The events of the server: every refresh with its fault, every token with its lifetime, every refusal."""

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
    """A request for new tokens. `status` is the server's, even if the response was lost; 0: it did nothing."""

    sender: str
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
    """The lifetime of an access token."""

    grant: str
    expires: float
    ended: float | None = None
    why: str = ""

    def end(self, at: float, why: str) -> None:
        if self.ended is None and at < self.expires:
            self.ended, self.why = at, why


@dataclass
class Refusal:
    """A token that /mcp refused."""

    sender: str
    token: str
    at: float


@dataclass
class ServerEvents:
    """Observes a practice server, and makes refreshes of workers fail at `rate`. Workers number their requests.

    `on_refresh` gets each refresh after the server has done it and before the response is sent.
    """

    sandbox: Sandbox
    rng: random.Random
    rate: float
    slow_seconds: float  # longer than the time-out of a client
    on_refresh: Callable[[Refresh], None] = lambda refresh: None
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
        """End every access token and no login, as a server may."""
        with self.lock:
            self.sandbox.expire_access_tokens()
            self.faults["tokens ended early"] += 1
            self._ended_early = time.time()
            for token in self.tokens.values():
                token.end(self._ended_early, ENDED_EARLY)

    def failed_responses(self) -> int:
        """How many responses to workers were made to fail."""
        return sum(self.faults[kind] for kind in FAULTS)

    def end_of(self, grant: str) -> Refresh | None:
        """The refresh at which the server ended the login, or None."""
        with self.lock:
            return next((each for each in self.refreshes if each.grant == grant and each.status in (400, 401)), None)

    def _arrived(self, request: RecordedRequest) -> None:
        if request.path != "/token":
            return
        self._arrived_at[id(request)] = time.time()  # the sandbox keeps its requests, so ids are unique
        if request.form.get("grant_type") != "refresh_token":
            return
        token, sender = request.form.get("refresh_token", ""), request.headers.get("x-sender", "")
        with self.lock:
            refresh = Refresh(sender, _grant(token), fingerprint(token), time.time(), self._fault() if sender else None)
            self.refreshes.append(refresh)
            self._open[id(request)] = refresh

    def _fault(self) -> Fault | None:
        if self.rng.random() >= self.rate:
            return None
        fault = self.rng.choice(FAULTS)
        self.faults[fault] += 1
        if fault == "429":
            self.sandbox.fail_next("/token", status=429, error="temporarily_unavailable", headers={"Retry-After": "1"})
        elif fault == "503":
            self.sandbox.fail_next("/token", status=503, body="<html>unavailable")
        elif fault == "slow":
            self.sandbox.misbehave_next("/token", "slow", seconds=self.slow_seconds)
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
                self.refusals.append(Refusal(request.headers.get("x-sender", ""), fingerprint(token), now))

    def _token_answered(self, request: RecordedRequest, status: int, document: dict[str, str], now: float) -> None:
        # The server may have done it at any time since the request: on a busy machine this call comes late
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
        self.on_refresh(refresh)

    def _end(self, grant: str, now: float, why: str) -> None:
        for token in self.tokens.values():
            if token.grant == grant:
                token.end(now, why)


def _grant(token: str) -> str:
    """The middle part of a practice server's token is the id of its grant, and not secret."""
    return token.split(":")[1] if token.count(":") == 2 else ""
