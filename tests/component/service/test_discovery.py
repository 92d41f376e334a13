"""Which authorization server a sign-in uses: the one of the challenge, or the first usable one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from notion_oauth.errors import MetadataError, MetadataNotJson, TransientError
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.sandbox import Sandbox, SandboxOptions, serve_sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport
from tests.support.signing_in import begin, sign_in

pytestmark = pytest.mark.anyio
RESOURCE = "/.well-known/oauth-protected-resource"
SERVER = "/.well-known/oauth-authorization-server"


@pytest.fixture
def other(sandbox: Sandbox) -> Iterator[Sandbox]:
    """Another authorization server that issues tokens for the same resource."""
    with serve_sandbox(SandboxOptions(other_resources=(sandbox.mcp_url,))) as running:
        yield running


def challenge(sandbox: Sandbox, text: str, status: int = 401) -> None:
    sandbox.fail_next("/mcp", status=status, headers={"WWW-Authenticate": text})


def list_servers(sandbox: Sandbox, *issuers: str) -> None:
    """Let the resource list these authorization servers."""
    sandbox.options.resource_metadata_overrides = {"authorization_servers": list(issuers)}


def publish(sandbox: Sandbox, path: str, **fields: object) -> str:
    """Publish resource metadata at this path, once. Returns its URL."""
    content = {"resource": sandbox.mcp_url, "authorization_servers": [sandbox.base_url], **fields}
    sandbox.fail_next(path, status=200, body=json.dumps(content), content_type="application/json")
    return f"{sandbox.base_url}{path}"


async def test_metadata_url_of_the_challenge_is_tried_first(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    url = publish(sandbox, "/somewhere/else", scopes_supported=["odd"])
    challenge(sandbox, f'Basic realm="x, y", Bearer realm="OAuth", resource_metadata="{url}"')
    pending, _ = await begin(oauth)
    assert pending.scope == "odd"
    assert not [request for request in sandbox.requests if request.path.startswith(RESOURCE)]


async def test_dead_metadata_url_falls_back_to_the_well_known_one(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    challenge(sandbox, f'Bearer resource_metadata="{sandbox.base_url}/gone"')
    await sign_in(oauth)
    assert sandbox.requests_to("/gone")


@pytest.mark.parametrize("url", ["http://example.com/metadata", "file:///etc/passwd", "https://u:p@example.com/", "x"])
async def test_forbidden_metadata_url_is_ignored(oauth: NotionOAuth, sandbox: Sandbox, url: str) -> None:
    challenge(sandbox, f'Bearer resource_metadata="{url}"')
    await sign_in(oauth)
    assert sandbox.requests_to(f"{RESOURCE}/mcp")


async def test_metadata_for_another_resource_is_refused(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    url = publish(sandbox, "/elsewhere", resource="https://another.example/mcp")
    challenge(sandbox, f'Bearer resource_metadata="{url}"')
    with pytest.raises(MetadataError, match="describes another resource"):
        await begin(oauth)
    assert not sandbox.requests_to("/register")


async def test_scope_of_the_challenge_takes_precedence(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    challenge(sandbox, 'Bearer scope="from challenge"')
    pending, _ = await begin(oauth)
    assert pending.scope == "from challenge"


async def test_passed_challenge_needs_no_probe(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    url = publish(sandbox, "/passed")
    await oauth.begin_authorization(
        "http://127.0.0.1:4321/callback", challenge=BearerChallenge(resource_metadata=url, scope="a")
    )
    assert not sandbox.requests_to("/mcp")


@pytest.mark.parametrize("listed", [None, [], ["x", "y"]])
async def test_scopes_are_those_of_the_resource(oauth: NotionOAuth, sandbox: Sandbox, listed: list[str] | None) -> None:
    sandbox.options.resource_metadata_overrides = {"scopes_supported": listed}
    pending, _ = await begin(oauth)
    assert pending.scope == ("x y" if listed else None)


@pytest.mark.parametrize(
    ("listed", "supported", "requested"),
    [
        (["x"], ["x", "offline_access"], "x offline_access"),
        (["x"], ["x"], "x"),
        (["offline_access", "x"], ["offline_access"], "offline_access x"),
        (None, ["offline_access"], None),
    ],
)
async def test_offline_access_is_requested_only_if_listed(
    oauth: NotionOAuth, sandbox: Sandbox, listed: list[str] | None, supported: list[str], requested: str | None
) -> None:
    sandbox.options.resource_metadata_overrides = {"scopes_supported": listed}
    sandbox.options.metadata_overrides = {"scopes_supported": supported}
    pending, _ = await begin(oauth)
    assert pending.scope == requested


@pytest.mark.spec("RFC 9728 §7.6", "Choose one of several authorization servers")
async def test_first_usable_server_is_chosen(oauth: NotionOAuth, sandbox: Sandbox, other: Sandbox) -> None:
    list_servers(sandbox, "http://plain.example", f"{sandbox.base_url}/none-here", other.issuer, sandbox.issuer)
    login = await sign_in(oauth)
    assert login.issuer == other.issuer
    assert not sandbox.requests_to("/register")


async def test_unavailable_server_is_not_skipped(oauth: NotionOAuth, sandbox: Sandbox, other: Sandbox) -> None:
    """The user may have an account at this server only: a transient failure does not select another one."""
    list_servers(sandbox, sandbox.issuer, other.issuer)
    sandbox.fail_next(SERVER, status=503)
    with pytest.raises(TransientError):
        await begin(oauth)
    assert not other.requests


async def test_configured_issuer_is_used(settings: Settings, sandbox: Sandbox, other: Sandbox) -> None:
    list_servers(sandbox, sandbox.issuer, other.issuer)
    oauth = NotionOAuth(settings.model_copy(update={"issuer": other.issuer}))
    assert (await sign_in(oauth)).issuer == other.issuer


async def test_configured_issuer_must_be_listed(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings.model_copy(update={"issuer": f"{sandbox.issuer}/tenant"}))
    with pytest.raises(MetadataError, match="but the server lists only") as caught:
        await begin(oauth)
    assert "NOTION_OAUTH_ISSUER" in str(caught.value.hint)


@pytest.mark.spec("MCP §Authorization Server Binding", "Store clients and tokens separately for each issuer")
async def test_each_issuer_has_its_own_client(settings: Settings, sandbox: Sandbox, other: Sandbox) -> None:
    first = await sign_in(NotionOAuth(settings))
    list_servers(sandbox, other.issuer)
    second = await sign_in(NotionOAuth(settings))
    assert first.client is not None
    assert second.client is not None
    sent = str([(request.query, request.form) for request in other.requests])
    assert first.client.client_id not in sent
    assert (second.issuer, len(other.requests_to("/register"))) == (other.issuer, 1)


async def test_login_is_refreshed_at_its_issuer(oauth: NotionOAuth, sandbox: Sandbox, other: Sandbox) -> None:
    login = await sign_in(oauth)
    list_servers(sandbox, other.issuer)
    await oauth.tokens.token(rejected=login.access_token)
    assert not other.requests


class TestLoginWithoutIssuer:
    """Another program has stored it, with seven fields only."""

    @pytest.fixture
    async def stored(self, oauth: NotionOAuth, settings: Settings, sandbox: Sandbox, other: Sandbox) -> None:
        await sign_in(oauth)
        known = json.loads(settings.token_file.read_text())
        seven = ("access_token", "token_type", "expires_in", "refresh_token", "client_id", "client_secret")
        settings.token_file.write_text(json.dumps({**{name: known[name] for name in seven}, "updated_at": 1}))
        list_servers(sandbox, other.issuer, sandbox.issuer)

    @pytest.mark.usefixtures("stored")
    async def test_tokens_are_sent_to_no_guessed_server(
        self, settings: Settings, sandbox: Sandbox, other: Sandbox
    ) -> None:
        before = settings.token_file.read_bytes()
        with pytest.raises(MetadataError, match="does not name its issuer") as caught:
            await NotionOAuth(settings).refresh()
        assert "NOTION_OAUTH_ISSUER" in str(caught.value.hint)
        assert not other.requests
        assert settings.token_file.read_bytes() == before

    @pytest.mark.usefixtures("stored")
    async def test_login_without_issuer_is_refreshed_at_the_configured_one(
        self, settings: Settings, sandbox: Sandbox, other: Sandbox
    ) -> None:
        login = await NotionOAuth(settings.model_copy(update={"issuer": sandbox.issuer})).refresh()
        assert login.issuer == sandbox.issuer
        assert not other.requests


async def test_step_up_uses_the_issuer_of_the_login(oauth: NotionOAuth, sandbox: Sandbox, other: Sandbox) -> None:
    await sign_in(oauth)
    list_servers(sandbox, other.issuer, sandbox.issuer)
    pending, _ = await begin(oauth, challenge=BearerChallenge(error="insufficient_scope", scope="default"))
    assert pending.issuer == sandbox.issuer
    assert not other.requests


class TestWithoutResourceMetadata:
    """Servers of MCP 2025-03-26: the authorization server is the MCP server's own origin."""

    @pytest.fixture(autouse=True)
    def _none(self, sandbox: Sandbox) -> None:
        sandbox.options.serve_path_metadata = sandbox.options.serve_root_metadata = False

    async def test_metadata_of_the_origin_is_used(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        login = await sign_in(oauth)
        assert (login.issuer, login.resource, login.scope) == (sandbox.base_url, sandbox.mcp_url, "default")

    async def test_other_issuer_at_the_origin_is_refused(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        sandbox.options.metadata_overrides = {"issuer": f"{sandbox.base_url}/other"}
        with pytest.raises(MetadataError, match="another issuer"):
            await begin(oauth)

    async def test_origin_may_spell_its_issuer_with_a_slash(
        self, oauth: NotionOAuth, settings: Settings, sandbox: Sandbox
    ) -> None:
        """As servers of the MCP SDK do; no other document says how it is spelled."""
        issuer = f"{sandbox.base_url}/"
        sandbox.options.metadata_overrides = {"issuer": issuer, "authorization_response_iss_parameter_supported": None}
        pending, _ = await begin(oauth)
        assert pending.issuer == issuer
        pending, _ = await begin(NotionOAuth(settings.model_copy(update={"issuer": issuer})))
        assert pending.issuer == issuer

    async def test_default_endpoints_are_used_without_metadata(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        sandbox.fail_next(SERVER, status=404, times=10)
        login = await sign_in(oauth)
        assert login.token_endpoint == f"{sandbox.base_url}/token"
        assert [sent.form["resource"] for sent in sandbox.requests_to("/token") if "resource" in sent.form] == [
            sandbox.mcp_url
        ]

    async def test_server_without_oauth_is_reported(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        sandbox.fail_next(SERVER, status=404, times=10)
        sandbox.fail_next("/register", status=404)
        with pytest.raises(MetadataError, match="publishes no OAuth metadata") as caught:
            await begin(oauth)
        assert "NOTION_OAUTH_SERVER_URL" in str(caught.value.hint)

    async def test_transient_failure_is_not_a_missing_document(self, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        sandbox.options.serve_path_metadata = True
        sandbox.fail_next(f"{RESOURCE}/mcp", status=503)
        with pytest.raises(TransientError):
            await begin(oauth)
        assert not sandbox.requests_to("/register")


async def test_server_without_pkce_is_refused_before_registration(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    for methods in (None, [], ["plain"]):
        sandbox.options.metadata_overrides = {"code_challenge_methods_supported": methods}
        with pytest.raises(MetadataError, match="PKCE"):
            await begin(oauth)
    assert not sandbox.requests_to("/register")


PAGE = "<!doctype html><title>Welcome</title>"
NESTED = "/tenant"


def serve_pages(sandbox: Sandbox) -> None:
    """Serve a page once at each well-known URL of the resource metadata."""
    for path in (f"{RESOURCE}/mcp", RESOURCE):
        sandbox.fail_next(path, status=200, body=PAGE, content_type="text/html")


@pytest.mark.parametrize("invalid", ["page", "redirect", "another resource", "another shape"])
@pytest.mark.spec("MCP §Authorization Server Discovery", "Try the well-known URLs in turn until a document is valid")
async def test_next_well_known_url_is_tried_after_an_invalid_document(
    oauth: NotionOAuth, sandbox: Sandbox, invalid: str
) -> None:
    challenge(sandbox, "Bearer")
    if invalid == "page":
        sandbox.fail_next(f"{RESOURCE}/mcp", status=200, body=PAGE, content_type="text/html")
    elif invalid == "redirect":
        sandbox.misbehave_next(f"{RESOURCE}/mcp", "redirect", location="https://example.com/")
    else:
        wrong = {"resource": "https://another.example/mcp"} if invalid == "another resource" else {"resource": 7}
        publish(sandbox, f"{RESOURCE}/mcp", **wrong)
    await sign_in(oauth)
    assert sandbox.requests_to(RESOURCE)


@pytest.mark.spec("MCP §Authorization Server Discovery", "Try the well-known URLs in turn until a document is valid")
async def test_next_url_is_tried_after_metadata_of_another_issuer(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    """As on a host with many tenants whose root answers the first kind of URL for all of them."""
    issuer = f"{sandbox.base_url}{NESTED}"
    list_servers(sandbox, issuer)
    served: dict[str, object] = {
        "token_endpoint": f"{sandbox.base_url}/token",
        "authorization_endpoint": f"{sandbox.base_url}/authorize",
    }
    served |= {"registration_endpoint": f"{sandbox.base_url}/register", "code_challenge_methods_supported": ["S256"]}
    for path, speaks_for in (
        (f"{SERVER}{NESTED}", sandbox.base_url),
        (f"{NESTED}/.well-known/openid-configuration", issuer),
    ):
        sandbox.fail_next(
            path, status=200, body=json.dumps({"issuer": speaks_for, **served}), content_type="application/json"
        )
    pending, _ = await begin(oauth)
    assert pending.issuer == issuer


async def test_only_invalid_documents_raise_the_first_error(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    challenge(sandbox, "Bearer")
    sandbox.fail_next(f"{RESOURCE}/mcp", status=200, body=PAGE, content_type="text/html")
    sandbox.options.resource_metadata_overrides = {"resource": "https://another.example/mcp"}
    with pytest.raises(MetadataError, match="describes another resource"):
        await begin(oauth)
    assert not sandbox.requests_to("/register")


async def test_no_endpoints_are_assumed_for_a_site_of_pages(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    challenge(sandbox, "Bearer")
    serve_pages(sandbox)
    sandbox.fail_next(SERVER, status=404)
    with pytest.raises(MetadataNotJson, match="not a JSON object"):
        await begin(oauth)
    assert not sandbox.requests_to("/register")


async def test_server_is_found_at_its_origin_if_resource_metadata_are_pages(
    oauth: NotionOAuth, sandbox: Sandbox
) -> None:
    challenge(sandbox, "Bearer")
    serve_pages(sandbox)
    await sign_in(oauth)


async def test_page_at_the_challenge_url_does_not_select_the_origin(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    """Otherwise a maintenance page would send the user to another authorization server."""
    serve_pages(sandbox)
    with pytest.raises(MetadataNotJson):
        await begin(oauth)
    assert not sandbox.requests_to("/register")


@pytest.mark.parametrize("named", [True, False])
async def test_redirects_at_all_urls_are_a_transient_failure(oauth: NotionOAuth, sandbox: Sandbox, named: bool) -> None:
    challenge(sandbox, f'Bearer resource_metadata="{sandbox.base_url}{RESOURCE}/mcp"' if named else "Bearer")
    for path in (f"{RESOURCE}/mcp", RESOURCE):
        sandbox.misbehave_next(path, "redirect", location="https://status.example/")
    with pytest.raises(TransientError, match="redirect"):
        await begin(oauth)
    assert not sandbox.requests_to("/register")


async def test_server_without_registration_is_skipped(oauth: NotionOAuth, sandbox: Sandbox, other: Sandbox) -> None:
    other.options.metadata_overrides = {"registration_endpoint": None, "client_id_metadata_document_supported": None}
    list_servers(sandbox, other.issuer, sandbox.issuer)
    assert (await sign_in(oauth)).issuer == sandbox.issuer
    assert not other.requests_to("/register")


async def test_at_most_five_servers_are_tried(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    list_servers(sandbox, *(f"{sandbox.base_url}/{number}" for number in range(300)))
    with pytest.raises(MetadataError):
        await begin(oauth)
    requests = [sent for sent in sandbox.requests if sent.path.startswith("/.well-known/oauth-authorization-server")]
    assert len(requests) == 5


async def test_challenge_headers_are_parsed_separately() -> None:
    """An unclosed quote in the challenge of a gateway does not hide the next challenge."""
    values = [b'Negotiate realm="gateway', b'Bearer resource_metadata="https://h.example/metadata", scope="a"']

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(401, headers=[(b"WWW-Authenticate", value) for value in values])

    transport = Transport(timeout=timedelta(seconds=5), httpx_transport=httpx.MockTransport(answer))
    found = await OAuthClient(transport).challenge("https://h.example/mcp")
    assert found == BearerChallenge(resource_metadata="https://h.example/metadata", scope="a")
