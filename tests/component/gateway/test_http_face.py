"""What clients get over HTTP from the gateway."""

from __future__ import annotations

import random
import string

import anyio
import pytest

from notion_oauth import create_gateway
from notion_oauth.gateway.tools import ToolFilter
from notion_oauth.service import NotionOAuth
from tests.component.gateway.talking import INITIALIZE, bearer, call, client_of, request
from tests.support.mcp_server import McpServer

pytestmark = pytest.mark.anyio


def initialize(icon: str) -> dict[str, object]:
    """As of a client that sends its icon (2025-11-25)."""
    params = INITIALIZE["params"]
    assert isinstance(params, dict)
    info = {"name": "a client", "version": "1", "icons": [{"src": f"data:image/png;base64,{icon}"}]}
    return {**INITIALIZE, "params": {**params, "clientInfo": info}}


async def test_the_id_of_a_session_fits_into_a_header(oauth: NotionOAuth, server: McpServer) -> None:
    """Node's clients accept 16 KiB of headers; uvicorn accepts 64 KiB."""
    icon = "".join(random.Random(1).choices(string.ascii_letters, k=20_000))  # noqa: S311
    async with client_of(create_gateway(oauth), bearer(oauth.settings)) as client:
        response = await client.post(initialize(icon))
    assert len(response.headers.get("mcp-session-id", "")) < 8000


async def test_a_session_with_a_large_initialize_continues_after_a_restart(
    oauth: NotionOAuth, server: McpServer
) -> None:
    async with client_of(create_gateway(oauth), bearer(oauth.settings)) as client:
        session = (await client.post(initialize("A" * 70_000))).headers["mcp-session-id"]
    async with client_of(create_gateway(oauth), bearer(oauth.settings)) as client:
        client.session = session
        response = await client.post(request("tools/list"))
    assert response.status_code in (200, 404), response.text


@pytest.mark.parametrize("host", ["[", "[::1", "127.0.0.1]:1"])
async def test_a_host_that_is_no_host_is_refused(oauth: NotionOAuth, server: McpServer, host: str) -> None:
    async with client_of(create_gateway(oauth), bearer(oauth.settings)) as client:
        assert (await client.post(INITIALIZE, Host=host)).status_code in (400, 421)


async def test_the_scheme_of_the_secret_is_read_in_any_case(oauth: NotionOAuth, server: McpServer) -> None:
    """RFC 9110 §11.1."""
    secret = bearer(oauth.settings)["Authorization"].partition(" ")[2]
    async with client_of(create_gateway(oauth)) as client:
        assert (await client.post(INITIALIZE, Authorization=f"bearer {secret}")).status_code == 200


async def test_an_id_that_is_not_json_is_refused(oauth: NotionOAuth, signed_out: NotionOAuth) -> None:
    async with client_of(create_gateway(oauth, profile="nobody"), bearer(oauth.settings)) as client:
        response = await client.post(b'{"jsonrpc":"2.0","id":NaN,"method":"tools/list"}')
    assert response.status_code in (200, 400)


@pytest.mark.parametrize(
    "arguments",
    [
        {"properties": {"Name": "a", "name": "b"}},  # two properties of a Notion database
        {"replacements": {"ß": "a", "ss": "b"}},
    ],
)
async def test_with_a_filter_keys_of_arguments_may_differ_in_case(
    oauth: NotionOAuth, server: McpServer, arguments: dict[str, object]
) -> None:
    app = create_gateway(oauth, tool_filter=ToolFilter(deny=["delete*"]))
    async with client_of(app, bearer(oauth.settings)) as client:
        await client.begin()
        response = await client.post(call("echo", word="a", **arguments))
    assert response.status_code == 200, response.text


async def test_a_refused_message_is_refused_with_its_id(oauth: NotionOAuth, server: McpServer) -> None:
    """On standard output, the client else waits for an answer until its time-out."""
    app = create_gateway(oauth, tool_filter=ToolFilter(deny=["delete*"]))
    async with client_of(app, bearer(oauth.settings)) as client:
        await client.begin()
        response = await client.post(b'{"jsonrpc":"2.0","id":7,"method":"ping","trace":1}')
    assert response.json()["id"] == 7


async def test_a_client_that_ends_within_its_body_causes_no_exception(oauth: NotionOAuth) -> None:
    app = create_gateway(oauth)
    sent: list[object] = []
    parts = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]

    async def receive() -> object:
        return parts.pop(0)

    async def send(message: object) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"authorization", bearer(oauth.settings)["Authorization"].encode())]
    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": headers, "query_string": b""}
    await app(scope, receive, send)  # type: ignore[arg-type]
    await app.aclose()


async def test_a_session_that_was_ended_is_not_begun_again_by_its_open_stream(
    oauth: NotionOAuth, server: McpServer
) -> None:
    async with client_of(create_gateway(oauth), bearer(oauth.settings)) as client, anyio.create_task_group() as tasks:
        await client.begin()
        headers = {"mcp-session-id": str(client.session)}

        async def listen() -> None:
            await client.http.get("http://127.0.0.1:8765/mcp", headers=headers)

        tasks.start_soon(listen)
        while not server.received("GET"):
            await anyio.sleep(0.01)
        await anyio.sleep(0.2)
        await client.http.delete("http://127.0.0.1:8765/mcp", headers=headers)
        await anyio.sleep(3)
        tasks.cancel_scope.cancel()
    assert len(server.received("initialize")) == 1
