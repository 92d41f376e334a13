"""Several processes that share one login: at its expiry, and after a restart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from benchmarks.children import Child, SubjectFailed, run
from benchmarks.environments import Installed
from benchmarks.logins import EXPIRED, FRESH, sign_in
from benchmarks.measurements.context import Context, authorization_server_requests, refreshes
from benchmarks.tables import Table, listed
from notion_oauth.sandbox import RecordedRequest, SandboxOptions, serve_sandbox

PROCESSES = 8


def measure_processes(context: Context) -> Iterator[Table]:
    rounds = context.choose(1, 5)
    table = Table(
        f"{PROCESSES} processes at the moment of expiry",
        f"They share one stored login, wait until all have loaded, and send one request each, {rounds} rounds. The"
        " server ends the grant when a refresh token is used a second time. The MCP SDK gets the expiry, as above.",
        ("Client", "Refreshes", "Failed processes", "Logins alive afterwards", "What failed"),
    )
    for subject in context.subjects:
        try:
            found = [_at_expiry(context, subject) for _ in range(rounds)]
        except SubjectFailed as error:
            table.add_failed(subject.name, str(error))
            continue
        kinds = Counter(kind for _, failures, _ in found for kind in failures)
        table.add(
            subject.name,
            listed([requested for requested, _, _ in found]),
            listed([len(failures) for _, failures, _ in found]),
            f"{sum(alive for _, _, alive in found)} of {rounds}",
            ", ".join(kinds),
        )
    yield table


def _at_expiry(context: Context, subject: Installed) -> tuple[int, Sequence[str], bool]:
    """The number of refreshes, the failures, and whether the login still works."""
    directory = context.new_directory()
    with serve_sandbox(SandboxOptions(reuse="strict")) as sandbox:
        login = sign_in(sandbox, directory / "login.json", left=EXPIRED)
        sandbox.expire_access_tokens()
        state = directory / "state"
        run(subject, directory, action="store", login=login, state=state)
        before = len(sandbox.requests)
        children = [
            Child(subject, directory, action="request", login=login, state=state, running=True, together=True)
            for _ in range(PROCESSES)
        ]
        for child in children:
            child.wait_until_ready()
        for child in children:
            child.go()
        failures = [child.result()["failure"] for child in children]
        requested = refreshes(sandbox.requests[before:])
        return sum(requested.values()), [failure for failure in failures if failure], sandbox.live_grants == 1


def measure_restart(context: Context) -> Iterator[Table]:
    table = Table(
        "After a restart",
        "One process stores the login, another makes a request. Its requests to the authorization server are counted;"
        " the minimum is 0 with a valid token and 1 with an expired one.",
        ("Client", "Token", "Requests", "Which", "Outcome"),
    )
    for subject in context.subjects:
        for left, name in ((FRESH, "valid"), (EXPIRED, "expired")):
            try:
                requested, failure = _restarted(context, subject, left=left)
            except SubjectFailed as error:
                table.add_failed(subject.name, str(error))
                continue
            which = ", ".join(f"`{request.method} {request.path}`" for request in requested)
            table.add(subject.name, name, str(len(requested)), which, failure or "answered")
    yield table


def _restarted(context: Context, subject: Installed, *, left: int) -> tuple[list[RecordedRequest], str | None]:
    directory = context.new_directory()
    with serve_sandbox() as sandbox:
        login = sign_in(sandbox, directory / "login.json", left=left)
        if left == EXPIRED:
            sandbox.expire_access_tokens()
        state = directory / "state"
        run(subject, directory, action="store", login=login, state=state)
        before = len(sandbox.requests)
        found = run(subject, directory, action="request", login=login, state=state)
        return authorization_server_requests(sandbox, before), found["failure"]
