"""NotionOAuth and BearerAuth from sign-in to sign-out, without a browser and without pages."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

import notion_oauth
from notion_oauth.auth.httpx_auth import BearerAuth
from notion_oauth.cli.background_server import served
from notion_oauth.errors import (
    AuthorizationRefused,
    IssuerMismatch,
    MetadataError,
    NotionOAuthError,
    NotSignedIn,
    RegistrationRefused,
    ServerUnavailable,
    SignInRequired,
    StateMismatch,
    StoreDamaged,
    TransientError,
)
from notion_oauth.models import AuthorizationResponse, ClientInformation, Registration
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.protocol.registration import PROBE_CODE
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.stores.memory import MemoryStore
from notion_oauth.tokens.revocation import SignOut
from tests.conftest import Posted
from tests.support.signing_in import REDIRECT_URI, begin, sign_in
from tests.support.stores import load_login, save_registration

pytestmark = pytest.mark.anyio


@pytest.mark.spec("MCP §Overview", "Take the authorization server from protected resource metadata")
@pytest.mark.spec(
    "MCP §Authorization Server Discovery",
    "Otherwise request the well-known URL with the endpoint's path, then the one at the root",
)
@pytest.mark.spec("MCP §Canonical Server URI", "Name the server as its metadata spells it, without an added slash")
async def test_discovery_tries_the_path_before_the_root(settings: Settings, sandbox: Sandbox) -> None:
    await begin(NotionOAuth(settings))
    assert [request.path for request in sandbox.requests][:3] == [
        "/mcp",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-authorization-server",
    ]
    sandbox.options.serve_path_metadata = False
    before = len(sandbox.requests)
    pending, _ = await begin(NotionOAuth(settings))
    assert [request.path for request in sandbox.requests][before : before + 3] == [
        "/mcp",
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-protected-resource",
    ]
    assert pending.resource == sandbox.base_url, "as that document spells it"


@pytest.mark.spec("MCP §Overview", "Read the metadata of RFC 8414 and of OpenID Connect Discovery")
async def test_missing_server_metadata_is_reported(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    sandbox.fail_next("/.well-known/oauth-authorization-server", status=404)
    with pytest.raises(MetadataError, match="publishes no authorization server metadata"):
        await begin(oauth)
    assert sandbox.requests_to("/.well-known/openid-configuration")


@pytest.mark.spec(
    "MCP §Authorization Server Discovery",
    "Use no document whose issuer is not identical to the requested one",
)
@pytest.mark.spec("RFC 9728 §3.3", "Use no document of another resource")
@pytest.mark.parametrize(
    ("resource", "server", "message"),
    [
        ({"resource": "https://evil.example/mcp"}, {}, "another resource"),
        ({}, {"issuer": "https://evil.example"}, "another issuer"),
        ({}, {"code_challenge_methods_supported": ["plain"]}, "PKCE"),
        ({}, {"token_endpoint": "http://evil.example/token"}, "not https"),
    ],
)
async def test_invalid_metadata_prevents_registration(
    oauth: NotionOAuth, sandbox: Sandbox, resource: dict[str, Any], server: dict[str, Any], message: str
) -> None:
    sandbox.options.resource_metadata_overrides, sandbox.options.metadata_overrides = resource, server
    with pytest.raises(MetadataError, match=message):
        await begin(oauth)
    assert sandbox.registered_clients == 0


async def test_registration_is_bound_to_issuer_redirect_uri_and_profile(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox
) -> None:
    for _ in range(2):
        await begin(oauth)
    assert sandbox.registered_clients == 1
    await begin(oauth, "http://127.0.0.1:5555/callback")
    assert sandbox.registered_clients == 2
    await begin(NotionOAuth(settings, profile="work"))
    assert sandbox.registered_clients == 3
    assert list(await oauth.registered_redirect_uris()) == [
        "http://127.0.0.1:5555/callback",
        "http://127.0.0.1:4321/callback",
    ]


@pytest.mark.spec("MCP §Authorization Server Binding", "Use a client only with the issuer that registered it")
async def test_registration_of_another_issuer_is_not_used(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    for issuer in ("https://another.example", f"{sandbox.issuer}/tenant"):
        foreign = Registration(issuer=issuer, redirect_uri=REDIRECT_URI, client=ClientInformation(client_id="foreign"))
        await save_registration(oauth.store, "default", foreign)
    pending, _ = await begin(oauth)
    assert sandbox.registered_clients == 1
    assert pending.client.client_id != "foreign"
    assert sandbox.requests_to("/token") == [], "this server is not asked about the foreign client"
    stored = {each.issuer: each.client.client_id for each in await oauth.store.load_registrations("default")}
    assert stored["https://another.example"] == stored[f"{sandbox.issuer}/tenant"] == "foreign", (
        "it stays for its own issuer"
    )


async def test_concurrent_sign_ins_register_once(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(begin, oauth)
    assert sandbox.registered_clients == 1


async def test_forgotten_registration_is_replaced(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    first = await sign_in(oauth)
    sandbox.forget_clients()
    second = await sign_in(oauth)
    assert first.client != second.client
    assert len(sandbox.requests_to("/register")) == 2
    await sign_in(oauth)
    assert len(sandbox.requests_to("/register")) == 2, "the new registration replaces the old one"
    assert len(await oauth.store.load_registrations("default")) == 1


@pytest.mark.parametrize("fault", ["drop", "garble", "redirect"])
async def test_registration_survives_a_transient_failure(oauth: NotionOAuth, sandbox: Sandbox, fault: Any) -> None:
    await sign_in(oauth)
    sandbox.misbehave_next("/token", fault)
    await begin(oauth)
    assert len(sandbox.requests_to("/register")) == 1


async def test_confidential_client_authenticates_with_its_secret(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    """A server that makes every client confidential: the secret is stored and sent by one method."""
    sandbox.options.metadata_overrides = {"token_endpoint_auth_methods_supported": ["client_secret_post"]}
    login = await sign_in(oauth)
    assert login.client is not None
    assert login.client.client_secret is not None
    [exchange] = [sent for sent in sandbox.requests_to("/token") if sent.form.get("code") != PROBE_CODE]
    assert exchange.form["client_secret"] == login.client.client_secret.get_secret_value()
    assert "authorization" not in exchange.headers


async def test_two_profiles_have_separate_logins(settings: Settings, sandbox: Sandbox) -> None:
    first, second = NotionOAuth(settings), NotionOAuth(settings, profile="work")
    await sign_in(first)
    await sign_in(second)
    assert sandbox.live_grants == 2, "a second sign-in with the same client would have ended the first"
    for each in (first, second):
        assert sandbox.is_access_token_live((await each.refresh()).access_token.get_secret_value())


@pytest.mark.spec("MCP §Dynamic Client Registration", "Report why the redirect URIs of a registration were refused")
async def test_refused_registration_reports_the_reason(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    with pytest.raises(RegistrationRefused, match="invalid_redirect_uri"):
        await begin(oauth, "http://not-loopback.example/callback")
    assert await oauth.store.load_registrations("default") == ()


@pytest.mark.spec("MCP §Authorization Response Validation", "Check iss before the code is sent to a token endpoint")
async def test_response_of_another_issuer_reaches_no_token_endpoint(oauth: NotionOAuth, grants_asked: Posted) -> None:
    pending, query = await begin(oauth)
    assert query["iss"]
    for wrong in (query.remove("iss"), query.set("iss", query["iss"] + "/"), query.set("iss", "https://evil.example")):
        with pytest.raises(IssuerMismatch):
            await oauth.complete_authorization(pending, parse_authorization_response(wrong.multi_items()))
    assert grants_asked() == []


@pytest.mark.spec("RFC 9207 §2.3", "A server that does not announce iss may send none")
async def test_iss_is_optional_if_not_announced(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    sandbox.options.announce_iss = False
    _, query = await begin(oauth)
    assert "iss" not in query
    assert (await sign_in(oauth)).refresh_token is not None


@pytest.mark.spec("MCP §Open Redirection", "Reject a response without the state of its sign-in, or with another")
async def test_wrong_state_and_refusal_keep_the_login(oauth: NotionOAuth, grants_asked: Posted) -> None:
    before = await sign_in(oauth)
    pending, query = await begin(oauth)
    wrong = parse_authorization_response(query.set("state", "wrong").multi_items())
    with pytest.raises(StateMismatch):
        await oauth.complete_authorization(pending, wrong)
    refused = AuthorizationResponse(state=pending.state, iss=pending.issuer, error="access_denied")
    with pytest.raises(AuthorizationRefused, match="declined"):
        await oauth.complete_authorization(pending, refused)
    assert await load_login(oauth.store, "default") == before
    assert grants_asked() == ["authorization_code"]


async def test_sign_out_ends_the_grant_and_keeps_the_registration(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings
) -> None:
    login = await sign_in(oauth)
    assert await oauth.sign_out() is SignOut.REVOKED
    assert sandbox.live_grants == 0
    assert not sandbox.is_access_token_live(login.access_token.get_secret_value())
    assert not settings.token_file.exists()
    assert (await oauth.status()).status == "unauthenticated"
    assert await oauth.sign_out() is SignOut.NOT_SIGNED_IN
    await sign_in(oauth)
    assert sandbox.registered_clients == 1


@pytest.mark.parametrize("fault", ["drop", "hang", "garble"])
async def test_sign_out_works_without_the_server(settings: Settings, sandbox: Sandbox, fault: Any) -> None:
    await sign_in(NotionOAuth(settings))
    sandbox.misbehave_next("/token", fault)
    timeout = 0.4 if fault == "hang" else 10.0
    outcome = await NotionOAuth(settings.model_copy(update={"timeout": timeout})).sign_out()
    # A page is a 200, too, and RFC 7009 asks for nothing else
    assert outcome is (SignOut.REVOKED if fault == "garble" else SignOut.NOT_REACHED)
    assert not settings.token_file.exists()


async def test_refused_revocation_is_reported(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    await sign_in(oauth)
    sandbox.fail_next("/token", status=400, error="unsupported_token_type")
    assert await oauth.sign_out() is SignOut.REFUSED
    assert (await oauth.status()).status == "unauthenticated"


async def test_sign_out_without_a_revocation_endpoint(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    sandbox.options.offer_revocation = False
    await sign_in(oauth)
    assert await oauth.sign_out() is SignOut.NOT_OFFERED
    assert sandbox.live_grants == 1


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, SignOut.SUPERSEDED),
        ({"client": ClientInformation(client_id="another")}, SignOut.REVOKED),
        ({"issuer": "https://another.example"}, SignOut.REVOKED),
    ],
)
async def test_replaced_login_of_the_same_client_is_not_revoked(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox, change: dict[str, Any], outcome: SignOut
) -> None:
    await sign_in(oauth)
    pending, _ = await begin(oauth)
    assert await oauth.sign_out(successor=pending.model_copy(update=change)) is outcome
    assert sandbox.live_grants == (outcome is SignOut.SUPERSEDED)
    assert not settings.token_file.exists()


async def test_sign_out_deletes_no_foreign_file(oauth: NotionOAuth, settings: Settings) -> None:
    settings.token_file.write_text("{}")
    with pytest.raises(StoreDamaged):
        await oauth.sign_out()
    assert settings.token_file.read_text() == "{}"


async def test_custom_store_is_used(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings, store=MemoryStore())
    login = await sign_in(oauth)
    assert await oauth.tokens.token() == login.access_token
    assert list(settings.token_file.parent.iterdir()) == []
    assert await oauth.sign_out() is SignOut.REVOKED


class TestBearerAuth:
    """Sends the token to the origin of the resource only, and renews it once."""

    @pytest.fixture
    def elsewhere(self, sandbox: Sandbox) -> Iterator[tuple[str, list[dict[str, str]]]]:
        """Another origin, which records the headers it receives; one path redirects to the resource."""
        received: list[dict[str, str]] = []

        async def record(request: Request) -> Response:
            received.append(dict(request.headers))
            if request.url.path == "/to-resource":
                return RedirectResponse(sandbox.mcp_url, 307)
            return PlainTextResponse("recorded")

        with served(Starlette(routes=[Route("/{path:path}", record, methods=["GET", "POST"])])) as url:
            yield url, received

    @pytest.mark.spec("RFC 6750 §3.1", "Retry once with another token after a rejection")
    async def test_async_client_retries_with_a_new_token(
        self, oauth: NotionOAuth, sandbox: Sandbox, grants_asked: Posted
    ) -> None:
        await sign_in(oauth)
        async with httpx.AsyncClient(auth=BearerAuth(oauth), trust_env=False) as client:
            ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            assert (await client.post(sandbox.mcp_url, json=ping)).json()["result"] == {}
            sandbox.expire_access_tokens()
            response = await client.post(sandbox.mcp_url, json=ping)
        assert response.status_code == 200, "after a 401, the request is sent again with another token"
        assert grants_asked() == ["authorization_code", "refresh_token"]

    @pytest.mark.spec("RFC 6750 §3.1", "Retry once with another token after a rejection")
    async def test_sync_client_works_inside_an_event_loop(
        self, oauth: NotionOAuth, sandbox: Sandbox, grants_asked: Posted
    ) -> None:
        await sign_in(oauth)
        with httpx.Client(auth=BearerAuth(oauth), trust_env=False) as client:
            ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
            assert client.post(sandbox.mcp_url, json=ping).status_code == 200
            sandbox.expire_access_tokens()
            assert client.post(sandbox.mcp_url, json=ping).status_code == 200
        assert grants_asked() == ["authorization_code", "refresh_token"]

    @pytest.mark.spec("MCP §Token Requirements", "Send the token in the Authorization header of every request")
    @pytest.mark.spec("MCP §Token Requirements", "Send no token in a URL")
    @pytest.mark.spec("RFC 6750 §2.1", "Send the token as Authorization: Bearer")
    async def test_token_is_sent_only_in_the_header(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        token = (await sign_in(oauth)).access_token.get_secret_value()
        async with httpx.AsyncClient(auth=BearerAuth(oauth), trust_env=False) as client:
            for _ in range(2):
                await client.post(f"{sandbox.mcp_url}?a=b", json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
        probe, first, second = sandbox.requests_to("/mcp")
        assert "authorization" not in probe.headers, "the probe before the sign-in"
        assert first.headers["authorization"] == second.headers["authorization"] == f"Bearer {token}"
        assert first.query == second.query == {"a": "b"}
        assert token not in json.dumps(first.json)

    async def test_repeated_401_is_returned(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        await sign_in(oauth)
        sandbox.fail_next("/mcp", status=401, times=2)
        async with httpx.AsyncClient(auth=BearerAuth(oauth), trust_env=False) as client:
            assert (await client.post(sandbox.mcp_url, json={})).status_code == 401
        assert len(sandbox.requests_to("/mcp")) == 3, "one of them is the probe before the sign-in"

    @pytest.mark.spec("MCP §Token Handling", "Send a token only to the server that it was issued for")
    async def test_token_is_not_sent_to_another_origin(
        self, oauth: NotionOAuth, elsewhere: tuple[str, list[dict[str, str]]]
    ) -> None:
        url, received = elsewhere
        await sign_in(oauth)
        async with httpx.AsyncClient(auth=BearerAuth(oauth), trust_env=False) as client:
            await client.get(url)
        with httpx.Client(auth=BearerAuth(oauth), trust_env=False) as sync_client:
            sync_client.get(url)
        assert len(received) == 2
        assert not [headers for headers in received if "authorization" in headers]

    @pytest.mark.spec("MCP §Token Handling", "Send a token only to the server that it was issued for")
    async def test_token_does_not_follow_a_redirect(
        self, oauth: NotionOAuth, sandbox: Sandbox, elsewhere: tuple[str, list[dict[str, str]]]
    ) -> None:
        url, received = elsewhere
        await sign_in(oauth)
        sandbox.misbehave_next("/mcp", "redirect", location=url)
        async with httpx.AsyncClient(auth=BearerAuth(oauth), trust_env=False, follow_redirects=True) as client:
            response = await client.post(sandbox.mcp_url, json={})
        assert response.text == "recorded"
        assert "authorization" in sandbox.requests_to("/mcp")[-1].headers
        assert "authorization" not in received[0]

    async def test_without_a_login_no_request_is_sent(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        async with httpx.AsyncClient(auth=BearerAuth(oauth), trust_env=False) as client:
            with pytest.raises(NotSignedIn):
                await client.get(sandbox.mcp_url)
        assert sandbox.requests_to("/mcp") == []

    def test_settings_come_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOTION_OAUTH_SERVER_URL", "http://127.0.0.1:9/mcp")
        with httpx.Client(auth=BearerAuth(), trust_env=False) as client, pytest.raises(NotSignedIn):
            client.get("http://127.0.0.1:9/other")


async def test_no_secret_is_shown(
    oauth: NotionOAuth, sandbox: Sandbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Search everything that can be printed for every secret that was sent or received."""
    caplog.set_level(logging.DEBUG)
    shown = []
    started = await oauth.begin_authorization("http://127.0.0.1:4321/callback")
    _, query = await begin(oauth)
    pending = started.pending
    login = await sign_in(oauth)
    shown += [
        repr(started),
        str(started),
        repr(pending),
        repr(login),
        str(login),
        f"{login!r:>5}",
        repr(oauth.settings),
    ]
    shown.append(repr(parse_authorization_response(query.multi_items())))
    shown.append(repr(sandbox.requests))
    for error in ("invalid_grant", "temporarily_unavailable"):
        assert login.refresh_token is not None
        echo = login.refresh_token.get_secret_value()
        sandbox.fail_next("/token", error=error, description=f"{echo} is bad", status=400, times=2)
        try:
            await oauth.refresh()
        except NotionOAuthError as failure:
            shown += [str(failure), repr(failure), "".join(traceback.format_exception(failure))]
    await oauth.sign_out()
    own_log = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore", "asyncio"))]
    shown += [record.getMessage() for record in own_log]
    library_log = "\n".join(record.getMessage() for record in caplog.records)
    secrets = {
        value
        for request in sandbox.requests
        for name, value in request.form.items()
        if name in ("code", "code_verifier", "refresh_token", "token", "client_secret")
    }
    assert len(secrets) >= 3
    secrets.add(pending.code_verifier.get_secret_value())
    assert not [text for text in shown if any(secret in text for secret in secrets)]
    verifiers = {
        request.form["code_verifier"] for request in sandbox.requests_to("/token") if request.form.get("code_verifier")
    }
    assert not [verifier for verifier in verifiers if verifier in library_log]


async def test_expired_grant_requires_a_new_sign_in(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    await sign_in(oauth)
    sandbox.advance(timedelta(days=31).total_seconds())
    with pytest.raises(SignInRequired, match="Refresh token has expired"):
        await oauth.refresh()


def test_public_names_can_be_imported() -> None:
    for name in set(notion_oauth.__all__) - {"__version__"}:
        assert getattr(notion_oauth, name).__name__ == name
    assert set(notion_oauth.__all__) <= set(dir(notion_oauth))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = notion_oauth.nonsense
    assert issubclass(notion_oauth.SignInRequired, notion_oauth.NotionOAuthError)
    assert Path(notion_oauth.__file__).with_name("py.typed").exists()


class TestBusyServer:
    """At the exchange of a code, 429 and 503 mean that the server did not process it."""

    @pytest.fixture
    def slept(self) -> list[float]:
        return []

    @pytest.fixture
    def retrying(self, settings: Settings, slept: list[float]) -> NotionOAuth:
        async def sleep(seconds: float) -> None:
            slept.append(seconds)

        return NotionOAuth(settings.model_copy(update={"retry_for": 20.0}), sleep=sleep)

    @pytest.mark.spec("RFC 9110 §10.2.3", "Wait for the time of Retry-After")
    @pytest.mark.parametrize("status", [429, 503])
    async def test_code_is_sent_again(
        self, retrying: NotionOAuth, sandbox: Sandbox, slept: list[float], status: int
    ) -> None:
        pending, query = await begin(retrying)
        sandbox.fail_next("/token", status=status, headers={"Retry-After": "7"}, times=2)
        await retrying.complete_authorization(pending, parse_authorization_response(query.multi_items()))
        assert (await retrying.status()).status == "authenticated"
        assert [6 < seconds <= 7 for seconds in slept] == [True, True]

    async def test_retry_after_of_30_seconds_is_honoured(
        self, retrying: NotionOAuth, sandbox: Sandbox, slept: list[float]
    ) -> None:
        pending, query = await begin(retrying)
        sandbox.fail_next("/token", status=429, error="temporarily_unavailable", headers={"Retry-After": "30"})
        await retrying.complete_authorization(pending, parse_authorization_response(query.multi_items()))
        assert [29 < seconds <= 30 for seconds in slept] == [True]

    async def test_too_long_retry_after_ends_the_sign_in(
        self, retrying: NotionOAuth, sandbox: Sandbox, slept: list[float]
    ) -> None:
        pending, query = await begin(retrying)
        sandbox.fail_next("/token", status=503, headers={"Retry-After": "60"})
        with pytest.raises(ServerUnavailable) as caught:
            await retrying.complete_authorization(pending, parse_authorization_response(query.multi_items()))
        assert not slept
        assert "Start the sign-in again" in str(caught.value.hint)

    @pytest.mark.parametrize("kind", ["lose_response", "garble", "drop"])
    async def test_code_is_not_sent_again_after_a_lost_response(
        self, retrying: NotionOAuth, sandbox: Sandbox, slept: list[float], kind: Any
    ) -> None:
        pending, query = await begin(retrying)
        sandbox.misbehave_next("/token", kind)
        with pytest.raises(TransientError):
            await retrying.complete_authorization(pending, parse_authorization_response(query.multi_items()))
        assert not slept

    async def test_lock_is_free_between_attempts(self, settings: Settings, sandbox: Sandbox) -> None:
        states: list[str] = []

        async def sleep(_: float) -> None:
            with anyio.fail_after(5):
                async with NotionOAuth(settings).store.exclusive("default"):
                    states.append("free")

        oauth = NotionOAuth(settings.model_copy(update={"retry_for": 20.0}), sleep=sleep)
        pending, query = await begin(oauth)
        sandbox.fail_next("/token", status=503)
        await oauth.complete_authorization(pending, parse_authorization_response(query.multi_items()))
        assert states == ["free"]
