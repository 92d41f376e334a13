"""Many logins of one process that are due at once."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio

from benchmarks.children import measure as run
from benchmarks.logins import EXPIRED, sign_in
from benchmarks.measurements.context import Context, grant_of, refreshes
from benchmarks.tables import Table, listed
from notion_oauth.clock import utc_now
from notion_oauth.files.encryption import new_key
from notion_oauth.files.token_file_format import decode_login
from notion_oauth.models import TokenSet
from notion_oauth.sandbox import Sandbox, serve_sandbox
from notion_oauth.settings import Settings
from notion_oauth.stores.factory import create_store

TIME_LIMIT = 300  # seconds for one process
LATENCY = 0.3  # seconds until the response to a refresh


def measure(context: Context) -> Iterator[Table]:
    logins, rounds = context.choose(100, 1000), context.choose(1, 3)
    table = _table("one process", "for one login in the same folder", logins, rounds)
    directory = context.new_directory()
    with serve_sandbox() as sandbox:
        grants = {name: _sign_in(sandbox, directory, name) for name in _names(logins)}

        def expire() -> None:
            for name in grants:
                login = json.loads(_path(directory, name).read_text())
                expires_at = round((time.time() + EXPIRED) * 1000)
                _path(directory, name).write_text(json.dumps({**login, "expires_at": expires_at}))

        settings = {"token_file": str(directory / "tokens.json")}
        table.add(str(logins), *_rounds(sandbox, grants, rounds, settings, expire))
    yield table


def measure_in_database(url: str, directory: Path, *, logins: int = 1000, rounds: int = 5) -> Table:
    """The same with logins in an empty database, encrypted. `directory` is for files of the preparation."""
    table = _table("one process, in PostgreSQL", "for one login in the database, encrypted", logins, rounds)
    with serve_sandbox() as sandbox:
        settings = {"database_url": url, "encryption_key": new_key()}
        store = create_store(Settings(server_url=sandbox.mcp_url, env_file=None, **settings))
        grants = {name: _sign_in(sandbox, directory, name) for name in _names(logins)}
        contents = {name: _path(directory, name).read_bytes() for name in grants}
        known = {name: decode_login(content, name) for name, content in contents.items()}

        async def expire() -> None:
            for name, first in known.items():
                login = (await store.load(name)).login or first
                async with store.exclusive(name) as hold:
                    if isinstance(login, TokenSet):
                        await hold.save(login.model_copy(update={"expires_at": utc_now() + timedelta(seconds=EXPIRED)}))

        table.add(str(logins), *_rounds(sandbox, grants, rounds, settings, lambda: anyio.run(expire)))
    return table


def _table(where: str, waits: str, logins: int, rounds: int) -> Table:
    return Table(
        f"{logins} logins that have expired, in {where}",
        f"Their callers wait together, each {waits}. The practice server, in another process,"
        f" responds to a refresh after {LATENCY} seconds. Processor time, threads and failures are"
        f" those of the process, without the practice server; medians of {rounds} rounds.",
        ("Logins", "Processor time", "Time", "Threads added", "Refreshes of one login", "Failed"),
    )


def _rounds(
    sandbox: Sandbox, grants: dict[str, str], rounds: int, settings: dict[str, str], expire: Callable[[], None]
) -> tuple[str, ...]:
    """Let all logins expire and refresh them, several times. Returns the cells of the table."""
    results: list[dict[str, Any]] = []
    counts: list[int] = []
    logins = len(grants) - 1
    for _ in range(rounds):
        expire()
        already = len(sandbox.requests)
        sandbox.misbehave_next("/token", "slow", seconds=LATENCY, times=logins + 1)
        found = run(
            "benchmarks.due",
            TIME_LIMIT,
            settings={"server_url": sandbox.mcp_url, **settings},
            warm="warm",
            profiles=_names(logins)[1:],
        )
        results.append(found)
        sent = refreshes(sandbox.requests[already:])
        counts.extend(sent[grant] for grant in grants.values())
    cpu, seconds, threads, failed = (
        statistics.median(float(found[name]) for found in results) for name in ("cpu", "seconds", "threads", "failed")
    )
    times = f"{cpu:.2f} s ({cpu / logins * 1000:.1f} ms each)", f"{seconds:.1f} s"
    return (*times, f"{threads:.0f}", listed(sorted(set(counts))), f"{failed:.0f}")


def _names(logins: int) -> list[str]:
    return ["warm", *(f"p{index}" for index in range(logins))]


def _path(directory: Path, name: str) -> Path:
    return directory / f"tokens.json.{name}.profile"


def _sign_in(sandbox: Sandbox, directory: Path, name: str) -> str:
    """Make a login with a separate client and return its grant."""
    login = sign_in(sandbox, directory / f"{name}.json", left=EXPIRED)
    shutil.move(login, _path(directory, name))
    return grant_of(json.loads(_path(directory, name).read_text())["access_token"])
