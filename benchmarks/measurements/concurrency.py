"""Many requests at once: with a valid token, with one that is about to expire, and with one that has expired."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.children import SubjectFailed, run
from benchmarks.environments import Installed
from benchmarks.logins import EXPIRED, FRESH, IN_WINDOW, sign_in
from benchmarks.measurements.context import Context, grant_of, refreshes
from benchmarks.subjects.harness import Login
from benchmarks.tables import Table, listed, milliseconds, times
from notion_oauth.sandbox import serve_sandbox

REQUESTS = 200
SECONDS = 0.02  # for each request at the MCP server


@dataclass
class Batches:
    """A subject's rounds: times, failures, and the number of refreshes."""

    rounds: list[dict[str, Any]]
    refreshes: list[int]

    def median(self, name: str) -> float:
        return statistics.median(float(found[name]) for found in self.rounds)

    @property
    def ratio(self) -> float:
        return statistics.median(float(found["own"] / found["fixed"]) for found in self.rounds)

    @property
    def added(self) -> float:
        return statistics.median(float(found["own"] - found["fixed"]) for found in self.rounds)

    @property
    def failures(self) -> str:
        """The number of failures in each round, and their types."""
        kinds = Counter(chain.from_iterable(found["failures"] for found in self.rounds))
        numbers = listed([len(found["failures"]) for found in self.rounds])
        return f"{numbers} ({', '.join(kinds)})" if kinds else numbers


def measure_concurrency(context: Context) -> Iterator[Table]:
    for left, name in ((FRESH, "a valid token"), (IN_WINDOW, "2 of 60 minutes left")):
        table = Table(
            f"{REQUESTS} requests at once, {name}",
            f"Each takes {SECONDS * 1000:.0f} ms at the server. Total time as a multiple of a fixed header's;"
            f" medians of {_rounds(context)} rounds, each with a new login that is first read from disk.",
            ("Client", "Fixed header", "With the client", "Ratio", "Refreshes", "Failed requests"),
        )
        for subject, found in _each(context, table, left=left):
            fixed, own = milliseconds(found.median("fixed")), milliseconds(found.median("own"))
            table.add(subject.name, fixed, own, times(found.ratio), listed(found.refreshes), found.failures)
        yield table


def measure_expiry(context: Context) -> Iterator[Table]:
    table = Table(
        f"{REQUESTS} tasks at the moment of expiry",
        f"One process, each request takes {SECONDS * 1000:.0f} ms at the server, the token has expired and the server"
        f" refuses it; medians of {_rounds(context)} rounds. The MCP SDK gets the expiry, as a process has it that"
        " has held the login since it was issued.",
        ("Client", "Refreshes", "Failed requests", "Fixed header", "With the client", "Added"),
    )
    for subject, found in _each(context, table, left=EXPIRED):
        fixed, own = milliseconds(found.median("fixed")), milliseconds(found.median("own"))
        table.add(subject.name, listed(found.refreshes), found.failures, fixed, own, milliseconds(found.added))
    yield table


def _rounds(context: Context) -> int:
    return context.choose(2, 10)


def _each(context: Context, table: Table, *, left: int) -> Iterator[tuple[Installed, Batches]]:
    for subject in context.subjects:
        try:
            yield subject, _batches(context, subject, left=left)
        except SubjectFailed as error:
            table.add_failed(subject.name, str(error))


def _batches(context: Context, subject: Installed, *, left: int) -> Batches:
    directory = context.new_directory()
    with serve_sandbox() as sandbox:
        warm = sign_in(sandbox, directory / "warm.json", left=FRESH)
        logins = [sign_in(sandbox, directory / f"{index}.json", left=left) for index in range(_rounds(context))]
        grants = [grant_of(_document(login)["access_token"]) for login in logins]
        found = run(
            subject,
            directory,
            action="concurrent",
            warm=str(warm),
            logins=[str(login) for login in logins],
            state=directory / "state",
            requests=REQUESTS,
            seconds=SECONDS,
            expired=left == EXPIRED,
        )
        counts = refreshes(sandbox.requests)
    return Batches(found["rounds"], [counts[grant] for grant in grants])


def _document(login: Path) -> Login:
    document: Login = json.loads(login.read_text())
    return document
