"""The cost of a request compared with a fixed header, in a process that has a valid token."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.children import SubjectFailed, run
from benchmarks.logins import FRESH, sign_in
from benchmarks.measurements.context import Context
from benchmarks.tables import Table, microseconds, times
from notion_oauth.sandbox import serve_sandbox

REQUESTS = 200


def measure(context: Context) -> Iterator[Table]:
    rounds = context.choose(7, 41)
    table = Table(
        "Cost of one request",
        f"A valid token and a transport that answers at once; medians of {rounds} rounds of {REQUESTS} requests,"
        " alternating with a fixed `Authorization` header on the same HTTP library. The quartiles are those of the"
        " difference.",
        ("Client", "HTTP library", "Fixed header", "With the client", "Added", "Quartiles", "Ratio"),
    )
    with serve_sandbox() as sandbox:
        for subject in context.subjects:
            directory = context.new_directory()
            login = sign_in(sandbox, directory / "login.json", left=FRESH)
            try:
                found = run(
                    subject,
                    directory,
                    action="cost",
                    login=login,
                    state=directory / "state",
                    rounds=rounds,
                    requests=REQUESTS,
                )
            except SubjectFailed as error:
                table.add_failed(subject.name, str(error))
                continue
            low, high = found["quartiles"]
            table.add(
                subject.name,
                subject.versions.rpartition(", ")[2],
                microseconds(found["fixed"]),
                microseconds(found["own"]),
                microseconds(found["added"]),
                f"{low:.0f} to {high:.0f} µs",
                times(found["own"] / found["fixed"]),
            )
    yield table
