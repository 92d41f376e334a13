"""Many logins of one process that are due at once."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.children import measure as run
from benchmarks.logins import EXPIRED, sign_in
from benchmarks.measurements.context import Context, grant_of, refreshes
from benchmarks.tables import Table, listed
from notion_oauth.sandbox import Sandbox, serve_sandbox

TIME_LIMIT = 300  # seconds for one process
LATENCY = 0.3  # seconds until the response to a refresh


def measure(context: Context) -> Iterator[Table]:
    logins, rounds = context.choose(100, 1000), context.choose(1, 3)
    table = Table(
        f"{logins} logins that have expired, in one process",
        f"Their callers wait together, each for one login in the same folder. The practice server, in another process,"
        f" responds to a refresh after {LATENCY} seconds. Processor time, threads and failures are"
        f" those of the process, without the practice server; medians of {rounds} rounds.",
        ("Logins", "Processor time", "Time", "Threads added", "Refreshes of one login", "Failed"),
    )
    directory = context.new_directory()
    with serve_sandbox() as sandbox:
        grants = [_sign_in(sandbox, directory, name) for name in _names(logins)]
        results: list[dict[str, Any]] = []
        counts: list[int] = []
        for _ in range(rounds):
            already = len(sandbox.requests)
            sandbox.misbehave_next("/token", "slow", seconds=LATENCY, times=logins + 1)
            results.append(_round(sandbox, directory, logins))
            sent = refreshes(sandbox.requests[already:])
            counts.extend(sent[grant] for grant in grants)
    cpu, seconds, threads, failed = (
        statistics.median(float(found[name]) for found in results) for name in ("cpu", "seconds", "threads", "failed")
    )
    times = f"{cpu:.2f} s ({cpu / logins * 1000:.1f} ms each)", f"{seconds:.1f} s"
    table.add(str(logins), *times, f"{threads:.0f}", listed(sorted(set(counts))), f"{failed:.0f}")
    yield table


def _names(logins: int) -> list[str]:
    return ["warm", *(f"p{index}" for index in range(logins))]


def _path(directory: Path, name: str) -> Path:
    return directory / f"tokens.json.{name}.profile"


def _sign_in(sandbox: Sandbox, directory: Path, name: str) -> str:
    """Make a login with a separate client and return its grant."""
    login = sign_in(sandbox, directory / f"{name}.json", left=EXPIRED)
    shutil.move(login, _path(directory, name))
    return grant_of(json.loads(_path(directory, name).read_text())["access_token"])


def _round(sandbox: Sandbox, directory: Path, logins: int) -> dict[str, Any]:
    for name in _names(logins):
        login = json.loads(_path(directory, name).read_text())
        _path(directory, name).write_text(json.dumps({**login, "expires_at": round((time.time() + EXPIRED) * 1000)}))
    found: dict[str, Any] = run(
        "benchmarks.due",
        TIME_LIMIT,
        server_url=sandbox.mcp_url,
        token_file=str(directory / "tokens.json"),
        warm="warm",
        profiles=_names(logins)[1:],
    )
    return found
