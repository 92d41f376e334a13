"""What one instance learns of the server, all instances respect: failures, Retry-After, and ended logins."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from notion_oauth.errors import NetworkError, ServerUnavailable, SignInRequired, StorageError
from notion_oauth.files.token_file_format import encode_tokens
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.stores import schema
from notion_oauth.stores.database import Database
from notion_oauth.stores.postgresql import PostgresqlDatabase
from notion_oauth.stores.sql_documents import DatabaseStore
from notion_oauth.stores.sqlite import SqliteDatabase
from tests.conftest import Posted
from tests.support.databases import Postgresql
from tests.support.signing_in import sign_in
from tests.support.stores import load_login, save_login
from tests.unit.protocol.builders import tokens

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    if request.param == "sqlite":
        found: Database = SqliteDatabase(tmp_path / "tokens.db")
        schema.migrate(found)
        return found
    server: Postgresql = request.getfixturevalue("postgresql")
    found = PostgresqlDatabase(server.url)
    execute(found, "UPDATE notion_oauth_pace SET next_at = 0, per_second = 1, paused_until = 0, paused_by = ''")
    return found


def execute(database: Database, statement: str, **parameters: object) -> Sequence[Any]:
    return database.run(lambda connection: connection.execute(database.sql(statement), parameters))


class Instances:
    """Opens the same logins with nothing in memory, as another instance does, and also one that has forgotten them."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings

    def open(self, profile: str = "user-1") -> NotionOAuth:
        return NotionOAuth(self._settings, store=DatabaseStore(self._database), profile=profile)

    async def sign_in(self, profile: str = "user-1", *, left: timedelta = -timedelta(hours=1)) -> NotionOAuth:
        """A login whose token expires after that time."""
        oauth = self.open(profile)
        await sign_in(oauth)
        await self.let_expire(oauth, left)
        return self.open(profile)

    async def let_expire(self, oauth: NotionOAuth, left: timedelta = -timedelta(hours=1)) -> None:
        expires_at = datetime.now(UTC) + left
        times = {"updated_at": expires_at - timedelta(hours=1), "expires_at": expires_at}
        login = await oauth.tokens.stored()
        await save_login(oauth.store, oauth.profile, login.model_copy(update=times))

    def pass_time(self, seconds: float) -> None:
        """Let that time pass in the database."""
        execute(self._database, f"UPDATE notion_oauth_logins SET failed_at = failed_at - {seconds}")  # noqa: S608
        execute(self._database, f"UPDATE notion_oauth_pace SET paused_until = paused_until - {seconds}, next_at = 0")  # noqa: S608


@pytest.fixture
def instances(database: Database, settings: Settings) -> Instances:
    return Instances(database, settings)


DUE = timedelta(minutes=2)  # left of an hour


# A failure


@pytest.mark.parametrize(
    ("fault", "error"), [({"status": 500}, ServerUnavailable), ({}, NetworkError)], ids=["500", "cut"]
)
async def test_another_instance_waits_after_a_failure(
    instances: Instances, sandbox: Sandbox, grants_asked: Posted, fault: dict[str, Any], error: type[Exception]
) -> None:
    first = await instances.sign_in()
    sandbox.fail_next("/token", **fault) if fault else sandbox.misbehave_next("/token", "drop")
    with pytest.raises(error) as caught:
        await first.tokens.token()
    instances.pass_time(-30)  # so that the test may be slow
    for oauth in (instances.open(), instances.open()):
        with pytest.raises(error) as found:
            await oauth.tokens.token()
        assert str(found.value) == str(caught.value)
    assert grants_asked().count("refresh_token") == 1
    instances.pass_time(31)
    assert sandbox.is_access_token_live((await instances.open().tokens.token()).get_secret_value())
    assert grants_asked().count("refresh_token") == 2


async def test_valid_token_is_served_after_a_failure_at_another_instance(
    instances: Instances, sandbox: Sandbox, grants_asked: Posted
) -> None:
    first = await instances.sign_in(left=DUE)
    token = (await first.tokens.stored()).access_token
    sandbox.fail_next("/token", status=500)
    assert await first.tokens.token() == token
    await first.tokens.wait_until_idle()
    instances.pass_time(-30)
    for oauth in (instances.open(), instances.open()):
        for _ in range(2):
            assert await oauth.tokens.token() == token
            await oauth.tokens.wait_until_idle()
    assert grants_asked().count("refresh_token") == 1
    instances.pass_time(31)
    second = instances.open()
    await second.tokens.token()
    await second.tokens.wait_until_idle()
    assert (await second.tokens.stored()).access_token != token


async def test_retry_after_of_a_login_counts_at_every_instance(
    instances: Instances, sandbox: Sandbox, grants_asked: Posted
) -> None:
    first = await instances.sign_in()
    sandbox.fail_next("/token", status=503, headers={"Retry-After": "300"})
    with pytest.raises(ServerUnavailable):
        await first.tokens.token()
    instances.pass_time(100)
    with pytest.raises(ServerUnavailable) as caught:
        await instances.open().tokens.token()
    assert caught.value.retry_after is not None
    assert 100 < caught.value.retry_after <= 200
    assert grants_asked().count("refresh_token") == 1
    instances.pass_time(201)
    assert sandbox.is_access_token_live((await instances.open().tokens.token()).get_secret_value())


async def test_delay_grows_over_all_instances(
    instances: Instances, sandbox: Sandbox, grants_asked: Posted, database: Database
) -> None:
    """In the background, to a minute. A caller who waits asks again after at most eight seconds."""
    await instances.sign_in(left=DUE)
    sandbox.fail_next("/token", status=500, times=6)
    for _ in range(6):
        oauth = instances.open()
        await oauth.tokens.token()
        await oauth.tokens.wait_until_idle()
        instances.pass_time(61)
    instances.pass_time(20 - 61)  # the sixth failure was 20 seconds ago, and the delay is 16 seconds at least
    instances.pass_time(-8)
    oauth = instances.open()
    await oauth.tokens.token()
    await oauth.tokens.wait_until_idle()
    assert grants_asked().count("refresh_token") == 6
    token = (await oauth.refresh()).access_token
    assert sandbox.is_access_token_live(token.get_secret_value())


async def test_success_and_sign_in_forget_the_failure(
    instances: Instances, sandbox: Sandbox, database: Database
) -> None:
    first = await instances.sign_in()
    for succeed in (instances.open().tokens.token, partial(sign_in, first)):
        await instances.let_expire(first)
        sandbox.fail_next("/token", status=500)
        with pytest.raises(ServerUnavailable):
            await instances.open().tokens.token()
        assert execute(database, "SELECT 1 FROM notion_oauth_logins WHERE failure IS NOT NULL")
        instances.pass_time(60)
        await succeed()
        assert not execute(database, "SELECT 1 FROM notion_oauth_logins WHERE failure IS NOT NULL")


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[]",
        b'{"failures": "many"}',
        b'{"failures": 1, "delay": []}',
        b'{"failures": 1e999}',
    ],
)
async def test_failure_that_another_version_has_recorded_does_not_end_the_refreshes(
    instances: Instances, sandbox: Sandbox, database: Database, record: bytes
) -> None:
    oauth = await instances.sign_in()
    execute(database, "UPDATE notion_oauth_logins SET failure = :failure, failed_at = {now}", failure=record)
    assert sandbox.is_access_token_live((await oauth.tokens.token()).get_secret_value())


async def test_failure_and_pause_from_before_the_clock_of_the_database_was_set_back_are_over(
    instances: Instances, sandbox: Sandbox
) -> None:
    """As after a failover to a server whose clock is an hour behind."""
    oauth = await instances.sign_in()
    sandbox.fail_next("/token", status=429, headers={"Retry-After": "60"})
    with pytest.raises(ServerUnavailable):
        await oauth.tokens.token()
    instances.pass_time(-3600)
    assert sandbox.is_access_token_live((await instances.open().tokens.token()).get_secret_value())


# Too many requests


@pytest.mark.parametrize("status", [429, 503])
async def test_refusal_of_one_login_pauses_all_instances(
    instances: Instances, sandbox: Sandbox, grants_asked: Posted, status: int
) -> None:
    """For a minute at most: the server may limit the requests of that login alone."""
    refused, due = await instances.sign_in("refused"), await instances.sign_in("due", left=DUE)
    expired = await instances.sign_in("expired")
    sandbox.fail_next("/token", status=status, headers={"Retry-After": "300"})
    with pytest.raises(ServerUnavailable):
        await refused.tokens.token()
    assert await due.tokens.token() == (await due.tokens.stored()).access_token
    await due.tokens.wait_until_idle()
    with pytest.raises(ServerUnavailable) as caught:
        await expired.tokens.token()
    assert caught.value.retry_after is not None
    assert 30 < caught.value.retry_after <= 60
    assert await expired.store.claim_unused(1) is None, "nor are unused logins refreshed"
    assert grants_asked().count("refresh_token") == 1
    instances.pass_time(60)
    assert sandbox.is_access_token_live((await instances.open("expired").tokens.token()).get_secret_value())
    with pytest.raises(ServerUnavailable):
        await instances.open("refused").tokens.token()


@pytest.mark.parametrize("refused", [["refused"], ["refused", "another"]])
async def test_logins_that_are_always_refused_pause_the_others_once_each(
    instances: Instances, sandbox: Sandbox, refused: list[str]
) -> None:
    """One person may have several."""
    for profile in (*refused, "other"):
        await instances.sign_in(profile)
    for profile in refused * 2:
        sandbox.fail_next("/token", status=429, headers={"Retry-After": "30"})
        with pytest.raises(ServerUnavailable):
            await instances.open(profile).tokens.token()
        instances.pass_time(31)
    instances.pass_time(-31)
    assert sandbox.is_access_token_live((await instances.open("other").tokens.token()).get_secret_value())


# An ended login


async def test_token_of_an_ended_login_is_sent_by_no_other_instance(
    instances: Instances, sandbox: Sandbox, grants_asked: Posted
) -> None:
    first = await instances.sign_in()
    sandbox.fail_next("/token", error="invalid_grant", times=2)
    with pytest.raises(SignInRequired) as caught:
        await first.tokens.token()
    sent = grants_asked()
    for oauth in (instances.open(), instances.open()):
        with pytest.raises(SignInRequired) as found:
            await oauth.tokens.token()
        assert str(found.value) == str(caught.value)
        with pytest.raises(SignInRequired):
            await oauth.refresh()
    assert grants_asked() == sent


# Tables of a later version

VERSION_1 = {
    "lock": """
INSERT INTO notion_oauth_logins AS stored (profile, changed_at, fence, owner, lease_until)
VALUES (:profile, {now}, 1, :owner, {now} + 60)
ON CONFLICT (profile) DO UPDATE SET fence = stored.fence + 1, owner = :owner, lease_until = {now} + 60
WHERE stored.lease_until <= {now} OR stored.owner = :owner
RETURNING fence, login, registrations, attempt, set_aside""",
    "reserve": """
UPDATE notion_oauth_logins SET attempt = :content, changed_at = {now}, lease_until = {now} + 60
WHERE profile = :profile AND fence = :fence AND owner = :owner RETURNING 1""",
    "write": """
UPDATE notion_oauth_logins SET login = :content, due_at = {now} + 3600, changed_at = {now}, attempt = NULL,
set_aside = NULLIF(set_aside, :aside), used_at = {now}, keep_at = {now} + 1728000
WHERE profile = :profile AND fence = :fence AND owner = :owner RETURNING 1""",
    "unlock": """
UPDATE notion_oauth_logins SET owner = '', lease_until = 0, attempt = NULL
WHERE profile = :profile AND fence = :fence AND owner = :owner RETURNING 1""",
    "claim_unused": """
UPDATE notion_oauth_logins SET fence = fence + 1, owner = :owner, lease_until = {now} + 60, keep_at = {now} + 86400
WHERE profile IN (SELECT profile FROM notion_oauth_logins WHERE keep_at <= {now} AND lease_until <= {now}
ORDER BY keep_at LIMIT 10 {skip_locked}) RETURNING profile""",
    "pace": """
UPDATE notion_oauth_pace SET next_at = {now} + 10 / per_second,
per_second = CASE WHEN per_second * 1.1 < 5 THEN per_second * 1.1 ELSE 5 END WHERE next_at <= {now} RETURNING 1""",
    "claim": """
INSERT INTO notion_oauth_claims AS stored (name, claimant, ends_at) VALUES (:profile, :owner, {now} + 60)
ON CONFLICT (name) DO UPDATE SET claimant = :owner, ends_at = {now} + 60, outcome = NULL
WHERE stored.ends_at <= {now} OR stored.claimant = :owner RETURNING 1""",
}


async def test_running_instance_of_the_first_version_works_with_these_tables(
    instances: Instances, sandbox: Sandbox, database: Database
) -> None:
    """It refreshes a login, and an instance of this version goes on with what it has saved."""
    new = await instances.sign_in()
    sandbox.fail_next("/token", status=500)
    with pytest.raises(ServerUnavailable):
        await new.tokens.token()
    [[content]] = execute(database, "SELECT login FROM notion_oauth_logins WHERE profile = 'user-1'")
    run = partial(execute, database)
    for profile in ("user-1", "user-2"):
        old = {"profile": profile, "owner": "old"}
        [[fence, *_]] = run(VERSION_1["lock"], **old)
        assert run(VERSION_1["reserve"], **old, fence=fence, content=b"{}")
        assert run(VERSION_1["write"], **old, fence=fence, content=bytes(content), aside=None)
        assert run(VERSION_1["unlock"], **old, fence=fence)
        assert not run(VERSION_1["unlock"], **old, fence=fence), "the lease is free"
        assert run(VERSION_1["claim"], **old)
    assert run(VERSION_1["pace"])
    assert run(VERSION_1["claim_unused"], owner="old") == []
    instances.pass_time(60)
    for profile in ("user-1", "user-2"):
        login = await load_login(DatabaseStore(database), profile)
        assert login is not None
    assert sandbox.is_access_token_live((await instances.open().tokens.token()).get_secret_value())


async def test_tables_of_the_first_version_are_brought_up_to_date_with_their_logins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = SqliteDatabase(tmp_path / "tokens.db")
    with monkeypatch.context() as first:
        first.setattr(schema, "VERSION", 1)
        first.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        schema.migrate(database)
    row = "INSERT INTO notion_oauth_logins (profile, login, changed_at, fence, owner, lease_until)"
    execute(database, f"{row} VALUES ('user-1', :login, 0, 1, '', 0)", login=encode_tokens(tokens()))
    assert schema.migrate(database) == 1
    store = DatabaseStore(database)
    assert await load_login(store, "user-1") == tokens()
    await save_login(store, "user-1", tokens())
    assert await store.claim_unused(1) == []


@pytest.mark.slow  # five seconds
@pytest.mark.xdist_group("postgresql")
def test_migration_does_not_wait_long_for_a_reader(postgresql: Postgresql, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a backup: all instances would wait behind the migration."""
    postgresql.execute("CREATE DATABASE being_read")
    database = PostgresqlDatabase(postgresql.url.removesuffix("postgres") + "being_read")
    with monkeypatch.context() as first:
        first.setattr(schema, "VERSION", 1)
        first.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        schema.migrate(database)
    reader = database.connect()
    try:
        reader.execute("BEGIN", {})
        reader.execute("SELECT 1 FROM notion_oauth_logins", {})
        with pytest.raises(StorageError, match="lock timeout"):
            schema.migrate(database)
    finally:
        reader.close()
    assert schema.migrate(database) == 1
