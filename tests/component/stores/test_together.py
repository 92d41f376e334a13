"""Statements of many tasks at the same time run together: in few transactions, and without harm to one another."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import psycopg
import pytest
from pydantic import SecretStr

from notion_oauth.errors import LockLost, StorageError, StoreDamaged, StoreUnavailable
from notion_oauth.files.encryption import Encryption, new_key
from notion_oauth.stores import pool
from notion_oauth.stores.database import Connection, Database
from notion_oauth.stores.postgresql import PostgresqlDatabase
from notion_oauth.stores.schema import migrate
from notion_oauth.stores.sql_documents import DatabaseStore
from notion_oauth.stores.sqlite import SqliteDatabase
from tests.contract.rules import other
from tests.support.databases import FailingDatabase, Postgresql
from tests.support.stores import load_login, save_login
from tests.unit.protocol.builders import tokens

pytestmark = pytest.mark.anyio
PROFILES = [f"user-{number}" for number in range(30)]
ENCRYPTION = Encryption(SecretStr(new_key()))  # without it, statements in PostgreSQL do not run together
_BAD = {
    "sqlite": """
CREATE TRIGGER bad BEFORE UPDATE OF login ON notion_oauth_logins WHEN NEW.profile = 'user-7'
BEGIN SELECT RAISE(ABORT, 'bad'); END""",
    "postgresql": "ALTER TABLE notion_oauth_logins ADD CONSTRAINT bad CHECK (profile <> 'user-7' OR login IS NULL)",
}
_GOOD = {"sqlite": "DROP TRIGGER bad", "postgresql": "ALTER TABLE notion_oauth_logins DROP CONSTRAINT bad"}


@pytest.fixture
def database(tmp_path: Path) -> FailingDatabase:
    found = FailingDatabase(tmp_path / "tokens.db")
    migrate(found)
    return found


def execute(database: Database, statement: str) -> None:
    def run(connection: Connection) -> None:
        connection.execute(statement, {})

    database.run(run)


async def save_all(store: DatabaseStore, failed: dict[str, StorageError] | None = None) -> None:
    """Save a login in each profile, all at once."""

    async def save(profile: str) -> None:
        try:
            await save_login(store, profile, other(profile))
        except StorageError as error:
            if failed is None:
                raise
            failed[profile] = error

    async with anyio.create_task_group() as tasks:
        for profile in PROFILES:
            tasks.start_soon(save, profile)


async def check_all(store: DatabaseStore, *, but: str = "") -> None:
    for profile in PROFILES:
        assert await load_login(store, profile) == (None if profile == but else other(profile))


async def test_statements_of_many_tasks_run_in_few_transactions(database: FailingDatabase) -> None:
    store = DatabaseStore(database)
    await load_login(store, "user-0")
    database.transactions = 0
    await save_all(store)
    assert database.transactions < len(PROFILES)
    await check_all(store)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))])
async def test_statement_that_fails_lets_the_others_succeed(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite":
        found: Database = SqliteDatabase(tmp_path / "tokens.db")
        migrate(found)
    else:
        found = PostgresqlDatabase(request.getfixturevalue("postgresql").url)
    execute(found, _BAD[kind])
    store, failed = DatabaseStore(found, encryption=ENCRYPTION), dict[str, StorageError]()
    try:
        await save_all(store, failed)
    finally:
        execute(found, _GOOD[kind])
    assert list(failed) == ["user-7"]
    await check_all(store, but="user-7")


async def test_row_with_another_type_does_not_stop_the_other_tasks(database: FailingDatabase) -> None:
    """In SQLite, each value has its own type, and an administrator writes text."""
    store, failed = DatabaseStore(database), dict[str, StorageError]()
    await save_all(store)
    execute(database, "UPDATE notion_oauth_logins SET login = 'broken' WHERE profile = 'user-7'")
    with anyio.fail_after(20):
        await save_all(store, failed)
    assert list(failed) == ["user-7"]
    assert isinstance(failed["user-7"], StoreDamaged)
    execute(database, "UPDATE notion_oauth_logins SET login = CAST(login AS text) WHERE profile = 'user-8'")
    await save_all(store, failed)
    assert list(failed) == ["user-7"]


async def test_connection_that_breaks_is_replaced_for_all(database: FailingDatabase) -> None:
    """The transaction was committed, and its answer is lost."""
    changes = ("INSERT", "UPDATE")
    database.fails_after = lambda statement: statement.lstrip().startswith(changes) and database.transactions % 2 == 1
    store = DatabaseStore(database)
    await save_all(store)
    assert len(database.statements) > 5 * len(PROFILES)
    await check_all(store)


async def test_tasks_of_a_transaction_that_fails_get_an_error_each_and_can_try_again(database: FailingDatabase) -> None:
    database.fails_before = lambda statement: statement.lstrip().startswith("INSERT")
    store, failed = DatabaseStore(database), dict[str, StorageError]()
    await save_all(store, failed)
    assert sorted(failed) == sorted(PROFILES)
    assert all(isinstance(error, StoreUnavailable) for error in failed.values())
    assert len({id(error) for error in failed.values()}) == len(PROFILES)
    database.fails_before = lambda _: False
    await save_all(store)
    await check_all(store)


@pytest.mark.parametrize("cancelled", ["that-runs", "that-waits"])
async def test_task_that_is_cancelled_leaves_the_others_alone(database: FailingDatabase, cancelled: str) -> None:
    store = DatabaseStore(database)
    for profile in PROFILES[:3]:
        await save_login(store, profile, other(profile))
    blocked, go = threading.Event(), threading.Event()

    def block(_: str) -> bool:
        blocked.set()
        go.wait(20)
        return False

    database.fails_before = block
    loaded: list[object] = []
    scopes = [anyio.CancelScope() for _ in range(3)]

    async def load(number: int) -> None:
        with scopes[number]:
            loaded.append((number, await load_login(store, PROFILES[number])))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load, 0)
            await anyio.to_thread.run_sync(blocked.wait)
            tasks.start_soon(load, 1)
            tasks.start_soon(load, 2)
            await anyio.wait_all_tasks_blocked()
            number = 0 if cancelled == "that-runs" else 1
            database.statements.clear()
            scopes[number].cancel()
            await anyio.wait_all_tasks_blocked()
            go.set()
    assert loaded == [(each, other(PROFILES[each])) for each in range(3) if each != number]
    assert len(database.statements) == (2 if cancelled == "that-runs" else 1), "the others, and those that had begun"


@pytest.mark.xdist_group("postgresql")
async def test_locked_row_does_not_stop_the_other_tasks(postgresql: Postgresql) -> None:
    """An administrator's transaction has changed a row and is not committed."""
    store = DatabaseStore(PostgresqlDatabase(postgresql.url), encryption=ENCRYPTION)
    await save_all(store)
    done: list[str] = []

    async def hold(profile: str) -> None:
        async with store.exclusive(profile):
            done.append(profile)

    with anyio.fail_after(30), closing(psycopg.connect(postgresql.url)) as administrator:
        administrator.execute("UPDATE notion_oauth_logins SET changed_at = 0 WHERE profile = 'user-7'")
        async with anyio.create_task_group() as tasks:
            for profile in PROFILES:
                tasks.start_soon(hold, profile)
            while len(done) < len(PROFILES) - 1:
                await anyio.sleep(0.01)
            assert "user-7" not in done
            administrator.commit()
    assert "user-7" in done


@pytest.mark.xdist_group("postgresql")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_event_loops_that_want_the_same_rows_do_not_wait_for_each_other(postgresql: Postgresql, backend: str) -> None:
    store = DatabaseStore(PostgresqlDatabase(postgresql.url), lock_wait=timedelta(seconds=50), encryption=ENCRYPTION)
    failed: list[BaseException] = []

    async def change(profiles: list[str]) -> None:
        async def one(profile: str) -> None:
            async with store.exclusive(profile) as hold:
                await hold.save(other(profile))

        for _ in range(5):
            async with anyio.create_task_group() as tasks:
                for profile in profiles:
                    tasks.start_soon(one, profile)

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    threads = [
        threading.Thread(target=run, args=(partial(anyio.run, change, profiles, backend=backend),))
        for profiles in (PROFILES, PROFILES[::-1], PROFILES)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    anyio.run(check_all, store)


async def test_last_save_releases_the_lease(database: FailingDatabase) -> None:
    store = DatabaseStore(database)
    async with store.exclusive("default") as hold:
        await hold.load()
        database.statements.clear()
        await hold.save(tokens(), last=True)
        async with DatabaseStore(database, lock_wait=timedelta()).exclusive("default") as taken:
            assert (await taken.load()).tokens == tokens()
            await taken.save(other("newer"))
        with pytest.raises(LockLost):
            await hold.save(other("late"))
        database.statements.clear()
    assert database.statements == [], "nothing is left to release"
    assert await load_login(store, "default") == other("newer")


def test_program_that_has_cancelled_all_tasks_can_use_the_store(database: FailingDatabase) -> None:
    """As many programs do when they are stopped, before they sign out or save something."""
    blocked, go = threading.Event(), threading.Event()

    def block(_: str) -> bool:
        blocked.set()
        go.wait(20)
        return False

    async def program() -> None:
        store = DatabaseStore(database)
        await save_login(store, "user-0", tokens())
        database.fails_before = block
        running = asyncio.create_task(save_login(store, "user-0", other("user-0")))
        await anyio.to_thread.run_sync(blocked.wait)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        go.set()
        with anyio.fail_after(20):
            await load_login(store, "user-0")
            await asyncio.wait([running])
            await save_login(store, "user-1", tokens())
            assert await load_login(store, "user-1") == tokens()

    asyncio.run(program())


def test_all_tasks_may_be_cancelled_at_any_moment(database: FailingDatabase) -> None:
    """Also before a task of this package has begun. What was stored is never waited for in vain."""

    async def program() -> None:
        store = DatabaseStore(database)
        for turns in range(25):
            running = asyncio.create_task(save_login(store, "user-0", other("user-0")))
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            with anyio.fail_after(20):
                await asyncio.wait([running])
                await save_login(store, "user-1", tokens())

    asyncio.run(program())


async def test_no_statement_waits_longer_than_its_time_limit(
    database: FailingDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that waits behind many others. A lease has no time for more."""
    store = DatabaseStore(database)
    await load_login(store, "user-0")
    monkeypatch.setattr(pool, "TIME_LIMIT", 0.5)
    monkeypatch.setattr(pool, "MAX_TOGETHER", 1)
    go = threading.Event()
    database.fails_before = lambda _: not go.wait(60)
    failed: list[StorageError] = []

    async def load(profile: str) -> None:
        try:
            await store.load(profile)
        except StoreUnavailable as error:
            failed.append(error)

    try:
        with anyio.move_on_after(len(PROFILES) / 4):  # half the time that they take one after another
            async with anyio.create_task_group() as tasks:
                for profile in PROFILES:
                    tasks.start_soon(load, profile)
    finally:
        go.set()
    assert len(failed) == len(PROFILES)


async def test_readers_do_not_wait_for_a_writer(database: FailingDatabase, tmp_path: Path) -> None:
    """Another process changes the tables of SQLite, or removes unused space."""
    store = DatabaseStore(database)
    await save_all(store)
    database.transactions = 0
    with closing(sqlite3.connect(tmp_path / "tokens.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        async with anyio.create_task_group() as tasks:
            for profile in PROFILES:
                tasks.start_soon(load_login, store, profile)
    assert database.transactions < len(PROFILES)


async def test_connections_are_closed_with_their_store(database: FailingDatabase) -> None:
    """Also while the event loop goes on."""
    store = DatabaseStore(database)
    await save_all(store)
    assert database.open_connections
    del store
    gc.collect()
    assert not database.open_connections
