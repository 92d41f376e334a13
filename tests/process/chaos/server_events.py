"""The events of the server: every refresh with its fault, every token with its lifetime, every refusal."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

import anyio

from notion_oauth.sandbox import RecordedRequest, Sandbox
from tests.process.chaos.deck import Deck
from tests.process.chaos.fingerprints import fingerprint

# late: the request arrives after its sender has timed out; refused: once, with an error that would end a login
Fault = Literal["dropped", "lost", "slow", "garbled", "429", "503", "refused", "late"]
FAULTS: tuple[Fault, ...] = ("dropped", "lost", "slow", "garbled", "429", "503", "refused", "late")
REFUSALS = ((400, "invalid_grant"), (401, "invalid_client"), (400, "unauthorized_client"))
REPLACED_TOKEN = "Invalid refresh token"  # does not end the grant
ENDED_EARLY, REPLACED, LOGIN_LOST = "ended early by the runner", "replaced by a refresh", "the login was lost"
POLL = 0.01  # seconds


@dataclass
class Refresh:
    """A request for new tokens. `status` is the server's, even if the response was lost; 0: it did nothing."""

    sender: str
    grant: str
    used: str  # the fingerprint of the refresh token
    sent: float
    fault: Fault | None
    arrived: float
    status: int = 0
    why: str = ""
    done: float = 0
    issued: str = ""  # the fingerprint of the new refresh token

    @property
    def ended_grant(self) -> bool:
        return self.status in (400, 401) and self.why != REPLACED_TOKEN


@dataclass
class Access:
    """The lifetime of an access token."""

    grant: str
    issued: float
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

    `timeout` is that of the workers, in seconds. `on_refresh` gets each refresh when it arrives.
    """

    sandbox: Sandbox
    rng: random.Random
    rate: float
    timeout: float
    on_refresh: Callable[[Refresh], None] = lambda refresh: None
    kinds: tuple[Fault, ...] = FAULTS
    refreshes: list[Refresh] = field(default_factory=list)
    of_grant: defaultdict[str, list[Refresh]] = field(default_factory=lambda: defaultdict(list))
    tokens: dict[str, Access] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _open: dict[int, Refresh] = field(default_factory=dict)
    _arrived_at: dict[int, float] = field(default_factory=dict)  # of all requests for tokens
    _refused: set[str] = field(default_factory=set)  # the fingerprints of refresh tokens that were refused once
    _ended_early: float = 0

    def __post_init__(self) -> None:
        self._deck = Deck(self.kinds, self.rng)
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
        """How many requests of workers were made to fail."""
        return sum(self.faults[kind] for kind in FAULTS)

    def end_of(self, grant: str) -> Refresh | None:
        """The refresh at which the server ended the login, or None."""
        with self.lock:
            return next((each for each in self.refreshes if each.grant == grant and each.ended_grant), None)

    def replayable(self, grant: str) -> set[str]:
        """The refresh token before the current one; none while a request may change that.

        By Notion's rules it is valid. A strict server ends the grant when it is sent.
        """
        with self.lock:
            if any(each.grant == grant for each in self._open.values()):
                return set()
            last = self._last_success(grant)
            return set() if last is None else {last.used}

    def _last_success(self, grant: str) -> Refresh | None:
        done = [each for each in self.of_grant[grant] if each.status == 200]
        return max(done, key=lambda each: each.done, default=None)

    def _arrived(self, request: RecordedRequest) -> Awaitable[None] | None:
        if request.path != "/token":
            return None
        now = self._arrived_at[id(request)] = time.time()  # the sandbox keeps its requests, so ids are unique
        if request.form.get("grant_type") != "refresh_token":
            return None
        token, sender = request.form.get("refresh_token", ""), request.headers.get("x-sender", "")
        with self.lock:
            used = fingerprint(token)
            grant = _grant(token)
            refresh = Refresh(sender, grant, used, now, self._fault(grant, used) if sender else None, now)
            self.refreshes.append(refresh)
            self.of_grant[refresh.grant].append(refresh)
            if refresh.fault in (None, "slow", "lost", "late"):
                self._open[id(request)] = refresh
        self.on_refresh(refresh)
        return self._delay(request, refresh) if refresh.fault == "late" else None

    def _fault(self, grant: str, used: str) -> Fault | None:
        if self.rng.random() >= self.rate:
            return None
        fault = self._deck.draw()
        if fault == "refused":
            if used in self._refused or any(each.used == used and each.status for each in self.of_grant[grant]):
                return None  # a refusal that is repeated is final, and so is that of the previous refresh token
            self._refused.add(used)
            status, error = self.rng.choice(REFUSALS)
            self.sandbox.fail_next("/token", status=status, error=error)
        elif fault == "429":
            self.sandbox.fail_next("/token", status=429, error="temporarily_unavailable", headers={"Retry-After": "1"})
        elif fault == "503":
            self.sandbox.fail_next("/token", status=503, body="<html>unavailable")
        elif fault == "slow":
            self.sandbox.misbehave_next("/token", "slow", seconds=self.rng.uniform(0.2, 1.8) * self.timeout)
        elif fault == "lost":
            self.sandbox.misbehave_next("/token", "lose_response")
        elif fault != "late":
            self.sandbox.misbehave_next("/token", "drop" if fault == "dropped" else "garble")
        self.faults[fault] += 1
        return fault

    async def _delay(self, request: RecordedRequest, refresh: Refresh) -> None:
        """Delay a request until its sender has timed out: it arrives before the retry or soon after it.

        It never arrives once the tokens of the retry were used: an older refresh token would end the grant.
        """
        due, retried = refresh.sent + self.rng.uniform(1.2, 6) * self.timeout, False
        while time.time() < due:
            await anyio.sleep(POLL)
            last = self._last_success(refresh.grant)
            if last is not None and last.done > refresh.sent and not retried:
                retried = True
                due = min(due, time.time() + self.rng.uniform(0, 0.3))
            if last is not None and last.done > refresh.sent and last.used != refresh.used:
                break
        with self.lock:
            refresh.arrived = self._arrived_at[id(request)] = time.time()
            last = self._last_success(refresh.grant)
            if last is not None and last.done > refresh.sent and last.used != refresh.used:
                refresh.why = "never arrived"
                self._open.pop(id(request))
                self.sandbox.misbehave_next("/token", "drop")

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
            access = Access(grant, since, since + self.sandbox.options.access_token_lifetime)
            if self._ended_early >= since:
                access.end(self._ended_early, ENDED_EARLY)
            self.tokens[fingerprint(document["access_token"])] = access
        if refresh is None:
            return
        refresh.status, refresh.done, refresh.why = status, now, document.get("error_description", "")
        if refresh.ended_grant:
            self._end(refresh.grant, since, LOGIN_LOST)
        refresh.issued = fingerprint(document.get("refresh_token", ""))

    def _end(self, grant: str, now: float, why: str) -> None:
        for token in self.tokens.values():
            if token.grant == grant:
                token.end(now, why)


def _grant(token: str) -> str:
    """The middle part of a practice server's token is the id of its grant, and not secret."""
    return token.split(":")[1] if token.count(":") == 2 else ""
