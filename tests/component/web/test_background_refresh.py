"""The background refresh: due tokens are refreshed while the service runs, and it stops cleanly."""

from __future__ import annotations

from datetime import timedelta

import anyio
import httpx
import pytest

from notion_oauth.app import create_app
from notion_oauth.cli.background_server import served
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.web.profiles.background_refresh import BackgroundRefresh
from tests.conftest import Posted
from tests.support.signing_in import age, sign_in
from tests.support.stores import load_login

pytestmark = pytest.mark.anyio


async def until(posted: Posted, expected: list[str]) -> None:
    """Wait for the requests of a task in another thread."""
    with anyio.fail_after(10):
        while posted() != expected:
            await anyio.sleep(0.01)


async def test_service_refreshes_due_token(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox, grants_asked: Posted
) -> None:
    login = await sign_in(oauth)
    age(settings.token_file, minutes=57)
    with served(create_app(settings)):
        await until(grants_asked, ["authorization_code", "refresh_token"])
    fresh = await load_login(oauth.store, "default")
    assert fresh is not None
    assert fresh.access_token != login.access_token
    assert sandbox.is_access_token_live(fresh.access_token.get_secret_value())


async def test_keep_fresh_setting_disables_background_refresh(
    oauth: NotionOAuth, settings: Settings, grants_asked: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sign_in(oauth)
    age(settings.token_file, minutes=57)
    disabled = settings.model_copy(update={"keep_fresh": False})
    with served(create_app(disabled)) as url:
        assert httpx.get(f"{url}/auth/status", trust_env=False).json()["status"] == "authenticated"
    assert grants_asked() == ["authorization_code"]


async def test_service_starts_and_stops_without_a_login_and_with_an_ended_one(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox, grants_asked: Posted
) -> None:
    with served(create_app(settings)) as url:
        assert httpx.get(f"{url}/auth/status", trust_env=False).json() == {"status": "unauthenticated"}
    await sign_in(oauth)
    age(settings.token_file, minutes=57)
    sandbox.revoke_grants()
    with served(create_app(settings)) as url:
        await until(grants_asked, ["authorization_code", "refresh_token", "refresh_token"])  # a refusal is repeated
        with anyio.fail_after(10):
            while (found := httpx.get(f"{url}/auth/status", trust_env=False).json())["status"] == "authenticated":
                await anyio.sleep(0.01)
    assert found["ended_reason"] == "revoked"


@pytest.mark.slow
async def test_shutdown_waits_for_refresh_in_progress(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox, grants_asked: Posted
) -> None:
    """The new tokens are stored before the process exits."""
    sandbox.options.reuse = "strict"
    await sign_in(oauth)
    age(settings.token_file, minutes=57)
    sandbox.misbehave_next("/token", "slow", seconds=0.5)
    with served(create_app(settings)):
        await until(grants_asked, ["authorization_code", "refresh_token"])
    await oauth.refresh()
    assert sandbox.live_grants == 1


async def test_failure_is_logged_once_until_the_profile_is_removed(
    oauth: NotionOAuth, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.token_file.with_name(".notion-tokens.json.broken.profile").write_text("{}")
    profiles, rounds = ["broken"], [0]

    async def list_profiles() -> list[str]:
        rounds[0] += 1
        return list(profiles)

    async def some_rounds() -> None:
        until_round = rounds[0] + 3
        while rounds[0] < until_round:
            await anyio.sleep(0.01)

    refresh = BackgroundRefresh(list_profiles, oauth.for_profile, interval=timedelta(seconds=0.01))
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(refresh.run)
            await some_rounds()
            assert caplog.text.count("has no access_token") == 1
            profiles.clear()
            await some_rounds()
            profiles.append("broken")
            await some_rounds()
            tasks.cancel_scope.cancel()
    assert caplog.text.count("has no access_token") == 2, "nothing is stored for removed profiles"
