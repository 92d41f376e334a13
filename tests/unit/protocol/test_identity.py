"""Who has signed in, as token responses and MCP servers of several revisions say it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from notion_oauth.models import Identity
from notion_oauth.protocol.identity import identity_in_token_response, identity_requests
from notion_oauth.protocol.messages import MAX_NAME, Request, Response
from notion_oauth.sandbox.mcp import PERSON, TOOL, WORKSPACE

URL = "https://mcp.notion.com/mcp"
TOKEN = "made-up-access-token"
SELF = {"self": {"workspace": WORKSPACE, "user": PERSON}}
KNOWN = Identity(
    workspace=WORKSPACE["name"],
    workspace_id=WORKSPACE["id"],
    user=PERSON["name"],
    user_id=PERSON["id"],
    email=PERSON["email"],
)
Results = Mapping[str, Any]
STATELESS: Results = {
    "tools/list": {"tools": [TOOL]},
    "tools/call": {"content": [{"type": "text", "text": json.dumps(SELF)}]},
}


def as_json(message: Any) -> Response:
    return Response(200, URL, {"content-type": "application/json"}, json.dumps(message).encode())


def as_events(message: Any) -> Response:
    """A stream with a comment, another message, and data on two lines."""
    lines = json.dumps(message, indent=0).splitlines()
    data = "\r\n".join(f"data: {line}" for line in lines)
    other = json.dumps({"jsonrpc": "2.0", "method": "notifications/message"})
    body = f": hello\r\n\r\nid: 1\r\ndata:\r\n\r\ndata: {other}\r\n\r\nevent: message\r\n{data}\r\n\r\n"
    return Response(200, URL, {"content-type": "text/event-stream; charset=utf-8"}, body.encode())


class Server:
    """An MCP server with these results by method. With `session`, it refuses messages outside of its session."""

    def __init__(
        self, results: Results, *, encode: Callable[[Any], Response] = as_json, session: str | None = None
    ) -> None:
        self.results, self._encode, self._session = results, encode, session
        self.requests: list[Request] = []

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        message = dict(request.json or {})
        method = str(message.get("method"))
        if self._session is not None:
            if method == "initialize":
                result = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {}}
                answer = self._encode({"jsonrpc": "2.0", "id": message["id"], "result": result})
                return Response(200, URL, {**answer.headers, "mcp-session-id": self._session}, answer.body)
            if request.headers.get("Mcp-Session-Id") != self._session:
                return Response(400, URL, {"content-type": "application/json"}, b'{"error": "no session"}')
            assert request.headers["MCP-Protocol-Version"] == "2025-06-18"
        if "id" not in message:
            return Response(202, URL)
        if method in self.results:
            return self._encode({"jsonrpc": "2.0", "id": message["id"], "result": self.results[method]})
        return self._encode({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "?"}})

    def methods(self) -> list[str]:
        return [(request.json or {}).get("method", request.method) for request in self.requests]


def ask(answer: Callable[[Request], Response]) -> Identity:
    steps = identity_requests(URL, TOKEN)
    request = next(steps)
    while True:
        try:
            request = steps.send(answer(request))
        except StopIteration as done:
            found: Identity = done.value
            return found


@pytest.mark.parametrize("encode", [as_json, as_events])
def test_server_without_sessions(encode: Callable[[Any], Response]) -> None:
    server = Server(STATELESS, encode=encode)
    assert ask(server.answer) == KNOWN
    assert server.methods() == ["tools/list", "tools/call"]
    call = server.requests[-1]
    assert call.headers["MCP-Protocol-Version"] == "2026-07-28"
    assert (call.headers["Mcp-Method"], call.headers["Mcp-Name"]) == ("tools/call", "notion-fetch")
    assert (call.json or {})["params"]["arguments"] == {"id": "self"}


@pytest.mark.parametrize("encode", [as_json, as_events])
def test_server_with_sessions(encode: Callable[[Any], Response]) -> None:
    server = Server(STATELESS, encode=encode, session="abc")
    assert ask(server.answer) == KNOWN
    handshake = ["tools/list", "initialize", "notifications/initialized"]
    assert server.methods() == [*handshake, "tools/list", "tools/call", "DELETE"]


def test_tool_on_a_later_page() -> None:
    server = Server({**STATELESS, "tools/list": {"tools": [], "nextCursor": "2"}})

    def answer(request: Request) -> Response:
        if (request.json or {})["params"].get("cursor") == "2":
            server.results = STATELESS
        return server.answer(request)

    assert ask(answer) == KNOWN
    assert server.methods() == ["tools/list", "tools/list", "tools/call"]


@pytest.mark.parametrize(
    "results",
    [
        {"tools/list": {"tools": [{"name": "search"}]}},
        {"tools/list": {"tools": "none"}},
        {"tools/list": {"tools": [], "nextCursor": "again"}},
        {**STATELESS, "tools/call": {"content": [{"type": "text", "text": "Sorry"}], "isError": True}},
        {**STATELESS, "tools/call": {"content": "none"}},
        {},
    ],
)
def test_server_that_does_not_say_it(results: Results) -> None:
    server = Server(results)
    assert ask(server.answer) == Identity()
    assert ("tools/call" in server.methods()) == ("tools/call" in results)
    assert len(server.requests) < 10


@pytest.mark.parametrize("status", [401, 403, 429, 503])
def test_refusal_is_not_followed_by_a_handshake(status: int) -> None:
    requests: list[Request] = []

    def answer(request: Request) -> Response:
        requests.append(request)
        return Response(status, URL)

    assert ask(answer) == Identity()
    assert len(requests) == 1


def named(workspace: object, user: object = None) -> Identity:
    found = {"self": {"workspace": {"name": workspace}, "user": {"name": user}}}
    content = {"content": [{"type": "text", "text": json.dumps(found)}]}
    return ask(Server({**STATELESS, "tools/call": content}).answer)


def test_names_are_made_safe() -> None:
    assert named("a\x1b]0;evil\x07\u202e\n b") == Identity(workspace="a ]0;evil b")
    assert named("x" * 1000).workspace == "x" * MAX_NAME
    assert named(["x"]) == named({}) == named(7) == named("  ") == Identity()
    assert named(f"it is {TOKEN}") == Identity()
    assert named("Engines", "ada@example.com") == Identity(workspace="Engines", email="ada@example.com")


def test_token_response_of_either_api() -> None:
    flat = {"workspace_id": "w", "workspace_name": "Engines", "user_id": "u"}
    assert identity_in_token_response(flat) == Identity(workspace="Engines", workspace_id="w", user_id="u")
    owner = {"type": "user", "user": {"id": "u", "name": "Ada", "person": {"email": "ada@example.com"}}}
    found = identity_in_token_response({"workspace_name": "Engines", "owner": owner, "access_token": "t" * 20})
    assert found == Identity(workspace="Engines", user="Ada", user_id="u", email="ada@example.com")
    assert identity_in_token_response({"workspace_name": "t" * 20, "access_token": "t" * 20}) == Identity()
    assert identity_in_token_response({"owner": {"user": "Ada"}, "workspace_name": {}}) == Identity()
