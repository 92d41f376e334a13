"""No tokens that the server has issued are lost: late requests, passing refusals, odd responses, refused new tokens."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

import anyio
import httpx
import pytest
from pydantic import SecretStr

from notion_oauth.auth.httpx_auth import BearerAuth
from notion_oauth.errors import NetworkError, ServerUnavailable, SignInRequired, TokenRefused
from notion_oauth.files.encryption import Encryption, new_key
from notion_oauth.models import TokenSet
from notion_oauth.sandbox import RecordedRequest, Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.stores.memory import MemoryStore
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.tokens.revocation import SignOut
from notion_oauth.transport.client import Transport
from tests.conftest import Posted
from tests.support.clock import Clock
from tests.support.signing_in import age, sign_in
from tests.support.stores import stored

pytestmark = pytest.mark.anyio
REFUSALS = ["invalid_grant", "invalid_client", "unauthorized_client", "invalid_token", "bad_refresh_token"]


class LateNetwork(httpx.AsyncHTTPTransport):
    """A network that can delay a token request until its client no longer waits for the response.

    `delays` is whether it delays the next one, or the refresh token in it.
    """

    delays: bool | SecretStr = False

    def __init__(self) -> None:
        super().__init__()
        self.delayed: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/token" and self._delays(parse_qs(request.content.decode())):
            self.delays = False
            self.delayed.append(request)
            raise httpx.ReadTimeout("no response in time")
        return await super().handle_async_request(request)

    def _delays(self, form: dict[str, list[str]]) -> bool:
        if isinstance(self.delays, bool):
            return self.delays
        return [self.delays.get_secret_value()] == form.get("refresh_token")

    async def deliver(self) -> None:
        while self.delayed:
            request = self.delayed.pop()
            response = await super().handle_async_request(request)
            assert response.status_code == 200, "the server still accepts the refresh token that was sent first"
            await response.aclose()


@pytest.fixture
def network() -> LateNetwork:
    return LateNetwork()


async def no_sleep(seconds: float) -> None:
    await anyio.lowlevel.checkpoint()


@pytest.fixture
def oauth(settings: Settings, clock: Clock, network: LateNetwork) -> NotionOAuth:
    patient = settings.model_copy(update={"retry_for": 20.0})
    client = OAuthClient(Transport(timeout=timedelta(seconds=5), httpx_transport=network), clock=clock)
    return NotionOAuth(patient, clock=clock, client=client, sleep=no_sleep)


async def refresh_with_late_first_request(oauth: NotionOAuth, network: LateNetwork) -> TokenSet:
    """Refresh: the first request times out, the second is answered. Then the first reaches the server."""
    first = await sign_in(oauth)
    network.delays = True
    login = await oauth.refresh()
    assert login.previous_refresh_token == first.refresh_token
    await network.deliver()
    return login


async def test_request_that_arrives_after_its_retry_ends_no_login(
    oauth: NotionOAuth, network: LateNetwork, sandbox: Sandbox, settings: Settings, clock: Clock
) -> None:
    """It replaces the new refresh token, and the one before is the only one that still works."""
    login = await refresh_with_late_first_request(oauth, network)
    another = NotionOAuth(settings, clock=clock)
    clock.ahead = timedelta(hours=2)
    token = await another.tokens.token()
    assert sandbox.is_access_token_live(token.get_secret_value())
    assert sandbox.live_grants == 1
    assert (await stored(oauth)).refresh_token not in (login.refresh_token, login.previous_refresh_token)


async def test_request_with_the_previous_refresh_token_may_be_late_too(
    oauth: NotionOAuth, network: LateNetwork, sandbox: Sandbox
) -> None:
    login = await refresh_with_late_first_request(oauth, network)
    assert login.previous_refresh_token is not None
    network.delays = login.previous_refresh_token  # after the server has refused the current one twice
    arrived = 0

    def on_arrival(request: RecordedRequest) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 3:  # the current one in the next attempt
            sandbox.fail_next("/token", status=503)

    sandbox.observe(on_arrival=on_arrival)
    await oauth.refresh()
    await network.deliver()
    await oauth.refresh()
    assert sandbox.live_grants == 1


async def test_request_of_a_killed_process_may_still_arrive(oauth: NotionOAuth) -> None:
    """The next process finds the reservation of the killed one."""
    login = await sign_in(oauth)
    async with oauth.store.exclusive("default") as hold:
        await hold.reserve(login.refresh_token)
        hold.request_may_arrive()
    assert (await oauth.refresh()).previous_refresh_token == login.refresh_token


@pytest.mark.parametrize("failure", [{"status": 429}, {"status": 503}])
async def test_request_that_the_server_did_not_process_cannot_arrive_late(
    oauth: NotionOAuth, sandbox: Sandbox, failure: dict[str, int]
) -> None:
    await sign_in(oauth)
    sandbox.fail_next("/token", **failure)  # type: ignore[arg-type]
    assert (await oauth.refresh()).previous_refresh_token is None


@pytest.mark.parametrize("failure", [{"status": 429}, {"status": 503}, {"status": 400, "error": "slow_down"}])
async def test_request_may_still_arrive_although_the_server_did_not_process_its_retry(
    oauth: NotionOAuth, network: LateNetwork, sandbox: Sandbox, failure: dict[str, Any]
) -> None:
    login = await sign_in(oauth)
    network.delays = True
    sandbox.fail_next("/token", **failure)
    try:
        new = await oauth.refresh()
    except TokenRefused:  # not repeated by itself
        new = await oauth.refresh()
    assert new.previous_refresh_token == login.refresh_token


async def test_next_refresh_forgets_the_previous_refresh_token(oauth: NotionOAuth, network: LateNetwork) -> None:
    await sign_in(oauth)
    network.delays = True
    assert (await oauth.refresh()).previous_refresh_token is not None
    assert (await oauth.refresh()).previous_refresh_token is None


async def test_sign_out_revokes_and_deletes_the_previous_refresh_token(
    oauth: NotionOAuth, network: LateNetwork, sandbox: Sandbox, settings: Settings
) -> None:
    """The server may know only that one."""
    login = await refresh_with_late_first_request(oauth, network)
    assert await oauth.sign_out() is SignOut.REVOKED
    revoked = [SecretStr(request.form["token"]) for request in sandbox.requests if "token" in request.form]
    assert revoked == [login.refresh_token, login.previous_refresh_token]
    assert sandbox.live_grants == 0
    assert not settings.token_file.exists()


async def test_previous_refresh_token_is_encrypted(settings: Settings, network: LateNetwork, clock: Clock) -> None:
    store = JsonFileStore(settings.token_file, encryption=Encryption(SecretStr(new_key())))
    client = OAuthClient(Transport(timeout=timedelta(seconds=5), httpx_transport=network), clock=clock)
    oauth = NotionOAuth(settings.model_copy(update={"retry_for": 20.0}), store=store, client=client, sleep=no_sleep)
    login = await refresh_with_late_first_request(oauth, network)
    assert login.previous_refresh_token is not None
    secret = login.previous_refresh_token.get_secret_value()
    assert secret not in settings.token_file.read_text()
    assert secret not in repr(login)


@pytest.mark.parametrize("error", REFUSALS)
async def test_refusal_that_is_not_repeated_ends_no_login(oauth: NotionOAuth, sandbox: Sandbox, error: str) -> None:
    """Servers that copy their data with a delay refuse once, and accept the same token a moment later."""
    login = await sign_in(oauth)
    sandbox.fail_next("/token", error=error)
    assert (await oauth.refresh()).access_token != login.access_token


async def test_refused_token_is_sent_again_after_a_pause(settings: Settings, sandbox: Sandbox) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    oauth = NotionOAuth(settings.model_copy(update={"retry_for": 20.0}), sleep=sleep)
    await sign_in(oauth)
    sandbox.revoke_grants()
    with pytest.raises(SignInRequired):
        await oauth.refresh()
    assert [seconds for seconds in slept if seconds] == [2.0]


@pytest.mark.parametrize("error", REFUSALS)
async def test_error_with_status_200_ends_the_login(oauth: NotionOAuth, sandbox: Sandbox, error: str) -> None:
    """GitHub's way. It is not a temporary failure, which the user would be told to wait for."""
    await sign_in(oauth)
    sandbox.fail_next("/token", status=200, error=error, times=2)
    with pytest.raises(SignInRequired) as caught:
        await oauth.refresh()
    assert caught.value.error == error
    assert caught.value.hint.command == "login"


@pytest.mark.parametrize(
    "odd",
    [{"access_token": None}, {"access_token": "a\nb"}, {"token_type": "mac"}, {"error": "server_error"}],
    ids=lambda odd: next(iter(odd)),
)
async def test_new_refresh_token_is_kept_although_its_access_token_cannot_be_used(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox, odd: dict[str, Any]
) -> None:
    """The access token is not handed out, and the next refresh sends the new refresh token."""
    sandbox.options.reuse = "strict"
    login = await sign_in(oauth)
    sandbox.options.token_response_overrides = odd
    with pytest.raises(ServerUnavailable):
        await NotionOAuth(settings).refresh()
    kept = await stored(oauth)
    assert kept.access_token == login.access_token
    assert kept.refresh_token != login.refresh_token
    sandbox.options.token_response_overrides = {}
    assert sandbox.is_access_token_live((await oauth.refresh()).access_token.get_secret_value())


async def test_unprocessed_retry_does_not_hide_that_the_first_request_may_arrive(
    oauth: NotionOAuth, network: LateNetwork, sandbox: Sandbox
) -> None:
    login = await sign_in(oauth)
    network.delays = True
    sandbox.fail_next("/token", status=503)
    assert (await oauth.refresh()).previous_refresh_token == login.refresh_token


async def test_failed_sign_in_does_not_hide_that_a_refresh_may_arrive(
    oauth: NotionOAuth, network: LateNetwork, sandbox: Sandbox, settings: Settings
) -> None:
    login = await sign_in(oauth)
    network.delays = True
    with pytest.raises(NetworkError):
        await NotionOAuth(settings, client=oauth.client).refresh()
    sandbox.fail_next("/token", error="invalid_grant", times=2)  # the first is a check of the client
    with pytest.raises(TokenRefused):
        await sign_in(oauth)
    assert (await oauth.refresh()).previous_refresh_token == login.refresh_token


async def test_odd_response_does_not_hide_that_the_first_request_may_arrive(
    oauth: NotionOAuth, network: LateNetwork, sandbox: Sandbox, settings: Settings
) -> None:
    login = await sign_in(oauth)
    network.delays = True
    sandbox.options.token_response_overrides = {"token_type": "mac"}
    with pytest.raises(NetworkError):
        await NotionOAuth(settings, client=oauth.client).refresh()
    with pytest.raises(ServerUnavailable):
        await NotionOAuth(settings, client=oauth.client).refresh()
    assert (await stored(oauth)).previous_refresh_token == login.refresh_token


async def test_refusal_of_the_current_refresh_token_is_the_reason_of_the_end(
    oauth: NotionOAuth, network: LateNetwork, sandbox: Sandbox
) -> None:
    """The previous one is refused for reasons of its own, such as its reuse."""
    await refresh_with_late_first_request(oauth, network)
    sandbox.fail_next("/token", error="invalid_grant", description="Grant not found", times=2)
    sandbox.fail_next("/token", error="invalid_request")
    with pytest.raises(SignInRequired) as caught:
        await oauth.refresh()
    assert (caught.value.error, caught.value.reason) == ("invalid_grant", "ended")


async def test_response_that_repeats_the_sent_refresh_token_is_no_new_one(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings)
    login = await sign_in(oauth)
    assert login.refresh_token is not None
    body = {"error": "invalid_grant", "refresh_token": login.refresh_token.get_secret_value()}
    sandbox.fail_next("/token", status=200, body=json.dumps(body), times=2)
    with pytest.raises(SignInRequired):
        await oauth.refresh()


async def test_access_token_keeps_its_expiry_beside_a_new_refresh_token(
    settings: Settings, sandbox: Sandbox, clock: Clock
) -> None:
    sandbox.options.token_response_overrides = {"expires_in": None}
    oauth = NotionOAuth(settings, clock=clock)
    await sign_in(oauth)
    sandbox.options.token_response_overrides = {"token_type": "mac"}
    clock.ahead = timedelta(minutes=59)
    with pytest.raises(ServerUnavailable):
        await oauth.refresh()
    assert (await NotionOAuth(settings, clock=clock).status()).expires_in_seconds in range(61)


async def test_token_of_assumed_lifetime_is_used_if_it_cannot_be_refreshed_now(
    settings: Settings, sandbox: Sandbox, clock: Clock
) -> None:
    sandbox.options.token_response_overrides = {"expires_in": None}
    oauth = NotionOAuth(settings, clock=clock)
    login = await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    sandbox.fail_next("/token", status=503)
    assert await oauth.tokens.token() == login.access_token


async def test_token_without_client_and_lifetime_is_used(settings: Settings, clock: Clock) -> None:
    """Another program stored it. Without its client it cannot be refreshed."""
    content = {"access_token": "a", "refresh_token": "r", "updated_at": 1_700_000_000_000}
    settings.token_file.write_text(json.dumps(content))
    assert await NotionOAuth(settings, clock=clock).tokens.token() == SecretStr("a")


async def test_login_that_was_restored_during_the_pause_is_refreshed(settings: Settings, sandbox: Sandbox) -> None:
    async def restore(seconds: float) -> None:
        if seconds:  # the pause, and not the delay before the first attempt
            settings.token_file.write_bytes(backup)

    oauth = NotionOAuth(settings)
    first = await sign_in(oauth)
    age(settings.token_file, hours=2)
    backup = settings.token_file.read_bytes()
    second = await oauth.refresh()
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", error="invalid_grant")
    patient = settings.model_copy(update={"retry_for": 20.0})
    token = await NotionOAuth(patient, sleep=restore).tokens.token()
    assert token not in (first.access_token, second.access_token), "these have expired"


async def test_failed_revocation_does_not_prevent_that_of_the_previous_refresh_token(
    oauth: NotionOAuth, network: LateNetwork, sandbox: Sandbox
) -> None:
    login = await refresh_with_late_first_request(oauth, network)
    sandbox.fail_next("/token", status=503)
    assert await oauth.sign_out() is SignOut.NOT_REACHED
    assert SecretStr(sandbox.requests[-1].form["token"]) == login.previous_refresh_token


@pytest.mark.parametrize("requests", [12])
async def test_resource_that_refuses_every_token_causes_one_refresh(
    settings: Settings, sandbox: Sandbox, grants_asked: Posted, requests: int
) -> None:
    oauth = NotionOAuth(settings)
    await sign_in(oauth)
    sandbox.fail_next("/mcp", status=401, times=2 * requests)
    async with httpx.AsyncClient(auth=BearerAuth(oauth), trust_env=False) as client:
        for _ in range(requests):
            assert (await client.post(settings.server_url, json={})).status_code == 401
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_accepted_token_can_be_rejected_later(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings)
    await sign_in(oauth)
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with httpx.AsyncClient(auth=BearerAuth(oauth), trust_env=False) as client:
        for _ in range(3):
            sandbox.expire_access_tokens()
            assert (await client.post(settings.server_url, json=ping)).status_code == 200


async def test_rejection_of_every_token_is_logged_once(
    settings: Settings, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    oauth = NotionOAuth(settings)
    await sign_in(oauth)
    sandbox.fail_next("/mcp", status=401, times=8)
    async with httpx.AsyncClient(auth=BearerAuth(oauth), trust_env=False) as client:
        for _ in range(4):
            await client.post(settings.server_url, json={})
    assert caplog.text.count("NewTokenRejected") == 1


async def test_token_that_another_process_refreshed_long_ago_is_refreshed(settings: Settings, sandbox: Sandbox) -> None:
    """It is new to this process, and not to the server."""
    oauth = NotionOAuth(settings)
    login = await sign_in(oauth)
    await NotionOAuth(settings).refresh()
    sandbox.expire_access_tokens()
    found = await oauth.tokens.token(rejected=login.access_token)
    token = await oauth.tokens.token(rejected=found)
    assert sandbox.is_access_token_live(token.get_secret_value())


async def test_token_that_was_refreshed_because_of_its_age_can_be_rejected(
    settings: Settings, sandbox: Sandbox, clock: Clock
) -> None:
    oauth = NotionOAuth(settings, clock=clock)
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    refreshed = await oauth.tokens.token()
    sandbox.expire_access_tokens()
    token = await oauth.tokens.token(rejected=refreshed)
    assert sandbox.is_access_token_live(token.get_secret_value())


async def test_token_that_was_accepted_at_a_later_request_can_be_rejected(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings, store=MemoryStore())
    await sign_in(oauth)
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    sandbox.fail_next("/mcp", status=401, times=2)
    async with httpx.AsyncClient(auth=BearerAuth(oauth), trust_env=False) as client:
        assert (await client.post(settings.server_url, json=ping)).status_code == 401
        assert (await client.post(settings.server_url, json=ping)).status_code == 200
        sandbox.expire_access_tokens()
        assert (await client.post(settings.server_url, json=ping)).status_code == 200


async def test_other_refusals_are_not_repeated(oauth: NotionOAuth, sandbox: Sandbox, grants_asked: Posted) -> None:
    await sign_in(oauth)
    sandbox.fail_next("/token", error="invalid_target")
    with pytest.raises(TokenRefused):
        await oauth.refresh()
    assert grants_asked() == ["authorization_code", "refresh_token"]
