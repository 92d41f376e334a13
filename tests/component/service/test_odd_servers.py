"""Servers that do not follow the specifications to the letter: the sign-in works where that is safe."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest
from pydantic import SecretStr

from notion_oauth.errors import IssuerMismatch, MetadataError, MetadataNotJson, RegistrationRefused, ServerUnavailable
from notion_oauth.models import ClientInformation, Registration
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.tokens.revocation import SignOut
from tests.component.service.test_discovery import PAGE, RESOURCE, SERVER, list_servers
from tests.support.signing_in import REDIRECT_URI, begin, sign_in
from tests.support.stores import save_registration

pytestmark = pytest.mark.anyio
OPENID = "/.well-known/openid-configuration"


def serve_openid(sandbox: Sandbox, times: int = 1) -> None:
    """Publish the metadata at the OpenID URL, too."""
    base = sandbox.base_url
    document = {
        "issuer": base,
        "authorization_endpoint": f"{base}/authorize",
        "token_endpoint": f"{base}/token",
        "registration_endpoint": f"{base}/register",
        "token_endpoint_auth_methods_supported": ["none"],
        "code_challenge_methods_supported": ["S256"],
    }
    sandbox.fail_next(OPENID, status=200, body=json.dumps(document), content_type="application/json", times=times)


class TestFinalSlashOfAnIssuer:
    """`https://host` and `https://host/` are one URL, which servers spell in both ways."""

    @pytest.fixture(params=["in the document", "in the list"])
    def spelled(self, request: pytest.FixtureRequest, sandbox: Sandbox) -> str:
        """Let one of the two documents have the slash. Returns the spelling of the authorization server."""
        if request.param == "in the list":
            list_servers(sandbox, f"{sandbox.issuer}/")
            return sandbox.issuer
        sandbox.options.metadata_overrides = {
            "issuer": f"{sandbox.issuer}/",
            "authorization_response_iss_parameter_supported": None,
        }
        sandbox.options.announce_iss = False
        return f"{sandbox.issuer}/"

    @pytest.mark.spec(
        "MCP §Authorization Server Discovery", "Deviation: an issuer without a path may differ by a final slash"
    )
    @pytest.mark.parametrize("configured", [None, "", "/"])
    async def test_spelling_of_the_authorization_server_is_used(
        self, settings: Settings, sandbox: Sandbox, spelled: str, configured: str | None
    ) -> None:
        issuer = None if configured is None else sandbox.issuer + configured
        oauth = NotionOAuth(settings.model_copy(update={"issuer": issuer}))
        login = await sign_in(oauth)
        assert login.issuer == spelled
        assert (await oauth.refresh()).issuer == spelled
        assert [each.issuer for each in await oauth.store.load_registrations("default")] == [spelled]

    async def test_iss_of_the_redirect_is_compared_to_the_letter(
        self, oauth: NotionOAuth, sandbox: Sandbox, spelled: str
    ) -> None:
        pending, query = await begin(oauth)
        other = sandbox.issuer if spelled.endswith("/") else f"{sandbox.issuer}/"
        for iss, accepted in ((other, False), (spelled, True)):
            response = parse_authorization_response([*query.remove("iss").multi_items(), ("iss", iss)])
            if accepted:
                assert (await oauth.complete_authorization(pending, response)).issuer == spelled
            else:
                with pytest.raises(IssuerMismatch):
                    await oauth.complete_authorization(pending, response)

    async def test_registration_with_the_other_spelling_is_used_again(
        self, settings: Settings, sandbox: Sandbox
    ) -> None:
        first = await sign_in(NotionOAuth(settings))
        sandbox.options.announce_iss = False
        sandbox.options.metadata_overrides = {"issuer": f"{sandbox.issuer}/"}
        second = await sign_in(NotionOAuth(settings))
        assert second.client == first.client
        assert sandbox.registered_clients == 1

    async def test_preregistered_client_is_sent_to_the_other_spelling(
        self, settings: Settings, sandbox: Sandbox
    ) -> None:
        client = (await sign_in(NotionOAuth(settings))).client
        assert client is not None
        configured = settings.model_copy(update={"client_id": client.client_id})
        await sign_in(NotionOAuth(configured))
        sandbox.options.announce_iss = False
        sandbox.options.metadata_overrides = {"issuer": f"{sandbox.issuer}/"}
        assert (await sign_in(NotionOAuth(configured))).issuer == f"{sandbox.issuer}/"

    @pytest.mark.parametrize("issuer", ["{0}//", "{0}/tenant/", "{0}/tenant"])
    async def test_other_differences_are_refused(self, oauth: NotionOAuth, sandbox: Sandbox, issuer: str) -> None:
        sandbox.options.metadata_overrides = {"issuer": issuer.format(sandbox.issuer)}
        with pytest.raises(MetadataError, match="another issuer"):
            await begin(oauth)

    async def test_issuer_with_a_path_is_compared_to_the_letter(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        list_servers(sandbox, f"{sandbox.issuer}/tenant")
        document = {"issuer": f"{sandbox.issuer}/tenant/", "token_endpoint": f"{sandbox.base_url}/token"}
        body = json.dumps(document)
        sandbox.fail_next(f"{SERVER}/tenant", status=200, body=body, content_type="application/json")
        with pytest.raises(MetadataError, match="another issuer"):
            await begin(oauth)


class TestFailuresAtWellKnownUrls:
    @pytest.mark.parametrize("status", [500, 502, 503, 429, 401, 403])
    async def test_next_url_is_tried(self, oauth: NotionOAuth, sandbox: Sandbox, status: int) -> None:
        sandbox.fail_next(SERVER, status=status)
        serve_openid(sandbox)
        sandbox.fail_next("/mcp", status=401)
        sandbox.fail_next(f"{RESOURCE}/mcp", status=status)
        await sign_in(oauth)
        assert sandbox.requests_to(OPENID)
        assert sandbox.requests_to(RESOURCE)

    @pytest.mark.parametrize("status", [500, 502])
    async def test_failure_is_reported_if_no_url_has_the_document(
        self, oauth: NotionOAuth, sandbox: Sandbox, status: int
    ) -> None:
        sandbox.fail_next(SERVER, status=status)
        with pytest.raises(ServerUnavailable, match=f"HTTP {status}"):
            await begin(oauth)
        assert not sandbox.requests_to("/register")

    @pytest.mark.parametrize("other", [404, 200])
    async def test_temporary_failure_outranks_a_page(self, oauth: NotionOAuth, sandbox: Sandbox, other: int) -> None:
        """The document may exist, so no default endpoints are assumed."""
        sandbox.fail_next("/mcp", status=401)
        sandbox.fail_next(f"{RESOURCE}/mcp", status=other, body=PAGE)
        sandbox.fail_next(RESOURCE, status=502)
        with pytest.raises(ServerUnavailable, match="HTTP 502"):
            await begin(oauth)

    @pytest.mark.parametrize("path", [f"{RESOURCE}/mcp", RESOURCE, SERVER, OPENID])
    @pytest.mark.parametrize("status", [400, 401, 403])
    async def test_default_endpoints_are_used_only_if_every_url_is_a_404(
        self, oauth: NotionOAuth, sandbox: Sandbox, path: str, status: int
    ) -> None:
        sandbox.options.serve_path_metadata = sandbox.options.serve_root_metadata = False
        sandbox.fail_next(path, status=status)
        sandbox.fail_next(SERVER, status=404)
        with pytest.raises(MetadataNotJson, match=f"HTTP {status}"):
            await begin(oauth)
        assert not sandbox.requests_to("/register")
        sandbox.fail_next(SERVER, status=404)
        await begin(oauth)
        assert sandbox.requests_to("/register")

    async def test_origin_is_used_if_it_forbids_its_resource_metadata(
        self, oauth: NotionOAuth, sandbox: Sandbox
    ) -> None:
        for path in (f"{RESOURCE}/mcp", RESOURCE):
            sandbox.fail_next(path, status=403)
        assert (await sign_in(oauth)).issuer == sandbox.issuer


ODD: list[Any] = ["", 7, True, {}, [], [1], "a b", {"a": "b"}, None]


class TestOddDocuments:
    @pytest.mark.parametrize("value", [*ODD, "/revoke", "http://other.example/revoke", "javascript:alert(1)"])
    @pytest.mark.parametrize("name", ["revocation_endpoint", "introspection_endpoint"])
    async def test_unusable_endpoint_is_left_out(
        self, oauth: NotionOAuth, sandbox: Sandbox, name: str, value: Any
    ) -> None:
        sandbox.options.metadata_overrides = {name: value}
        login = await sign_in(oauth)
        assert getattr(login, name) is None
        if name == "revocation_endpoint":
            assert await oauth.sign_out() is SignOut.NOT_OFFERED

    @pytest.mark.parametrize("value", [*ODD, "/register", "http://other.example/register"])
    async def test_unusable_registration_endpoint_does_not_matter_to_a_configured_client(
        self, settings: Settings, sandbox: Sandbox, value: Any
    ) -> None:
        registered = (await sign_in(NotionOAuth(settings))).client
        assert registered is not None
        sandbox.options.metadata_overrides = {"registration_endpoint": value}
        await sign_in(NotionOAuth(settings.model_copy(update={"client_id": registered.client_id})))
        with pytest.raises(MetadataError, match="registration") as caught:
            await begin(NotionOAuth(settings))
        assert "NOTION_OAUTH_CLIENT_ID" in str(caught.value.hint)

    @pytest.mark.parametrize("value", ODD)
    async def test_odd_optional_members_are_left_out(self, oauth: NotionOAuth, sandbox: Sandbox, value: Any) -> None:
        sandbox.options.resource_metadata_overrides = dict.fromkeys(
            ("scopes_supported", "bearer_methods_supported", "resource_name"), value
        )
        names = ("scopes_supported", "grant_types_supported", "revocation_endpoint_auth_methods_supported")
        sandbox.options.metadata_overrides = dict.fromkeys(names, value)
        pending, _ = await begin(oauth)
        assert pending.scope is None

    async def test_odd_list_of_methods_is_the_default(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        sandbox.options.metadata_overrides = {"token_endpoint_auth_methods_supported": "none"}
        login = await sign_in(oauth)
        assert login.token_endpoint_auth_methods_supported == ("client_secret_basic",)

    @pytest.mark.parametrize("listed", [True, {}, 7, "", None, "yes", [1, "S256"]])
    async def test_odd_list_of_pkce_methods_counts_as_missing(
        self, oauth: NotionOAuth, sandbox: Sandbox, listed: Any
    ) -> None:
        sandbox.options.metadata_overrides = {"code_challenge_methods_supported": listed}
        with pytest.raises(MetadataError, match="PKCE"):
            await begin(oauth)

    @pytest.mark.parametrize("flag", ["true", "yes", "True", "always", 1, {}, ["x"]])
    async def test_odd_iss_flag_requires_iss(self, oauth: NotionOAuth, sandbox: Sandbox, flag: Any) -> None:
        sandbox.options.announce_iss = False
        sandbox.options.metadata_overrides = {"authorization_response_iss_parameter_supported": flag}
        with pytest.raises(IssuerMismatch, match="announces"):
            await sign_in(oauth)

    @pytest.mark.parametrize("flag", ["false", "", 0, None])
    async def test_iss_flag_that_says_no(self, oauth: NotionOAuth, sandbox: Sandbox, flag: Any) -> None:
        sandbox.options.announce_iss = False
        sandbox.options.metadata_overrides = {"authorization_response_iss_parameter_supported": flag}
        await sign_in(oauth)

    async def test_one_authorization_server_as_text(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        sandbox.options.resource_metadata_overrides = {"authorization_servers": sandbox.issuer}
        assert (await sign_in(oauth)).issuer == sandbox.issuer


class TestOddRegistrations:
    @pytest.mark.parametrize(
        "odd",
        [
            {"client_id": 1234567},
            {"client_secret_expires_at": "2035-01-01T00:00:00Z"},
            {"client_secret_expires_at": "never"},
            {"client_secret_expires_at": 1e12 * 2},
            {"client_secret_expires_at": None},
            {"client_secret": ["a"]},
            {"token_endpoint_auth_method": ""},
            {"token_endpoint_auth_method": None},
            {"token_endpoint_auth_method": ["none"]},
            {"scope": ["default"]},
            {"scope": 7},
            {"redirect_uris": "x", "client_id_issued_at": "today"},
        ],
        ids=str,
    )
    async def test_odd_answer_is_not_repeated(self, oauth: NotionOAuth, sandbox: Sandbox, odd: dict[str, Any]) -> None:
        registered = {"client_id": "c", "client_secret": "s", "token_endpoint_auth_method": "none", **odd}
        body = json.dumps(registered)
        sandbox.fail_next("/register", status=201, body=body, content_type="application/json")
        sandbox.fail_next("/token", status=400, error="invalid_grant")  # the client is registered
        await oauth.begin_authorization(REDIRECT_URI)
        started = await oauth.begin_authorization(REDIRECT_URI)
        assert started.pending.client.client_id == str(registered["client_id"])
        assert len(sandbox.requests_to("/register")) == 1

    @pytest.mark.parametrize(
        ("end", "expected"),
        [
            ("2035-01-01T00:00:00Z", 2051222400),
            ("2051222400", 2051222400),
            (2051222400000, 2051222400),
            (2051222400.5, 2051222400),
            ("never", 0),
            (-1, 0),
        ],
    )
    async def test_end_of_the_secret(self, oauth: NotionOAuth, sandbox: Sandbox, end: Any, expected: int) -> None:
        body = json.dumps({"client_id": "c", "client_secret": "s", "client_secret_expires_at": end})
        sandbox.fail_next("/register", status=201, body=body, content_type="application/json")
        started = await oauth.begin_authorization(REDIRECT_URI)
        assert started.pending.client.client_secret_expires_at == expected

    @pytest.mark.parametrize(
        ("status", "body", "words"),
        [
            (403, b"Forbidden", 'HTTP 403: "Forbidden"'),
            (401, b'{"message": "Initial access token required"}', "Initial access token required"),
            (422, b'{"detail": "unknown client name"}', "unknown client name"),
            (400, b'{"error": {"message": "not on the list", "type": "OAuthException"}}', "not on the list"),
            (400, b'{"error": "invalid_client_metadata", "error_description": "no"}', 'invalid_client_metadata: "no"'),
            (403, b"<html>a page", "(HTTP 403)"),
            (403, b'{"access_token": "canary', "(HTTP 403)"),
        ],
    )
    async def test_refusal_shows_the_words_of_the_server(
        self, oauth: NotionOAuth, sandbox: Sandbox, status: int, body: bytes, words: str
    ) -> None:
        sandbox.fail_next("/register", status=status, body=body, content_type="application/json", times=2)
        with pytest.raises(RegistrationRefused) as caught:
            await begin(oauth)
        assert words in caught.value.message
        assert "NOTION_OAUTH_CLIENT_ID" in str(caught.value.hint)


class TestOddTokenResponses:
    @pytest.mark.parametrize(
        "content_type", ["application/x-www-form-urlencoded", "text/plain", "text/html; charset=x"]
    )
    async def test_form_is_read(self, oauth: NotionOAuth, sandbox: Sandbox, content_type: str) -> None:
        pending, query = await begin(oauth)
        fields = {"access_token": "gho_1", "scope": "a b", "token_type": "bearer", "expires_in": "60"}
        body = urlencode({**fields, "refresh_token": "ghr_1"}) + "\n"
        sandbox.fail_next("/token", status=200, body=body, content_type=content_type)
        login = await oauth.complete_authorization(pending, parse_authorization_response(query.multi_items()))
        assert (login.access_token, login.refresh_token) == (SecretStr("gho_1"), SecretStr("ghr_1"))
        assert (login.scope, login.expires_in, login.token_type) == ("a b", 60, "Bearer")

    @pytest.mark.parametrize("status", [200, 400])
    async def test_error_in_a_form_is_read(self, oauth: NotionOAuth, sandbox: Sandbox, status: int) -> None:
        await sign_in(oauth)
        body = urlencode({"error": "bad_refresh_token", "error_description": "it is spent"})
        sandbox.fail_next("/token", status=status, body=body, content_type="text/plain", times=2)
        with pytest.raises(Exception, match="it is spent") as caught:
            await oauth.refresh()
        assert getattr(caught.value, "error", None) == "bad_refresh_token"

    @pytest.mark.parametrize("content_type", ["text/html", "text/plain;charset=utf-16", "application/octet-stream", ""])
    async def test_json_of_any_content_type_is_read(
        self, oauth: NotionOAuth, sandbox: Sandbox, content_type: str
    ) -> None:
        pending, query = await begin(oauth)
        body = b"\xef\xbb\xbf" + json.dumps({"access_token": "t", "token_type": "bearer "}).encode()
        sandbox.fail_next("/token", status=200, body=body, content_type=content_type)
        login = await oauth.complete_authorization(pending, parse_authorization_response(query.multi_items()))
        assert (login.access_token, login.token_type) == (SecretStr("t"), "Bearer")

    @pytest.mark.parametrize("sent", ["Bearer t", " t\n", "bearer   t ", "t"])
    async def test_scheme_and_spaces_around_a_token_are_removed(
        self, oauth: NotionOAuth, sandbox: Sandbox, sent: str
    ) -> None:
        sandbox.options.token_response_overrides = {"access_token": sent}
        assert (await sign_in(oauth)).access_token == SecretStr("t")

    @pytest.mark.parametrize("sent", ["t t", "a\nb", "Bearer a b", "", "ü"])
    async def test_broken_token_is_refused(self, oauth: NotionOAuth, sandbox: Sandbox, sent: str) -> None:
        sandbox.options.token_response_overrides = {"access_token": sent}
        with pytest.raises(ServerUnavailable):
            await sign_in(oauth)

    @pytest.mark.parametrize("body", ["access_token=a&access_token=b", "a=b", "<p>access_token=a</p>", "access_token"])
    async def test_other_texts_are_no_form(self, oauth: NotionOAuth, sandbox: Sandbox, body: str) -> None:
        pending, query = await begin(oauth)
        sandbox.fail_next("/token", status=200, body=body)
        with pytest.raises(ServerUnavailable, match="without a token"):
            await oauth.complete_authorization(pending, parse_authorization_response(query.multi_items()))


async def test_registration_stored_under_the_other_spelling_is_found(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    """Files of earlier versions have the spelling of the resource's list."""
    registered = (await begin(oauth))[0].client
    stored = Registration(issuer=f"{sandbox.issuer}/", redirect_uri=REDIRECT_URI, client=registered)
    await save_registration(oauth.store, "default", stored)
    assert (await begin(oauth))[0].client == ClientInformation.model_validate(registered)
    assert sandbox.registered_clients == 1
