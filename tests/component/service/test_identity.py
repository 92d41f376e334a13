"""Who has signed in is stored with the login, and never needed for a sign-in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from notion_oauth.errors import NotSignedIn, TransientError
from notion_oauth.models import Identity, TokenSet
from notion_oauth.sandbox import Sandbox
from notion_oauth.sandbox.mcp import PERSON, WORKSPACE
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.support.signing_in import sign_in

pytestmark = pytest.mark.anyio


def asked(sandbox: Sandbox) -> int:
    """How many requests with a token the MCP server has received."""
    return len([request for request in sandbox.requests_to("/mcp") if "authorization" in request.headers])


async def test_it_is_asked_once_and_stored(oauth: NotionOAuth, settings: Settings, sandbox: Sandbox) -> None:
    signed_in = await sign_in(oauth)
    assert asked(sandbox) == 0, "a sign-in needs no identity"
    found = await oauth.identify()
    assert (found.workspace, found.user, found.email) == (WORKSPACE["name"], PERSON["name"], PERSON["email"])
    before = asked(sandbox)
    other = NotionOAuth(settings)
    assert (await other.identify()).identity() == found.identity()
    assert asked(sandbox) == before
    stored = await other.tokens.stored()
    assert stored == signed_in.model_copy(update=found.identity())
    status = await other.status()
    assert (status.workspace_id, status.user_id) == (WORKSPACE["id"], PERSON["id"])
    assert PERSON["email"] not in json.dumps(status.as_json())


async def test_it_survives_a_refresh_and_ends_with_the_login(oauth: NotionOAuth) -> None:
    await sign_in(oauth)
    await oauth.identify()
    assert (await oauth.refresh()).workspace == WORKSPACE["name"]
    assert (await oauth.status()).workspace == WORKSPACE["name"]
    assert (await sign_in(oauth)).workspace is None, "another person may have signed in"
    await oauth.sign_out()
    with pytest.raises(NotSignedIn):
        await oauth.identify()


async def test_token_response_that_says_it(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    sandbox.options.token_response_overrides = {"workspace_name": "Engines", "workspace_id": "w"}
    assert (await sign_in(oauth)).workspace == "Engines"
    assert (await oauth.identify()).workspace_id == "w"
    assert asked(sandbox) == 0


async def test_server_that_fails(oauth: NotionOAuth, sandbox: Sandbox, settings: Settings) -> None:
    await sign_in(oauth)
    before = settings.token_file.read_bytes()
    sandbox.fail_next("/mcp", status=503)
    assert (await oauth.identify()).identity() == Identity().identity()
    sandbox.misbehave_next("/mcp", "hang")
    impatient = NotionOAuth(settings.model_copy(update={"timeout": 0.2}))
    with pytest.raises(TransientError):
        await impatient.identify()
    assert settings.token_file.read_bytes() == before


async def test_it_is_not_stored_with_the_next_login(
    oauth: NotionOAuth, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process signs in while the server answers."""
    await sign_in(oauth)
    identify = oauth.client.identify

    async def identify_then_sign_in(*arguments: object) -> Identity:
        found = await identify(*arguments)  # type: ignore[arg-type]
        later: TokenSet = await sign_in(NotionOAuth(settings))
        assert later.workspace is None
        return found

    monkeypatch.setattr(oauth.client, "identify", identify_then_sign_in)
    await oauth.identify()
    assert (await NotionOAuth(settings).tokens.stored()).workspace is None


async def test_request_that_may_still_arrive_stays_recorded(oauth: NotionOAuth, settings: Settings) -> None:
    """Saving a login ends the record of such a request, so it is not saved for this."""
    login = await sign_in(oauth)
    async with oauth.store.exclusive("default") as hold:
        await hold.reserve(login.refresh_token)
        hold.request_may_arrive()
    reserved = Path(f"{settings.token_file}.reserved")
    marker = reserved.read_bytes()
    assert (await oauth.identify()).workspace == WORKSPACE["name"]
    assert (await oauth.tokens.stored()).workspace is None
    assert reserved.read_bytes() == marker
