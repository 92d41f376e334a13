"""The service on a database that several instances share."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from notion_oauth.app import create_app
from notion_oauth.errors import NetworkError
from notion_oauth.files.encryption import new_key
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.stores import schema
from notion_oauth.stores.sql_documents import DatabaseStore
from notion_oauth.stores.sqlite import SqliteDatabase
from notion_oauth.web.profiles.logins import Logins
from notion_oauth.web.profiles.resolver import create_resolver
from tests.support.databases import FailingDatabase, Postgresql
from tests.support.signing_in import sign_in
from tests.support.visiting import PUBLIC, Visitor


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.xdist_group("postgresql"))])
def public(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Settings:
    """The settings of all instances of a service on a public URL."""
    if request.param == "sqlite":
        schema.migrate(SqliteDatabase(tmp_path / "tokens.db"))
        url = f"sqlite:///{tmp_path}/tokens.db"
    else:
        server: Postgresql = request.getfixturevalue("postgresql")
        url = server.url
    keys = {"secret_key": "k" * 40, "encryption_key": new_key()}
    return Settings(server_url=settings.server_url, public_url=PUBLIC, database_url=url, **keys)


def at(instance: Visitor, other: Visitor) -> Visitor:
    """The same browser at another instance."""
    other.cookies.update(instance.cookies)
    return other


@pytest.mark.slow
def test_sign_in_use_and_sign_out_at_different_instances(public: Settings, sandbox: Sandbox) -> None:
    first, second = Visitor(create_app(public)), Visitor(create_app(public))
    redirect = first.consent()
    done = at(first, second).get(redirect)
    assert (done.status_code, done.headers["location"]) == (303, "/auth/status"), done.text
    at(second, first)
    assert first.status()["status"] == second.status()["status"] == "authenticated"
    refreshed = second.post("/auth/refresh", data={"csrf_token": second.csrf_token()})
    assert refreshed.status_code == 303
    assert sandbox.live_grants == 1
    first.post("/auth/logout", data={"csrf_token": first.csrf_token()})
    assert sandbox.live_grants == 0
    deadline = time.monotonic() + 2  # an instance looks at a login once in a second
    while second.status()["status"] == "authenticated" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert second.status()["status"] == "unauthenticated"
    assert anyio.run(NotionOAuth(public).store.profiles) == []


def test_code_is_sent_once_among_instances(public: Settings, sandbox: Sandbox) -> None:
    first, second = Visitor(create_app(public)), Visitor(create_app(public))
    redirect = first.consent()
    at(first, second)
    assert [visitor.get(redirect).status_code for visitor in (first, second)] == [303, 303]
    assert len(sandbox.requests_to("/token", "POST")) == 1
    assert first.status()["status"] == second.status()["status"] == "authenticated"


def test_service_is_ready_while_the_lock_of_sign_ins_is_held(public: Settings) -> None:
    oauth = NotionOAuth(public)
    profile = create_resolver(oauth).sign_in_profile

    async def look() -> tuple[int, float]:
        async with oauth.store.exclusive(profile):
            started = time.monotonic()
            answer = await anyio.to_thread.run_sync(lambda: Visitor(create_app(public)).get("/readyz"))
            return answer.status_code, time.monotonic() - started

    status, took = anyio.run(look)
    assert status == 200
    assert took < 0.5


def test_service_is_not_ready_without_its_database(tmp_path: Path, settings: Settings) -> None:
    database = FailingDatabase(tmp_path / "tokens.db")
    schema.migrate(database)
    oauth = NotionOAuth(settings, store=DatabaseStore(database))
    service = Visitor(create_app(oauth=oauth), "http://localhost", client="127.0.0.1")
    database.fails_before = lambda statement: True
    answer = service.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "failing", "failing": ["store"]})
    assert service.get("/healthz").status_code == 200


@pytest.mark.anyio
async def test_login_whose_tokens_are_not_saved_stays_in_memory(
    sandbox: Sandbox, settings: Settings, tmp_path: Path
) -> None:
    """While the database is away, and others are used. A new object would send the old refresh token."""
    sandbox.options.reuse = "strict"
    database = FailingDatabase(tmp_path / "tokens.db")
    schema.migrate(database)
    logins = Logins(NotionOAuth(settings, store=DatabaseStore(database)), max_logins=2)
    oauth = logins.for_profile("user-1")
    await sign_in(oauth)
    database.fails_before = lambda statement: "login = :content" in statement
    token = (await oauth.refresh()).access_token
    for number in range(2, 7):
        logins.for_profile(f"user-{number}")
    assert len(logins.profiles) <= 3
    database.fails_before = lambda statement: False
    assert (await logins.for_profile("user-1").tokens.stored()).access_token == token
    assert sandbox.is_access_token_live((await logins.for_profile("user-1").refresh()).access_token.get_secret_value())
    await oauth.tokens.wait_until_idle()
    for number in range(2, 7):
        logins.for_profile(f"user-{number}")
    assert len(logins.profiles) == 2
    assert "user-1" not in logins.profiles


@pytest.mark.anyio
async def test_tokens_that_are_saved_late_keep_what_another_instance_has_sent_meanwhile(
    sandbox: Sandbox, settings: Settings, tmp_path: Path
) -> None:
    """Its request may still arrive, and replace them: then only the old refresh token is valid."""
    database = FailingDatabase(tmp_path / "tokens.db")
    schema.migrate(database)
    first = NotionOAuth(settings, store=DatabaseStore(database, lease=timedelta(seconds=0.05)))
    old = await sign_in(first)
    database.fails_before = lambda statement: "login = :content" in statement
    new = await first.refresh()
    sandbox.misbehave_next("/token", "drop")
    await anyio.sleep(0.1)  # the lease ends
    second = NotionOAuth(settings, store=DatabaseStore(database))
    with pytest.raises(NetworkError):
        await second.refresh()
    database.fails_before = lambda statement: False
    await first.tokens.wait_until_idle()
    stored = await second.tokens.stored()
    assert (stored.refresh_token, stored.previous_refresh_token) == (new.refresh_token, old.refresh_token)
