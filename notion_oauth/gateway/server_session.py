"""The session at the server: begun, begun again when the server has lost it, and read whatever breaks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import anyio

from notion_oauth.clock import uptime
from notion_oauth.errors import NotionOAuthError
from notion_oauth.gateway import jsonrpc
from notion_oauth.gateway.jsonrpc import Message
from notion_oauth.gateway.routing_headers import routing_headers
from notion_oauth.gateway.server_sent_events import Event
from notion_oauth.gateway.upstream import NOT_FOUND, Failure, Response, SessionLost, broken

if TYPE_CHECKING:
    from notion_oauth.gateway.gateway import Gateway

ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
SESSION_ID = "mcp-session-id"
LISTEN_PAUSE, MAX_LISTEN_PAUSE = 1.0, 30.0  # seconds before a stream is opened again
BAD_REQUEST, HEADER_MISMATCH = 400, -32020
METHOD_NOT_ALLOWED = 405
BEGIN_TIMEOUT = 30.0  # seconds
LIST_TIMEOUT, MAX_PAGES = 30.0, 100  # seconds
END_WAIT = 0.2  # seconds for the end of a stream after its last event

Deliver = Callable[[Event], Awaitable[None]]


@dataclass
class RequestState:
    """What has become of one request."""

    sent: bool = False  # and perhaps processed
    tools_listed: bool = False  # again, because the server did not accept the headers


class ServerSession:
    """The session at the server, of one client.

    A client that sends `initialize` has a session at the server, too. If the server loses it, it is begun again with
    the client's own `initialize`, once for all messages that wait. `initialize` and `upstream_id` continue a session
    that another process has begun.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        initialize: Message | None = None,
        upstream_id: str | None = None,
        revision: str | None = None,
    ) -> None:
        self._gateway, self._upstream = gateway, gateway.upstream
        self.initialize = initialize  # the client's own
        self.upstream_id = upstream_id  # the server's id of the session
        self.revision = revision  # as the server has negotiated it
        self._begun = upstream_id is not None
        self._initialized = upstream_id is not None  # whether the server knows that the client is ready
        self._beginning = anyio.Lock()  # held while the session begins
        self._restarting = False  # whether the gateway begins it
        self._begin_attempts = 0
        self._begin_error: Failure | NotionOAuthError | None = None  # of the last attempt
        self._renewed = anyio.Event()  # set when the session has begun again, and then replaced
        self._restored: dict[object, Message] = {}  # requests that a new session must repeat, by what they set
        self._number = 0

    def restart(self, initialize: Message) -> None:
        """Begin anew: the client has sent `initialize`."""
        self.initialize, self.upstream_id, self._begun, self._initialized = initialize, None, False, False
        self._restored.clear()

    async def takes_initialized(self) -> bool:
        """Whether the server still needs the client's `notifications/initialized`: not if the gateway has sent it."""
        async with self._beginning:
            needed = self._begun and not self._initialized
            self._initialized = self._initialized or needed
            return needed

    async def send(self, message: Message, deliver: Deliver, headers: Mapping[str, str], state: RequestState) -> None:
        """Send a message of the client once, in a session that has begun, and deliver what arrives.

        The last event of the response to a request is final. Raises Failure, and the errors of `TokenSource.token`.
        """
        if message.method == jsonrpc.INITIALIZE:
            async with self._beginning:  # the messages that follow wait for it
                return await self._exchange(message, deliver, headers, state)
        try:
            await self.begin()
            if self._gateway.needs_tools(message):
                await self._fetch_tools(message)
        except Failure as failure:
            failure.processed = False  # another message failed: this one was not sent
            raise
        if (refusal := self._gateway.refusal(message, tools_listed=True)) is not None:
            return await deliver(Event(refusal, final=True, local=True))
        return await self._exchange(message, deliver, headers, state)

    async def begin(self) -> None:
        """Begin the session at the server, unless it has begun, or the client has none. Raises as `send` does."""
        if self.initialize is not None and not self._begun:
            await self._begin()

    async def _exchange(
        self, message: Message, deliver: Deliver, headers: Mapping[str, str], state: RequestState
    ) -> None:
        """Send the message once, and deliver what arrives. Raises Failure."""
        upstream_id = self.upstream_id
        state.sent = True
        lines = {**ACCEPT, **self._headers(message), **headers}
        async with await self._upstream.send("POST", lines, message.body) as response:
            self._gateway.waiting_room.leave()
            if response.status == BAD_REQUEST and message.tool is not None and not (headers or state.tools_listed):
                await self._check_headers(response, state)
            await self._receive(message, response, upstream_id, deliver)

    async def _check_headers(self, response: Response, state: RequestState) -> None:
        """Raise Failure if the headers do not fit the tool, whose schema has changed: it is then listed again."""
        document = jsonrpc.read_object(await response.read())
        error = document.get("error")
        if isinstance(error, dict) and error.get("code") == HEADER_MISMATCH:
            state.tools_listed = True
            self._gateway.tools.forget()
            raise Failure(f"{self._upstream.host} did not accept the headers of the request.")

    async def _receive(self, message: Message, response: Response, upstream_id: str | None, deliver: Deliver) -> None:
        """Deliver the response to a message. Raises Failure."""
        if response.status == NOT_FOUND and upstream_id is not None:
            error = jsonrpc.read_object(await response.read()).get("error")
            if not (isinstance(error, dict) and error.get("code") == jsonrpc.METHOD_NOT_FOUND):
                self._lose(upstream_id)
                raise SessionLost("The server has ended the session.")
        if message.method == jsonrpc.INITIALIZE:
            self.upstream_id, self.revision = response.headers.get(SESSION_ID), None
        if response.is_stream and response.status < 300:
            await self._receive_stream(message, response, deliver)
            return
        body = (await response.read()).strip()
        if response.status >= 400 and not _is_error(body):
            wrong_url = response.status in (NOT_FOUND, METHOD_NOT_ALLOWED)
            hint = f"Check the server URL: {self._upstream.url}" if wrong_url else None
            failure = Failure(f"{self._upstream.host} answered with HTTP {response.status}.", hint=hint)
            failure.processed = response.status >= 500 and not self._gateway.is_read(message)
            body = jsonrpc.failure(message, failure.explanation) if message.is_request else b""
        elif message.is_request and not _is_json(body):
            raise broken(self._upstream.host)
        if response.status >= 400 and message.is_request:
            body = jsonrpc.with_id(body, message.id)
        if body and (message.is_request or response.status >= 400):
            await deliver(self._seen(message, Event(body, status=response.status, final=True)))

    async def _receive_stream(self, message: Message, response: Response, deliver: Deliver) -> None:
        """Deliver events until the response to the message. A stream that breaks is resumed, if the server can."""
        last_id: bytes | None = None
        pause = LISTEN_PAUSE
        deadline: float | None = None  # of the attempts to resume it
        current: Response | None = response
        while True:
            if current is not None:
                with suppress(Failure):
                    async with current:
                        events = current.events()
                        async for event in events:
                            last_id = last_id if event.id is None else event.id
                            pause = pause if event.retry is None else event.retry / 1000
                            seen = self._seen(message, event)
                            if not event.data or _is_json(event.data):
                                await deliver(seen)
                            if seen.final:
                                await _read_to_end(events)
                                return
                deadline = uptime() + self._gateway.patience
            if message.is_batch or not message.is_request:
                return
            if last_id is None or deadline is None or uptime() + pause >= deadline:
                raise broken(self._upstream.host)
            await anyio.sleep(pause)
            current = await self._resume(last_id)

    async def _resume(self, last_id: bytes) -> Response | None:
        """Return the rest of a stream; None if the server cannot be reached. Raises Failure if it does not resume."""
        lines = {"accept": "text/event-stream", **self._session_headers(), "last-event-id": last_id.decode("latin-1")}
        try:
            response = await self._upstream.send("GET", lines)
        except (Failure, NotionOAuthError):
            return None
        if response.is_stream and response.status < 300:
            return response
        await response.aclose()
        raise broken(self._upstream.host)

    def _seen(self, message: Message, event: Event) -> Event:
        """Read what the gateway needs of an event, and return the event as the client gets it."""
        if event.final and not self._gateway.reads_result(message):
            return event  # the whole body, which is not parsed
        document = jsonrpc.read_object(event.data)
        if document.get("method") == jsonrpc.TOOLS_CHANGED:
            self._gateway.tools.is_current = False
        if not document or "method" in document or document.get("id") not in (message.id, None):
            return event
        result = document.get("result")
        if isinstance(result, dict):
            if message.method == jsonrpc.INITIALIZE:
                self._note_begun(result)
            changed = self._gateway.read_result(message, result)
            if changed is not None:
                event = replace(event, data=jsonrpc.dumps({**document, "result": changed}))
            self._note_setting(message)
        return replace(event, final=True)

    def _headers(self, message: Message) -> dict[str, str]:
        if self.initialize is None and message.revision is not None:
            tool = self._gateway.tools.find(message.tool)
            return routing_headers(message, None if tool is None else tool.get("inputSchema"))
        return {} if message.method == jsonrpc.INITIALIZE else self._session_headers()

    def _session_headers(self) -> dict[str, str]:
        headers = {} if not self.revision else {"mcp-protocol-version": self.revision}
        return headers if self.upstream_id is None else {**headers, SESSION_ID: self.upstream_id}

    async def _begin(self) -> None:
        """Begin the session at the server, unless it has begun. All who wait get the same error.

        Raises Failure, and the errors of `TokenSource.token`.
        """
        attempts = self._begin_attempts
        async with self._beginning:
            if self._begun or self.initialize is None:
                return
            if self._begin_error is not None and attempts != self._begin_attempts:
                raise self._begin_error  # of another message, meanwhile
            self._begin_attempts += 1
            self._begin_error = None
            try:
                await self._begin_in_time(self.initialize)
            except (Failure, NotionOAuthError) as error:
                self._begin_error = error
                raise
            self._initialized = True
            self._set_begun()

    async def _begin_in_time(self, initialize: Message) -> None:
        with anyio.move_on_after(BEGIN_TIMEOUT):
            return await self._begin_with(initialize)
        raise Failure(f"{self._upstream.host} did not begin a session in time.")

    async def _begin_with(self, initialize: Message) -> None:
        answers = []

        async def note(event: Event) -> None:
            answers.append(event.data)

        self._restarting = True
        try:
            async with await self._upstream.send("POST", ACCEPT, initialize.body) as response:
                await self._receive(initialize, response, None, note)
        finally:
            self._restarting = False
        if self.revision is None:
            raise Failure(f"{self._upstream.host} did not begin a session: {_error_text(answers)}")
        self._gateway.waiting_room.leave()
        for body in (jsonrpc.notification(jsonrpc.INITIALIZED), *(each.body for each in self._restored.values())):
            async with await self._upstream.send("POST", {**ACCEPT, **self._session_headers()}, body) as response:
                if not response.is_stream:
                    await response.read()

    def _set_begun(self) -> None:
        self._begun = True
        self._renewed.set()
        self._renewed = anyio.Event()

    def _note_begun(self, result: Mapping[str, Any]) -> None:
        revision = result.get("protocolVersion")
        self.revision = revision if isinstance(revision, str) else ""
        if not self._restarting:
            self._set_begun()

    def _note_setting(self, message: Message) -> None:
        """Note what a new session must be told again."""
        if message.method == "logging/setLevel":
            self._restored["level"] = message
        elif message.method == "resources/subscribe":
            self._restored[message.params.get("uri")] = message
        elif message.method == "resources/unsubscribe":
            self._restored.pop(message.params.get("uri"), None)

    def _lose(self, upstream_id: str) -> None:
        if self.upstream_id == upstream_id:
            self.upstream_id, self._begun = None, False

    async def _fetch_tools(self, message: Message) -> None:
        """List all tools of the server, to know those that the client has not listed. Raises Failure."""
        cursor: str | None = None
        with anyio.move_on_after(LIST_TIMEOUT):
            for _ in range(MAX_PAGES):
                self._number += 1
                params = {} if cursor is None else {"cursor": cursor}
                meta = {"_meta": dict(message.meta)} if message.revision is not None else {}
                request = {"jsonrpc": "2.0", "id": f"notion-oauth-{self._number}", "method": jsonrpc.LIST_TOOLS}
                document = {**request, "params": {**params, **meta}}
                listing = Message(jsonrpc.dumps(document), document)
                answers: list[bytes] = []

                async def note(event: Event, answers: list[bytes] = answers) -> None:
                    if event.final:
                        answers.append(event.data)

                upstream_id = self.upstream_id
                lines = {**ACCEPT, **self._headers(listing)}
                async with await self._upstream.send("POST", lines, listing.body) as response:
                    await self._receive(listing, response, upstream_id, note)
                if self._gateway.tools.is_current:
                    return
                cursor = _next_cursor(answers)
                if cursor is None:
                    break
        raise Failure(f"{self._upstream.host} did not list its tools.")

    async def listen(self, deliver: Deliver, last_id: str | None) -> None:
        """Deliver the server's stream, opened again whenever it ends."""
        pause, begun_again = LISTEN_PAUSE, False
        while True:
            await self._gateway.waiting_room.wait_for_change(was_open=True)
            pause = min(2 * pause, MAX_LISTEN_PAUSE)
            try:
                await self.begin()
                renewed, upstream_id = self._renewed, self.upstream_id
                lines = {"accept": "text/event-stream", **self._session_headers()}
                if last_id is not None:
                    lines["last-event-id"] = last_id
                async with await self._upstream.send("GET", lines) as response:
                    if response.status == NOT_FOUND and upstream_id is not None and not begun_again:
                        self._lose(upstream_id)
                        last_id, begun_again = None, True
                        continue
                    if response.status in (METHOD_NOT_ALLOWED, NOT_FOUND):
                        await response.aclose()
                        await renewed.wait()  # this server has no such stream
                        continue
                    if response.is_stream and response.status < 300:
                        pause, begun_again = LISTEN_PAUSE, False
                        async for event in response.events():
                            pause = pause if event.retry is None else event.retry / 1000
                            last_id = last_id if event.id is None else event.id.decode("latin-1")
                            if not event.data or _is_json(event.data):
                                await deliver(self._noted(event))
            except NotionOAuthError as error:
                self._gateway.waiting_room.enter(error)
            except Failure:
                pass
            await anyio.sleep(pause)

    def _noted(self, event: Event) -> Event:
        """Read what the gateway needs of a message that belongs to no request, or to one of an earlier connection."""
        if b"list_changed" in event.data:
            self._gateway.tools.is_current = False
        document = jsonrpc.read_object(event.data) if self._gateway.filter.is_set else {}
        result = document.get("result")
        if not isinstance(result, dict) or "tools" not in result:
            return event
        return replace(event, data=jsonrpc.dumps({**document, "result": self._gateway.filtered(result)}))

    async def close(self) -> None:
        """End the session at the server."""
        if self.upstream_id is not None:
            with suppress(Failure, NotionOAuthError):
                response = await self._upstream.send("DELETE", self._session_headers())
                await response.aclose()


def _is_json(body: bytes) -> bool:
    """Whether this can be a JSON-RPC message, and not a page of a proxy."""
    return body.lstrip()[:1] in (b"{", b"[")


def _is_error(body: bytes) -> bool:
    """Whether an HTTP error has a JSON-RPC error as its body."""
    document = jsonrpc.read_object(body)
    return isinstance(document.get("error"), dict) and "jsonrpc" in document


def _next_cursor(answers: list[bytes]) -> str | None:
    with suppress(ValueError, KeyError, TypeError, IndexError):
        return str(json.loads(answers[0])["result"]["nextCursor"])
    return None


def _error_text(answers: list[bytes]) -> str:
    with suppress(ValueError, KeyError, TypeError, IndexError):
        return str(json.loads(answers[0])["error"]["message"])[:200]
    return "its answer is not a result."


async def _read_to_end(events: AsyncIterator[Event]) -> None:
    """Read what follows the response: a connection can be used again only if its body was read to the end.

    Also if the client has closed its own connection, because it has all it wants.
    """
    with anyio.move_on_after(END_WAIT, shield=True):
        async for _ in events:
            pass
