"""The context of a measurement, and counting that several measurements share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks.environments import Ready
from benchmarks.tables import Table
from notion_oauth.sandbox import RecordedRequest, Sandbox

_numbers: Iterator[int] = count()


@dataclass(frozen=True)
class Context:
    """The subjects, a directory for their files, and how thorough this run is."""

    subjects: Sequence[Ready]
    folder: Path
    quick: bool

    def fresh(self) -> Path:
        """A new folder."""
        made = self.folder / str(next(_numbers))
        made.mkdir(parents=True)
        return made

    def either(self, quick: int, thorough: int) -> int:
        return quick if self.quick else thorough


Measurement = Callable[[Context], Iterator[Table]]


def refreshes(requests: Sequence[RecordedRequest]) -> Counter[str]:
    """The number of refresh requests for each grant (a refresh token names its grant)."""
    asked = [request.form for request in requests if request.form.get("grant_type") == "refresh_token"]
    return Counter(grant_of(form.get("refresh_token", "")) for form in asked)


def grant_of(token: str) -> str:
    """The practice server's tokens are `user:GRANT:SECRET`."""
    return token.split(":")[1] if token.count(":") == 2 else ""


def to_authorization_server(sandbox: Sandbox, since: int = 0) -> list[RecordedRequest]:
    """The requests to endpoints other than the MCP server."""
    return [request for request in sandbox.requests[since:] if request.path != "/mcp"]
