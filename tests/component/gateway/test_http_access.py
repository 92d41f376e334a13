"""Who may use the gateway over HTTP, and what reaches the server of a request."""

from __future__ import annotations

import pytest
from fastapi import Request
from pydantic import SecretStr

from notion_oauth import create_app, create_gateway
from notion_oauth.errors import ConfigurationError
from notion_oauth.gateway.http import MAX_BODY
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.component.gateway.talking import INITIALIZE, URL, bearer, call, client_of, request
from tests.support.mcp_server import McpServer
from tests.support.signing_in import sign_in

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Authorization": "Bearer wrong"}, 403),
        ({"Host": "notion.example"}, 421),
        ({"Host": "127.0.0.1.example"}, 421),
        ({"Origin": "https://other.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_other_requests_are_refused(
    oauth: NotionOAuth, server: McpServer, headers: dict[str, str], status: int
) -> None:
    allowed = {} if "Authorization" in headers or not headers else bearer(oauth.settings)
    async with client_of(create_gateway(oauth, allow_origins=["https://app.example"]), allowed) as client:
        assert (await client.post(INITIALIZE, **headers)).status_code == status
    assert server.received("initialize") == []


async def test_no_request_is_answered_with_401(signed_out: NotionOAuth) -> None:
    """Clients would begin a sign-in of their own, at the gateway."""
    async with client_of(create_gateway(signed_out), bearer(signed_out.settings)) as client:
        assert (await client.post(request("tools/list"))).status_code == 200
        del client.http.headers["Authorization"]
        assert (await client.post(INITIALIZE)).status_code == 403


async def test_pages_of_an_allowed_origin_may_read_responses(oauth: NotionOAuth) -> None:
    app = create_gateway(oauth, allow_origins=["https://app.example"])
    async with client_of(app) as client:
        preflight = await client.http.options(URL, headers={"Origin": "https://app.example"})
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (204, "https://app.example")
        answered = await client.post(INITIALIZE, **bearer(oauth.settings), Origin="https://app.example")
        assert answered.headers["access-control-allow-origin"] == "https://app.example"
        other = await client.http.options(URL, headers={"Origin": "https://other.example"})
        assert (other.status_code, other.headers.get("access-control-allow-origin")) == (403, None)


async def test_further_hosts_can_be_allowed(oauth: NotionOAuth) -> None:
    async with client_of(create_gateway(oauth, allow_hosts=["box.local"]), bearer(oauth.settings)) as client:
        assert (await client.post(INITIALIZE, Host="BOX.local:8765")).status_code == 200


async def test_what_the_client_sends_for_the_gateway_stays_there(oauth: NotionOAuth, server: McpServer) -> None:
    async with client_of(create_gateway(oauth), bearer(oauth.settings)) as client:
        await client.post(INITIALIZE, Cookie="a=b", Forwarded="for=1.2.3.4")
    headers = server.received("initialize")[0].headers
    token = (await oauth.tokens.token()).get_secret_value()
    assert (headers["authorization"], headers["host"]) == (f"Bearer {token}", server.url.split("/")[2])
    assert not {"cookie", "origin", "forwarded"} & headers.keys()


async def test_a_message_that_is_too_large_or_no_message_is_refused(oauth: NotionOAuth) -> None:
    async with client_of(create_gateway(oauth), bearer(oauth.settings)) as client:
        assert (await client.post(b" " * (MAX_BODY + 1))).status_code == 413
        for body, code in ((b"{", -32700), (b"[]", -32600), (b"3", -32600)):
            response = await client.post(body)
            assert (response.status_code, response.json()["error"]["code"]) == (400, code)
        assert (await client.http.put(URL)).status_code == 405
        assert (await client.http.get(URL)).status_code == 405  # a stream belongs to a session


def user(request: Request) -> str | None:
    return request.headers.get("x-user")


async def test_a_session_belongs_to_its_user(oauth: NotionOAuth, server: McpServer) -> None:
    app = create_gateway(oauth, profile=user)
    await sign_in(oauth.for_profile("ada"))
    await sign_in(oauth.for_profile("bob"))
    async with client_of(app) as client:
        assert (await client.post(INITIALIZE)).status_code == 403
        client.http.headers["X-User"] = "ada"
        await client.begin()
        assert (await client.tools()) >= {"echo"}
        client.http.headers["X-User"] = "bob"
        assert (await client.post(request("tools/list"))).status_code == 404
        client.http.headers["X-User"] = "ada"
        client.session = f"{client.session}A"
        assert (await client.post(request("tools/list"))).status_code == 404


async def test_a_session_continues_after_a_restart(oauth: NotionOAuth, server: McpServer) -> None:
    async with client_of(create_gateway(oauth), bearer(oauth.settings)) as client:
        await client.begin()
        session = client.session
    async with client_of(create_gateway(oauth), bearer(oauth.settings)) as client:
        client.session = session
        assert (await client.send(call("echo", word="again")))["result"]["content"][0]["text"] == "again"
    assert len(server.received("initialize")) == 1
    assert len({request.headers.get("mcp-session-id") for request in server.received("tools/call")}) == 1


async def test_clients_that_begin_alike_have_sessions_of_their_own(settings: Settings) -> None:
    """With nobody signed in, no id of the server makes them different."""
    async with client_of(create_gateway(NotionOAuth(settings)), bearer(settings)) as client:
        await client.begin()
        first, client.session = client.session, None
        await client.begin()
        assert client.session != first


async def test_a_connection_is_used_again(oauth: NotionOAuth, server: McpServer) -> None:
    """Although the response is a stream, whose last event is not its end."""
    async with client_of(create_gateway(oauth), bearer(oauth.settings)) as client:
        await client.begin()
        for _ in range(3):
            await client.send(call("echo", word="x"))
    assert len({request.connection for request in server.received("tools/call")}) == 1


async def test_an_ended_session_is_not_continued(oauth: NotionOAuth, server: McpServer) -> None:
    async with client_of(create_gateway(oauth), bearer(oauth.settings)) as client:
        await client.begin()
        ended = await client.http.delete(URL, headers={"mcp-session-id": str(client.session)})
        assert ended.status_code == 204
        assert len(server.received("DELETE")) == 1
        assert (await client.post(INITIALIZE)).status_code == 404


async def test_the_service_has_the_gateway_only_if_it_is_set(oauth: NotionOAuth) -> None:
    settings = oauth.settings
    async with client_of(create_app(settings), bearer(settings)) as client:
        assert (await client.post(INITIALIZE)).status_code == 404
    async with client_of(create_app(settings.model_copy(update={"gateway": True})), bearer(settings)) as client:
        assert (await client.post(INITIALIZE)).status_code == 200
        assert (await client.http.get("http://127.0.0.1:8765/.well-known/oauth-protected-resource")).status_code == 404


async def test_the_gateway_of_an_operator_asks_for_the_operator_s_secret(oauth: NotionOAuth) -> None:
    secret = "an operator's secret, long enough"
    changes = {"gateway": True, "operator_secret": SecretStr(secret)}
    app = create_app(oauth.settings.model_copy(update=changes))
    async with client_of(app, bearer(oauth.settings)) as client:
        assert (await client.post(INITIALIZE)).status_code == 403
        answer = await client.post(INITIALIZE, Authorization=f"Bearer {secret}")
        assert answer.status_code == 200


def test_a_service_with_a_login_for_each_visitor_has_no_gateway(settings: Settings) -> None:
    public = settings.model_copy(
        update={"gateway": True, "public_url": "https://notion.example", "secret_key": SecretStr("k" * 64)}
    )
    with pytest.raises(ConfigurationError, match="each visitor"):
        create_app(public)


async def test_the_page_of_the_service_is_where_users_sign_in(signed_out: NotionOAuth) -> None:
    app = create_app(signed_out.settings.model_copy(update={"gateway": True}))
    async with client_of(app, bearer(signed_out.settings)) as client:
        await client.begin()
        answer = await client.send(call("notion-sign-in"))
    assert "http://127.0.0.1:8765/" in answer["result"]["content"][0]["text"]
