"""The gateway over Streamable HTTP, as an ASGI application."""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from urllib.parse import urlsplit

import anyio
from fastapi import Request
from pydantic import SecretStr
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message as ASGIMessage
from starlette.types import Receive, Scope, Send

from notion_oauth.errors import Hint, NotionOAuthError
from notion_oauth.gateway import jsonrpc
from notion_oauth.gateway.gateway import PATIENCE, Gateway
from notion_oauth.gateway.http_sessions import HttpSessions
from notion_oauth.gateway.jsonrpc import Message
from notion_oauth.gateway.local_secret import local_secret
from notion_oauth.gateway.server_sent_events import Event
from notion_oauth.gateway.session import SESSION_ID, Session
from notion_oauth.gateway.sign_in import PageSignIn
from notion_oauth.gateway.tools import ToolFilter
from notion_oauth.protocol.urls import is_loopback
from notion_oauth.service import NotionOAuth
from notion_oauth.web.profiles.resolver import ProfileResolver
from notion_oauth.web.profiles.single import SingleProfile
from notion_oauth.web.profiles.users import ApplicationUsers, ProfileFromRequest
from notion_oauth.web.sessions.keys import session_keys

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


def create_gateway(
    oauth: NotionOAuth,
    *,
    profile: str | ProfileFromRequest | None = None,
    bearer: SecretStr | None = None,
    tool_filter: ToolFilter | None = None,
    patience: float = PATIENCE,
    allow_origins: Sequence[str] = (),
    allow_hosts: Sequence[str] = (),
    sign_in_url: str | Callable[[Request], str] | None = None,
) -> HttpGateway:
    """An ASGI application that is the login's MCP server, over Streamable HTTP, at every path.

        app.add_route("/mcp", create_gateway(oauth, profile=profile_of_request))

    Each request must have `Authorization: Bearer` with `bearer`: by default the operator's secret, or else the local
    secret (`notion-oauth mcp secret`). If `profile` is a function, it takes the place of this check: it gets the
    request, and returns the profile of its user, or None for an unknown one, whose request is refused.

    `patience` is in seconds. Browsers may use it only from `allow_origins`. Requests for hosts other than localhost,
    the public URL's and `allow_hosts` are refused. `sign_in_url` is the page where users sign in, or a function of the
    request that returns its URL.

    Raises StorageError if a secret can neither be read nor created.
    """
    resolver: ProfileResolver
    if callable(profile):
        resolver, bearer = ApplicationUsers(oauth, profile), None
    else:
        resolver = SingleProfile(oauth if profile is None else oauth.for_profile(profile))
        bearer = bearer or oauth.settings.operator_secret or local_secret(oauth.settings)

    def build(login: NotionOAuth, request: Request) -> Gateway:
        url = sign_in_url(request) if callable(sign_in_url) else sign_in_url
        return Gateway(login, sign_in=PageSignIn(url), tool_filter=tool_filter, patience=patience)

    return HttpGateway(
        resolver,
        build,
        bearer=bearer,
        allow_origins=allow_origins,
        allow_hosts=(*allow_hosts, *filter(None, (urlsplit(oauth.settings.public_url or "").hostname,))),
        strict=tool_filter is not None and tool_filter.is_set,
    )


class HttpGateway:
    """The ASGI application that `create_gateway` returns. Without `bearer`, `resolver` alone admits requests.

    `build` makes the gateway of a login, at the first request for it.
    """

    def __init__(
        self,
        resolver: ProfileResolver,
        build: Callable[[NotionOAuth, Request], Gateway],
        *,
        bearer: SecretStr | None,
        allow_origins: Sequence[str] = (),
        allow_hosts: Sequence[str] = (),
        strict: bool = False,
    ) -> None:
        self._resolver, self._build = resolver, build
        self._bearer = None if bearer is None else bearer.get_secret_value().encode()
        self._origins = frozenset(origin.rstrip("/").lower() for origin in allow_origins)
        self._hosts = frozenset(host.lower() for host in allow_hosts)
        self._strict = strict
        self._sessions = HttpSessions(session_keys(resolver.oauth.settings))
        self._gateways: OrderedDict[str, Gateway] = OrderedDict()
        self._unused: list[Gateway] = []  # to be closed
        self._stopping = anyio.Event()

    def end_streams(self) -> None:
        """End the streams of the server's own messages, which would last."""
        self._stopping.set()

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
            login = await self._resolver.for_request(request)
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
            tasks.start_soon(stream.keep_alive)
            tasks.start_soon(_cancel_on_disconnect, request, tasks.cancel_scope)
            tasks.start_soon(self._cancel_on_stop, tasks.cancel_scope)
            await session.listen(stream.deliver, request.headers.get("last-event-id"))
        await stream.end()
        return None

    async def _cancel_on_stop(self, scope: anyio.CancelScope) -> None:
        await self._stopping.wait()
        scope.cancel()

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
        headers = {} if session.initialize is not None else _routing_headers(request, self._strict)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on_disconnect, request, tasks.cancel_scope)
            tasks.start_soon(stream.keep_alive)
            tasks.start_soon(self._cancel_on_stop, tasks.cancel_scope)
            await session.handle(message, stream.deliver, headers)
            await stream.end()
            tasks.cancel_scope.cancel()
        if self._stopping.is_set() and message.is_request:
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

    async def keep_alive(self) -> None:
        """Send comments, so that no proxy ends a stream that is silent."""
        while True:
            await anyio.sleep(KEEP_ALIVE)
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


async def _cancel_on_disconnect(request: Request, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _routing_headers(request: Request, strict: bool) -> dict[str, str]:
    """The routing headers as the client has sent them. With a filter, they are derived from what was checked."""
    if strict:
        return {}
    return {name: value for name, value in request.headers.items() if name.startswith("mcp-") and value.isascii()}


def _error(status: int, text: str, *, code: int = jsonrpc.SERVER_ERROR) -> Response:
    return Response(jsonrpc.error(None, code, text), status, media_type="application/json")
