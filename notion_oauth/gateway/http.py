"""The gateway over Streamable HTTP, as an ASGI application."""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

import anyio
from pydantic import SecretStr
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message as ASGIMessage
from starlette.types import Receive, Scope, Send

from notion_oauth.errors import Hint, NotionOAuthError
from notion_oauth.gateway import jsonrpc
from notion_oauth.gateway.gateway import Gateway
from notion_oauth.gateway.http_sessions import HttpSessions
from notion_oauth.gateway.jsonrpc import Message
from notion_oauth.gateway.server_sent_events import Event
from notion_oauth.gateway.server_session import SESSION_ID
from notion_oauth.gateway.session import Session
from notion_oauth.protocol.urls import is_loopback
from notion_oauth.service import NotionOAuth

MAX_BODY = 16 * 1024 * 1024  # bytes of a message
MAX_GATEWAYS = 1000  # profiles in memory
KEEP_ALIVE = 15.0  # seconds without an event after which a comment is sent
SESSION_NOT_FOUND = -32001
_STREAM = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache, no-transform")]
_CORS = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, *",
    "Access-Control-Expose-Headers": "Mcp-Session-Id",
    "Vary": "Origin",
}


class HttpGateway:
    """The ASGI application that `create_gateway` returns.

    `find_login` returns the login of a request, or raises an error: without `bearer`, it alone admits requests. `build`
    makes the gateway of a login, at the first request for it. `keys` authenticate session ids.
    """

    def __init__(
        self,
        find_login: Callable[[Request], Awaitable[NotionOAuth | None]],
        build: Callable[[NotionOAuth, Request], Gateway],
        *,
        bearer: SecretStr | None,
        keys: Sequence[SecretStr],
        allow_origins: Sequence[str] = (),
        allow_hosts: Sequence[str] = (),
        strict: bool = False,
    ) -> None:
        self._find_login, self._build = find_login, build
        self._bearer = None if bearer is None else bearer.get_secret_value().encode()
        self._origins = frozenset(origin.rstrip("/").lower() for origin in allow_origins)
        self._hosts = frozenset(host.lower() for host in allow_hosts)
        self._strict = strict
        self._sessions = HttpSessions(keys)
        self._gateways: OrderedDict[str, Gateway] = OrderedDict()
        self._unused: list[Gateway] = []  # to be closed
        self._answering: set[anyio.CancelScope] = set()
        self._stopped = False

    def end_streams(self) -> None:
        """End all requests, and the streams of the server's own messages, which would last."""
        self._stopped = True
        for scope in self._answering:
            scope.cancel()

    @contextmanager
    def _until_stopped(self, scope: anyio.CancelScope) -> Generator[None]:
        self._answering.add(scope)
        try:
            yield
        finally:
            self._answering.discard(scope)

    async def aclose(self) -> None:
        """End all streams, and wait for refreshes that were sent."""
        self.end_streams()
        for gateway in (*self._gateways.values(), *self._unused):
            await gateway.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        origin = request.headers.get("origin")
        cors = {"Access-Control-Allow-Origin": origin, **_CORS} if origin in self._origins and origin else {}
        response = self._refusal(request, origin) or await self._answer(request, _with_headers(send, cors))
        if response is not None:
            response.headers.update(cors)
            await response(scope, receive, send)

    def _refusal(self, request: Request, origin: str | None) -> Response | None:
        """The response to a request that is not allowed, whatever it contains."""
        try:
            host = urlsplit(f"//{request.headers.get('host', '')}").hostname
        except ValueError:
            host = None
        if not (is_loopback(host) or host in self._hosts):
            return _error(421, "This gateway does not answer to this host name. Allow it with: --allow-host")
        if origin is not None and origin not in self._origins:
            return _error(403, "Web pages of this origin may not use the gateway. Allow them with: --allow-origin")
        if request.method == "OPTIONS":
            return Response(status_code=204)
        if self._bearer is not None:
            scheme, _, sent = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(sent.strip().encode("latin-1"), self._bearer):
                hint = Hint("See it", "mcp config", {"http": None}, arguments=("CLIENT",))
                return _error(403, f"The secret in the Authorization header is missing or wrong. {hint}")
        if request.method not in ("GET", "POST", "DELETE"):
            return Response(status_code=405, headers={"Allow": "GET, POST, DELETE"})
        return None

    async def _answer(self, request: Request, send: Send) -> Response | None:
        """Answer an allowed request; returns the response if it was not sent yet."""
        try:
            login = await self._find_login(request)
        except NotionOAuthError as error:
            return _error(403, error.message)
        if login is None:
            return _error(403, "Unknown user.")
        while self._unused:
            await self._unused.pop().aclose()
        find = partial(self._gateway, login, request)
        identifier = request.headers.get(SESSION_ID)
        session = None
        if identifier is not None:
            session = self._sessions.find(login.profile, identifier, find)
            if session is None:
                return _error(404, "There is no such session.", code=SESSION_NOT_FOUND)
        if request.method == "POST":
            return await self._post(request, send, login.profile, session or Session(find()))
        if session is None or identifier is None:
            return _error(405, "Without a session, only POST is allowed.")
        if request.method == "DELETE":
            self._sessions.remove(login.profile, identifier)
            await session.close()
            return Response(status_code=204)
        stream = _Stream(send)
        await stream.start()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.watch, request, tasks.cancel_scope)
            with self._until_stopped(tasks.cancel_scope):
                await session.listen(stream.deliver, request.headers.get("last-event-id"))
            tasks.cancel_scope.cancel()
        await stream.end()
        return None

    def _gateway(self, login: NotionOAuth, request: Request) -> Gateway:
        gateway = self._gateways.get(login.profile) or self._build(login, request)
        self._gateways[login.profile] = gateway
        self._gateways.move_to_end(login.profile)
        while len(self._gateways) > MAX_GATEWAYS:
            self._unused.append(self._gateways.popitem(last=False)[1])
        return gateway

    async def _post(self, request: Request, send: Send, profile: str, session: Session) -> Response | None:
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    return _error(413, f"A message may have at most {MAX_BODY // 1024 // 1024} MiB.")
        except ClientDisconnect:
            return None
        try:
            message = jsonrpc.parse(bytes(body), strict=self._strict)
        except jsonrpc.InvalidMessage as error:
            return Response(error.response, 400, media_type="application/json")
        stream = _Stream(send, self._new_id(message, profile, session))
        headers = {} if session.server.initialize is not None else _routing_headers(request, self._strict)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.watch, request, tasks.cancel_scope)
            with self._until_stopped(tasks.cancel_scope):
                await session.handle(message, stream.deliver, headers)
                await stream.end()
            tasks.cancel_scope.cancel()
        if self._stopped and message.is_request:
            text = "The gateway was stopped. It may have been done: check before you repeat it."
            await stream.deliver(Event(jsonrpc.failure(message, text), final=True, local=True))
        await stream.end()
        return None

    def _new_id(self, message: Message, profile: str, session: Session) -> Callable[[Event], str | None] | None:
        """What makes the id of the session that a message begins."""
        if message.method != jsonrpc.INITIALIZE:
            return None
        return lambda event: self._sessions.add(profile, session) if b'"result"' in event.data else None


class _Stream:
    """The response to one request: JSON if the first event is the last one, else a stream of events.

    `new_id` returns the id of the session that a final event has begun. Events before it wait for it.
    """

    def __init__(self, send: Send, new_id: Callable[[Event], str | None] | None = None) -> None:
        self._send, self._new_id = send, new_id
        self._waiting: list[Event] = []
        self._started = False
        self._ended = False
        self._sending = anyio.Lock()

    async def deliver(self, event: Event) -> None:
        async with self._sending:
            if self._ended:
                return
            headers = []
            if self._new_id is not None:
                if not event.final:
                    self._waiting.append(event)
                    return
                identifier = self._new_id(event)
                headers = [] if identifier is None else [(SESSION_ID.encode(), identifier.encode())]
            if event.final and not self._started and not self._waiting:
                self._started = self._ended = True
                headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(event.data))]
                await self._send({"type": "http.response.start", "status": event.status, "headers": headers})
                await self._send({"type": "http.response.body", "body": event.data})
                return
            await self._start(headers)
            body = b"".join(each.encode() for each in (*self._waiting, event))
            self._waiting.clear()
            self._ended = event.final
            await self._send({"type": "http.response.body", "body": body, "more_body": not event.final})

    async def start(self) -> None:
        """Begin the stream before its first event."""
        async with self._sending:
            await self._start([])

    async def _start(self, headers: list[tuple[bytes, bytes]]) -> None:
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": [*_STREAM, *headers]})

    async def watch(self, request: Request, scope: anyio.CancelScope) -> None:
        """Cancel the scope if the client goes, and send comments, so that no proxy ends a stream that is silent."""
        while True:
            with anyio.move_on_after(KEEP_ALIVE):
                if (await request.receive())["type"] == "http.disconnect":
                    scope.cancel()
                    return
                continue
            async with self._sending:
                if self._new_id is None and not self._ended:
                    await self._start([])
                    await self._send({"type": "http.response.body", "body": b": keep-alive\n\n", "more_body": True})

    async def end(self) -> None:
        """End the response. A message that nothing answers is accepted."""
        async with self._sending:
            if self._ended:
                return
            self._ended = True
            if not self._started:
                await self._send({"type": "http.response.start", "status": 202, "headers": []})
            await self._send({"type": "http.response.body", "body": b""})


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    """Return `send`, which adds headers to a response."""
    if not headers:
        return send
    lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]

    async def send_with_headers(message: ASGIMessage) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *lines]}
        await send(message)

    return send_with_headers


def _routing_headers(request: Request, strict: bool) -> dict[str, str]:
    """The routing headers as the client has sent them. With a filter, they are derived from what was checked."""
    if strict:
        return {}
    return {name: value for name, value in request.headers.items() if name.startswith("mcp-") and value.isascii()}


def _error(status: int, text: str, *, code: int = jsonrpc.SERVER_ERROR) -> Response:
    return Response(jsonrpc.error(None, code, text), status, media_type="application/json")
