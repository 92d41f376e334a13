"""Servers that have forgotten a client, and say so in their own words: the sign-in registers a new one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from notion_oauth.errors import ConfigurationError, OAuthError, RegistrationRefused
from notion_oauth.models import ClientInformation, Registration
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.protocol.registration import PROBE_CODE
from notion_oauth.sandbox import RecordedRequest, Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.support.signing_in import REDIRECT_URI, begin, sign_in

pytestmark = pytest.mark.anyio
Answer = tuple[int, dict[str, Any] | str]
WORDS: dict[str, Answer] = {
    "RFC 6749": (400, {"error": "invalid_client"}),
    "MCP SDK": (401, {"error": "unauthorized_client", "error_description": "Invalid client_id"}),
    "with status 400": (400, {"error": "unauthorized_client"}),
    "an API": (401, {"message": "Unauthorized"}),
    "a page": (401, "<html>Unauthorized"),
    "MCP SDK at /authorize": (400, {"error": "invalid_request", "error_description": "Client ID 'x' not found"}),
    "invalid_request": (400, {"error": "invalid_request"}),
    "not found": (404, {"message": "Client not found"}),
    "not found, a page": (404, "<html>"),
    "Supabase": (422, {"message": "Unrecognized client_id"}),
    "FastAPI": (403, {"detail": "Unknown client"}),
}
KNOWN: dict[str, Answer] = {
    "RFC 6749": (400, {"error": "invalid_grant"}),
    "with status 401": (401, {"error": "invalid_grant", "error_description": "for this client"}),
    "another code": (400, {"error": "unsupported_grant_type"}),
    "busy": (429, {"error": "invalid_client"}),
    "failing": (500, {"error": "invalid_client"}),
    "a firewall": (403, "<html>Forbidden"),
    "an object": (400, {"error": {"message": "no such code"}}),
}


class Server:
    """Lets the practice server answer the check of these clients with other words; all others are unknown to it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.answers: dict[str, Answer] = {}
        self.other: Answer | None = None  # about any other client
        sandbox.observe(on_arrival=self._on_arrival)

    def _on_arrival(self, request: RecordedRequest) -> None:
        if request.path != "/token" or request.form.get("code") != PROBE_CODE:
            return
        answer = self.answers.get(request.form["client_id"], self.other)
        if answer is not None:
            status, content = answer
            body = content if isinstance(content, str) else json.dumps(content)
            kind = "text/html" if isinstance(content, str) else "application/json"
            self.sandbox.fail_next("/token", status=status, body=body, content_type=kind)

    def forgets(self, client: ClientInformation | None, answer: Answer) -> None:
        """Forget the client. Any client that is registered later is known."""
        assert client is not None
        self.answers = {client.client_id: answer, PROBE_CODE: answer}


@pytest.fixture
def server(sandbox: Sandbox) -> Server:
    return Server(sandbox)


def clients(registrations: tuple[Registration, ...]) -> list[str]:
    return [each.client.client_id for each in registrations]


@pytest.mark.parametrize("answer", WORDS.values(), ids=WORDS)
async def test_new_client_is_registered(oauth: NotionOAuth, server: Server, sandbox: Sandbox, answer: Answer) -> None:
    first = await sign_in(oauth)
    server.forgets(first.client, answer)
    second = await sign_in(oauth)
    assert second.client != first.client
    assert second.client is not None
    assert (await sign_in(oauth)).client == second.client, "the new one is used from then on"
    assert len(sandbox.requests_to("/register")) == 2
    assert clients(await oauth.store.load_registrations("default")) == [second.client.client_id]


@pytest.mark.parametrize("answer", KNOWN.values(), ids=KNOWN)
async def test_other_answers_register_no_client(
    oauth: NotionOAuth, server: Server, sandbox: Sandbox, answer: Answer
) -> None:
    first = await sign_in(oauth)
    server.forgets(first.client, answer)
    assert (await sign_in(oauth)).client == first.client
    assert len(sandbox.requests_to("/register")) == 1


@pytest.mark.parametrize("words", ["invalid_request", "Supabase", "not found"])
async def test_doubtful_answer_is_compared_with_that_about_an_unregistered_client(
    oauth: NotionOAuth, server: Server, sandbox: Sandbox, words: str
) -> None:
    """A server may answer so about the code that it does not know, and differently about a client."""
    first = await sign_in(oauth)
    server.forgets(first.client, WORDS[words])
    server.answers[PROBE_CODE] = (401, {"error": "invalid_client"})
    assert (await sign_in(oauth)).client == first.client
    assert len(sandbox.requests_to("/register")) == 1


@pytest.mark.parametrize("words", ["RFC 6749", "MCP SDK", "invalid_request"])
async def test_refusal_that_is_not_repeated_registers_no_client(
    oauth: NotionOAuth, sandbox: Sandbox, words: str
) -> None:
    first = await sign_in(oauth)
    status, content = WORDS[words]
    sandbox.fail_next("/token", status=status, body=json.dumps(content), content_type="application/json")
    assert (await sign_in(oauth)).client == first.client
    assert len(sandbox.requests_to("/register")) == 1


async def test_login_and_registration_stay_until_the_new_sign_in_is_complete(
    oauth: NotionOAuth, server: Server, sandbox: Sandbox
) -> None:
    first = await sign_in(oauth)
    assert first.client is not None
    server.forgets(first.client, WORDS["MCP SDK"])
    pending, query = await begin(oauth)
    new = pending.client.client_id
    assert clients(await oauth.store.load_registrations("default")) == [first.client.client_id, new]
    assert (await begin(oauth))[0].client.client_id == new, "no third client is registered"
    assert (await oauth.refresh()).client == first.client
    await oauth.complete_authorization(pending, parse_authorization_response(query.multi_items()))
    assert clients(await oauth.store.load_registrations("default")) == [new]
    assert len(sandbox.requests_to("/register")) == 2


async def test_old_registration_is_used_again_if_the_server_remembers_it(oauth: NotionOAuth, server: Server) -> None:
    first = await sign_in(oauth)
    server.forgets(first.client, WORDS["MCP SDK"])
    await begin(oauth)
    server.answers.clear()
    assert (await sign_in(oauth)).client == first.client


async def test_new_client_on_request(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    first = await sign_in(oauth)
    started = await oauth.begin_authorization(REDIRECT_URI, new_client=True)
    assert started.pending.client != first.client
    assert (await sign_in(oauth)).client == first.client, "that sign-in was not completed"
    assert len(sandbox.requests_to("/register")) == 2


async def test_no_new_client_in_place_of_a_configured_one(settings: Settings, sandbox: Sandbox) -> None:
    oauth = NotionOAuth(settings.model_copy(update={"client_id": "mine"}))
    with pytest.raises(ConfigurationError, match="No new client") as caught:
        await oauth.begin_authorization(REDIRECT_URI, new_client=True)
    assert "NOTION_OAUTH_CLIENT_ID" in str(caught.value.hint)
    assert not sandbox.requests_to("/register")


@pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client"])
@pytest.mark.parametrize("where", ["redirect", "exchange"])
@pytest.mark.parametrize("profile", ["default", "work"])
async def test_refused_client_leaves_the_login_and_names_the_way_out(
    settings: Settings, sandbox: Sandbox, error: str, where: str, profile: str
) -> None:
    oauth = NotionOAuth(settings, profile=profile)
    login = await sign_in(oauth)
    pending, query = await begin(oauth)
    response = parse_authorization_response(query.multi_items())
    if where == "redirect":
        response = response.model_copy(update={"code": None, "error": error})
    else:
        sandbox.fail_next("/token", status=401, error=error)
    with pytest.raises(OAuthError) as caught:
        await oauth.complete_authorization(pending, response)
    assert "notion-oauth login" in str(caught.value.hint)
    assert "--new-client" in str(caught.value.hint)
    assert ("--profile work" in str(caught.value.hint)) is (profile == "work")
    assert await oauth.tokens.token() == login.access_token


@pytest.mark.parametrize(
    ("error", "description"),
    [("invalid_client_metadata", "Requested scopes are not valid: default"), ("invalid_scope", None)],
)
async def test_registration_is_repeated_without_a_refused_scope(
    oauth: NotionOAuth, sandbox: Sandbox, error: str, description: str | None
) -> None:
    sandbox.fail_next("/register", status=400, error=error, description=description)
    assert (await sign_in(oauth)).scope == "default"
    assert [(sent.json or {}).get("scope") for sent in sandbox.requests_to("/register")] == ["default", None]
    await sign_in(oauth)
    assert len(sandbox.requests_to("/register")) == 2, "it is used again"
    sandbox.fail_next("/register", status=400, error=error, description=description, times=2)
    with pytest.raises(RegistrationRefused):
        await begin(oauth, "http://127.0.0.1:4444/callback")
