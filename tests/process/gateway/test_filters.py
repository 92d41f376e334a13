"""`--read-only`, `--allow-tool` and `--deny-tool`: what is not listed cannot be called, however it is asked for."""

from __future__ import annotations

import json

import pytest

from tests.process.gateway.connecting import Home
from tests.process.gateway.json_lines import META, failed, gateway
from tests.support.mcp_server import McpServer

pytestmark = [pytest.mark.slow, pytest.mark.anyio]
READ_ONLY = {"echo", "large"}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--read-only"], READ_ONLY),
        (["--allow-tool", "e*", "--allow-tool", "write"], {"echo", "elicit", "write"}),
        (["--allow-tool", "e*", "--deny-tool", "el*"], {"echo"}),
        (["--read-only", "--deny-tool", "large"], {"echo"}),
    ],
)
async def test_lists_and_calls_are_filtered_alike(
    options: list[str], kept: set[str], home: Home, server: McpServer
) -> None:
    await home.sign_in()
    with gateway(home, *options) as client:
        client.initialize()
        before_a_list = failed(client.call("write", word="before a list"))
        assert client.tools() == kept
        assert before_a_list == failed(client.call("write", word="after it")) == ("write" not in kept)
        assert not failed(client.call("echo", word="x"))
    assert bool(server.tools.written) == ("write" in kept)


async def test_without_sessions_the_filter_is_the_same(home: Home, server: McpServer) -> None:
    await home.sign_in()
    with gateway(home, "--read-only") as client:
        refused = client.request("tools/call", name="write", arguments={"word": "never"}, _meta=META)
        assert failed(refused)
        listed = client.request("tools/list", _meta=META)["result"]["tools"]
        assert {tool["name"] for tool in listed} == READ_ONLY
        assert not failed(client.request("tools/call", name="echo", arguments={"word": "x"}, _meta=META))
    assert server.tools.written == []


CALL = {"jsonrpc": "2.0", "id": 91, "method": "tools/call", "params": {"name": "write", "arguments": {"word": "never"}}}
TRICKS = {
    "a batch": json.dumps([CALL]),
    "an unknown method": json.dumps({**CALL, "method": "tools/run"}),
    "a duplicate name": json.dumps(CALL).replace('"name": "write"', '"name": "echo", "name": "write"'),
    "a duplicate name, the other way": json.dumps(CALL).replace('"name": "write"', '"name": "write", "name": "echo"'),
    "a duplicate method": json.dumps(CALL).replace('"method"', '"method": "tools/list", "method"'),
    "duplicate params": json.dumps(CALL)[:-1] + ', "params": {"name": "echo", "arguments": {}}}',
    "an escaped duplicate": json.dumps(CALL).replace('"name": "write"', r'"name": "echo", "n\u0061me": "write"'),
    "a name that is a list": json.dumps({**CALL, "params": {"name": ["write"], "arguments": {"word": "never"}}}),
    "a notification": json.dumps({name: value for name, value in CALL.items() if name != "id"}),
    "other letters": json.dumps({**CALL, "params": {"name": "WRITE", "arguments": {"word": "never"}}}),
    "a space": json.dumps({**CALL, "params": {"name": "write ", "arguments": {"word": "never"}}}),
    "not JSON": json.dumps(CALL) + "}",
    "a byte order mark": "\ufeff" + json.dumps(CALL),
}


@pytest.mark.parametrize("trick", TRICKS)
async def test_nothing_gets_around_the_filter(trick: str, home: Home, server: McpServer) -> None:
    await home.sign_in()
    with gateway(home, "--read-only") as client:
        client.initialize()
        server.requests.clear()
        client.send_text(TRICKS[trick])
        assert not failed(client.call("echo", word="x"))  # the session goes on
    assert server.tools.written == []
    assert [request.message["params"]["name"] for request in server.received("tools/call")] == ["echo"]


async def test_what_is_sent_on_is_serialised_anew(home: Home, server: McpServer) -> None:
    """So that no other reading of the same bytes reaches the server."""
    await home.sign_in()
    with gateway(home, "--read-only") as client:
        client.initialize()
        client.send_text(r'{"jsonrpc" : "2.0", "id":"\u0061", "method":"tools\/call",  "params": {"name":"\u0065cho"}}')
        assert not failed(client.call("echo", word="x"))
    first = server.received("tools/call")[0]
    assert b"\\" not in first.body
    assert first.message["id"] == "a"


async def test_without_a_filter_the_bytes_stay(home: Home, server: McpServer) -> None:
    await home.sign_in()
    message = '{ "jsonrpc": "2.0","method":"tools/call", "id":"\\u0061", "params":{"name":"echo","later":[1.50]} }'
    with gateway(home) as client:
        client.initialize()
        client.send_text(message)
        client.call("echo", word="x")
    assert message.encode() in [request.body for request in server.received("tools/call")]
