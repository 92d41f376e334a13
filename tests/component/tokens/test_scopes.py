"""Scopes that the user has granted are requested again at the next sign-in, while the server lists them."""

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
    """The server has more scopes than the resource requests by default."""
    sandbox.options.scopes = ("default", "read", "write")
    sandbox.options.resource_metadata_overrides = {"scopes_supported": ["default"]}


async def next_scope(oauth: NotionOAuth, challenge: BearerChallenge | None = None) -> str | None:
    """The scope that the next sign-in requests."""
    pending, _ = await begin(oauth, challenge=challenge)
    return pending.scope


async def test_sign_in_requests_the_scopes_of_the_last_login(oauth: NotionOAuth, settings: Settings) -> None:
    await sign_in(oauth)
    await sign_in(oauth, challenge=MORE)
    assert await next_scope(oauth) == "default write"
    assert (await sign_in(NotionOAuth(settings))).scope == "default write"


async def test_scopes_are_requested_again_after_the_server_ended_the_login(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox
) -> None:
    await sign_in(oauth, challenge=MORE)
    sandbox.revoke_grants()
    with pytest.raises(SignInRequired):
        await oauth.refresh()
    assert await next_scope(NotionOAuth(settings)) == "write default"
    read = BearerChallenge(error="insufficient_scope", scope="read")
    assert await next_scope(NotionOAuth(settings), read) == "write read"


async def test_scopes_are_requested_again_after_a_refresh(oauth: NotionOAuth, settings: Settings) -> None:
    await sign_in(oauth, challenge=MORE)
    age(settings.token_file, hours=2)
    await NotionOAuth(settings).tokens.token()
    assert await next_scope(NotionOAuth(settings)) == "write default"


async def test_sign_out_forgets_the_scopes(oauth: NotionOAuth) -> None:
    await sign_in(oauth, challenge=MORE)
    await oauth.sign_out()
    assert await next_scope(oauth) == "default"


async def test_scope_that_the_server_no_longer_lists_is_not_requested(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    await sign_in(oauth, challenge=MORE)
    sandbox.options.scopes = ("default", "read")
    assert await next_scope(oauth) == "default"
    await sign_in(oauth)


async def test_refused_scope_without_a_list_gives_a_hint(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    sandbox.options.metadata_overrides = {"scopes_supported": None}
    await sign_in(oauth, challenge=MORE)
    sandbox.options.scopes = ("default", "read")
    pending, query = await begin(oauth)
    with pytest.raises(AuthorizationRefused, match="invalid_scope") as caught:
        await oauth.complete_authorization(pending, parse_authorization_response(query.multi_items()))
    assert str(caught.value.hint).endswith("notion-oauth logout")
    await oauth.sign_out()
    await sign_in(oauth)


async def test_first_login_gets_no_hint_about_a_previous_one(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings, profile="work")
    pending, _ = await begin(oauth)
    refused = AuthorizationResponse(state=pending.state, iss=pending.issuer, error="invalid_scope")
    with pytest.raises(AuthorizationRefused) as caught:
        await oauth.complete_authorization(pending, refused)
    assert str(caught.value.hint) == "Sign in again with: notion-oauth login --profile work"


async def test_scope_hint_names_the_profile(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings, profile="work")
    await sign_in(oauth, challenge=MORE)
    pending, _ = await begin(oauth)
    refused = AuthorizationResponse(state=pending.state, iss=pending.issuer, error="invalid_scope")
    with pytest.raises(AuthorizationRefused) as caught:
        await oauth.complete_authorization(pending, refused)
    assert str(caught.value.hint).endswith("notion-oauth logout --profile work")


async def test_scope_that_was_granted_without_a_request_is_not_requested(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    """A server that returns other scopes than requested may not accept them in a request."""
    sandbox.options.resource_metadata_overrides = {"scopes_supported": []}
    sandbox.options.token_response_overrides = {"scope": "workspace:all"}
    assert (await sign_in(oauth)).scope == "workspace:all"
    assert await next_scope(oauth) is None


@pytest.fixture
def other(sandbox: Sandbox) -> Iterator[Sandbox]:
    with serve_sandbox(SandboxOptions(other_resources=(sandbox.mcp_url,))) as running:
        yield running


async def test_scopes_are_not_requested_at_another_server(oauth: NotionOAuth, sandbox: Sandbox, other: Sandbox) -> None:
    await sign_in(oauth, challenge=MORE)
    sandbox.options.resource_metadata_overrides = {
        "scopes_supported": ["default"],
        "authorization_servers": [other.issuer],
    }
    other.options.scopes = ("default", "write")
    assert await next_scope(oauth) == "default"


async def test_scopes_are_not_requested_for_another_resource(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox, other: Sandbox
) -> None:
    await sign_in(oauth, challenge=MORE)
    sandbox.revoke_grants()
    with pytest.raises(SignInRequired):
        await oauth.refresh()
    other.options.resource_metadata_overrides = {"authorization_servers": [sandbox.issuer]}
    sandbox.options.other_resources = (other.mcp_url,)
    assert await next_scope(NotionOAuth(settings.model_copy(update={"server_url": other.mcp_url}))) == "default"
