"""A real MCP server, on the MCP Python SDK, that requires a token; it records requests and causes faults.

It speaks both wires at `/mcp`: sessions with `initialize` (up to 2025-11-25), and 2026-07-28 without sessions. It
accepts FIXED_TOKEN, or the tokens of a practice authorization server.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import anyio
import mcp_types as types
from mcp.server import Server
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import NotificationOptions
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated, ToolsListChanged
from mcp.shared.message import ServerMessageMetadata
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from notion_oauth.sandbox import Sandbox, SandboxOptions, serve_sandbox
from notion_oauth.sandbox.serving import BackgroundServer

FIXED_TOKEN = "fixed-token-of-the-test-server"
NOTE = "note://1"
WORD = {"type": "object", "properties": {"word": {"type": "string"}}}
READ_ONLY = types.ToolAnnotations(read_only_hint=True)
WRITES = types.ToolAnnotations(read_only_hint=False)

Context = ServerRequestContext[Any, Any]
Answer = types.CallToolResult | types.InputRequiredResult
Asked = TypeVar("Asked", bound=types.Result)


def text(value: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=value)])


class Events(EventStore):
    """Stores the events of all streams, for `Last-Event-ID`."""

    def __init__(self) -> None:
        self._events: list[tuple[str, types.JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: types.JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        after = int(last_event_id)
        stream_id, _ = self._events[after - 1]
        for number, (stream, message) in enumerate(self._events[after:], start=after + 1):
            if stream == stream_id and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream_id


class Tools:
    """The tools, and what they have done."""

    def __init__(self) -> None:
        self.written: list[str] = []  # the words of `write`, in order
        self.waiting = threading.Event()  # a call of `wait` has begun
        self.release = threading.Event()  # ends `wait`
        self.cancelled = threading.Event()  # a call of `wait` was cancelled
        self.bus = InMemorySubscriptionBus()
        self.listed = [
            types.Tool(
                name="echo",
                description="Return the word.",
                annotations=READ_ONLY,
                input_schema={
                    "type": "object",
                    "properties": {
                        "word": {"type": "string"},
                        "region": {"type": "string", "x-mcp-header": "Region"},
                        "count": {"type": "integer", "x-mcp-header": "Count"},
                        "urgent": {"type": "boolean", "x-mcp-header": "Urgent"},
                        "filter": {
                            "type": "object",
                            "properties": {"label": {"type": "string", "x-mcp-header": "Filter-Label"}},
                        },
                    },
                },
            ),
            types.Tool(name="write", description="Store the word.", annotations=WRITES, input_schema=WORD),
            types.Tool(
                name="large",
                description="Return so many bytes.",
                annotations=READ_ONLY,
                input_schema={"type": "object", "properties": {"size": {"type": "integer"}}},
            ),
            *(
                types.Tool(name=name, input_schema={"type": "object"})
                for name in ("progress", "log", "wait", "elicit", "sample", "roots", "add_tool", "touch", "poll")
            ),
        ]

    async def list(self, _context: Context, _params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=self.listed)

    async def call(self, context: Context, params: types.CallToolRequestParams) -> Answer:
        tool = getattr(self, f"_{params.name}", None)
        if tool is None:
            return types.CallToolResult(content=[], is_error=True)
        answer: Answer = await tool(context, params)
        return answer

    async def _echo(self, _context: Context, params: types.CallToolRequestParams) -> Answer:
        return text((params.arguments or {}).get("word", ""))

    async def _write(self, _context: Context, params: types.CallToolRequestParams) -> Answer:
        self.written.append((params.arguments or {}).get("word", ""))
        return text(f"{len(self.written)} written")

    async def _large(self, _context: Context, params: types.CallToolRequestParams) -> Answer:
        return text("x" * (params.arguments or {}).get("size", 4 * 1024 * 1024))

    async def _progress(self, context: Context, _params: types.CallToolRequestParams) -> Answer:
        for step in (1, 2, 3):
            await context.session.report_progress(step, 3, f"step {step}")
            await anyio.sleep(0.05)  # the TypeScript SDK drops progress that it reads together with the result
        return text("done")

    async def _log(self, context: Context, _params: types.CallToolRequestParams) -> Answer:
        message = types.LoggingMessageNotificationParams(level="info", data="a log message")
        await context.session.send_notification(
            types.LoggingMessageNotification(params=message), related_request_id=context.request_id
        )
        return text("done")

    async def _wait(self, _context: Context, _params: types.CallToolRequestParams) -> Answer:
        self.waiting.set()
        try:
            while not self.release.is_set():
                await anyio.sleep(0.01)
        except BaseException:
            self.cancelled.set()
            raise
        return text("done")

    async def _elicit(self, context: Context, params: types.CallToolRequestParams) -> Answer:
        request = types.ElicitRequest(
            params=types.ElicitRequestFormParams(message="Which word?", requested_schema=WORD)
        )
        result = await _ask(context, params, request, types.ElicitResult)
        return result if isinstance(result, types.InputRequiredResult) else text(str((result.content or {})["word"]))

    async def _sample(self, context: Context, params: types.CallToolRequestParams) -> Answer:
        message = types.SamplingMessage(role="user", content=types.TextContent(type="text", text="Which word?"))
        request = types.CreateMessageRequest(params=types.CreateMessageRequestParams(messages=[message], max_tokens=10))
        result = await _ask(context, params, request, types.CreateMessageResult)
        if isinstance(result, types.InputRequiredResult):
            return result
        return text(result.content.text if isinstance(result.content, types.TextContent) else "")

    async def _roots(self, context: Context, params: types.CallToolRequestParams) -> Answer:
        result = await _ask(context, params, types.ListRootsRequest(), types.ListRootsResult)
        if isinstance(result, types.InputRequiredResult):
            return result
        return text(" ".join(str(root.uri) for root in result.roots))

    async def _add_tool(self, context: Context, _params: types.CallToolRequestParams) -> Answer:
        self.listed.append(types.Tool(name=f"added_{len(self.listed)}", input_schema={"type": "object"}))
        await context.session.send_tool_list_changed()
        await self.bus.publish(ToolsListChanged())
        return text("done")

    async def _touch(self, context: Context, _params: types.CallToolRequestParams) -> Answer:
        await context.session.send_resource_updated(NOTE)
        await self.bus.publish(ResourceUpdated(uri=NOTE))
        return text("done")

    async def _poll(self, context: Context, _params: types.CallToolRequestParams) -> Answer:
        """Close the response's stream before the answer, which the client must then resume (SEP-1699)."""
        if context.close_sse_stream is not None:
            await context.close_sse_stream()
        return text("resumed")


async def _ask(
    context: Context, params: types.CallToolRequestParams, request: Any, result: type[Asked]
) -> Asked | types.InputRequiredResult:
    """Ask the client: by a request in a session, and by an incomplete result without one."""
    if context.session.can_send_request:
        related = ServerMessageMetadata(related_request_id=context.request_id)
        return await context.session.send_request(request, result, metadata=related)
    responses = params.input_responses or {}
    if "asked" not in responses:
        return types.InputRequiredResult(input_requests={"asked": request})
    return result.model_validate(responses["asked"].model_dump())


class _Server(Server[Any]):
    """Announces that it sends `list_changed` in sessions."""

    def create_initialization_options(self, *_: Any, **__: Any) -> Any:
        changes = NotificationOptions(tools_changed=True, resources_changed=True)
        return super().create_initialization_options(changes)


def mcp_app(tools: Tools, *, json_response: bool = False) -> ASGIApp:
    """The SDK's server at `/mcp`, which accepts everybody."""

    async def resources(_context: Context, _params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=[types.Resource(uri=NOTE, name="A note")])

    async def read(_context: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        return types.ReadResourceResult(contents=[types.TextResourceContents(uri=params.uri, text="A note.")])

    async def prompts(_context: Context, _params: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
        return types.ListPromptsResult(prompts=[types.Prompt(name="grüße")])

    async def prompt(_context: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        content = types.TextContent(type="text", text=params.name)
        return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=content)])

    async def subscribe(_context: Context, _params: Any) -> types.EmptyResult:
        return types.EmptyResult()

    server = _Server(
        "Notes",
        instructions="Notes of a test.",
        on_list_tools=tools.list,
        on_call_tool=tools.call,
        on_list_resources=resources,
        on_read_resource=read,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=subscribe,
        on_list_prompts=prompts,
        on_get_prompt=prompt,
        on_subscriptions_listen=ListenHandler(tools.bus),
    )
    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, subscribe)
    store = None if json_response else Events()
    limit = 32 * 1024 * 1024
    return server.streamable_http_app(
        event_store=store, retry_interval=50, json_response=json_response, max_request_body_size=limit
    )


@dataclass(repr=False)
class Request:
    """One request. `on` is its JSON-RPC method, or the HTTP method if it has no message."""

    http_method: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    message: Any
    connection: tuple[str, int]  # the client's address and port
    status: int | None = None

    @property
    def on(self) -> str:
        return self.message.get("method", "response") if isinstance(self.message, dict) else self.http_method

    def __repr__(self) -> str:
        return f"<{self.on} {self.status or 'unanswered'}>"


@dataclass
class Fault:
    """A fault for the next request `on` this method; on any, if it is None."""

    kind: str  # answer, cut_before, cut_after, cut_within or stall
    on: str | None
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class _Connections(H11Protocol):
    """Knows the open connections by the client's address, so that a fault can cut one."""

    by_client: dict[Any, Any] = {}  # noqa: RUF012 - of all servers of this process

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.by_client[transport.get_extra_info("peername")] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.by_client.pop(self.transport.get_extra_info("peername"), None)


def _cut(scope: Scope) -> None:
    _Connections.by_client[tuple(scope["client"])].abort()


class McpServer:
    """The server, and what a test may do to it."""

    def __init__(self, accepts: Callable[[str], bool], issuer: str | None, *, json_response: bool) -> None:
        self._accepts, self._issuer, self._json_response = accepts, issuer, json_response
        self.tools = Tools()
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._sessions: dict[str, bool] = {}  # the id, and whether the server has forgotten it
        self._lock = threading.Lock()
        self._server: BackgroundServer | None = None
        self._stopping = threading.Event()
        self._port = 0
        self.start()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/mcp"

    def received(self, on: str) -> list[Request]:
        """The requests with this JSON-RPC method, or with this HTTP method and no message."""
        return [request for request in self.requests if request.on == on]

    def start(self) -> None:
        """Listen on the same port as before, without the sessions of before."""
        self._stopping.clear()
        listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        self._app = mcp_app(self.tools, json_response=self._json_response)
        self._server = BackgroundServer(self._handle, listener, http=_Connections, interface="asgi3")
        self._server.wait_until_started()

    def stop(self) -> None:
        """Refuse connections from now on, and cut those that are open."""
        self._stopping.set()
        if self._server is not None:
            self._server.stop()
            self._server = None

    def forget_sessions(self) -> None:
        """Answer 404 to all sessions of now, as a server does after a restart."""
        with self._lock:
            self._sessions = dict.fromkeys(self._sessions, True)

    def answer_next(
        self,
        status: int,
        *,
        on: str | None = None,
        times: int = 1,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """Answer the next requests like this, without processing them."""
        self._add(Fault("answer", on, status, headers or {}, body), times)

    def require_scope_next(self, scope: str, *, on: str | None = None, times: int = 1) -> None:
        """Answer 403: the token lacks a scope (step-up)."""
        challenge = f'Bearer error="insufficient_scope", scope="{scope}", resource_metadata="{self._metadata_url}"'
        self.answer_next(403, on=on, times=times, headers={"WWW-Authenticate": challenge})

    def cut_next(
        self, when: Literal["before", "after", "within"] = "before", *, on: str | None = None, times: int = 1
    ) -> None:
        """Close the connections of the next requests: before or after they are processed, or within the answer."""
        self._add(Fault(f"cut_{when}", on), times)

    def stall_next(self, *, on: str | None = None, times: int = 1) -> None:
        """Leave the next requests without an answer, until the client closes the connection."""
        self._add(Fault("stall", on), times)

    def _add(self, fault: Fault, times: int) -> None:
        with self._lock:
            self._faults += [fault] * times

    def _take(self, request: Request) -> Fault | None:
        with self._lock:
            for index, fault in enumerate(self._faults):
                if fault.on in (None, request.on):
                    return self._faults.pop(index)
        return None

    @property
    def _metadata_url(self) -> str:
        return f"{self.origin}/.well-known/oauth-protected-resource/mcp"

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["path"] == "/mcp":
            await self._mcp(scope, receive, send)
        elif self._issuer and scope["path"].startswith("/.well-known/oauth-protected-resource"):
            document = {"resource": self.url, "authorization_servers": [self._issuer]}
            await _answer(send, 200, {"Content-Type": "application/json"}, json.dumps(document).encode())
        else:
            await _answer(send, 404, {}, b"")

    async def _mcp(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        request = Request(scope["method"], headers, body, json.loads(body) if body else None, tuple(scope["client"]))
        self.requests.append(request)
        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                for name, value in message["headers"]:
                    if name.lower() == b"mcp-session-id":
                        self._sessions.setdefault(value.decode(), False)
            await send(message)

        fault = self._take(request)
        session = headers.get("mcp-session-id", "")
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if fault is not None and fault.kind in ("answer", "cut_before", "stall"):
            await self._refuse(fault, scope, receive, watched)
        elif scheme.lower() != "bearer" or not self._accepts(token):
            challenge = f'Bearer error="invalid_token", resource_metadata="{self._metadata_url}"'
            await _answer(watched, 401, {"WWW-Authenticate": challenge}, b"")
        elif self._sessions.get(session):
            error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "Session not found"}}
            await _answer(watched, 404, {"Content-Type": "application/json"}, json.dumps(error).encode())
        else:
            await self._app(scope, replay, _cutting(fault, scope, watched))

    async def _refuse(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if fault.kind == "answer":
            await _answer(send, fault.status, fault.headers, fault.body)
        elif fault.kind == "cut_before":
            _cut(scope)
        else:
            while not self._stopping.is_set():
                with anyio.move_on_after(0.05):
                    if (await receive())["type"] == "http.disconnect":
                        return
            _cut(scope)


def _cutting(fault: Fault | None, scope: Scope, send: Send) -> Send:
    """Cut the connection after the answer was made and not sent, or after the beginning of its body."""
    if fault is None:
        return send

    async def cutting(message: Message) -> None:
        if fault.kind == "cut_within" and message["type"] == "http.response.start":
            await send(message)
        elif fault.kind == "cut_within":
            body = message.get("body", b"")
            part = body if message.get("more_body") else body[: len(body) // 2]  # an event, or half of a document
            await send({"type": "http.response.body", "body": part, "more_body": True})
            if body:
                _cut(scope)
        elif message["type"] == "http.response.body" and not message.get("more_body"):
            _cut(scope)

    return cutting


async def _answer(send: Send, status: int, headers: dict[str, str], body: bytes) -> None:
    sent = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*sent, length]})
    await send({"type": "http.response.body", "body": body})


async def _read(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


@contextmanager
def serve_mcp(
    accepts: Callable[[str], bool] | None = None, *, issuer: str | None = None, json_response: bool = False
) -> Generator[McpServer]:
    """Serve it during the block. Without `accepts`, it accepts FIXED_TOKEN alone."""
    server = McpServer(accepts or (lambda token: token == FIXED_TOKEN), issuer, json_response=json_response)
    try:
        yield server
    finally:
        server.tools.release.set()
        server.stop()


@contextmanager
def serve_protected_mcp(*, json_response: bool = False) -> Generator[tuple[McpServer, Sandbox]]:
    """Serve it with a practice authorization server, whose tokens it accepts beside FIXED_TOKEN."""
    options = SandboxOptions()
    with serve_sandbox(options) as sandbox:

        def accepts(token: str) -> bool:
            return token == FIXED_TOKEN or sandbox.is_access_token_live(token)

        with serve_mcp(accepts, issuer=sandbox.issuer, json_response=json_response) as server:
            options.other_resources = (server.url,)
            yield server, sandbox
