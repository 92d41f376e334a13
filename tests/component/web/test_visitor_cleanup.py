"""When the files of ended browser sessions are removed."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from notion_oauth.app import create_app
from notion_oauth.clock import utc_now
from notion_oauth.errors import SignInRequired
from notion_oauth.models import TokenSet
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.web.profiles.visitor_cleanup import VisitorCleanup
from notion_oauth.web.profiles.visitors import Visitors
from tests.support.signing_in import sign_in
from tests.support.stores import save_login
from tests.support.visiting import PUBLIC, Visitor, application

pytestmark = pytest.mark.anyio
DAY = timedelta(days=1)
VISITOR = "web-" + "a" * 32
LIFETIMES = Lifetimes()


@pytest.fixture
def public(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PUBLIC, "secret_key": SecretStr("k" * 40)})


@pytest.fixture
def store(public: Settings) -> JsonFileStore:
    return JsonFileStore(public.token_file)


def visitor_files(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir() if VISITOR in file.name)


def set_age(directory: Path, *, since: timedelta) -> None:
    """Set the modification time of all files."""
    past = time.time() - since.total_seconds()
    for file in directory.iterdir():
        os.utime(file, (past, past))


def at(later: timedelta) -> Callable[[], datetime]:
    return lambda: utc_now() + later


async def removed(store: JsonFileStore, tmp_path: Path, *, later: timedelta) -> bool:
    """Whether two checks, one day apart, remove all files of the visitor, if the clock shows this much later."""
    assert visitor_files(tmp_path)
    uptime = [0.0]
    cleanup = VisitorCleanup(store, LIFETIMES, at(later), uptime=lambda: uptime[0])
    for uptime[0] in (0.0, DAY.total_seconds()):
        assert visitor_files(tmp_path), "not removed at the first check"
        await cleanup.remove_ended()
    return not visitor_files(tmp_path)


def login(now: datetime, **changed: object) -> TokenSet:
    fields: dict[str, object] = {
        "access_token": "access",
        "refresh_token": "refresh",
        "expires_in": 3600,
        "expires_at": now + timedelta(hours=1),
        "authorized_at": now,
        "updated_at": now,
    }
    return TokenSet.model_validate(fields | changed)


async def test_idle_login_is_removed_one_day_after_it_ended(store: JsonFileStore, tmp_path: Path) -> None:
    await save_login(store, VISITOR, login(utc_now()))
    assert not await removed(store, tmp_path, later=timedelta(days=30, hours=23))
    assert await removed(store, tmp_path, later=timedelta(days=31, hours=1))


async def test_last_refresh_counts_not_file_age(store: JsonFileStore, tmp_path: Path) -> None:
    """Files may have been restored or encrypted again, today or long ago."""
    await save_login(store, VISITOR, login(utc_now() - 40 * DAY, refreshed_at=utc_now()))
    set_age(tmp_path, since=40 * DAY)
    assert not await removed(store, tmp_path, later=29 * DAY)
    await save_login(store, VISITOR, login(utc_now() - 40 * DAY))
    assert await removed(store, tmp_path, later=DAY + timedelta(minutes=1))


async def test_login_is_removed_after_its_grant_ended(store: JsonFileStore, tmp_path: Path) -> None:
    await save_login(store, VISITOR, login(utc_now(), authorized_at=utc_now() - 175 * DAY, refreshed_at=utc_now()))
    assert not await removed(store, tmp_path, later=5 * DAY)
    assert await removed(store, tmp_path, later=6 * DAY + timedelta(minutes=1))


async def test_login_refreshed_after_its_grant_is_kept(store: JsonFileStore, tmp_path: Path) -> None:
    """The server allows a longer grant than the setting."""
    await save_login(store, VISITOR, login(utc_now(), authorized_at=utc_now() - 400 * DAY, refreshed_at=utc_now()))
    assert not await removed(store, tmp_path, later=29 * DAY)
    assert await removed(store, tmp_path, later=32 * DAY)


@pytest.mark.parametrize(("expires_in", "days"), [(3600, 0), (300 * 86400, 300), (None, 180)])
async def test_login_without_refresh_token_is_kept_until_its_token_expires(
    store: JsonFileStore, tmp_path: Path, expires_in: int | None, days: int
) -> None:
    now = utc_now()
    expires_at = now + timedelta(seconds=expires_in) if expires_in else None
    await save_login(store, VISITOR, login(now, refresh_token=None, expires_in=expires_in, expires_at=expires_at))
    assert not await removed(store, tmp_path, later=days * DAY + timedelta(hours=23))
    assert await removed(store, tmp_path, later=days * DAY + timedelta(hours=26))


async def test_reason_of_ended_login_is_kept_for_thirty_days(
    public: Settings, store: JsonFileStore, sandbox: Sandbox, tmp_path: Path
) -> None:
    oauth = NotionOAuth(public, profile=VISITOR)
    await sign_in(oauth)
    sandbox.revoke_grants()
    with pytest.raises(SignInRequired):
        await oauth.refresh()
    assert not await removed(store, tmp_path, later=29 * DAY)
    assert await removed(store, tmp_path, later=31 * DAY)


async def test_files_of_an_interrupted_sign_out_are_removed_after_one_day(store: JsonFileStore, tmp_path: Path) -> None:
    async with store.exclusive(VISITOR):
        pass
    assert not await removed(store, tmp_path, later=timedelta(hours=23))
    assert await removed(store, tmp_path, later=timedelta(hours=25))


async def test_unreadable_login_is_removed_by_age(store: JsonFileStore, tmp_path: Path) -> None:
    store.path(VISITOR).write_text("not ours")
    assert not await removed(store, tmp_path, later=29 * DAY)
    assert await removed(store, tmp_path, later=31 * DAY)


async def test_other_profiles_are_not_removed(public: Settings, store: JsonFileStore, tmp_path: Path) -> None:
    for name in ("default", "work", "web-ann"):
        await sign_in(NotionOAuth(public, profile=name))
    Visitor(create_app(public)).consent()
    before = sorted(tmp_path.iterdir())
    uptime = [0.0]
    cleanup = VisitorCleanup(store, LIFETIMES, at(400 * DAY), uptime=lambda: uptime[0])
    for uptime[0] in (0.0, DAY.total_seconds()):
        await cleanup.remove_ended()
    assert sorted(tmp_path.iterdir()) == before, "they are not names of browser sessions"


@pytest.mark.parametrize(("expires_in", "days"), [(None, 180), (90 * 86400, 90)])
async def test_login_is_kept_while_its_token_is_valid(
    store: JsonFileStore, tmp_path: Path, expires_in: int | None, days: int
) -> None:
    """Such a token is never refreshed, however often it is used."""
    now = utc_now()
    expires_at = now + timedelta(seconds=expires_in) if expires_in else None
    await save_login(store, VISITOR, login(now, expires_in=expires_in, expires_at=expires_at))
    assert not await removed(store, tmp_path, later=days * DAY + timedelta(hours=23))
    assert await removed(store, tmp_path, later=days * DAY + timedelta(hours=26))


async def test_temporarily_wrong_clock_removes_no_login(store: JsonFileStore, tmp_path: Path) -> None:
    """As the clock of a machine that has just started."""
    await save_login(store, VISITOR, login(utc_now()))
    wrong, uptime = [400 * DAY], [0.0]
    cleanup = VisitorCleanup(store, LIFETIMES, lambda: utc_now() + wrong[0], uptime=lambda: uptime[0])
    for uptime[0] in (0.0, DAY.total_seconds() - 1):  # less than one day apart, as when another worker starts
        await cleanup.remove_ended()
    wrong[0], uptime[0] = timedelta(), DAY.total_seconds()
    await cleanup.remove_ended()
    wrong[0], uptime[0] = 400 * DAY, 2 * DAY.total_seconds()
    await cleanup.remove_ended()
    assert visitor_files(tmp_path), "it had not ended in between"
    uptime[0] = 3 * DAY.total_seconds()
    await cleanup.remove_ended()
    assert not visitor_files(tmp_path)


@pytest.mark.slow
async def test_failed_removal_does_not_block_others(
    store: JsonFileStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"web-{number:032x}" for number in range(5)]
    for name in names:
        await save_login(store, name, login(utc_now()))
    stuck = store.path(names[1]).with_name(store.path(names[1]).name + ".lock")
    stuck.unlink()
    stuck.mkdir()
    uptime = itertools.count()
    cleanup = VisitorCleanup(
        store, LIFETIMES, at(400 * DAY), uptime=lambda: next(uptime), interval=timedelta(seconds=0.01)
    )
    with caplog.at_level(logging.WARNING), anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cleanup.run)
            while next(uptime) < 100 or len(list(tmp_path.glob("*.profile"))) > 0:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    assert {file.name.split(".")[3] for file in tmp_path.iterdir() if "web-" in file.name} == {names[1]}
    assert caplog.text.count("cannot be removed") == 1


async def test_unreadable_directory_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "tokens.json"
    path.parent.touch()
    assert await VisitorCleanup(JsonFileStore(path), LIFETIMES, utc_now).remove_ended() is not None


@pytest.mark.parametrize("keep_fresh", [True, False])
async def test_service_removes_ended_logins_in_the_background(
    public: Settings, store: JsonFileStore, tmp_path: Path, keep_fresh: bool
) -> None:
    oauth = NotionOAuth(public.model_copy(update={"keep_fresh": keep_fresh}))
    logins = Visitors(oauth, cleanup_interval=timedelta(seconds=0.05))
    await save_login(store, VISITOR, login(utc_now() - 40 * DAY))
    set_age(tmp_path, since=40 * DAY)
    with Visitor(application(logins)), anyio.fail_after(10):
        while visitor_files(tmp_path):
            await anyio.sleep(0.01)
