"""One session of a client, whatever the server and the client do."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest
from starlette.types import Receive, Scope, Send

from notion_oauth.gateway import jsonrpc
from notion_oauth.gateway.gateway import Gateway
from notion_oauth.gateway.server_sent_events import Event
from notion_oauth.gateway.session import Session
from notion_oauth.gateway.sign_in import PageSignIn
from notion_oauth.gateway.tools import ToolFilter
from notion_oauth.gateway.upstream import Response
from notion_oauth.service import NotionOAuth
from tests.component.gateway.talking import INITIALIZE, INITIALIZED, call, request
from tests.support.mcp_server import McpServer

pytestmark = pytest.mark.anyio
LIST_CHANGED = b'"notifications/tools/list_changed"'
Handler = Callable[[dict[str, Any], Send], Awaitable[None]]


@pytest.fixture(autouse=True)
def no_faults_left(server: McpServer) -> Iterator[None]:
    yield
    server._faults.clear()  # noqa: SLF001


class Talk:
    """A client of one session, without a transport."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.session = gateway, Session(gateway)

    async def send(self, message: dict[str, Any]) -> Any:
        """The last message that is delivered for this one."""
        events: list[Event] = []

        async def deliver(event: Event) -> None:
            events.append(event)

        await self.session.handle(jsonrpc.parse(json.dumps(message).encode()), deliver)
        contents = [event.data for event in events if event.data]
        return json.loads(contents[-1]) if contents else None

    async def begin(self) -> None:
        await self.send(INITIALIZE)
        await self.send(INITIALIZED)


@asynccontextmanager
async def talk(oauth: NotionOAuth, **options: Any) -> AsyncGenerator[Talk]:
    gateway = Gateway(oauth, sign_in=PageSignIn(None), **options)
    try:
        yield Talk(gateway)
    finally:
        await gateway.aclose()


@contextmanager
def scripted(server: McpServer, handler: Handler) -> Iterator[None]:
    """Let `handler` answer the requests that the server accepts: it gets the message; for GET, only its method."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        await handler(json.loads(body) if body else {"method": scope["method"]}, send)

    original, server._app = server._app, app  # noqa: SLF001
    try:
        yield
    finally:
        server._app = original  # noqa: SLF001


async def start(send: Send, status: int = 200, kind: str = "application/json", **headers: Any) -> None:
    lines = {"content-type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    encoded = [(name.encode(), value.encode()) for name, value in lines.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})


async def body(send: Send, content: bytes = b"", *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": more})


async def answer(send: Send, message: dict[str, Any], result: Any, **headers: Any) -> None:
    await start(send, **headers)
    await body(send, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode())


RESULT = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}


def text_of(answered: Any) -> str:
    return str(answered["result"]["content"][0]["text"])


@pytest.mark.slow
async def test_a_repeated_call_is_filtered_although_the_tools_were_listed_meanwhile(
    oauth: NotionOAuth, server: McpServer
) -> None:
    written = len(server.tools.written)
    async with talk(oauth, tool_filter=ToolFilter(read_only=True)) as client:
        await client.begin()
        server.answer_next(503, on="tools/list", headers={"Retry-After": "1"})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, call("write", word="forbidden"))
            while not server.received("tools/list"):
                await anyio.sleep(0.01)
            await client.send(request("tools/list", id=2))
    assert server.received("tools/call") == []
    assert len(server.tools.written) == written


@pytest.mark.parametrize("fault", ["cut", "502"])
async def test_a_call_that_was_not_sent_is_repeated_if_the_session_cannot_begin(
    oauth: NotionOAuth, server: McpServer, fault: str
) -> None:
    async with talk(oauth) as client:
        await client.begin()
        server.forget_sessions()
        if fault == "cut":
            server.cut_next(on="initialize")
        else:
            server.answer_next(502, on="initialize")
        assert "written" in text_of(await client.send(call("write", word="a")))


@pytest.mark.parametrize("fault", ["cut", "502"])
async def test_a_call_that_was_not_sent_is_repeated_if_the_tools_cannot_be_listed(
    oauth: NotionOAuth, server: McpServer, fault: str
) -> None:
    async with talk(oauth, tool_filter=ToolFilter(read_only=True)) as client:
        await client.begin()
        (server.cut_next if fault == "cut" else lambda **_: server.answer_next(502, on="tools/list"))(on="tools/list")
        answered = await client.send(call("write", word="a"))
        assert "not allowed" in text_of(answered)


async def test_a_resumed_response_is_closed(
    oauth: NotionOAuth, server: McpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_responses: set[int] = set()
    begin, close = Response.__init__, Response.aclose

    def note_begin(self: Response, *arguments: Any) -> None:
        open_responses.add(id(self))
        begin(self, *arguments)

    async def note_close(self: Response) -> None:
        open_responses.discard(id(self))
        await close(self)

    monkeypatch.setattr(Response, "__init__", note_begin)
    monkeypatch.setattr(Response, "aclose", note_close)
    async with talk(oauth) as client:
        await client.begin()
        assert text_of(await client.send(call("poll"))) == "resumed"
        assert len(server.received("GET")) == 1
        assert open_responses == set()


async def test_a_notification_with_the_method_of_subscriptions_is_sent_once(
    oauth: NotionOAuth, server: McpServer
) -> None:
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
    message = {"jsonrpc": "2.0", "method": "subscriptions/listen", "params": {"notifications": {}, "_meta": meta}}

    async def accept(_message: dict[str, Any], send: Send) -> None:
        await start(send, 202)
        await body(send)

    with scripted(server, accept):
        async with talk(oauth) as client:
            with anyio.move_on_after(0.3):
                await client.send(message)
    assert len(server.received("subscriptions/listen")) == 1


async def test_a_page_of_a_proxy_is_not_delivered_as_a_message(oauth: NotionOAuth, server: McpServer) -> None:
    async with talk(oauth, patience=0.5) as client:
        await client.begin()
        page = b"<html>\nAccess denied by policy\n</html>"
        server.answer_next(200, on="tools/call", headers={"Content-Type": "text/html"}, body=page)
        answered = await client.send(call("write", word="a"))  # JSONDecodeError: the page is on standard output
        assert answered["id"] == 1


@pytest.mark.parametrize(("patience", "retry_after"), [(1.0, None), (20.0, "60")])
async def test_initialize_is_answered_here_whatever_the_patience(
    oauth: NotionOAuth, server: McpServer, patience: float, retry_after: str | None
) -> None:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    server.answer_next(503, on="initialize", times=30, headers=headers)
    async with talk(oauth, patience=patience) as client:
        answered = await client.send(INITIALIZE)
    assert "result" in answered, answered


@pytest.mark.slow
async def test_initialize_does_not_wait_for_a_longer_retry_after(oauth: NotionOAuth, server: McpServer) -> None:
    server.answer_next(503, on="initialize", times=30, headers={"Retry-After": "9"})
    async with talk(oauth) as client:
        with anyio.fail_after(6):
            await client.send(INITIALIZE)


async def test_messages_sent_before_the_answer_to_initialize_begin_no_second_session(
    oauth: NotionOAuth, server: McpServer
) -> None:
    """As of `printf '%s\\n' ... | notion-oauth mcp`, or a ping."""
    sessions = 0
    initialized: list[str] = []

    async def handler(message: dict[str, Any], send: Send) -> None:
        nonlocal sessions
        if message["method"] == "initialize":
            sessions += 1
            number = sessions
            await anyio.sleep(0.4 if number == 1 else 0.1)  # the client's own is answered last
            await answer(send, message, RESULT, mcp_session_id=str(number))
        elif message["method"] == "notifications/initialized":
            initialized.append(server.received("notifications/initialized")[-1].headers["mcp-session-id"])
            await start(send, 202)
            await body(send)
        else:
            await answer(send, message, {})

    with scripted(server, handler):
        async with talk(oauth) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, INITIALIZE)
            await anyio.sleep(0.05)
            tasks.start_soon(client.send, INITIALIZED)
            tasks.start_soon(client.send, request("ping"))
            await anyio.sleep(1)
            await client.send(request("resources/list", id=3))
        used = server.received("resources/list")[-1].headers["mcp-session-id"]
    assert used in initialized  # else strict servers refuse every request of this session
    assert sessions == 1


@pytest.mark.slow
async def test_the_end_of_an_outage_is_announced_although_a_look_at_the_server_hangs(
    oauth: NotionOAuth, server: McpServer
) -> None:
    messages: list[bytes] = []

    async def deliver(event: Event) -> None:
        messages.append(event.data)

    async with talk(oauth) as client:
        await client.begin()
        server.answer_next(503, on="tools/list", times=20)
        tools = (await client.send(request("tools/list")))["result"]["tools"]  # answered here after five seconds
        assert "notion-sign-in" in {tool["name"] for tool in tools}
        server._faults.clear()  # noqa: SLF001
        server.stall_next(on="GET")  # the look: a load balancer that accepts and does not answer
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.session.listen, deliver)
            while not server.received("GET"):
                await anyio.sleep(0.05)
            await client.send(call("echo", word="a"))  # the server is back
            assert not client.gateway.waiting_room.is_open
            with anyio.move_on_after(8):
                while not any(LIST_CHANGED in each for each in messages):
                    await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
    assert any(LIST_CHANGED in each for each in messages)


@pytest.mark.slow
async def test_a_session_whose_beginning_hangs_does_not_block_its_messages(
    oauth: NotionOAuth, server: McpServer
) -> None:
    lost = False

    async def handler(message: dict[str, Any], send: Send) -> None:
        if message["method"] == "initialize" and lost:
            await start(send, 200, "text/event-stream", mcp_session_id="b")  # and then nothing
            await body(send, b": hello\n\n", more=True)
            await anyio.sleep(60)
        elif message["method"] == "initialize":
            await answer(send, message, RESULT, mcp_session_id="a")
        elif "id" not in message:
            await start(send, 202)
            await body(send)
        else:
            await start(send, 404)
            await body(send)

    with scripted(server, handler):
        async with talk(oauth) as client:
            await client.begin()
            lost = True
            with anyio.fail_after(12):
                await client.send(request("tools/list"))


@pytest.mark.slow
async def test_a_list_whose_body_hangs_is_answered_here(oauth: NotionOAuth, server: McpServer) -> None:
    async def handler(message: dict[str, Any], send: Send) -> None:
        await start(send)
        await body(send, b"{", more=True)
        await anyio.sleep(60)

    with scripted(server, handler):
        async with talk(oauth) as client:
            with anyio.fail_after(12):
                await client.send(request("tools/list"))


async def listen(client: Talk, seconds: float) -> None:
    async def deliver(_event: Event) -> None:
        pass

    with anyio.move_on_after(seconds):
        await client.session.listen(deliver)


@pytest.mark.slow
async def test_a_stream_with_retry_0_that_ends_is_not_opened_in_a_tight_loop(
    oauth: NotionOAuth, server: McpServer
) -> None:
    down = False

    async def handler(message: dict[str, Any], send: Send) -> None:
        nonlocal down
        if message["method"] != "GET":
            await answer(send, message, RESULT)
        elif down:
            await start(send, 503)
            await body(send)
        else:
            down = True
            await start(send, 200, "text/event-stream")
            await body(send, b"retry: 0\nid: 1\ndata: \n\n")

    with scripted(server, handler):
        async with talk(oauth) as client:
            await listen(client, 1.5)
    assert len(server.received("GET")) < 5


@pytest.mark.slow
@pytest.mark.parametrize("status", [500, 400])
async def test_a_stream_that_could_not_be_opened_once_is_opened_later(
    oauth: NotionOAuth, server: McpServer, status: int
) -> None:
    async with talk(oauth) as client:
        await client.begin()
        server.requests.clear()
        server.answer_next(status, on="GET")
        await listen(client, 5)
    assert len(server.received("GET")) > 1


@pytest.mark.slow
async def test_a_stream_that_is_refused_for_a_scope_is_asked_for_less_and_less_often(
    oauth: NotionOAuth, server: McpServer
) -> None:
    async with talk(oauth) as client:
        await client.begin()
        server.requests.clear()
        server.require_scope_next("more", on="GET", times=100)
        await listen(client, 8)
    assert len(server.received("GET")) < 6


async def test_an_http_500_of_a_call_says_that_it_may_have_been_done(oauth: NotionOAuth, server: McpServer) -> None:
    async with talk(oauth) as client:
        await client.begin()
        server.answer_next(500, on="tools/call")
        assert "may have been done" in text_of(await client.send(call("write", word="a")))


async def test_a_notification_that_the_server_refuses_causes_no_message(oauth: NotionOAuth, server: McpServer) -> None:
    async with talk(oauth) as client:
        await client.begin()
        server.answer_next(400, on="notifications/roots/list_changed")
        assert await client.send({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}) is None


@pytest.mark.slow
@pytest.mark.parametrize("revision", ["2026-07-28\r\nX-Evil: 1", "zwölf"])
async def test_a_revision_that_no_header_can_hold_is_refused_at_once(
    oauth: NotionOAuth, server: McpServer, revision: str
) -> None:
    meta = {"io.modelcontextprotocol/protocolVersion": revision}
    async with talk(oauth) as client:
        with anyio.fail_after(2):
            answered = await client.send(request("resources/list", _meta=meta))
    assert "may have been done" not in json.dumps(answered)


async def test_a_list_that_begins_with_an_empty_page_is_complete(oauth: NotionOAuth, server: McpServer) -> None:
    tool = {"name": "echo", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}

    async def handler(message: dict[str, Any], send: Send) -> None:
        if message["method"] == "initialize":
            await answer(send, message, RESULT)
        elif "id" not in message:
            await start(send, 202)
            await body(send)
        elif message["method"] == "tools/list" and "cursor" not in message.get("params", {}):
            await answer(send, message, {"tools": [], "nextCursor": "2"})
        elif message["method"] == "tools/list":
            await answer(send, message, {"tools": [tool]})
        else:
            await answer(send, message, {"content": [{"type": "text", "text": "done"}]})

    with scripted(server, handler):
        async with talk(oauth, patience=0.5, tool_filter=ToolFilter(read_only=True)) as client:
            await client.begin()
            assert text_of(await client.send(call("echo"))) == "done"


async def test_a_resumed_list_is_filtered(oauth: NotionOAuth, server: McpServer) -> None:
    """A client that asks for the rest of the stream of `tools/list` gets the filtered list."""
    seen: list[bytes] = []

    async def deliver(event: Event) -> None:
        seen.append(event.data)

    async with talk(oauth, tool_filter=ToolFilter(read_only=True)) as client:
        await client.begin()
        ids: list[bytes] = []

        async def note(event: Event) -> None:
            if event.id is not None:
                ids.append(event.id)

        await client.session.handle(jsonrpc.parse(json.dumps(request("tools/list")).encode()), note)
        with anyio.move_on_after(1):
            await client.session.listen(deliver, ids[0].decode())
    assert not any(b'"write"' in each for each in seen)


@pytest.mark.parametrize("status", [404, 405])
async def test_server_url_without_an_mcp_server_is_to_be_checked(
    oauth: NotionOAuth, server: McpServer, status: int
) -> None:
    async def handler(_: dict[str, Any], send: Send) -> None:
        await start(send, status)
        await body(send, b"Not here")

    with scripted(server, handler):
        async with talk(oauth, patience=1) as client:
            answered = await client.send(INITIALIZE)
    said = answered["error"]["message"]
    assert f"HTTP {status}. Check the server URL: {oauth.settings.server_url}" in said


async def test_a_404_for_an_unknown_method_is_no_lost_session(oauth: NotionOAuth, server: McpServer) -> None:
    """Servers answer -32601 with HTTP 404."""
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "Method not found"}}

    async def handler(message: dict[str, Any], send: Send) -> None:
        if message["method"] == "initialize":
            await answer(send, message, RESULT, mcp_session_id="a")
        elif "id" not in message:
            await start(send, 202)
            await body(send)
        else:
            await start(send, 404)
            await body(send, json.dumps(error).encode())

    with scripted(server, handler):
        async with talk(oauth, patience=1) as client:
            await client.begin()
            answered = await client.send(request("unknown/method"))
    assert answered == error
    assert len(server.received("initialize")) <= 2
