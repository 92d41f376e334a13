"""One client's session: its messages go to the server, and the server's to it, whatever happens in between."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import anyio

from notion_oauth.clock import uptime
from notion_oauth.errors import NotionOAuthError
from notion_oauth.gateway import jsonrpc
from notion_oauth.gateway.jsonrpc import Message
from notion_oauth.gateway.routing_headers import routing_headers
from notion_oauth.gateway.server_sent_events import Event
from notion_oauth.gateway.sign_in import THEN, SignInOffer
from notion_oauth.gateway.subscriptions import Subscription
from notion_oauth.gateway.upstream import NOT_FOUND, Failure, Response, SessionLost, broken
from notion_oauth.gateway.waiting_room import LOCAL_METHODS, SIGN_IN_TOOL, UNREACHABLE_AFTER

if TYPE_CHECKING:
    from notion_oauth.gateway.gateway import Gateway

ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
SESSION_ID = "mcp-session-id"
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two attempts
LISTEN_PAUSE = 1.0  # seconds before a stream of the server's own messages is opened again
MAX_LISTEN_PAUSE = 30.0
BAD_REQUEST, HEADER_MISMATCH = 400, -32020
METHOD_NOT_ALLOWED = 405
KNOWN_UNREACHABLE_AFTER = 0.8  # seconds, if the waiting room is open
BEGIN_TIMEOUT = 30.0  # seconds
LIST_TIMEOUT, MAX_PAGES = 30.0, 100  # seconds
END_WAIT = 0.2  # seconds for the end of a stream after its last event
ELICITATION_WAIT = 50.0  # seconds; clients give up after 60

Deliver = Callable[[Event], Awaitable[None]]
_LOG = logging.getLogger(__name__)


@dataclass
class _Request:
    """A request of the client that is not answered yet."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    sent: bool = False  # and perhaps processed
    cancelled: bool = False
    tools_listed: bool = False  # again, because the server did not accept the headers


class _Trial:
    """How long one message is repeated, and after which pause."""

    def __init__(self, patience: float, *, is_read: bool) -> None:
        self._is_read = is_read
        self._deadline = uptime() + patience
        self._pause = FIRST_PAUSE

    def pause(self, failure: Failure) -> float | None:
        """Return the seconds to wait before the next attempt; None if there is none."""
        if failure.processed and not self._is_read:
            return None
        pause = max(failure.retry_after or 0.0, self._pause)
        if isinstance(failure, SessionLost) and self._pause == FIRST_PAUSE:
            pause = 0.0
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return pause if uptime() + pause < self._deadline else None


class Session:
    """One client's session, on any revision of the protocol.

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
        self._gateway = gateway
        self._upstream = gateway.upstream
        self._initialize = initialize
        self._upstream_id = upstream_id
        self._revision = revision
        self._begun = upstream_id is not None
        self._beginning = anyio.Lock()  # held while the session begins
        self._initialized = upstream_id is not None  # whether the server knows that the client is ready
        self._closed = anyio.Event()
        self._restarting = False
        self._begin_attempts = 0
        self._begin_error: Failure | NotionOAuthError | None = None  # of the last attempt
        self._renewed = anyio.Event()  # set when the session has begun again, and then replaced
        self._restored: dict[object, Message] = {}  # requests that a new session must repeat, by what they set
        self._requests: dict[object, _Request] = {}
        self._questions: dict[str, tuple[anyio.Event, list[Any]]] = {}  # requests of the gateway to the client, by id
        self._listed_locally = False  # whether the client has last got the tools of the waiting room
        self._number = 0

    @property
    def initialize(self) -> Message | None:
        return self._initialize

    @property
    def upstream_id(self) -> str | None:
        return self._upstream_id

    @property
    def revision(self) -> str | None:
        return self._revision

    # Messages of the client

    async def handle(self, message: Message, deliver: Deliver, headers: Mapping[str, str] | None = None) -> None:
        """Process one message, and deliver what the server sends for it: the last event is final.

        Nothing is delivered for a notification or a response that the server accepts. `headers` are the routing headers
        of a client that has sent them itself. Raises nothing but what `deliver` raises.
        """
        started, ended, outcome = uptime(), None, "cancelled"
        request = _Request()
        key = _key(message.id)
        if message.is_request and not message.is_batch:
            self._requests[key] = request

        async def deliver_and_note(event: Event) -> None:
            nonlocal ended, outcome
            if event.final:
                ended = uptime()
                outcome = "local" if event.local else str(event.status)
            if not request.cancelled:
                await deliver(event)

        try:
            with request.scope:
                await self._handle(message, deliver_and_note, headers, request)
                if not message.is_request:
                    outcome = "accepted" if outcome == "cancelled" else outcome
        except Exception as error:  # a defect of the gateway: the other messages go on
            _LOG.exception("A message failed.", exc_info=error)
            outcome = type(error).__name__
            if message.is_request and ended is None:
                await deliver(_local(jsonrpc.error(message.id, jsonrpc.INTERNAL_ERROR, "The gateway failed.")))
        finally:
            if self._requests.get(key) is request:
                del self._requests[key]
            self._gateway.log(message, outcome, (ended or uptime()) - started, self._upstream_id)

    async def _handle(
        self, message: Message, deliver: Deliver, headers: Mapping[str, str] | None, request: _Request
    ) -> None:
        if message.is_response and (question := self._questions.pop(str(message.id), None)) is not None:
            question[1].append(message.document.get("result"))
            question[0].set()
            return
        if (refusal := self._gateway.refusal(message)) is not None:
            if message.is_request:
                await deliver(_local(refusal))
            return
        if message.tool == SIGN_IN_TOOL:
            await self._sign_in(message, deliver)
            return
        if message.method == jsonrpc.CANCELLED and self._cancel(message):
            return
        if message.method == jsonrpc.INITIALIZE and message.is_request:
            self._initialize, self._begun, self._upstream_id, self._initialized = message, False, None, False
            self._restored.clear()
        if message.method == jsonrpc.INITIALIZED:
            async with self._beginning:
                if not self._begun or self._initialized:
                    return  # the server gets it, or has got it, from the gateway
                self._initialized = True
        relay = self._subscribe if message.method == jsonrpc.LISTEN and message.is_request else self._relay
        await relay(message, deliver, headers, request)

    def _cancel(self, message: Message) -> bool:
        """Cancel a request of the client. Returns whether the server needs no notification."""
        request = self._requests.get(_key(message.params.get("requestId")))
        if request is None:
            return self._initialize is None
        request.cancelled = True
        if self._initialize is None or not request.sent:
            request.scope.cancel()  # without a session, the end of the connection is the signal
            return True
        return False

    async def _relay(
        self, message: Message, deliver: Deliver, headers: Mapping[str, str] | None, request: _Request
    ) -> None:
        """Send the message, repeatedly if that is safe, and deliver what arrives."""
        gateway, room = self._gateway, self._gateway.waiting_room
        trial = _Trial(gateway.patience, is_read=gateway.is_read(message))
        is_local = message.is_request and message.method in LOCAL_METHODS  # can be answered here
        answer_at = math.inf
        if is_local:
            answer_at = uptime() + (KNOWN_UNREACHABLE_AFTER if room.is_open else UNREACHABLE_AFTER)
        while not request.cancelled:
            try:
                with anyio.move_on_after(answer_at - uptime()):
                    return await self._attempt(message, deliver, headers, request)
                failure = Failure(f"{self._upstream.host} did not answer in time.", unreachable=True)
            except NotionOAuthError as error:
                if room.enter(error):
                    return await self._answer_locally(message, deliver)
                return await self._fail(message, deliver, gateway.explain(error))
            except Failure as caught:
                failure = caught
            request.sent = failure.processed
            if message.is_response and isinstance(failure, SessionLost):
                return None  # the new session has not asked
            pause = trial.pause(failure)
            if is_local and (pause is None or uptime() + pause >= answer_at):
                room.enter(failure)
                return await self._answer_locally(message, deliver)
            if pause is None:
                return await self._fail(message, deliver, failure.explanation)
            await anyio.sleep(pause)
        return None

    async def _subscribe(
        self, message: Message, deliver: Deliver, headers: Mapping[str, str] | None, request: _Request
    ) -> None:
        """Keep a stream of subscriptions (2026-07-28) open: opened again whenever it breaks."""
        subscription = Subscription(message, deliver)
        room, pause = self._gateway.waiting_room, LISTEN_PAUSE
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._announce, subscription.tell_tools_changed)
            while not (subscription.ended or request.cancelled):
                try:
                    await self._attempt(message, subscription.deliver, headers, request)
                except NotionOAuthError as error:
                    room.enter(error)
                except Failure:
                    pass
                pause = LISTEN_PAUSE if subscription.take_progress() else min(2 * pause, MAX_LISTEN_PAUSE)
                if not subscription.ended:
                    await subscription.acknowledge()
                    await room.wait_for_change(was_open=True)
                    await anyio.sleep(pause)
            tasks.cancel_scope.cancel()

    async def _attempt(
        self, message: Message, deliver: Deliver, headers: Mapping[str, str] | None, request: _Request
    ) -> None:
        if message.method == jsonrpc.INITIALIZE:
            async with self._beginning:  # the messages that follow wait for it
                return await self._exchange(message, deliver, headers, request)
        try:
            if self._initialize is not None and not self._begun:
                await self._begin()
            if self._gateway.needs_tools(message):
                await self._fetch_tools(message)
        except Failure as failure:
            failure.processed = False  # another message failed: this one was not sent
            raise
        if (refusal := self._gateway.refusal(message, tools_listed=True)) is not None:
            return await deliver(_local(refusal))
        return await self._exchange(message, deliver, headers, request)

    async def _exchange(
        self, message: Message, deliver: Deliver, headers: Mapping[str, str] | None, request: _Request
    ) -> None:
        """Send the message once, and deliver what arrives. Raises Failure."""
        upstream_id = self._upstream_id
        request.sent = True
        lines = {**ACCEPT, **self._headers(message), **(headers or {})}
        async with await self._upstream.send("POST", lines, message.body) as response:
            self._gateway.waiting_room.leave()
            if response.status == BAD_REQUEST and message.tool is not None and not (headers or request.tools_listed):
                await self._check_headers(response, request)
            await self._receive(message, response, upstream_id, deliver)

    async def _check_headers(self, response: Response, request: _Request) -> None:
        """Raise Failure if the headers do not fit the tool, whose schema has changed: it is then listed again."""
        document = jsonrpc.read_object(await response.read())
        error = document.get("error")
        if isinstance(error, dict) and error.get("code") == HEADER_MISMATCH:
            request.tools_listed = True
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
            self._upstream_id, self._revision = response.headers.get(SESSION_ID), None
        if response.is_stream and response.status < 300:
            await self._receive_stream(message, response, deliver)
            return
        body = (await response.read()).strip()
        if response.status >= 400 and not _is_error(body):
            failure = Failure(f"{self._upstream.host} answered with HTTP {response.status}.")
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
            if message.method == jsonrpc.LIST_TOOLS:
                self._listed_locally = False
            self._note_setting(message)
        return replace(event, final=True)

    def _headers(self, message: Message) -> dict[str, str]:
        if self._initialize is None and message.revision is not None:
            tool = self._gateway.tools.find(message.tool)
            return routing_headers(message, None if tool is None else tool.get("inputSchema"))
        return {} if message.method == jsonrpc.INITIALIZE else self._session_headers()

    def _session_headers(self) -> dict[str, str]:
        headers = {} if not self._revision else {"mcp-protocol-version": self._revision}
        return headers if self._upstream_id is None else {**headers, SESSION_ID: self._upstream_id}

    async def _fail(self, message: Message, deliver: Deliver, text: str) -> None:
        if message.is_request:
            await deliver(_local(jsonrpc.failure(message, text)))

    async def _answer_locally(self, message: Message, deliver: Deliver) -> None:
        if message.is_request:
            self._listed_locally = self._listed_locally or message.method in (jsonrpc.INITIALIZE, jsonrpc.LIST_TOOLS)
            await deliver(_local(self._gateway.waiting_room.answer(message)))

    # The session at the server

    async def _begin(self) -> None:
        """Begin the session at the server, unless it has begun. All who wait get the same error.

        Raises Failure, and the errors of `TokenSource.token`.
        """
        attempts = self._begin_attempts
        async with self._beginning:
            if self._begun or self._initialize is None:
                return
            if self._begin_error is not None and attempts != self._begin_attempts:
                raise self._begin_error  # of another message, meanwhile
            self._begin_attempts += 1
            self._begin_error = None
            try:
                await self._begin_in_time(self._initialize)
            except (Failure, NotionOAuthError) as error:
                self._begin_error = error
                raise
            self._initialized = True
            self._set_begun()

    async def _begin_in_time(self, initialize: Message) -> None:
        with anyio.move_on_after(BEGIN_TIMEOUT):
            return await self._begin_with(initialize)
        raise Failure(f"{self._upstream.host} did not begin a session in time.", unreachable=True)

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
        if self._revision is None:
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
        self._revision = revision if isinstance(revision, str) else ""
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
        if self._upstream_id == upstream_id:
            self._upstream_id, self._begun = None, False

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

                upstream_id = self._upstream_id
                lines = {**ACCEPT, **self._headers(listing)}
                async with await self._upstream.send("POST", lines, listing.body) as response:
                    await self._receive(listing, response, upstream_id, note)
                if self._gateway.tools.is_current:
                    return
                cursor = _next_cursor(answers)
                if cursor is None:
                    break
        raise Failure(f"{self._upstream.host} did not list its tools.")

    # Messages of the server that belong to no request

    async def listen(self, deliver: Deliver, last_id: str | None = None) -> None:
        """Deliver the server's own messages, and the gateway's, until cancelled or the session is closed."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._announce, deliver)
            tasks.start_soon(self._listen, deliver, last_id)
            await self._closed.wait()
            tasks.cancel_scope.cancel()

    async def _announce(self, deliver: Deliver) -> None:
        """Tell the client that the tools have changed, whenever the waiting room opens or closes."""
        room = self._gateway.waiting_room
        while True:
            await room.wait_for_change(was_open=self._listed_locally)
            self._listed_locally = room.is_open
            if not room.is_open and self._initialize is not None:
                with suppress(Failure, NotionOAuthError):
                    await self._begin()
            await deliver(Event(jsonrpc.notification(jsonrpc.TOOLS_CHANGED)))

    async def _listen(self, deliver: Deliver, last_id: str | None) -> None:
        """Deliver the server's stream, opened again whenever it ends."""
        pause, begun_again = LISTEN_PAUSE, False
        while True:
            await self._gateway.waiting_room.wait_for_change(was_open=True)
            pause = min(2 * pause, MAX_LISTEN_PAUSE)
            try:
                await self._begin()
                renewed, upstream_id = self._renewed, self._upstream_id
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
        """End the session at the server, and what listens to it."""
        self._closed.set()
        if self._upstream_id is not None:
            with suppress(Failure, NotionOAuthError):
                response = await self._upstream.send("DELETE", self._session_headers())
                await response.aclose()

    # Signing in

    async def _sign_in(self, message: Message, deliver: Deliver) -> None:
        """Answer a call of the tool that signs in."""
        offer = await self._gateway.offer_sign_in()
        answers = message.params.get("inputResponses")
        if isinstance(answers, dict):
            text = _after_question(answers.get("sign-in"), offer)
        elif offer.url is None or not self._has_url_elicitation(message):
            text = await offer.open()
        else:
            question = {"mode": "url", "message": offer.text, "url": offer.url}
            if message.revision is not None:
                requests = {"sign-in": {"method": "elicitation/create", "params": question}}
                content = {"resultType": "input_required", "inputRequests": requests}
                await deliver(_local(jsonrpc.result(message, content)))
                return
            text = _after_question(await self._ask(question, deliver), offer)
        await deliver(_local(jsonrpc.tool_result(message, text, is_error=offer.failed)))

    def _has_url_elicitation(self, message: Message) -> bool:
        capabilities = (
            self._initialize.params.get("capabilities")
            if self._initialize is not None
            else message.meta.get(jsonrpc.CAPABILITIES)
        )
        elicitation = capabilities.get("elicitation") if isinstance(capabilities, dict) else None
        return isinstance(elicitation, dict) and isinstance(elicitation.get("url"), dict)

    async def _ask(self, question: dict[str, Any], deliver: Deliver) -> Any:
        """Ask the client to open a URL; its answer, or None if it does not answer in time."""
        self._number += 1
        request_id = f"notion-oauth-{self._number}"
        answered = anyio.Event()
        answer: list[Any] = []
        self._questions[request_id] = answered, answer
        params = {**question, "elicitationId": request_id}
        document = {"jsonrpc": "2.0", "id": request_id, "method": "elicitation/create", "params": params}
        await deliver(Event(jsonrpc.dumps(document)))
        with anyio.move_on_after(ELICITATION_WAIT):
            await answered.wait()
        self._questions.pop(request_id, None)
        return answer[0] if answer else None


def _after_question(answer: Any, offer: SignInOffer) -> str:
    action = answer.get("action") if isinstance(answer, dict) else None
    if action == "accept":
        return f"The sign-in page is open. {THEN}"
    if action in ("decline", "cancel") and offer.url is not None:  # some clients decline without asking the person
        return f"The client did not open the sign-in page. Open it yourself: {offer.url}"
    return offer.text


def _key(request_id: Any) -> object:
    """Distinguish "1" from 1."""
    return type(request_id), request_id if isinstance(request_id, str | int | float) else None


def _local(body: bytes) -> Event:
    return Event(body, final=True, local=True)


async def _read_to_end(events: AsyncIterator[Event]) -> None:
    """Read what follows the response: a connection can be used again only if its body was read to the end.

    Also if the client has closed its own connection, because it has all it wants.
    """
    with anyio.move_on_after(END_WAIT, shield=True):
        async for _ in events:
            pass


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
