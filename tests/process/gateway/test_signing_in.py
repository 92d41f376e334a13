"""With nobody signed in, the gateway is a waiting room: it answers, says what to do, and goes on after the sign-in."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client
from mcp.client.subscriptions import ToolsListChanged

from notion_oauth.sandbox import Sandbox
from tests.process.gateway.connecting import Home, http_gateway, over_http, wait_until
from tests.process.gateway.json_lines import failed, gateway, text_of
from tests.process.gateway.test_transparent import words
from tests.support.mcp_server import McpServer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]
SIGN_IN = "notion-sign-in"
CHANGED = "notifications/tools/list_changed"
AT_ONCE = 2.0  # seconds; one on an idle machine


def test_three_clients_with_nobody_signed_in(home: Home, server: McpServer) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(gateway(home)) for _ in range(3)]
        for client in clients:
            assert SIGN_IN in client.initialize()["instructions"]
            started = time.monotonic()
            assert client.request("ping")["result"] == {}
            assert client.tools() == {SIGN_IN}
            refused = client.call("echo", word="x")
            assert failed(refused)
            assert SIGN_IN in text_of(refused)
            assert time.monotonic() - started < AT_ONCE
        assert home.tabs == []
        calls = [client.start("tools/call", name=SIGN_IN, arguments={}) for client in clients]
        for client, call in zip(clients, calls, strict=True):
            assert not failed(client.answer(call))
        wait_until(lambda: all(client.announced(CHANGED) for client in clients))
        for client in clients:
            assert {"echo", "write"} <= client.tools()
            assert text_of(client.call("echo", word="x")) == "x"
        assert len(home.tabs) == 1
    assert len(server.received("initialize")) == 3


async def test_three_clients_over_http_with_nobody_signed_in(home: Home, server: McpServer) -> None:
    changed: list[int] = []

    def noting(number: int) -> Any:
        async def note(message: Any) -> None:
            if getattr(message, "method", "") == CHANGED:
                changed.append(number)

        return note

    with http_gateway(home) as running:

        async def use(number: int) -> None:
            async with over_http(running.url, running.secret, "legacy", message_handler=noting(number)) as client:
                assert [tool.name for tool in (await client.list_tools()).tools] == [SIGN_IN]
                await client.call_tool(SIGN_IN)
                with anyio.fail_after(20):
                    while number not in changed:
                        await anyio.sleep(0.02)
                assert words(await client.call_tool("echo", {"word": "x"})) == "x"

        async with anyio.create_task_group() as clients:
            for number in range(3):
                clients.start_soon(use, number)
    assert len(home.tabs) == 1


def test_a_sign_in_by_another_way_opens_the_session(home: Home, server: McpServer) -> None:
    with gateway(home) as client:
        client.initialize()
        assert client.tools() == {SIGN_IN}
        assert home.run("login").returncode == 0
        wait_until(lambda: client.announced(CHANGED))
        assert text_of(client.call("echo", word="x")) == "x"


async def test_a_login_that_ends_in_mid_session(home: Home, server: McpServer, sandbox: Sandbox) -> None:
    await home.sign_in()
    with gateway(home) as client:
        client.initialize()
        tools = client.tools()
        sandbox.revoke_grants()
        refused = client.call("write", word="never")
        assert failed(refused)
        assert SIGN_IN in text_of(refused)
        assert client.tools() == {*tools, SIGN_IN}  # hosts that ignore list_changed keep them
        assert client.request("ping")["result"] == {}
        before = client.announced(CHANGED)
        assert home.run("login").returncode == 0
        wait_until(lambda: client.announced(CHANGED) > before)
        assert text_of(client.call("write", word="later")) == "1 written"
        assert client.tools() - {SIGN_IN} == tools
    assert server.tools.written == ["later"]


async def test_a_server_that_cannot_be_reached(home: Home, server: McpServer) -> None:
    await home.sign_in()
    server.stop()
    with gateway(home) as client:
        started = time.monotonic()
        client.initialize()
        client.request("tools/list")
        assert time.monotonic() - started < 9
        server.start()
        wait_until(lambda: client.announced(CHANGED), 40)
        assert text_of(client.call("echo", word="x")) == "x"


async def test_a_step_up_says_what_to_run(home: Home, server: McpServer) -> None:
    await home.sign_in()
    with gateway(home) as client:
        client.initialize()
        client.tools()
        server.require_scope_next("admin", on="tools/call")
        refused = client.call("write", word="never")
        assert failed(refused)
        assert "notion-oauth login" in text_of(refused)
        assert text_of(client.call("write", word="later")) == "1 written"


def test_an_address_is_elicited_from_a_client_that_can_show_it(home: Home, sandbox: Sandbox) -> None:
    with gateway(home) as client:
        client.initialize(elicitation={"url": {}})
        call = client.start("tools/call", name=SIGN_IN, arguments={})
        question = wait_until(lambda: [each for each in client.messages if each.get("method") == "elicitation/create"])
        assert question[0]["params"]["mode"] == "url"
        assert home.tabs == []
        client.send({"jsonrpc": "2.0", "id": question[0]["id"], "result": {"action": "accept"}})
        browser = httpx.Client(trust_env=False, follow_redirects=True)
        with browser:
            browser.get(question[0]["params"]["url"])
        assert not failed(client.answer(call))
        wait_until(lambda: client.announced(CHANGED))
        assert text_of(client.call("echo", word="x")) == "x"


def test_a_server_without_a_desktop_gives_the_address(home: Home, sandbox: Sandbox) -> None:
    home.variables = {"BROWSER": "", "DISPLAY": ""}
    with gateway(home) as client:
        client.initialize()
        shown = text_of(client.call(SIGN_IN))
        address = next(word for word in shown.replace("\n", " ").split() if word.startswith("http"))
        with httpx.Client(trust_env=False, follow_redirects=True) as browser:
            browser.get(address.rstrip("."))
        wait_until(lambda: client.announced(CHANGED))
        assert text_of(client.call("echo", word="x")) == "x"


async def test_a_client_without_sessions_waits_too(home: Home, server: McpServer) -> None:
    async with Client(home.stdio(), mode="2026-07-28") as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == [SIGN_IN]
        refused = await client.call_tool("echo", {"word": "x"})
        assert refused.is_error
        assert SIGN_IN in words(refused)
        async with client.listen(tools_list_changed=True) as changes:
            assert home.tabs == []
            await client.call_tool(SIGN_IN)
            with anyio.fail_after(20):
                assert await anext(changes) == ToolsListChanged()
                while words(await client.call_tool("echo", {"word": "x"})) != "x":
                    await anyio.sleep(0.1)
            assert {"echo", "write"} <= {tool.name for tool in (await client.list_tools()).tools}
            await client.call_tool("add_tool")
            with anyio.fail_after(20):
                assert await anext(changes) == ToolsListChanged()  # of the server itself, on the same stream
    assert len(home.tabs) == 1


async def test_a_client_that_asks_for_revisions_gets_those_of_the_server(home: Home, server: McpServer) -> None:
    """While the server is not known, it gets those with sessions, which it can use in any case."""
    async with Client(home.stdio(), mode="auto") as client:
        assert client.protocol_version == "2025-11-25"
    await home.sign_in()
    async with Client(home.stdio(), mode="auto") as client:
        assert client.protocol_version == "2026-07-28"
        assert words(await client.call_tool("echo", {"word": "x"})) == "x"
