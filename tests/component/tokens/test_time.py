"""Clocks that are wrong, jump or stop, and the lifetimes of tokens and logins."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import httpx
import pytest

from notion_oauth.cli.status_text import describe
from notion_oauth.files.documents import FileDocuments
from notion_oauth.models import TokenSet
from notion_oauth.protocol.lifetime import Lifetimes, Phase, login_end, phase
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import TokenStore
from notion_oauth.tokens.cache import RECHECK_INTERVAL
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.tokens.source import TokenSource
from notion_oauth.tokens.status import login_status
from notion_oauth.transport.client import Transport
from tests.conftest import Posted
from tests.support.signing_in import sign_in
from tests.support.stores import HookedDocuments
from tests.unit.protocol.builders import NOW, tokens

pytestmark = pytest.mark.anyio

WINDOW = timedelta(minutes=5)


class Machine:
    """A machine's two clocks: the wall clock can be set, `uptime` only increases."""

    def __init__(self) -> None:
        self.wall, self.uptime = datetime.now(UTC), 5000.0

    def clock(self) -> datetime:
        return self.wall

    def advance(self, **span: float) -> None:
        self.wall += timedelta(**span)
        self.uptime += timedelta(**span).total_seconds()


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def oauth(settings: Settings, machine: Machine) -> NotionOAuth:
    oauth = NotionOAuth(settings, clock=machine.clock)
    oauth.tokens = TokenSource(
        oauth.store,
        oauth.client,
        server_url=settings.server_url,
        profile="default",
        clock=machine.clock,
        uptime=lambda: machine.uptime,
    )
    return oauth


async def test_clock_set_back_does_not_extend_a_token(
    oauth: NotionOAuth, machine: Machine, grants_asked: Posted
) -> None:
    login = await sign_in(oauth)
    assert await oauth.tokens.token() == login.access_token
    machine.wall -= timedelta(hours=3)
    machine.advance(minutes=61)
    assert await oauth.tokens.token() != login.access_token
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_stopped_clock_does_not_extend_a_token(
    oauth: NotionOAuth, machine: Machine, grants_asked: Posted
) -> None:
    login = await sign_in(oauth)
    with anyio.fail_after(5):
        while oauth.tokens.get_fresh() is None:
            await oauth.tokens.token()
    machine.uptime += timedelta(minutes=61).total_seconds()
    assert await oauth.tokens.token() != login.access_token
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_clock_ahead_at_sign_in_causes_one_refresh(
    oauth: NotionOAuth, machine: Machine, grants_asked: Posted
) -> None:
    machine.wall += timedelta(days=400)
    login = await sign_in(oauth)
    machine.wall -= timedelta(days=400)
    assert await oauth.tokens.token() == login.access_token, "it may still be valid"
    await oauth.tokens.wait_until_idle()
    for _ in range(3):
        assert await oauth.tokens.token() != login.access_token
        await oauth.tokens.wait_until_idle()
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_clock_jump_ahead_and_back_causes_at_most_two_refreshes(
    oauth: NotionOAuth, machine: Machine, sandbox: Sandbox, grants_asked: Posted
) -> None:
    await sign_in(oauth)
    for jump in (timedelta(days=1), timedelta(days=-1)):
        machine.wall += jump
        for _ in range(5):
            await oauth.tokens.token()
            await oauth.tokens.wait_until_idle()
    assert sandbox.is_access_token_live((await oauth.tokens.token()).get_secret_value())
    assert len(grants_asked()) <= 3


async def test_small_clock_step_back_causes_no_refresh(
    oauth: NotionOAuth, machine: Machine, grants_asked: Posted
) -> None:
    login = await sign_in(oauth)
    await oauth.tokens.token()
    machine.wall -= timedelta(seconds=2)
    assert await oauth.tokens.token() == login.access_token
    await oauth.tokens.wait_until_idle()
    assert grants_asked() == ["authorization_code"]


async def test_token_expires_while_the_machine_is_suspended(
    oauth: NotionOAuth, machine: Machine, grants_asked: Posted
) -> None:
    """Also if `uptime` does not count the time of the suspend."""
    login = await sign_in(oauth)
    assert await oauth.tokens.token() == login.access_token
    machine.wall += timedelta(hours=9)
    assert await oauth.tokens.token() != login.access_token
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_lifetime_counts_from_before_the_request(settings: Settings, sandbox: Sandbox, machine: Machine) -> None:
    class SuspendedNetwork(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            response = await super().handle_async_request(request)
            if request.url.path == "/token":
                machine.wall += timedelta(hours=9)
            return response

    client = OAuthClient(
        Transport(timeout=timedelta(seconds=5), httpx_transport=SuspendedNetwork()), clock=machine.clock
    )
    oauth = NotionOAuth(settings, client=client, clock=machine.clock)
    await sign_in(oauth)
    assert (await oauth.status()).status == "expired"


@pytest.mark.parametrize("sent", [None, "soon", 0, -7, "0", []])
async def test_token_of_unknown_lifetime_is_refreshed_after_an_hour(
    oauth: NotionOAuth, sandbox: Sandbox, machine: Machine, sent: Any, grants_asked: Posted
) -> None:
    """It is not used for ever, and not refreshed at every use."""
    sandbox.options.token_response_overrides = {"expires_in": sent}
    login = await sign_in(oauth)
    machine.advance(minutes=50)
    for _ in range(3):
        assert await oauth.tokens.token() == login.access_token
        await oauth.tokens.wait_until_idle()
    assert grants_asked() == ["authorization_code"]
    machine.advance(minutes=11)
    assert await oauth.tokens.token() != login.access_token
    assert grants_asked() == ["authorization_code", "refresh_token"]


@pytest.mark.parametrize("sent", [10**30, 10**400])
async def test_very_long_lifetime_is_a_lifetime(
    oauth: NotionOAuth, sandbox: Sandbox, machine: Machine, sent: int
) -> None:
    sandbox.options.token_response_overrides = {"expires_in": sent}
    login = await sign_in(oauth)
    machine.advance(days=20)
    assert await oauth.tokens.token() == login.access_token


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        (timedelta(), Phase.VALID),
        (timedelta(minutes=55), Phase.DUE),
        (timedelta(minutes=54, seconds=59), Phase.VALID),
        (timedelta(minutes=59, seconds=59), Phase.DUE),
        (timedelta(minutes=60), Phase.EXPIRED),
        (timedelta(days=36500), Phase.EXPIRED),
        (timedelta(minutes=-4), Phase.VALID),
        (timedelta(minutes=-6), Phase.DUE),
        (timedelta(days=-36500), Phase.DUE),
    ],
)
def test_phases_of_a_token(passed: timedelta, expected: Phase) -> None:
    assert phase(tokens(), NOW + passed, WINDOW) is expected


@pytest.mark.parametrize(("lifetime", "due_after"), [(60, 40), (900, 600), (3600, 3300), (28800, 28500)])
def test_refresh_window_is_at_most_a_third_of_the_lifetime(lifetime: int, due_after: int) -> None:
    login = tokens(expires_in=lifetime, expires_at=NOW + timedelta(seconds=lifetime))
    assert phase(login, NOW + timedelta(seconds=due_after - 1), WINDOW) is Phase.VALID
    assert phase(login, NOW + timedelta(seconds=due_after), WINDOW) is Phase.DUE


def at(days: float, **changes: Any) -> TokenSet:
    """A login of that age in days, refreshed now unless `changes` say otherwise."""
    then = NOW - timedelta(days=days)
    return tokens(**{"authorized_at": then, "refreshed_at": NOW, "updated_at": NOW, **changes})


@pytest.mark.parametrize(
    ("login", "ends_in", "warned"),
    [
        (at(0), 30, None),
        (at(149), 30, None),
        (at(155), 25, None),
        (at(167), 13, "Sign in again before that with: notion-oauth login"),
        (at(180), 0, "ends now, 180 days after the sign-in"),
        (at(20, refreshed_at=NOW - timedelta(days=15)), 15, None),
        (at(20, refreshed_at=NOW - timedelta(days=17)), 13, "in 13 days unless it is refreshed"),
        (at(20, refreshed_at=NOW - timedelta(days=29.5)), 0.5, "within a day unless it is refreshed"),
        (at(20, authorized_at=None), 30, None),
    ],
)
def test_end_of_a_login_and_its_warning(login: TokenSet, ends_in: float, warned: str | None) -> None:
    status = login_status(login, now=NOW, lifetimes=Lifetimes())
    assert status.login_ends_at == NOW + timedelta(days=ends_in)
    assert status.login_ends_at == login_end(login, Lifetimes())
    assert (status.warning is None) == (warned is None)
    assert warned is None or (warned in str(status.warning) and str(status.warning) in describe(status))


async def test_sign_in_and_refresh_times_are_stored(oauth: NotionOAuth, settings: Settings, machine: Machine) -> None:
    signed_in = machine.wall
    await sign_in(oauth)
    machine.advance(days=1)
    await oauth.refresh()
    status = await oauth.status()
    assert status.authorized_at is not None
    assert status.refreshed_at is not None
    assert abs(status.authorized_at - signed_in) < timedelta(seconds=1)
    assert abs(status.refreshed_at - machine.wall) < timedelta(seconds=1)
    assert json.loads(settings.token_file.read_text())["refreshed_at"]
    shorter = settings.model_copy(update={"grant_days": 10, "idle_days": 3})
    found = await NotionOAuth(shorter, clock=machine.clock).status()
    assert found.login_ends_at == status.refreshed_at + timedelta(days=3)
    assert found.warning is not None


async def test_cache_notices_changes_of_other_processes(
    oauth: NotionOAuth, settings: Settings, machine: Machine, sandbox: Sandbox
) -> None:
    other = NotionOAuth(settings, clock=machine.clock)
    login = await sign_in(other)
    assert await oauth.tokens.token() == login.access_token
    for change in (other.refresh, partial(sign_in, other)):
        with anyio.fail_after(5):
            while oauth.tokens.get_fresh() is None:  # until the cache is used
                await oauth.tokens.token()
        changed = await change()
        machine.uptime += RECHECK_INTERVAL
        assert await oauth.tokens.token() == changed.access_token
    await other.sign_out()
    machine.uptime += RECHECK_INTERVAL
    assert oauth.tokens.get_fresh() is None
    assert (await oauth.status()).status == "unauthenticated"


async def test_cached_token_is_not_read_from_the_file_again(settings: Settings) -> None:
    operations: list[str] = []
    files = FileDocuments(settings.token_file, lock_wait=timedelta(seconds=60))
    store = TokenStore(HookedDocuments(lambda operation, *_: operations.append(operation), files))
    oauth = NotionOAuth(settings, store=store)
    login = await sign_in(oauth)
    with anyio.fail_after(5):
        while oauth.tokens.get_fresh() is None:  # until the file is old enough for the cache
            await oauth.tokens.token()
    operations.clear()
    for _ in range(10):
        assert await oauth.tokens.token() == login.access_token
        assert oauth.tokens.get_fresh() == login.access_token
    assert operations == []
