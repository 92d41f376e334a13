"""The client of a sign-in: preregistered, metadata document or registration; and how it authenticates."""

from __future__ import annotations

import base64
import json
from urllib.parse import unquote_plus

import httpx
import pytest
from pydantic import SecretStr

from notion_oauth.errors import ConfigurationError, MetadataError, RegistrationRefused, TokenRefused
from notion_oauth.models import AuthorizationResponse
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.protocol.registration import PROBE_CODE
from notion_oauth.sandbox import RecordedRequest, Sandbox, serve_sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings, load_settings
from notion_oauth.tokens.revocation import SignOut
from tests.support.signing_in import REDIRECT_URI, begin, sign_in

pytestmark = pytest.mark.anyio
DOCUMENT = "https://me.example/client.json"
TRICKY = "canary: 100% +/&=ü \"'"  # all characters that form-encoding changes


async def preregister(sandbox: Sandbox, method: str) -> tuple[str, str | None]:
    """Register a client as an operator would on a registration page. Returns its id and secret."""
    metadata = {"redirect_uris": [REDIRECT_URI], "token_endpoint_auth_method": method, "client_name": "Preregistered"}
    async with httpx.AsyncClient(trust_env=False) as client:
        registered = (await client.post(f"{sandbox.base_url}/register", json=metadata)).json()
    return registered["client_id"], registered.get("client_secret")


def exchanges(sandbox: Sandbox) -> list[RecordedRequest]:
    return [sent for sent in sandbox.requests_to("/token") if sent.form.get("code") != PROBE_CODE]


def with_client(settings: Settings, client_id: str, secret: str | None) -> NotionOAuth:
    client_secret = SecretStr(secret) if secret else None
    return NotionOAuth(settings.model_copy(update={"client_id": client_id, "client_secret": client_secret}))


async def exchange_anything(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    """Start a sign-in and return with a code that the server refuses."""
    pending = (await oauth.begin_authorization(REDIRECT_URI)).pending
    sandbox.fail_next("/token", status=400, error="invalid_grant")
    response = AuthorizationResponse(state=pending.state, code=SecretStr("some-code"), iss=pending.issuer)
    with pytest.raises(TokenRefused):
        await oauth.complete_authorization(pending, response)


async def sign_in_with_registration(settings: Settings, sandbox: Sandbox) -> None:
    """One sign-in at the first server with the same redirect URI and a dynamic registration."""
    overrides, sandbox.options.resource_metadata_overrides = sandbox.options.resource_metadata_overrides, {}
    await sign_in(NotionOAuth(settings))
    sandbox.options.resource_metadata_overrides = overrides


class TestPreregistered:
    """NOTION_OAUTH_CLIENT_ID and NOTION_OAUTH_CLIENT_SECRET."""

    @pytest.mark.parametrize("method", ["none", "client_secret_basic", "client_secret_post"])
    @pytest.mark.spec("MCP §Client Registration Approaches", "Use a preregistered client first")
    async def test_preregistered_client_is_used(self, settings: Settings, sandbox: Sandbox, method: str) -> None:
        client_id, secret = await preregister(sandbox, method)
        sandbox.options.metadata_overrides = {"token_endpoint_auth_methods_supported": [method]}
        oauth = with_client(settings, client_id, secret)
        await sign_in(oauth)
        await oauth.refresh()
        await oauth.sign_out()
        assert len(sandbox.requests_to("/register")) == 1, "the one of the operator"
        for sent in exchanges(sandbox):
            basic, posted = "authorization" in sent.headers, "client_secret" in sent.form
            assert (basic, posted) == (method == "client_secret_basic", method == "client_secret_post")
            assert ("client_id" in sent.form) is not basic, "never by two methods at once"

    @pytest.mark.parametrize("configured", [None, "canary-secret-of-another-server"])
    async def test_login_keeps_the_secret_of_its_sign_in(
        self, settings: Settings, sandbox: Sandbox, configured: str | None
    ) -> None:
        """Settings without the secret, or with another server's, end no login; that secret is sent to no server."""
        client_id, secret = await preregister(sandbox, "client_secret_post")
        settings = settings.model_copy(update={"client_auth_method": "client_secret_post"})
        await sign_in(with_client(settings, client_id, secret))
        other = with_client(settings, client_id, configured)
        await other.refresh()
        await other.introspect()
        assert await other.sign_out() is SignOut.REVOKED
        sent = [*exchanges(sandbox), *sandbox.requests_to("/introspect")]
        assert {request.form["client_secret"] for request in sent} == {secret}

    @pytest.mark.spec("MCP §Authorization Server Binding", "Send a preregistered client to no other issuer")
    async def test_preregistered_client_is_sent_to_no_other_issuer(self, settings: Settings, sandbox: Sandbox) -> None:
        client_id, secret = await preregister(sandbox, "none")
        await sign_in(with_client(settings, client_id, secret))
        oauth = with_client(settings, client_id, secret)
        with serve_sandbox() as other:
            sandbox.options.resource_metadata_overrides = {"authorization_servers": [other.issuer]}
            with pytest.raises(ConfigurationError, match="was registered with") as caught:
                await begin(oauth)
            assert other.issuer not in str(caught.value.hint), "the hint does not suggest to trust it"
            with pytest.raises(ConfigurationError, match="was registered with"):
                await begin(NotionOAuth(oauth.settings, profile="work"))
            await sign_in_with_registration(settings, sandbox)
            with pytest.raises(ConfigurationError, match="was registered with"):
                await begin(oauth)
            assert client_id not in str([(sent.query, sent.form) for sent in other.requests])
            there = with_client(settings.model_copy(update={"issuer": other.issuer}), client_id, secret)
            assert (await there.begin_authorization(REDIRECT_URI)).pending.client.client_id == client_id

    async def test_issuer_of_the_client_is_preferred(self, settings: Settings, sandbox: Sandbox) -> None:
        client_id, secret = await preregister(sandbox, "none")
        oauth = with_client(settings, client_id, secret)
        await sign_in(oauth)
        with serve_sandbox() as other:
            listed = {"authorization_servers": [other.issuer, sandbox.issuer]}
            sandbox.options.resource_metadata_overrides = listed
            assert (await sign_in(oauth)).issuer == sandbox.issuer
            assert not other.requests

    async def test_secret_is_not_stored_with_the_registrations(self, settings: Settings, sandbox: Sandbox) -> None:
        client_id, secret = await preregister(sandbox, "client_secret_basic")
        await sign_in(with_client(settings, client_id, secret))
        stored = settings.token_file.with_name(settings.token_file.name + ".clients").read_text()
        assert client_id in stored
        assert secret is not None
        assert secret not in stored

    async def test_last_used_port_is_used_again(self, settings: Settings, sandbox: Sandbox) -> None:
        """Some servers require the exact port. The port of a sign-in that was not completed is not used again."""
        client_id, secret = await preregister(sandbox, "none")
        oauth = with_client(settings, client_id, secret)
        for port in (40001, 40002, 40001):
            redirect_uri = f"http://127.0.0.1:{port}/callback"
            await sign_in(oauth, redirect_uri)
            await oauth.begin_authorization("http://127.0.0.1:40003/callback")
            assert list(await oauth.registered_redirect_uris()) == [redirect_uri]
        assert len(await oauth.store.load_registrations("default")) == 2, "the number of registrations stays the same"

    async def test_without_the_setting_a_client_is_registered(self, settings: Settings, sandbox: Sandbox) -> None:
        client_id, secret = await preregister(sandbox, "none")
        await sign_in(with_client(settings, client_id, secret))
        login = await sign_in(NotionOAuth(settings))
        assert login.client is not None
        assert login.client.client_id != client_id

    def test_secret_without_client_id_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOTION_OAUTH_CLIENT_SECRET", "canary-secret")
        with pytest.raises(ConfigurationError, match="NOTION_OAUTH_CLIENT_ID") as caught:
            load_settings()
        assert "canary" not in str(caught.value)

    async def test_server_without_registration_needs_a_client_id(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        sandbox.options.metadata_overrides = {"registration_endpoint": None}
        with pytest.raises(MetadataError, match="offers no client registration") as caught:
            await begin(oauth)
        assert "NOTION_OAUTH_CLIENT_ID" in str(caught.value.hint)


class TestMetadataDocument:
    """NOTION_OAUTH_CLIENT_METADATA_URL, if the server supports such ids."""

    @pytest.fixture
    def published(self, settings: Settings, sandbox: Sandbox) -> NotionOAuth:
        sandbox.options.client_metadata_documents = {
            DOCUMENT: {"client_id": DOCUMENT, "client_name": "Mine", "redirect_uris": [REDIRECT_URI]}
        }
        return NotionOAuth(settings.model_copy(update={"client_metadata_url": DOCUMENT}))

    @pytest.mark.spec(
        "MCP §Client Registration Approaches",
        "Otherwise use a metadata document if the server supports them, otherwise register",
    )
    async def test_document_url_is_the_client_id(self, published: NotionOAuth, sandbox: Sandbox) -> None:
        login = await sign_in(published)
        await published.refresh()
        assert login.client is not None
        assert login.client.client_id == DOCUMENT
        assert not sandbox.requests_to("/register")
        assert {sent.form["client_id"] for sent in exchanges(sandbox)} == {DOCUMENT}

    @pytest.mark.spec(
        "MCP §Client Registration Approaches",
        "Otherwise use a metadata document if the server supports them, otherwise register",
    )
    async def test_server_without_document_support_gets_a_registration(
        self, published: NotionOAuth, sandbox: Sandbox
    ) -> None:
        sandbox.options.metadata_overrides = {"client_id_metadata_document_supported": None}
        login = await sign_in(published)
        assert login.client is not None
        assert login.client.client_id != DOCUMENT

    @pytest.mark.spec("MCP §Client Registration Approaches", "Use a preregistered client first")
    async def test_preregistered_client_takes_precedence(self, settings: Settings, sandbox: Sandbox) -> None:
        client_id, _ = await preregister(sandbox, "none")
        both = settings.model_copy(update={"client_id": client_id, "client_metadata_url": DOCUMENT})
        pending, _ = await begin(NotionOAuth(both))
        assert pending.client.client_id == client_id

    @pytest.mark.parametrize("url", ["http://127.0.0.1/c.json", "https://me.example", "https://me.example/a/../c", "x"])
    def test_invalid_document_url_is_refused(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOTION_OAUTH_CLIENT_METADATA_URL", url)
        with pytest.raises(ConfigurationError, match="NOTION_OAUTH_CLIENT_METADATA_URL"):
            load_settings()


class TestDynamicRegistration:
    """RFC 7591, with the methods that the server lists."""

    @pytest.mark.parametrize(
        ("listed", "method"),
        [
            (["client_secret_basic", "client_secret_post", "none"], "none"),
            (["client_secret_basic", "client_secret_post"], "client_secret_post"),
            (["client_secret_post"], "client_secret_post"),
            (["private_key_jwt", "client_secret_post"], "client_secret_post"),
            (None, "client_secret_basic"),
        ],
    )
    async def test_auth_method_is_one_that_the_server_lists(
        self, oauth: NotionOAuth, sandbox: Sandbox, listed: list[str] | None, method: str
    ) -> None:
        sandbox.options.metadata_overrides = {"token_endpoint_auth_methods_supported": listed}
        await sign_in(oauth)
        [sent] = sandbox.requests_to("/register")
        assert sent.json is not None
        assert sent.json["token_endpoint_auth_method"] == method
        [exchange] = exchanges(sandbox)
        assert ("authorization" in exchange.headers) is (method == "client_secret_basic")

    async def test_unrequested_secret_follows_the_listed_methods(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        """Some servers give every client a secret without a method; this server accepts no secret."""
        sandbox.options.metadata_overrides = {"token_endpoint_auth_methods_supported": ["none"]}
        registered = {"client_id": "odd", "client_secret": "canary-unasked"}
        sandbox.fail_next("/register", status=201, body=json.dumps(registered), content_type="application/json")
        await exchange_anything(oauth, sandbox)
        assert exchanges(sandbox)[-1].form["client_id"] == "odd"
        assert "client_secret" not in exchanges(sandbox)[-1].form

    async def test_secret_is_form_encoded_for_basic(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        sandbox.options.metadata_overrides = {"token_endpoint_auth_methods_supported": ["client_secret_basic"]}
        registered = {
            "client_id": "a:b c",
            "client_secret": TRICKY,
            "token_endpoint_auth_method": "client_secret_basic",
        }
        sandbox.fail_next("/register", status=201, body=json.dumps(registered), content_type="application/json")
        await exchange_anything(oauth, sandbox)
        sent = exchanges(sandbox)[-1].headers["authorization"].removeprefix("Basic ")
        user, _, secret = base64.b64decode(sent).decode("ascii").partition(":")
        assert (unquote_plus(user), unquote_plus(secret)) == ("a:b c", TRICKY)

    async def test_unregistered_scope_needs_another_client(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        first = await sign_in(oauth)
        sandbox.options.scopes = ("default", "write")
        more = BearerChallenge(error="insufficient_scope", scope="write")
        second = await sign_in(oauth, challenge=more)
        assert (second.scope, second.client != first.client) == ("default write", True)
        third = await sign_in(oauth, challenge=more)
        assert third.client == second.client, "it is used again"

    @pytest.mark.parametrize("source", ["user", "resource"])
    async def test_forgotten_client_is_replaced_in_a_step_up(
        self, oauth: NotionOAuth, sandbox: Sandbox, source: str
    ) -> None:
        """A challenge of the resource is trusted once, without a check at the authorization server."""
        first = await sign_in(oauth)
        sandbox.forget_clients()
        url = f"{sandbox.base_url}/.well-known/oauth-protected-resource/mcp" if source == "resource" else None
        more = BearerChallenge(error="insufficient_scope", scope="default", resource_metadata=url)
        if url:
            await oauth.begin_authorization(REDIRECT_URI, challenge=more)
        assert (await sign_in(oauth, challenge=more)).client != first.client

    async def test_refused_redirect_uri_is_named_in_the_hint(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        sandbox.fail_next("/register", status=400, error="invalid_redirect_uri", description="Only https")
        with pytest.raises(RegistrationRefused, match="Only https") as caught:
            await begin(oauth)
        assert REDIRECT_URI in str(caught.value.hint)
        assert "NOTION_OAUTH_CLIENT_ID" in str(caught.value.hint)

    async def test_client_requests_only_its_registered_scopes(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        sandbox.options.scopes = ("default", "read", "write")
        registered = {"client_id": (await preregister(sandbox, "none"))[0], "scope": "write default unheard-of"}
        sandbox.fail_next("/register", status=201, body=json.dumps(registered), content_type="application/json")
        for _ in range(2):  # the second time with the stored registration
            login = await sign_in(oauth)
            assert login.requested_scope == "default write"
        assert len(sandbox.requests_to("/register")) == 2, "the operator's and one dynamic registration"

    async def test_unsupported_auth_method_is_reported(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        registered = {"client_id": "some-client", "token_endpoint_auth_method": "private_key_jwt"}
        sandbox.fail_next("/register", status=201, body=json.dumps(registered), content_type="application/json")
        with pytest.raises(RegistrationRefused, match="private_key_jwt, which is not supported") as caught:
            await begin(oauth)
        assert "NOTION_OAUTH_CLIENT_ID" in str(caught.value.hint)
        await sign_in(oauth)

    @pytest.mark.parametrize("error", ["invalid_client_metadata", "invalid_software_statement", "access_denied"])
    async def test_other_refusal_repeats_the_description(
        self, oauth: NotionOAuth, sandbox: Sandbox, error: str
    ) -> None:
        sandbox.fail_next("/register", status=400, error=error, description="Because")
        with pytest.raises(RegistrationRefused, match="Because") as caught:
            await begin(oauth)
        assert caught.value.error == error
