"""`python -m benchmarks.databases URL`: the store in an empty PostgreSQL database, with few and with very many logins.

It fills the tables, which must not contain any login.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import anyio
from pydantic import SecretStr

from benchmarks.tables import Table
from notion_oauth.files.token_file_format import encode_tokens
from notion_oauth.models import ClientInformation, TokenSet
from notion_oauth.stores import schema
from notion_oauth.stores.postgresql import PostgresqlDatabase
from notion_oauth.stores.sql_documents import DatabaseStore

SIZES = (1_000, 1_000_000)
ROUNDS = 300
CONCURRENT = 10
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
    """What a refresh does in the store: take the lease, reserve, save, release the lease."""
    async with store.exclusive(f"user-{number % 1000 + 1}") as hold:
        await hold.load()
        await hold.reserve(SecretStr("sent"))
        await hold.save(login())


async def median(work: Callable[[int], Awaitable[object]], rounds: int) -> float:
    """The median time of one call, in milliseconds."""
    times = []
    for number in range(rounds):
        started = time.perf_counter()
        await work(number)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


async def rate(store: DatabaseStore) -> float:
    """Refreshes a second of one process, CONCURRENT at once."""
    limiter, started = anyio.CapacityLimiter(CONCURRENT), time.perf_counter()

    async def one(number: int) -> None:
        async with limiter:
            await refresh(store, number)

    async with anyio.create_task_group() as tasks:
        for number in range(5 * ROUNDS):
            tasks.start_soon(one, number)
    return 5 * ROUNDS / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.databases", description=__doc__)
    parser.add_argument("url", help="of an empty PostgreSQL database")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of logins, ascending")
    arguments = parser.parse_args()
    database = PostgresqlDatabase(arguments.url)
    schema.migrate(database)
    columns = ("Logins", "Lease and save", "At once", f"Claim of {CLAIMED} unused", "What is due")
    table = Table("Logins in PostgreSQL", "One process; medians.", columns)
    filled = 0

    def run(statement: str, **parameters: object) -> None:
        database.run(lambda connection: connection.execute(database.sql(statement), parameters))

    async def claim(store: DatabaseStore) -> None:
        await anyio.to_thread.run_sync(lambda: run("UPDATE notion_oauth_pace SET next_at = 0"))
        await store.claim_unused(CLAIMED)

    for size in arguments.sizes:
        run(_FILL, login=encode_tokens(login()), first=filled + 1, last=size)
        run("VACUUM ANALYZE notion_oauth_logins")
        filled, store = size, DatabaseStore(database)

        async def measure(store: DatabaseStore = store) -> tuple[str, ...]:
            await median(lambda number: refresh(store, number), ROUNDS)
            saved, saved_a_second = await median(lambda number: refresh(store, number), ROUNDS), await rate(store)
            await anyio.to_thread.run_sync(lambda: run(_UNUSED))
            claimed = await median(lambda _: claim(store), 10)
            due = await median(lambda _: store.due(datetime.now(UTC)), 50)
            return f"{saved:.1f} ms", f"{saved_a_second:.0f} a second", f"{claimed:.1f} ms", f"{due:.1f} ms"

        table.add(f"{size:,}", *anyio.run(measure))
    print(table.markdown())


if __name__ == "__main__":
    main()
