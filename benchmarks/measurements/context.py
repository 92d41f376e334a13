"""The context of a measurement, and counting that several measurements share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks.environments import Installed
from benchmarks.tables import Table
from notion_oauth.sandbox import RecordedRequest, Sandbox

_numbers: Iterator[int] = count()


@dataclass(frozen=True)
class Context:
    """The subjects, a directory for their files, and how thorough this run is."""

    subjects: Sequence[Installed]
    directory: Path
    quick: bool

    def new_directory(self) -> Path:
        """A new directory."""
        directory = self.directory / str(next(_numbers))
        directory.mkdir(parents=True)
        return directory

    def choose(self, quick: int, thorough: int) -> int:
        return quick if self.quick else thorough


Measurement = Callable[[Context], Iterator[Table]]


def refreshes(requests: Sequence[RecordedRequest]) -> Counter[str]:
    """The number of refresh requests for each grant (a refresh token names its grant)."""
    forms = [request.form for request in requests if request.form.get("grant_type") == "refresh_token"]
    return Counter(grant_of(form.get("refresh_token", "")) for form in forms)


def grant_of(token: str) -> str:
    """The practice server's tokens are `user:GRANT:SECRET`."""
    return token.split(":")[1] if token.count(":") == 2 else ""


def authorization_server_requests(sandbox: Sandbox, since: int = 0) -> list[RecordedRequest]:
    """The requests to endpoints other than the MCP server."""
    return [request for request in sandbox.requests[since:] if request.path != "/mcp"]
