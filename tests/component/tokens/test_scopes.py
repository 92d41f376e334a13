"""What a person has agreed to once is asked for again at their next sign-in, for as long as it is on offer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from notion_oauth.errors import AuthorizationRefused, SignInRequired
from notion_oauth.models import AuthorizationResponse
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.sandbox import Sandbox, SandboxOptions, serve_sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.support.signing_in import age, begin, sign_in

pytestmark = pytest.mark.anyio
MORE = BearerChallenge(error="insufficient_scope", scope="write")


@pytest.fixture(autouse=True)
def offers_more(sandbox: Sandbox) -> None:
    """The server has more scopes than the resource asks everybody for."""
    sandbox.options.scopes = ("default", "read", "write")
    sandbox.options.resource_metadata_overrides = {"scopes_supported": ["default"]}


async def asked_next(oauth: NotionOAuth, challenge: BearerChallenge | None = None) -> str | None:
    """The scope that the next sign-in asks for."""
    pending, _ = await begin(oauth, challenge=challenge)
    return pending.scope


async def test_a_plain_sign_in_keeps_what_was_gained(oauth: NotionOAuth, settings: Settings) -> None:
    await sign_in(oauth)
    await sign_in(oauth, challenge=MORE)
    assert await asked_next(oauth) == "default write"
    assert (await sign_in(NotionOAuth(settings))).scope == "default write"


async def test_a_login_that_the_server_has_ended_keeps_it_too(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox
) -> None:
    await sign_in(oauth, challenge=MORE)
    sandbox.revoke_grants()
    with pytest.raises(SignInRequired):
        await oauth.refresh()
    assert await asked_next(NotionOAuth(settings)) == "write default"
    read = BearerChallenge(error="insufficient_scope", scope="read")
    assert await asked_next(NotionOAuth(settings), read) == "write read"


async def test_it_is_kept_across_refreshes(oauth: NotionOAuth, settings: Settings) -> None:
    await sign_in(oauth, challenge=MORE)
    age(settings.token_file, hours=2)
    await NotionOAuth(settings).tokens.token()
    assert await asked_next(NotionOAuth(settings)) == "write default"


async def test_signing_out_forgets_it(oauth: NotionOAuth) -> None:
    await sign_in(oauth, challenge=MORE)
    await oauth.sign_out()
    assert await asked_next(oauth) == "default"


async def test_what_the_server_offers_no_longer_is_not_asked_for(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    await sign_in(oauth, challenge=MORE)
    sandbox.options.scopes = ("default", "read")
    assert await asked_next(oauth) == "default"
    await sign_in(oauth)


async def test_without_a_list_a_refusal_says_how_to_ask_for_less(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    sandbox.options.metadata_overrides = {"scopes_supported": None}
    await sign_in(oauth, challenge=MORE)
    sandbox.options.scopes = ("default", "read")
    pending, query = await begin(oauth)
    with pytest.raises(AuthorizationRefused, match="invalid_scope") as caught:
        await oauth.complete_authorization(pending, parse_authorization_response(query.multi_items()))
    assert caught.value.hint.endswith("notion-oauth logout")
    await oauth.sign_out()
    await sign_in(oauth)


async def test_of_a_first_login_nothing_is_said_about_the_last(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings, profile="work")
    pending, _ = await begin(oauth)
    refused = AuthorizationResponse(state=pending.state, iss=pending.issuer, error="invalid_scope")
    with pytest.raises(AuthorizationRefused) as caught:
        await oauth.complete_authorization(pending, refused)
    assert caught.value.hint == "Sign in again with: notion-oauth login --profile work"


async def test_the_command_is_about_the_same_login(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings, profile="work")
    await sign_in(oauth, challenge=MORE)
    pending, _ = await begin(oauth)
    refused = AuthorizationResponse(state=pending.state, iss=pending.issuer, error="invalid_scope")
    with pytest.raises(AuthorizationRefused) as caught:
        await oauth.complete_authorization(pending, refused)
    assert caught.value.hint.endswith("notion-oauth logout --profile work")


async def test_what_was_granted_unasked_is_not_asked_for(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    """A server that names scopes of its own in its answers need not take them in a request."""
    sandbox.options.resource_metadata_overrides = {"scopes_supported": []}
    sandbox.options.token_response_overrides = {"scope": "workspace:all"}
    assert (await sign_in(oauth)).scope == "workspace:all"
    assert await asked_next(oauth) is None


@pytest.fixture
def other(sandbox: Sandbox) -> Iterator[Sandbox]:
    with serve_sandbox(SandboxOptions(other_resources=(sandbox.mcp_url,))) as running:
        yield running


async def test_another_server_is_not_asked_for_it(oauth: NotionOAuth, sandbox: Sandbox, other: Sandbox) -> None:
    await sign_in(oauth, challenge=MORE)
    sandbox.options.resource_metadata_overrides = {
        "scopes_supported": ["default"],
        "authorization_servers": [other.issuer],
    }
    other.options.scopes = ("default", "write")
    assert await asked_next(oauth) == "default"


async def test_another_resource_of_the_same_server_is_not_asked_for_it(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox, other: Sandbox
) -> None:
    await sign_in(oauth, challenge=MORE)
    sandbox.revoke_grants()
    with pytest.raises(SignInRequired):
        await oauth.refresh()
    other.options.resource_metadata_overrides = {"authorization_servers": [sandbox.issuer]}
    sandbox.options.other_resources = (other.mcp_url,)
    assert await asked_next(NotionOAuth(settings.model_copy(update={"server_url": other.mcp_url}))) == "default"
