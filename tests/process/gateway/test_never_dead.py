"""Whatever fails between the gateway and the server, the client's session goes on, and nothing is done twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Literal

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from notion_oauth.sandbox import Sandbox
from tests.process.gateway.connecting import WIRES, Home, connect
from tests.process.gateway.test_transparent import words
from tests.support.mcp_server import McpServer, serve_protected_mcp

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]
FACES = ("stdio", "http")
DOUBT = "may have been done"


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def write(client: Client, word: str) -> str:
    """The result's text, or the error's."""
    try:
        return words(await client.call_tool("write", {"word": word}))
    except MCPError as error:
        return str(error)


async def test_a_lost_session_is_begun_again_once_for_all(face: str, server: McpServer, home: Home) -> None:
    await home.sign_in()
    async with connect(face, "legacy", server, home) as client:
        await client.list_tools()
        [first] = server.received("initialize")
        for _ in range(2):
            server.requests.clear()
            server.forget_sessions()
            async with anyio.create_task_group() as calls:
                for number in range(5):
                    calls.start_soon(write, client, str(number))
            [again] = server.received("initialize")
            assert again.message["params"] == first.message["params"]
            assert len(server.received("notifications/initialized")) == 1
    assert sorted(server.tools.written) == sorted("0123401234")


async def test_a_server_that_restarts_is_waited_for(face: str, wire: str, server: McpServer, home: Home) -> None:
    await home.sign_in()
    async with connect(face, wire, server, home) as client:
        await client.list_tools()
        server.stop()
        threading.Timer(2, server.start).start()
        assert await write(client, "once") == "1 written"
        assert words(await client.call_tool("echo", {"word": "x"})) == "x"
    assert server.tools.written == ["once"]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_server_is_asked_again_when_it_says(
    status: int, face: str, wire: str, server: McpServer, home: Home
) -> None:
    await home.sign_in()
    async with connect(face, wire, server, home) as client:
        await client.list_tools()
        server.answer_next(status, on="tools/call", headers={"Retry-After": "1"})
        server.answer_next(status, on="tools/call")
        with anyio.fail_after(15):
            started = anyio.current_time()
            assert await write(client, "once") == "1 written"
        assert anyio.current_time() - started > 1
    assert len(server.received("tools/call")) == 3


async def test_a_rejected_token_is_refreshed(
    face: str, wire: str, server: McpServer, sandbox: Sandbox, home: Home
) -> None:
    await home.sign_in()
    async with connect(face, wire, server, home) as client:
        await client.list_tools()
        sandbox.expire_access_tokens()
        async with anyio.create_task_group() as calls:
            for number in range(5):
                calls.start_soon(write, client, str(number))
    assert sorted(server.tools.written) == list("01234")
    assert len([each for each in sandbox.requests_to("/token") if "refresh_token" in each.form]) == 1


@pytest.mark.parametrize("status", [502, 504])
async def test_a_failing_proxy_is_asked_again_for_reads_alone(
    status: int, face: str, wire: str, server: McpServer, home: Home
) -> None:
    await home.sign_in()
    async with connect(face, wire, server, home) as client:
        await client.list_tools()
        server.answer_next(status, on="tools/call")
        assert words(await client.call_tool("echo", {"word": "x"})) == "x"
        server.answer_next(status, on="tools/call")
        assert DOUBT in await write(client, "never")
        assert await write(client, "later") == "1 written"
    assert server.tools.written == ["later"]


@pytest.fixture
def without_resumption(home: Home, sandbox: Sandbox) -> Iterator[McpServer]:
    """A server that stores no events."""
    with serve_protected_mcp(json_response=True) as (server, _):
        home.server_url = server.url
        yield server


@pytest.mark.parametrize("when", ["before", "after", "within"])
async def test_what_may_have_been_done_is_not_sent_twice(
    when: Literal["before", "after", "within"], face: str, wire: str, without_resumption: McpServer, home: Home
) -> None:
    await home.sign_in()
    server = without_resumption
    async with connect(face, wire, server, home) as client:
        await client.list_tools()
        server.cut_next(when, on="tools/call")
        assert words(await client.call_tool("echo", {"word": "x"})) == "x"
        server.cut_next(when, on="tools/call")
        assert DOUBT in await write(client, "first")
        server.requests.clear()
        assert "written" in await write(client, "second")
        assert len(server.received("tools/call")) == 1
    assert server.tools.written == (["second"] if when == "before" else ["first", "second"])


async def test_a_redirect_to_another_origin_is_not_followed(
    face: str, wire: str, server: McpServer, home: Home
) -> None:
    await home.sign_in()
    async with connect(face, wire, server, home, read_timeout_seconds=60) as client:
        await client.list_tools()
        with serve_protected_mcp() as (other, _):
            server.answer_next(307, on="tools/call", times=100, headers={"Location": other.url})
            assert "redirect" in await write(client, "never")
            assert other.requests == []
