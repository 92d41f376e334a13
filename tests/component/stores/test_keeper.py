"""Logins that nobody uses are refreshed before the server ends them, by one instance each, and slowly."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from notion_oauth.errors import StoreUnavailable
from notion_oauth.models import TokenSet
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import StoredLogin
from notion_oauth.stores import schema
from notion_oauth.stores.database import Connection, Database, Row
from notion_oauth.stores.postgresql import PostgresqlDatabase
from notion_oauth.stores.sql_documents import DatabaseStore
from notion_oauth.stores.sqlite import SqliteDatabase
from notion_oauth.web.profiles.keeper import Keeper
from notion_oauth.web.profiles.visitor_cleanup import VisitorCleanup
from tests.conftest import Posted
from tests.contract.rules import ended
from tests.support.clock import Clock
from tests.support.databases import Postgresql
from tests.support.signing_in import sign_in
from tests.support.stores import load_login, save_login
from tests.unit.protocol.builders import tokens

pytestmark = pytest.mark.anyio
VISITOR = f"web-{'0' * 32}"
DAY = 24 * 60 * 60


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    found: Database
    if request.param == "sqlite":
        found = SqliteDatabase(tmp_path / "tokens.db")
        schema.migrate(found)
    else:
        server: Postgresql = request.getfixturevalue("postgresql")
        found = PostgresqlDatabase(server.url)
        execute(found, "UPDATE notion_oauth_pace SET next_at = 0, per_second = 1")
    return found


def execute(database: Database, statement: str) -> Sequence[Any]:
    return database.run(lambda connection: connection.execute(database.sql(statement), {}))


def age(database: Database, days: float) -> None:
    """Let that time pass for all logins, and nobody claim any."""
    seconds = days * DAY
    execute(database, f"UPDATE notion_oauth_logins SET used_at = used_at - {seconds}, keep_at = keep_at - {seconds}")  # noqa: S608
    execute(database, "UPDATE notion_oauth_pace SET next_at = 0")


async def claim(store: DatabaseStore) -> list[str]:
    return sorted(await store.claim_unused(10) or ())


async def test_login_is_claimed_after_twenty_days_without_a_refresh(database: Database) -> None:
    store = DatabaseStore(database)
    await save_login(store, "user-1", tokens())
    age(database, 17.9)
    assert await claim(store) == []
    age(database, 4.2)
    assert await claim(store) == ["user-1"]
    age(database, 0)
    assert await claim(DatabaseStore(database)) == [], "it is claimed once"


async def test_logins_that_cannot_be_kept_are_not_claimed(database: Database) -> None:
    store = DatabaseStore(database)
    await save_login(store, "ended", tokens())
    await save_login(store, "ended", ended())
    await save_login(store, "without-refresh", tokens(refresh_token=None))
    age(database, 30)
    assert await claim(store) == []


async def test_instances_claim_different_logins(database: Database) -> None:
    stores = [DatabaseStore(database) for _ in range(4)]
    for number in range(20):
        await save_login(stores[0], f"user-{number}", tokens())
    age(database, 23)
    claimed: list[str] = []

    async def claim_some(store: DatabaseStore) -> None:
        for _ in range(5):
            execute(database, "UPDATE notion_oauth_pace SET next_at = 0")
            claimed.extend(await store.claim_unused(3) or ())

    async with anyio.create_task_group() as tasks:
        for store in stores:
            tasks.start_soon(claim_some, store)
    assert sorted(claimed) == sorted(f"user-{number}" for number in range(20))


async def test_claimed_login_that_was_not_refreshed_is_claimed_on_another_day(database: Database) -> None:
    store = DatabaseStore(database)
    await save_login(store, "user-1", tokens())
    age(database, 23)
    assert await claim(store) == ["user-1"]
    execute(database, "UPDATE notion_oauth_logins SET lease_until = 0")
    age(database, 0.9)
    assert await claim(store) == []
    age(database, 0.2)
    assert await claim(store) == ["user-1"]


async def test_visitors_are_kept_as_long_as_their_cookie_may_live(database: Database) -> None:
    """It ends 30 days after its last use."""
    store = DatabaseStore(database, keep_after=timedelta(days=8))
    kept: list[list[str]] = []

    async def keep_four_times() -> None:
        kept.clear()
        for _ in range(4):
            age(database, 9)
            kept.append(await claim(store))
            for name in kept[-1]:
                await save_login(store, name, tokens())

    for name in (VISITOR, "user-1"):
        await save_login(store, name, tokens())
    await keep_four_times()
    assert kept == [["user-1", VISITOR]] * 3 + [["user-1"]]
    await save_login(store, VISITOR, tokens())  # the browser has come back
    await keep_four_times()
    assert kept == [["user-1", VISITOR]] * 3 + [["user-1"]]


async def test_all_instances_together_claim_at_a_limited_rate(database: Database) -> None:
    first, second = DatabaseStore(database), DatabaseStore(database)
    assert await first.claim_unused(10) == []
    assert await second.claim_unused(10) is None
    execute(database, "UPDATE notion_oauth_pace SET next_at = next_at - 10")
    assert await second.claim_unused(10) == []


async def test_refusal_of_the_server_slows_all_instances(database: Database) -> None:
    await DatabaseStore(database).slow_down(timedelta(seconds=600))
    assert await DatabaseStore(database).claim_unused(10) is None
    [[left, rate]] = execute(database, "SELECT next_at - {now}, per_second FROM notion_oauth_pace")
    assert 590 < left <= 600
    assert rate == 0.5


class TestKeeper:
    @pytest.fixture
    async def oauth(self, database: Database, settings: Settings) -> NotionOAuth:
        """A login that nobody has used for 23 days."""
        oauth = NotionOAuth(settings, store=DatabaseStore(database), profile="user-1")
        login = await sign_in(oauth)
        past = datetime.now(UTC) - timedelta(days=23)
        times = {"updated_at": past, "authorized_at": past, "expires_at": past + timedelta(hours=1)}
        await save_login(oauth.store, "user-1", login.model_copy(update=times))
        age(database, 23)
        return oauth

    async def test_unused_login_is_refreshed(self, oauth: NotionOAuth, grants_asked: Posted) -> None:
        keeper = Keeper(oauth.store, oauth.for_profile)
        before: TokenSet | None = await load_login(oauth.store, "user-1")
        with anyio.fail_after(5):  # it has the lease already
            assert await keeper.keep() == 1
        after = await load_login(oauth.store, "user-1")
        assert before is not None
        assert after is not None
        assert after.access_token != before.access_token
        assert grants_asked() == ["authorization_code", "refresh_token"]

    async def test_refusal_slows_all_instances(self, oauth: NotionOAuth, sandbox: Sandbox, database: Database) -> None:
        sandbox.fail_next("/token", status=429, headers={"Retry-After": "120"})
        await Keeper(oauth.store, oauth.for_profile).keep()
        [[left]] = execute(database, "SELECT next_at - {now} FROM notion_oauth_pace")
        assert 100 < left <= 120
        assert await load_login(oauth.store, "user-1") is not None

    async def test_refusal_does_not_end_the_refresh_of_unused_logins(
        self, oauth: NotionOAuth, sandbox: Sandbox, database: Database
    ) -> None:
        sandbox.fail_next("/token", status=503, headers={"Retry-After": "999999999"})
        await Keeper(oauth.store, oauth.for_profile).keep()
        [[left]] = execute(database, "SELECT next_at - {now} FROM notion_oauth_pace")
        assert left <= 600

    async def test_keeper_runs_on_if_the_database_is_away_after_a_refusal(
        self, oauth: NotionOAuth, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def away(_: timedelta) -> None:
            raise StoreUnavailable("The database is away.")

        monkeypatch.setattr(oauth.store, "slow_down", away)
        sandbox.fail_next("/token", status=429)
        assert await Keeper(oauth.store, oauth.for_profile).keep() == 1


class Explaining(PostgresqlDatabase):
    """Notes the plan of each statement before it is run."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.plans: list[str] = []

    def connect(self) -> Connection:
        connection = super().connect()
        execute = connection.execute

        def explained(statement: str, parameters: dict[str, Any]) -> list[Row]:
            if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE")):
                self.plans.append("\n".join(row[0] for row in execute(f"EXPLAIN {statement}", parameters)))
            return execute(statement, parameters)

        connection.execute = explained  # type: ignore[method-assign]
        return connection


@pytest.mark.xdist_group("postgresql")
async def test_idle_instance_reads_no_rows_that_are_not_due(postgresql: Postgresql) -> None:
    """Among a million, a statement that reads all rows takes seconds, every 30 seconds in each instance."""
    postgresql.execute(
        "INSERT INTO notion_oauth_logins (profile, changed_at, keep_at, fence, owner, lease_until)"
        " SELECT md5(CAST(n AS text)), n, 5000000000 + n, 1, '', 0 FROM generate_series(1, 10000) AS n"
    )
    postgresql.execute(
        "INSERT INTO notion_oauth_claims (name, claimant, ends_at)"
        " SELECT md5(CAST(n AS text)), '', 5000000000 + n FROM generate_series(1, 10000) AS n"
    )
    postgresql.execute("ANALYZE notion_oauth_logins, notion_oauth_claims")
    database = Explaining(postgresql.url)
    store = DatabaseStore(database)
    assert len(await store.last_changed(before=datetime.fromtimestamp(6, UTC))) == 5
    assert await store.claim_unused(10) == []
    assert await store.claim("key", timedelta(minutes=1))
    plans = "\n".join(database.plans)
    for column in ("changed_at <", "keep_at <=", "ends_at <="):
        assert f"Index Cond: ({column}" in plans


async def test_cleanup_looks_only_at_visitors_that_no_server_lets_live(database: Database) -> None:
    """Among very many that are stored."""
    store, now = DatabaseStore(database), datetime.now(UTC)
    names = [f"web-{number:032x}" for number in range(3)]
    for name in names:
        await save_login(store, name, tokens(updated_at=now, authorized_at=now, expires_at=now + timedelta(hours=1)))
    looked: list[str] = []
    load = store.load

    async def note(profile: str) -> StoredLogin:
        looked.append(profile)
        return await load(profile)

    store.load = note  # type: ignore[method-assign]
    clock = Clock()
    clock.ahead = timedelta(days=20)
    cleanup = VisitorCleanup(store, Lifetimes(), clock, uptime=lambda: clock().timestamp())
    assert await cleanup.remove_ended() is None
    assert looked == []
    for days in (32, 34):
        clock.ahead = timedelta(days=days)
        assert await cleanup.remove_ended() is None
    assert looked == names * 2
    assert await store.profiles() == []
