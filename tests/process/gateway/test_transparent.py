"""Everything of MCP passes through the gateway, on both wires and both faces. `direct` shows that the test is right."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import mcp_types as types
import pytest
from mcp.client.subscriptions import ResourceUpdated, ToolsListChanged
from mcp.shared.inbound import (
    InboundModernRoute,
    classify_inbound_request,
    mcp_param_headers,
    validate_mcp_param_headers,
    x_mcp_header_map,
)

from tests.process.gateway.connecting import WIRES, Home, connect, http_gateway
from tests.support.mcp_server import NOTE, McpServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),  # of the older wire
]
ROUTES = ("direct", "stdio", "http")


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def words(result: types.CallToolResult) -> str:
    return " ".join(content.text for content in result.content if isinstance(content, types.TextContent))


async def elicit(_context: Any, _params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"word": "elicited"})


async def sample(_context: Any, _params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    return types.CreateMessageResult(
        role="assistant", content=types.TextContent(type="text", text="sampled"), model="a model"
    )


async def roots(_context: Any) -> types.ListRootsResult:
    return types.ListRootsResult(roots=[types.Root(uri="file:///a%20root")])


async def test_every_kind_of_message(route: str, wire: str, server: McpServer, home: Home) -> None:
    await home.sign_in()
    logged: list[Any] = []
    steps: list[Any] = []

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        logged.append(params.data)

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, total, message))

    callbacks = {
        "elicitation_callback": elicit,
        "sampling_callback": sample,
        "list_roots_callback": roots,
        "logging_callback": on_log,
        "log_level": "info",
    }
    async with connect(route, wire, server, home, **callbacks) as client:
        assert client.protocol_version == ("2025-11-25" if wire == "legacy" else wire)
        assert {"echo", "write", "wait"} <= {tool.name for tool in (await client.list_tools()).tools}
        assert words(await client.call_tool("echo", {"word": "größe ✓\u2028"})) == "größe ✓\u2028"
        assert words(await client.call_tool("progress", progress_callback=on_progress)) == "done"
        assert steps == [(1, 3, "step 1"), (2, 3, "step 2"), (3, 3, "step 3")]
        assert words(await client.call_tool("log")) == "done"
        assert logged == ["a log message"]
        assert words(await client.call_tool("elicit")) == "elicited"
        assert words(await client.call_tool("sample")) == "sampled"
        assert words(await client.call_tool("roots")) == "file:///a%20root"
        assert len(words(await client.call_tool("large", {"size": 5_000_000}))) == 5_000_000
        assert words(await client.call_tool("echo", {"word": "x" * 5_000_000})) == "x" * 5_000_000
        assert (await client.list_resources()).resources[0].uri == NOTE
        [note] = (await client.read_resource(NOTE)).contents
        assert isinstance(note, types.TextResourceContents)
        assert note.text == "A note."
        assert (await client.get_prompt("grüße")).messages[0].content == types.TextContent(type="text", text="grüße")
        assert (await client.call_tool("no such tool")).is_error
    assert not server.tools.written


async def test_changes_are_announced(route: str, wire: str, server: McpServer, home: Home) -> None:
    await home.sign_in()
    announced: list[str] = []

    async def on_message(message: Any) -> None:
        announced.append(message.method)

    async with connect(route, wire, server, home, message_handler=on_message) as client:
        if wire == "legacy":
            await client.subscribe_resource(NOTE)
            with anyio.fail_after(10):
                while len(announced) < 2:  # until the stream for announcements is open, they are lost
                    await client.call_tool("add_tool")
                    await client.call_tool("touch")
                    await anyio.sleep(0.05)
            assert set(announced) == {"notifications/tools/list_changed", "notifications/resources/updated"}
            await client.unsubscribe_resource(NOTE)
        else:
            async with client.listen(tools_list_changed=True, resource_subscriptions=[NOTE]) as changes:
                await client.call_tool("add_tool")
                await client.call_tool("touch")
                with anyio.fail_after(10):
                    assert [await anext(changes), await anext(changes)] == [
                        ToolsListChanged(),
                        ResourceUpdated(uri=NOTE),
                    ]
        names = [tool.name for tool in (await client.list_tools()).tools]
        assert [name for name in names if name.startswith("added")]


async def test_cancelling_reaches_the_server(route: str, wire: str, server: McpServer, home: Home) -> None:
    await home.sign_in()
    async with connect(route, wire, server, home) as client:
        async with anyio.create_task_group() as calls:
            calls.start_soon(client.call_tool, "wait")
            assert await anyio.to_thread.run_sync(server.tools.waiting.wait, 10)
            calls.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(server.tools.cancelled.wait, 10)
        assert words(await client.call_tool("echo", {"word": "x"})) == "x"


async def test_a_stream_is_resumed(route: str, server: McpServer, home: Home) -> None:
    """Once the server ended it, and once the connection broke."""
    await home.sign_in()
    async with connect(route, "legacy", server, home) as client:
        assert words(await client.call_tool("poll")) == "resumed"
        server.cut_next("within", on="tools/call")
        assert words(await client.call_tool("write", {"word": "once"})) == "1 written"
    assert server.tools.written == ["once"]
    assert [request for request in server.received("GET") if "last-event-id" in request.headers]


async def test_a_client_that_lost_its_connection_resumes(server: McpServer, home: Home) -> None:
    """Over HTTP: the ids of events are the server's."""
    await home.sign_in()
    with http_gateway(home) as gateway:
        async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
            http.headers = httpx.Headers(
                {
                    "authorization": f"Bearer {gateway.secret}",
                    "accept": "application/json, text/event-stream",
                    "mcp-protocol-version": "2025-11-25",
                }
            )
            info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
            begun = await http.post(gateway.url, json=message("initialize", 1, info))
            http.headers["mcp-session-id"] = begun.headers["mcp-session-id"]
            await http.post(gateway.url, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
            call = message("tools/call", 2, {"name": "wait", "arguments": {}})
            async with http.stream("POST", gateway.url, json=call) as response:
                lines = response.aiter_lines()
                while not (line := await anext(lines)).startswith("id:"):
                    pass
            server.tools.release.set()
            last_id = line.removeprefix("id:").strip()
            async with http.stream("GET", gateway.url, headers={"last-event-id": last_id}) as resumed:
                lines = resumed.aiter_lines()
                while not (line := await anext(lines)).startswith("data: {"):
                    pass
            assert '"done"' in line
    assert not server.tools.cancelled.is_set()


def message(method: str, number: int, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"region": "eu", "count": 42, "urgent": True, "filter": {"label": "a label"}},
    {"region": "größe ✓", "count": -1, "urgent": False, "filter": {}},
    {"region": " spaces around ", "count": 2**53, "filter": {"label": "two\nlines"}},
    {"region": "=?base64?Zm9v?=", "filter": {"label": ""}},
    {"region": None, "count": 0, "urgent": None, "filter": None},
    {"region": "a\ttab", "filter": {"label": "\u007f"}},
]


async def test_headers_follow_from_the_body(route: str, server: McpServer, home: Home) -> None:
    """By the rules of the SDK, which are those of 2026-07-28."""
    await home.sign_in()
    server.requests.clear()
    async with connect(route, "2026-07-28", server, home) as client:
        schemas = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
        for arguments in ARGUMENTS:
            await client.call_tool("echo", arguments)
        await client.get_prompt("grüße")
        await client.read_resource(NOTE)
    for request in server.received("tools/call"):
        expected = mcp_param_headers(x_mcp_header_map(schemas["echo"]), request.message["params"]["arguments"])
        sent = {name: value for name, value in request.headers.items() if name.startswith("mcp-param-")}
        assert sent == {name.lower(): value for name, value in expected.items()}
        assert validate_mcp_param_headers(schemas["echo"], request.message["params"]["arguments"], sent) is None
    for request in server.requests:
        if request.message is not None:
            assert isinstance(classify_inbound_request(request.message, headers=request.headers), InboundModernRoute)
            assert request.status == 200
