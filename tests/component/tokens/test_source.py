"""A valid token: refreshed once for all callers, kept through transient failures, ended only by the server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from notion_oauth.errors import NotSignedIn, SignInRequired, StorageError, TransientError
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.conftest import Posted
from tests.support.clock import Clock
from tests.support.signing_in import sign_in
from tests.support.stores import load_login, stored

pytestmark = pytest.mark.anyio


@pytest.fixture
def oauth(settings: Settings, clock: Clock) -> NotionOAuth:
    return NotionOAuth(settings, clock=clock)


async def test_valid_token_needs_no_request(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    login = await sign_in(oauth)
    before = len(sandbox.requests)
    assert await oauth.tokens.token() == login.access_token
    assert len(sandbox.requests) == before


async def test_expired_token_needs_one_post(oauth: NotionOAuth, sandbox: Sandbox, clock: Clock) -> None:
    await sign_in(oauth)
    before = len(sandbox.requests)
    clock.ahead = timedelta(hours=1)
    token = await NotionOAuth(oauth.settings, clock=clock).tokens.token()  # as after a restart
    assert [(request.method, request.path) for request in sandbox.requests[before:]] == [("POST", "/token")]
    assert sandbox.is_access_token_live(token.get_secret_value())
    assert (await stored(oauth)).access_token == token


async def test_token_is_refreshed_in_the_background_five_minutes_early(
    oauth: NotionOAuth, clock: Clock, grants_asked: Posted
) -> None:
    first = (await sign_in(oauth)).access_token
    clock.ahead = timedelta(minutes=54)
    assert await oauth.tokens.token() == first
    await oauth.tokens.wait_until_idle()
    assert grants_asked() == ["authorization_code"]
    clock.ahead = timedelta(minutes=56)
    assert await oauth.tokens.token() == first
    await oauth.tokens.wait_until_idle()
    assert await oauth.tokens.token() != first
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_short_lived_token_is_not_refreshed_at_every_use(
    oauth: NotionOAuth, sandbox: Sandbox, clock: Clock, grants_asked: Posted
) -> None:
    sandbox.options.access_token_lifetime = 60
    await sign_in(oauth)
    clock.ahead = timedelta(seconds=38)
    await oauth.tokens.token()
    await oauth.tokens.wait_until_idle()
    assert grants_asked() == ["authorization_code"]
    clock.ahead = timedelta(seconds=41)
    await oauth.tokens.token()
    await oauth.tokens.wait_until_idle()
    assert grants_asked() == ["authorization_code", "refresh_token"]


@pytest.mark.spec("MCP §Refresh Tokens", "Do not rely on getting a refresh token")
async def test_token_without_refresh_token_is_used_until_it_expires(
    oauth: NotionOAuth, sandbox: Sandbox, clock: Clock
) -> None:
    sandbox.options.token_response_overrides = {"refresh_token": None}
    login = await sign_in(oauth)
    clock.ahead = timedelta(minutes=59)
    assert await oauth.tokens.token() == login.access_token
    clock.ahead = timedelta(minutes=61)
    with pytest.raises(SignInRequired, match="no refresh token"):
        await oauth.tokens.token()


async def test_many_tasks_refresh_once(
    oauth: NotionOAuth, sandbox: Sandbox, clock: Clock, grants_asked: Posted
) -> None:
    sandbox.options.reuse = "strict"
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    got: list[SecretStr] = []

    async def request() -> None:
        got.append(await oauth.tokens.token())

    async with anyio.create_task_group() as tasks:
        for _ in range(25):
            tasks.start_soon(request)
    assert len(got) == 25
    assert len({token.get_secret_value() for token in got}) == 1
    assert grants_asked() == ["authorization_code", "refresh_token"]
    assert sandbox.live_grants == 1


async def test_refresh_of_another_process_is_adopted(
    oauth: NotionOAuth, settings: Settings, grants_asked: Posted
) -> None:
    rejected = (await sign_in(oauth)).access_token
    newer = (await NotionOAuth(settings).refresh()).access_token
    assert await oauth.tokens.token(rejected=rejected) == newer
    assert grants_asked() == ["authorization_code", "refresh_token"]


@pytest.mark.spec("RFC 6750 §3.1", "Retry once with another token after a rejection")
async def test_rejected_token_is_replaced(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    rejected = (await sign_in(oauth)).access_token
    sandbox.expire_access_tokens()
    token = await oauth.tokens.token(rejected=rejected)
    assert token != rejected
    assert sandbox.is_access_token_live(token.get_secret_value())


TRANSIENT: list[dict[str, Any]] = [
    {"status": 429, "error": "temporarily_unavailable"},
    {"status": 500},
    {"status": 503, "body": "<html>"},
    {"status": 502, "error": "invalid_grant"},
    {"status": 403, "body": "<html>blocked by a proxy</html>"},
    {"status": 400, "body": "{}", "content_type": "application/json"},
    {"status": 200, "body": "<html>"},
]


@pytest.mark.parametrize("failure", TRANSIENT, ids=lambda failure: str(failure["status"]))
async def test_transient_failure_keeps_the_login(
    oauth: NotionOAuth, sandbox: Sandbox, clock: Clock, failure: dict[str, Any]
) -> None:
    login = await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    sandbox.fail_next("/token", **failure)
    with pytest.raises(TransientError):
        await oauth.tokens.token()
    assert await stored(oauth) == login
    assert await oauth.tokens.token() != login.access_token, "the next attempt succeeds"


@pytest.mark.parametrize("kind", ["drop", "lose_response", "garble", "oversize"])
async def test_lost_response_keeps_the_login(oauth: NotionOAuth, sandbox: Sandbox, clock: Clock, kind: Any) -> None:
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    sandbox.misbehave_next("/token", kind)
    with pytest.raises(TransientError):
        await oauth.tokens.token()
    token = await oauth.tokens.token()
    assert sandbox.is_access_token_live(token.get_secret_value())
    assert sandbox.live_grants == 1


async def test_valid_token_is_served_when_a_refresh_fails(oauth: NotionOAuth, sandbox: Sandbox, clock: Clock) -> None:
    login = await sign_in(oauth)
    clock.ahead = timedelta(minutes=57)
    sandbox.fail_next("/token", status=503)
    assert await oauth.tokens.token() == login.access_token
    sandbox.fail_next("/token", status=503)
    with pytest.raises(TransientError):
        await oauth.tokens.token(rejected=login.access_token)


async def test_without_a_login_not_signed_in_is_raised(oauth: NotionOAuth) -> None:
    with pytest.raises(NotSignedIn):
        await oauth.tokens.token()
    with pytest.raises(NotSignedIn):
        await oauth.refresh()


async def test_no_refresh_is_requested_if_the_store_is_not_writable(
    oauth: NotionOAuth, settings: Settings, clock: Clock, grants_asked: Posted
) -> None:
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    moved = settings.token_file.with_name("moved.json")
    settings.token_file.rename(moved)
    settings.token_file.symlink_to(moved)
    with pytest.raises(StorageError, match="symbolic link"):
        await oauth.tokens.token()
    assert grants_asked() == ["authorization_code"]


async def test_login_of_seven_fields_is_refreshed_after_discovery(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox
) -> None:
    login = await sign_in(oauth)
    document = json.loads(settings.token_file.read_text())
    names = ["access_token", "token_type", "expires_in", "refresh_token", "client_id", "client_secret", "updated_at"]
    seven = {name: document[name] for name in names}
    seven["updated_at"] = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1000)
    settings.token_file.write_text(json.dumps(seven))
    token = await oauth.tokens.token()
    assert sandbox.is_access_token_live(token.get_secret_value())
    complete = await stored(oauth)
    assert (complete.token_endpoint, complete.resource) == (login.token_endpoint, login.resource)
    assert len(sandbox.requests_to("/register")) == 1


async def test_sign_out_during_a_refresh_is_not_undone(oauth: NotionOAuth, settings: Settings, clock: Clock) -> None:
    """Neither order of the two brings the login back."""
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    async with anyio.create_task_group() as tasks:

        async def refresh() -> None:
            with contextlib.suppress(NotSignedIn):
                await oauth.tokens.token()

        tasks.start_soon(refresh)
        tasks.start_soon(NotionOAuth(settings).sign_out)
    assert await load_login(oauth.store, "default") is None


@pytest.mark.slow
async def test_sign_out_of_another_process_is_not_undone_by_a_running_refresh(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox, clock: Clock
) -> None:
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    await _during_a_slow_refresh(oauth, sandbox, NotionOAuth(settings).sign_out)
    assert await load_login(oauth.store, "default") is None
    assert sandbox.live_grants == 0
    with pytest.raises(NotSignedIn):
        await oauth.tokens.token()


@pytest.mark.slow
async def test_sign_in_of_another_process_replaces_a_running_refresh(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox, clock: Clock
) -> None:
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    other = NotionOAuth(settings, clock=clock)
    await _during_a_slow_refresh(oauth, sandbox, lambda: sign_in(other))
    assert sandbox.live_grants == 1
    token = await oauth.tokens.token()
    assert token == (await stored(other)).access_token
    assert sandbox.is_access_token_live(token.get_secret_value())


async def _during_a_slow_refresh(
    oauth: NotionOAuth, sandbox: Sandbox, act: Callable[[], Coroutine[Any, Any, object]]
) -> None:
    """Act in another process after the server has refreshed, and before its response arrives."""
    sandbox.misbehave_next("/token", "slow", seconds=0.4)
    requests = len(sandbox.requests_to("/token"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(oauth.tokens.token)
        while len(sandbox.requests_to("/token")) == requests:
            await anyio.sleep(0.005)
        await act()
