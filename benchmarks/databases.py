"""`python -m benchmarks.databases URL`: the store in an empty PostgreSQL database, with few and with very many logins.

It fills the tables, which must not contain any login.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from multiprocessing import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import anyio
import anyio.to_thread
from pydantic import SecretStr

from benchmarks.measurements import due
from benchmarks.tables import Table
from notion_oauth.files.encryption import Encryption, new_key
from notion_oauth.files.token_file_format import encode_tokens
from notion_oauth.models import ClientInformation, TokenSet
from notion_oauth.stores import schema
from notion_oauth.stores.postgresql import PostgresqlDatabase
from notion_oauth.stores.sql_documents import DatabaseStore

SIZES = (1_000, 1_000_000)
ROUNDS = 300
CONCURRENT = 10
MANY = 100
PROCESSES = 2
CLAIMED = 100
_FILL = """
INSERT INTO notion_oauth_logins (profile, login, changed_at, fence, owner, lease_until, due_at, used_at, keep_at)
SELECT 'user-' || n, :login, {now}, 1, '', 0, {now} + 3600 + n, {now}, {now} + 1728000 + n
FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n"""
_UNUSED = """
UPDATE notion_oauth_logins SET keep_at = 1 WHERE profile IN (SELECT profile FROM notion_oauth_logins LIMIT 5000)"""


def login() -> TokenSet:
    now = datetime.now(UTC)
    return TokenSet(
        access_token=SecretStr("a" * 60),
        refresh_token=SecretStr("r" * 60),
        client=ClientInformation(client_id="c" * 16),
        expires_at=now + timedelta(hours=1),
        updated_at=now,
        token_endpoint="https://mcp.notion.com/token",  # noqa: S106 - a URL
    )


async def refresh(store: DatabaseStore, number: int) -> None:
    """What a refresh does in the store: take the lease, reserve, save and release the lease."""
    async with store.exclusive(f"user-{number % 1000 + 1}") as hold:
        await hold.load()
        await hold.reserve(SecretStr("sent"))
        await hold.save(login(), last=True)


async def median(work: Callable[[int], Awaitable[object]], rounds: int) -> float:
    """The median time of one call, in milliseconds."""
    times = []
    for number in range(rounds):
        started = time.perf_counter()
        await work(number)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


async def rate(store: DatabaseStore, at_once: int, *, first: int = 0) -> float:
    """Refreshes a second of one process."""
    left, started = iter(range(10 * ROUNDS)), time.perf_counter()

    async def work() -> None:
        for number in left:
            await refresh(store, first + number % 500)

    async with anyio.create_task_group() as tasks:
        for _ in range(at_once):
            tasks.start_soon(work)
    return 10 * ROUNDS / (time.perf_counter() - started)


def rates_of_processes(url: str, key: str) -> float:
    """Refreshes a second of PROCESSES processes together, MANY at once in each."""
    context = multiprocessing.get_context("spawn")
    start, rates = context.Barrier(PROCESSES), context.Queue()
    processes = [
        context.Process(target=_measure_rate, args=(url, key, number * 500, start, rates))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    found: list[float] = [rates.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    return sum(found)


def _measure_rate(url: str, key: str, first: int, start: Barrier, rates: Queue[float]) -> None:
    store = DatabaseStore(PostgresqlDatabase(url), encryption=Encryption(SecretStr(key)))

    async def measure() -> float:
        await rate(store, MANY, first=first)
        await anyio.to_thread.run_sync(start.wait)
        found = await rate(store, MANY, first=first)
        await rate(store, MANY, first=first)  # so that the other process is never alone
        return found

    rates.put(anyio.run(measure))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.databases", description=__doc__)
    parser.add_argument("url", help="of an empty PostgreSQL database")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of logins, ascending")
    parser.add_argument("--due", type=int, default=1000, help="logins of one process that expire together; 0: none")
    arguments = parser.parse_args()
    database = PostgresqlDatabase(arguments.url)
    schema.migrate(database)
    key = new_key()
    columns = (
        *(
            "Logins",
            "Lease and save",
            f"{CONCURRENT} at once",
            f"{MANY} at once",
            f"{PROCESSES} processes, {MANY} each",
        ),
        *(f"Claim of {CLAIMED} unused", "What is due"),
    )
    table = Table("Logins in PostgreSQL", "One process, if nothing else is said; medians. Rows are encrypted.", columns)
    filled = 0

    def run(statement: str, **parameters: object) -> None:
        database.run(lambda connection: connection.execute(database.sql(statement), parameters))

    async def claim(store: DatabaseStore) -> None:
        await anyio.to_thread.run_sync(lambda: run("UPDATE notion_oauth_pace SET next_at = 0"))
        await store.claim_unused(CLAIMED)

    if arguments.due:
        with tempfile.TemporaryDirectory() as directory:
            print(due.measure_in_database(arguments.url, Path(directory), logins=arguments.due).markdown(), flush=True)
        run("DELETE FROM notion_oauth_logins")

    for size in arguments.sizes:
        run(_FILL, login=encode_tokens(login()), first=filled + 1, last=size)
        run("VACUUM ANALYZE notion_oauth_logins")
        filled, store = size, DatabaseStore(database, encryption=Encryption(SecretStr(key)))

        async def measure(store: DatabaseStore = store) -> tuple[str, ...]:
            await median(lambda number: refresh(store, number), ROUNDS)
            saved = await median(lambda number: refresh(store, number), ROUNDS)
            for at_once in (CONCURRENT, MANY):
                await rate(store, at_once)
            few, many = await rate(store, CONCURRENT), await rate(store, MANY)
            both = await anyio.to_thread.run_sync(rates_of_processes, arguments.url, key)
            await anyio.to_thread.run_sync(lambda: run(_UNUSED))
            claimed = await median(lambda _: claim(store), 10)
            listed = await median(lambda _: store.due(datetime.now(UTC)), 50)
            rates = (f"{each:.0f} a second" for each in (few, many, both))
            return f"{saved:.1f} ms", *rates, f"{claimed:.1f} ms", f"{listed:.1f} ms"

        table.add(f"{size:,}", *anyio.run(measure))
    print(table.markdown())


if __name__ == "__main__":
    main()
