"""NOTION_OAUTH_COMPAT: what a user knowingly allows servers that differ from the specifications."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from notion_oauth.cli.doctor.report import run_checks
from notion_oauth.errors import AuthorizationRefused, ConfigurationError, MetadataError, TokenRefused
from notion_oauth.models import AuthorizationResponse
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.protocol.registration import PROBE_CODE
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings, load_settings
from tests.support.command_line import CommandLine
from tests.support.signing_in import begin, sign_in

pytestmark = pytest.mark.anyio
Allowing = Callable[[str | None], NotionOAuth]


@pytest.fixture
def allowing(settings: Settings) -> Allowing:
    return lambda words: NotionOAuth(settings.model_copy(update={"compat": words}))


def sent_resources(sandbox: Sandbox) -> list[str | None]:
    """The `resource` of each authorization and token request."""
    forms = [sent.form for sent in sandbox.requests_to("/token", "POST") if sent.form.get("code") != PROBE_CODE]
    queries = [sent.query for sent in sandbox.requests_to("/authorize", "GET")]
    return [each.get("resource") for each in (*queries, *forms)]


@pytest.mark.spec(
    "MCP §Authorization Code Protection", "Deviation: the user may allow a server that does not list S256"
)
@pytest.mark.parametrize("listed", [None, [], ["plain"], "S256"])
async def test_unlisted_pkce_is_sent_if_allowed(allowing: Allowing, sandbox: Sandbox, listed: object) -> None:
    sandbox.options.metadata_overrides = {"code_challenge_methods_supported": listed}
    with pytest.raises(MetadataError, match="PKCE") as caught:
        await begin(allowing("no-resource"))
    assert "NOTION_OAUTH_COMPAT=unlisted-pkce" in str(caught.value.hint)
    login = await sign_in(allowing("unlisted-pkce"))
    [asked] = sandbox.requests_to("/authorize", "GET")
    assert asked.query["code_challenge_method"] == "S256"
    assert login.compat == ("unlisted-pkce",)


@pytest.mark.spec("MCP §Resource Parameter Implementation", "Deviation: the user may have resource left out")
async def test_resource_is_left_out_of_every_request_if_allowed(allowing: Allowing, sandbox: Sandbox) -> None:
    login = await sign_in(allowing("no-resource, unlisted-pkce"))
    await NotionOAuth(allowing(None).settings).refresh()
    assert sent_resources(sandbox) == [None, None, None]
    assert login.resource == sandbox.mcp_url, "the login still belongs to this resource"


async def test_refresh_follows_the_setting_of_today_too(allowing: Allowing, sandbox: Sandbox) -> None:
    await sign_in(allowing(None))
    assert (await allowing("no-resource").refresh()).compat == ("no-resource",)
    await allowing(None).refresh()
    assert sent_resources(sandbox) == [sandbox.mcp_url, sandbox.mcp_url, None, None]


async def test_step_up_allows_what_the_login_allows(allowing: Allowing, sandbox: Sandbox, settings: Settings) -> None:
    sandbox.options.metadata_overrides = {"code_challenge_methods_supported": None}
    await sign_in(allowing("unlisted-pkce no-resource"))
    assert json.loads(settings.token_file.read_text())["compat"] == ["unlisted-pkce", "no-resource"]
    with pytest.raises(MetadataError, match="PKCE"):
        await begin(allowing(None))
    stepped_up = await sign_in(allowing(None), challenge=BearerChallenge(error="insufficient_scope", scope="default"))
    assert stepped_up.compat == ("unlisted-pkce", "no-resource")
    assert set(sent_resources(sandbox)) == {None}


async def test_no_document_of_a_server_allows_anything(allowing: Allowing, sandbox: Sandbox) -> None:
    sandbox.options.metadata_overrides = {"compat": ["no-resource", "unlisted-pkce"]}
    sandbox.options.token_response_overrides = {"compat": ["no-resource"]}
    assert (await sign_in(allowing(None))).compat == ()
    assert sent_resources(sandbox) == [sandbox.mcp_url] * 2


@pytest.mark.parametrize(("words", "prompt"), [(None, "consent"), ("no-prompt", None)])
async def test_prompt_is_left_out_if_allowed(
    allowing: Allowing, sandbox: Sandbox, words: str | None, prompt: str | None
) -> None:
    await begin(allowing(words))
    [asked] = sandbox.requests_to("/authorize", "GET")
    assert asked.query.get("prompt") == prompt


@pytest.mark.parametrize(("words", "scope"), [(None, None), ("refresh-scope", "default")])
async def test_refresh_repeats_the_requested_scope_if_allowed(
    allowing: Allowing, sandbox: Sandbox, words: str | None, scope: str | None
) -> None:
    sandbox.options.token_response_overrides = {"scope": "default .default"}
    await sign_in(allowing(words))
    await allowing(None).refresh()
    [refreshed] = [sent for sent in sandbox.requests_to("/token") if sent.form["grant_type"] == "refresh_token"]
    assert refreshed.form.get("scope") == scope


async def test_error_about_the_scope_of_a_refresh_names_the_word(allowing: Allowing, sandbox: Sandbox) -> None:
    login = await sign_in(allowing(None))
    description = "AADSTS90009: Application is requesting a token for itself."
    sandbox.fail_next("/token", status=400, error="invalid_request", description=description)
    with pytest.raises(TokenRefused) as caught:
        await allowing(None).refresh()
    assert str(caught.value.hint) == "Set NOTION_OAUTH_COMPAT=refresh-scope."
    assert await allowing(None).tokens.token() == login.access_token


@pytest.mark.parametrize(
    ("error", "description", "helps"),
    [
        ("invalid_target", None, True),
        ("invalid_request", "AADSTS901002: The 'resource' request parameter is not supported.", True),
        ("invalid_request", "Missing parameter", False),
        ("access_denied", "The resource owner denied the request", False),
    ],
)
async def test_error_names_the_word_that_would_help(
    allowing: Allowing, sandbox: Sandbox, error: str, description: str | None, helps: bool
) -> None:
    oauth = allowing(None)
    pending, query = await begin(oauth)
    refused = AuthorizationResponse(state=pending.state, error=error, error_description=description, iss=pending.issuer)
    with pytest.raises(AuthorizationRefused) as in_redirect:
        await oauth.complete_authorization(pending, refused)
    sandbox.fail_next("/token", status=400, error=error, description=description)
    with pytest.raises(TokenRefused) as at_exchange:
        await oauth.complete_authorization(pending, parse_authorization_response(query.multi_items()))
    for caught in (in_redirect, at_exchange):
        assert ("NOTION_OAUTH_COMPAT=no-resource" in str(caught.value.hint)) is helps
        assert caught.value.hint.command == "login"


@pytest.mark.parametrize("text", ["none", "no-resource,pkce", "NO-RESOURCE"])
async def test_unknown_word_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("NOTION_OAUTH_COMPAT", text)
    with pytest.raises(ConfigurationError, match="NOTION_OAUTH_COMPAT: it contains another word than unlisted-pkce"):
        load_settings()


@pytest.mark.parametrize("command", ["status", "token", "login"])
def test_unknown_word_is_exit_2(cli: CommandLine, command: str) -> None:
    cli.environment["NOTION_OAUTH_COMPAT"] = "unlisted_pkce"
    done = cli.run(command)
    assert (done.returncode, "NOTION_OAUTH_COMPAT" in done.stderr) == (2, True)


@pytest.mark.parametrize("words", [None, "unlisted-pkce"])
async def test_doctor_names_the_word(settings: Settings, sandbox: Sandbox, words: str | None) -> None:
    sandbox.options.metadata_overrides = {"code_challenge_methods_supported": None}
    report = await run_checks(lambda: settings.model_copy(update={"compat": words}), {})
    [found] = [finding for name, finding in report.rows if name == "metadata"]
    assert found.result == ("ok" if words else "failure")
    assert "NOTION_OAUTH_COMPAT=unlisted-pkce" in f"{found.message} {found.hint}"
