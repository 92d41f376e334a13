"""The lock of a login in a database: a lease that ends, a fence, and tokens that are set aside when it is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from notion_oauth.errors import LockLost, StorageError, StoreBusy, StoreUnavailable
from notion_oauth.models import EndedLogin, TokenSet
from notion_oauth.storage import Hold
from notion_oauth.stores import pool
from notion_oauth.stores.postgresql import PostgresqlDatabase
from notion_oauth.stores.schema import migrate
from notion_oauth.stores.sql_documents import DatabaseStore
from tests.contract.rules import RULES, Rule, ended, other
from tests.support.databases import FailingDatabase, Postgresql, Relay
from tests.support.stores import delete_login, load_login, save_login
from tests.unit.protocol.builders import tokens

pytestmark = pytest.mark.anyio
LEASE = timedelta(seconds=0.05)


@pytest.fixture
def database(tmp_path: Path) -> FailingDatabase:
    found = FailingDatabase(tmp_path / "tokens.db")
    migrate(found)
    return found


class Answers:
    """Loses the answer to each statement once."""

    def __init__(self) -> None:
        self._lost = False

    def __call__(self, statement: str) -> bool:
        changes = statement.lstrip().startswith(("INSERT", "UPDATE", "DELETE"))
        self._lost = changes and not self._lost
        return self._lost


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
async def test_rules_hold_if_the_outcome_of_each_change_is_unknown(rule: Rule, database: FailingDatabase) -> None:
    """Each change is made, its answer is lost, and it is made again on a new connection."""
    answers = threading.local()

    def lose(statement: str) -> bool:
        if not hasattr(answers, "lose"):
            answers.lose = Answers()
        lost: bool = answers.lose(statement)
        return lost

    database.fails_after = lose
    await rule(lambda: DatabaseStore(database))


async def test_lease_that_is_over_can_be_taken(database: FailingDatabase) -> None:
    async with DatabaseStore(database, lease=LEASE).exclusive("default"):
        with anyio.fail_after(2):
            async with DatabaseStore(database).exclusive("default"):
                pass


async def test_lease_that_ends_late_can_be_taken_since_the_clock_was_set_back(database: FailingDatabase) -> None:
    late = "UPDATE notion_oauth_logins SET lease_until = lease_until + 3600 RETURNING 1"
    async with DatabaseStore(database).exclusive("default"):
        database.run(lambda connection: connection.execute(late, {}))
        async with DatabaseStore(database, lock_wait=timedelta()).exclusive("default") as hold:
            await hold.save(other("newer"))
    assert await load_login(DatabaseStore(database), "default") == other("newer")


async def test_request_renews_the_lease(database: FailingDatabase) -> None:
    ends = "SELECT lease_until FROM notion_oauth_logins"
    async with DatabaseStore(database).exclusive("default") as hold:
        [[before]] = database.run(lambda connection: connection.execute(ends, {}))
        await anyio.sleep(0.02)
        await hold.reserve(SecretStr("sent"))
        [[after]] = database.run(lambda connection: connection.execute(ends, {}))
    assert after >= before + 0.02


async def _lose(first: DatabaseStore, second: DatabaseStore, meanwhile: TokenSet | EndedLogin | None) -> Hold:
    """Save with a lease that another holder has taken. Returns the hold that was lost."""
    async with first.exclusive("default") as hold:
        await hold.load()
        await hold.reserve(SecretStr("refresh-1"))
        await anyio.sleep(2 * LEASE.total_seconds())
        async with second.exclusive("default") as taken:
            await taken.load()
            if isinstance(meanwhile, TokenSet):
                await taken.save(meanwhile)
            elif meanwhile is not None:
                await taken.end(meanwhile)
        with pytest.raises(LockLost):
            await hold.save(other("late"))
    return hold


OLD = tokens(refresh_token=SecretStr("refresh-1"))


async def test_lost_lease_changes_nothing(database: FailingDatabase) -> None:
    store = DatabaseStore(database, lease=LEASE)
    await save_login(store, "default", OLD)
    async with store.exclusive("default") as hold:
        await anyio.sleep(2 * LEASE.total_seconds())
        await save_login(DatabaseStore(database), "default", other("newer"))
        changes: tuple[Callable[[], Any], ...] = (
            *(lambda: hold.save(other("late")), lambda: hold.end(ended()), hold.delete, hold.reserve),
        )
        for change in changes:
            with pytest.raises(LockLost):
                await change()
    assert await load_login(DatabaseStore(database), "default") == other("newer")


async def test_lease_that_is_over_and_not_taken_still_counts(database: FailingDatabase) -> None:
    store = DatabaseStore(database, lease=LEASE)
    async with store.exclusive("default") as hold:
        await anyio.sleep(2 * LEASE.total_seconds())
        await hold.save(OLD)
    assert await load_login(store, "default") == OLD


@pytest.mark.parametrize("meanwhile", [None, ended()], ids=["nobody-saved", "login-ended"])
async def test_tokens_of_a_lost_lease_are_found(
    database: FailingDatabase, meanwhile: TokenSet | EndedLogin | None
) -> None:
    first, second = DatabaseStore(database, lease=LEASE), DatabaseStore(database)
    await save_login(first, "default", OLD)
    await _lose(first, second, meanwhile)
    async with DatabaseStore(database).exclusive("default") as hold:
        assert (await hold.load()).tokens == other("late")
    assert await load_login(second, "default") == other("late")
    async with second.documents.exclusive("default") as documents:
        assert await documents.reserved() == [], "they are found once"


async def test_request_of_another_holder_may_replace_the_tokens_of_a_lost_lease(database: FailingDatabase) -> None:
    """The other one sent the same refresh token, and got no response. It is the one that is valid afterwards."""
    first, second = DatabaseStore(database, lease=LEASE), DatabaseStore(database)
    await save_login(first, "default", OLD)
    async with first.exclusive("default") as late:
        await late.load()
        await late.reserve(OLD.refresh_token)
        await anyio.sleep(2 * LEASE.total_seconds())
        async with second.exclusive("default") as hold:
            await hold.load()
            await hold.reserve(OLD.refresh_token)
            hold.request_may_arrive()
        with pytest.raises(LockLost):
            await late.save(other("late"))
    async with DatabaseStore(database).exclusive("default") as hold:
        assert (await hold.load()).tokens == other("late", previous_refresh_token=OLD.refresh_token)


async def test_tokens_of_a_lost_lease_are_deleted_by_a_sign_out(database: FailingDatabase) -> None:
    first, second = DatabaseStore(database, lease=LEASE), DatabaseStore(database)
    await save_login(first, "default", OLD)
    await _lose(first, second, None)
    await delete_login(second, "default")
    async with second.documents.exclusive("default") as documents:
        assert await documents.reserved() == []


async def test_tokens_of_a_lost_lease_are_found_before_a_login_is_ended(database: FailingDatabase) -> None:
    """The holder that comes next has loaded the login before they were set aside."""
    first, second = DatabaseStore(database, lease=LEASE), DatabaseStore(database)
    await save_login(first, "default", OLD)
    async with first.exclusive("default") as late:
        await late.load()
        await late.reserve(SecretStr("refresh-1"))
        await anyio.sleep(2 * LEASE.total_seconds())
        async with second.exclusive("default") as hold:
            assert (await hold.load()).tokens == OLD
            await hold.reserve(SecretStr("refresh-1"))
            with pytest.raises(LockLost):
                await late.save(other("late"))
            assert (await hold.load()).tokens == other("late")


async def test_end_of_a_login_keeps_tokens_that_were_set_aside_meanwhile(database: FailingDatabase) -> None:
    first, second = DatabaseStore(database, lease=LEASE), DatabaseStore(database)
    await save_login(first, "default", OLD)
    async with first.exclusive("default") as late:
        await late.load()
        await late.reserve(SecretStr("refresh-1"))
        await anyio.sleep(2 * LEASE.total_seconds())
        async with second.exclusive("default") as hold:
            await hold.load()
            with pytest.raises(LockLost):
                await late.save(other("late"))
            await hold.end(ended())
    async with second.exclusive("default") as hold:
        assert (await hold.load()).tokens == other("late")


async def test_tokens_of_a_lost_lease_do_not_replace_newer_ones(database: FailingDatabase) -> None:
    """Their time may be later: the holder was stopped before it read them."""
    first, second = DatabaseStore(database, lease=LEASE), DatabaseStore(database)
    await save_login(first, "default", OLD)
    newer = other("newer", updated_at=OLD.updated_at - timedelta(hours=1), previous_refresh_token=OLD.refresh_token)
    await _lose(first, second, newer)
    async with DatabaseStore(database).exclusive("default") as hold:
        assert (await hold.load()).tokens == newer


async def test_tokens_of_a_lost_lease_do_not_undo_a_sign_out(database: FailingDatabase) -> None:
    first = DatabaseStore(database, lease=LEASE)
    await save_login(first, "default", OLD)
    async with first.exclusive("default") as late:
        await late.load()
        await late.reserve(SecretStr("refresh-1"))
        await anyio.sleep(2 * LEASE.total_seconds())
        await delete_login(DatabaseStore(database), "default")
        with pytest.raises(LockLost):
            await late.save(other("late"))
    async with DatabaseStore(database).exclusive("default") as hold:
        assert (await hold.load()).login is None


async def test_lease_of_a_hold_that_lost_the_database_is_taken_again(database: FailingDatabase) -> None:
    """By the process that has it, and not only when it is over: its tokens are not saved yet."""
    store = DatabaseStore(database)
    await save_login(store, "default", OLD)
    async with store.exclusive("default") as hold:
        await hold.reserve(SecretStr("refresh-1"))
        database.fails_before = lambda statement: True
        with pytest.raises(StoreUnavailable):
            await hold.save(other("new"))
    database.fails_before = lambda statement: False
    with pytest.raises(StoreBusy):
        async with DatabaseStore(database, lock_wait=timedelta(seconds=0.1)).exclusive("default"):
            raise AssertionError("two holders")
    with anyio.fail_after(2):
        async with store.exclusive("default") as hold:
            await hold.save(other("new"))
    assert await load_login(DatabaseStore(database), "default") == other("new")


async def test_lease_whose_taking_failed_is_taken_again(database: FailingDatabase) -> None:
    """The database may have made the change."""
    store = DatabaseStore(database)
    database.fails_after = lambda statement: True
    with pytest.raises(StoreUnavailable):
        async with store.exclusive("default"):
            raise AssertionError("the lease was not seen")
    database.fails_after = lambda statement: False
    with anyio.fail_after(2):
        async with store.exclusive("default"):
            pass


async def test_refresh_takes_four_statements(database: FailingDatabase) -> None:
    store = DatabaseStore(database)
    await save_login(store, "default", OLD)
    database.statements.clear()
    async with store.exclusive("default") as hold:
        await hold.load()
        await hold.reserve(SecretStr("refresh-1"))
        await hold.save(other("new"))
    assert [statement.split()[0] for statement in database.statements] == ["INSERT", "UPDATE", "UPDATE", "UPDATE"]


async def test_waiting_changes_nothing_in_the_database(database: FailingDatabase) -> None:
    store = DatabaseStore(database)
    async with store.exclusive("default"):
        database.statements.clear()
        with anyio.move_on_after(0.2):
            async with DatabaseStore(database).exclusive("default"):
                raise AssertionError("two holders")
    looked = [statement.split()[0] for statement in database.statements]
    assert looked.count("SELECT") >= 2
    assert looked.count("INSERT") == 1


@pytest.mark.xdist_group("postgresql")
@pytest.mark.slow
async def test_database_that_does_not_answer_is_given_up(
    postgresql: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "TIME_LIMIT", 0.5)
    with Relay(postgresql.port) as relay:
        url = postgresql.url.replace(f":{postgresql.port}/", f":{relay.port}/")
        store = DatabaseStore(PostgresqlDatabase(url))
        await save_login(store, "default", OLD)
        relay.freeze()
        with anyio.fail_after(2), pytest.raises(StorageError, match="did not answer within"):
            await store.load("default")
        relay.thaw()
        assert await load_login(store, "default") == OLD
