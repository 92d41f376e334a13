"""What all persons of a run share: the practice server, which knows whose grant is whose, and the workers."""

from __future__ import annotations

import json
import time
from collections import Counter

from notion_oauth.sandbox import RecordedRequest, Sandbox
from tests.process.browsers.front import Front
from tests.process.browsers.workers import Workers


class World:
    """Follows the codes: each belongs to the person who consented, and its grant too."""

    def __init__(self, sandbox: Sandbox, workers: Workers, front: Front) -> None:
        self.sandbox, self.workers, self.front = sandbox, workers, front
        self._grants: dict[str, str] = {}  # by code
        self._slow: dict[str, float] = {}  # seconds, by code
        self._busy: dict[str, int] = {}  # how many times the server is busy, by code
        self._revoked: list[str] = []  # grants
        self._sent: Counter[str] = Counter()  # how often the server has processed each code
        sandbox.observe(on_arrival=self._on_arrival, on_answer=self._on_answer)

    def delay(self, code: str, seconds: float) -> None:
        """Make the exchange of the code slow. The server processes it at once, and answers later."""
        self._slow[code] = seconds

    def refuse_first(self, code: str) -> None:
        """Answer the first exchange of the code with 503, unprocessed."""
        self._busy[code] = 1

    def grants_of(self, codes: set[str]) -> set[str]:
        return {self._grants[code] for code in codes if code in self._grants}

    @property
    def revocations(self) -> int:
        return len(self._revoked)

    def revoked_since(self, count: int) -> list[str]:
        return self._revoked[count:]

    @property
    def codes_sent_twice(self) -> int:
        return sum(count > 1 for code, count in self._sent.items() if code in self._grants)

    def was_killed(self, started: float) -> bool:
        """Whether a worker was killed since that time, or just before."""
        return self.workers.killed_between(started, time.monotonic())

    def _on_arrival(self, request: RecordedRequest) -> None:
        code = request.form.get("code", "")
        if self._busy.pop(code, 0):
            self.sandbox.fail_next("/token", status=503, headers={"Retry-After": "1"})
        elif seconds := self._slow.get(code):
            self.sandbox.misbehave_next("/token", "slow", seconds=seconds)

    def _on_answer(self, request: RecordedRequest, status: int, body: bytes) -> None:
        form = request.form
        if form.get("grant_type") == "authorization_code":
            self._sent[form.get("code", "")] += 1
            if status == 200:
                self._grants[form["code"]] = _grant(json.loads(body)["access_token"])
        elif "grant_type" not in form and "token" in form:
            self._revoked.append(_grant(form["token"]))


def _grant(token: str) -> str:
    """The practice server's tokens are `user:GRANT:SECRET`."""
    return token.split(":")[1]
