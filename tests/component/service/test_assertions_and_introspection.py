"""Sign-in with an assertion (RFC 7523) and introspection of a token (RFC 7662)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from notion_oauth.errors import (
    ConfigurationError,
    MetadataError,
    NotSignedIn,
    SignInRequired,
    TokenRefused,
    TransientError,
)
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.tokens.revocation import SignOut
from tests.support.signing_in import age, sign_in

pytestmark = pytest.mark.anyio
CLIENT = "https://me.example/enterprise.json"


@pytest.fixture
def enterprise(settings: Settings, sandbox: Sandbox) -> NotionOAuth:
    """A client that is registered with the identity provider of the company, too."""
    sandbox.options.client_metadata_documents = {CLIENT: {"client_id": CLIENT, "redirect_uris": ["https://me.example"]}}
    return NotionOAuth(settings.model_copy(update={"client_id": CLIENT}))


def assertion(sandbox: Sandbox, client_id: str = CLIENT, **claims: Any) -> SecretStr:
    return SecretStr(sandbox.identity_provider.assertion(client_id, **claims))


class TestAssertions:
    @pytest.mark.spec("RFC 7523 §2.1", "Exchange an assertion with its grant type and client authentication")
    async def test_assertion_signs_in_without_a_browser(self, enterprise: NotionOAuth, sandbox: Sandbox) -> None:
        jwt = assertion(sandbox)
        login = await enterprise.sign_in_with_assertion(jwt)
        assert await enterprise.tokens.token() == login.access_token
        assert sandbox.is_access_token_live(login.access_token.get_secret_value())
        [sent] = sandbox.requests_to("/token")
        assert sent.form == {
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": jwt.get_secret_value(),
            "client_id": CLIENT,
            "scope": "default",
            "resource": sandbox.mcp_url,
        }
        assert not sandbox.requests_to("/register")
        assert not sandbox.requests_to("/authorize")
        assert await enterprise.sign_out() is SignOut.REVOKED
        assert not sandbox.is_access_token_live(login.access_token.get_secret_value())

    async def test_login_without_refresh_token_ends_with_its_token(
        self, enterprise: NotionOAuth, sandbox: Sandbox, settings: Settings
    ) -> None:
        await enterprise.sign_in_with_assertion(assertion(sandbox))
        found = await enterprise.status()
        assert (found.refreshable, found.login_ends_at) == (False, found.expires_at)
        age(settings.token_file, hours=2)
        with pytest.raises(SignInRequired):
            await NotionOAuth(enterprise.settings).tokens.token()

    @pytest.mark.parametrize(
        "claims",
        [{"aud": "https://elsewhere.example"}, {"exp": 1}, {"iss": "https://evil.example"}, {"client_id": "other"}],
        ids=str,
    )
    @pytest.mark.spec("RFC 7523 §3.1", "Report the error of a refused assertion")
    async def test_refused_assertion_keeps_the_login(
        self, enterprise: NotionOAuth, sandbox: Sandbox, claims: dict[str, Any]
    ) -> None:
        first = await enterprise.sign_in_with_assertion(assertion(sandbox))
        refused = assertion(sandbox, **claims)
        with pytest.raises(TokenRefused) as caught:
            await enterprise.sign_in_with_assertion(refused)
        assert refused.get_secret_value() not in repr(caught.value) + str(caught.value)
        assert await enterprise.tokens.token() == first.access_token

    async def test_used_assertion_is_refused(self, enterprise: NotionOAuth, sandbox: Sandbox) -> None:
        jwt = assertion(sandbox)
        await enterprise.sign_in_with_assertion(jwt)
        with pytest.raises(TokenRefused, match="used before"):
            await enterprise.sign_in_with_assertion(jwt)

    @pytest.mark.spec("RFC 7523 §3", "Send no assertion that was issued to another client")
    async def test_assertion_needs_a_configured_client(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        with pytest.raises(ConfigurationError, match="issued to one client") as caught:
            await oauth.sign_in_with_assertion(assertion(sandbox))
        assert "NOTION_OAUTH_CLIENT_ID" in str(caught.value.hint)
        assert not sandbox.requests_to("/register")

    @pytest.mark.parametrize("listed", [["authorization_code"], None])
    async def test_assertion_is_not_sent_to_a_server_without_the_grant(
        self, enterprise: NotionOAuth, sandbox: Sandbox, listed: list[str] | None
    ) -> None:
        sandbox.options.metadata_overrides = {"grant_types_supported": listed}
        with pytest.raises(MetadataError, match="does not list the assertion grant"):
            await enterprise.sign_in_with_assertion(assertion(sandbox))
        assert not sandbox.requests_to("/token")

    async def test_server_may_support_only_assertions(self, enterprise: NotionOAuth, sandbox: Sandbox) -> None:
        sandbox.options.metadata_overrides = {"authorization_endpoint": None, "code_challenge_methods_supported": None}
        await enterprise.sign_in_with_assertion(assertion(sandbox))
        with pytest.raises(MetadataError, match="no authorization endpoint") as caught:
            await enterprise.begin_authorization("http://127.0.0.1:4321/callback")
        assert "--assertion-file" in str(caught.value.hint)

    async def test_transient_failure_of_an_assertion_is_reported(
        self, enterprise: NotionOAuth, sandbox: Sandbox
    ) -> None:
        sandbox.fail_next("/token", status=503)
        with pytest.raises(TransientError):
            await enterprise.sign_in_with_assertion(assertion(sandbox))
        with pytest.raises(NotSignedIn):
            await enterprise.tokens.token()


class TestIntrospection:
    async def test_introspection_describes_the_token(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        login = await sign_in(oauth)
        found = await oauth.introspect()
        assert found is not None
        assert (found.active, found.scope, found.username) == (True, "default", "practice@example.com")
        assert found.expires_at is not None
        assert login.expires_at is not None
        assert abs(found.expires_at - login.expires_at) < timedelta(seconds=5)
        [sent] = sandbox.requests_to("/introspect")
        assert sent.form["token"] == login.access_token.get_secret_value()

    async def test_revoked_token_is_not_active(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        await sign_in(oauth)
        sandbox.revoke_grants()
        found = await oauth.introspect()
        assert found is not None
        assert not found.active
        assert found.scope is None

    async def test_introspection_needs_no_discovery_after_a_restart(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        await sign_in(oauth)
        before = len(sandbox.requests)
        assert await NotionOAuth(oauth.settings).introspect() is not None
        assert [request.path for request in sandbox.requests[before:]] == ["/introspect"]

    async def test_introspection_without_an_endpoint_is_none(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        sandbox.options.offer_introspection = False
        await sign_in(oauth)
        assert await oauth.introspect() is None

    @pytest.mark.parametrize("body", ["", "[]", "{}", '{"active": "yes"}', "<html>"])
    async def test_invalid_response_is_a_transient_failure(
        self, oauth: NotionOAuth, sandbox: Sandbox, body: str
    ) -> None:
        await sign_in(oauth)
        sandbox.fail_next("/introspect", status=200, body=body, content_type="application/json")
        with pytest.raises(TransientError):
            await oauth.introspect()

    async def test_echoed_token_is_not_shown(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        token = (await sign_in(oauth)).access_token.get_secret_value()
        body = f'{{"active": true, "username": "{token}", "exp": "soon", "scope": 7}}'
        sandbox.fail_next("/introspect", status=200, body=body, content_type="application/json")
        found = await oauth.introspect()
        assert found is not None
        assert (found.username, found.expires_at, found.scope) == (None, None, None)

    async def test_refused_introspection_keeps_the_login(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        login = await sign_in(oauth)
        sandbox.fail_next("/introspect", status=401, error="invalid_client")
        with pytest.raises(TokenRefused):
            await oauth.introspect()
        assert await oauth.tokens.token() == login.access_token

    async def test_introspection_without_a_login_raises_not_signed_in(self, oauth: NotionOAuth) -> None:
        with pytest.raises(NotSignedIn):
            await oauth.introspect()
