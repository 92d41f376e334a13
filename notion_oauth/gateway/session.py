"""One client's session: its messages go to the server, and the server's to it, whatever happens in between."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from notion_oauth.clock import uptime
from notion_oauth.errors import NotionOAuthError
from notion_oauth.gateway import jsonrpc
from notion_oauth.gateway.jsonrpc import Message
from notion_oauth.gateway.server_sent_events import Event
from notion_oauth.gateway.server_session import LISTEN_PAUSE, MAX_LISTEN_PAUSE, Deliver, RequestState, ServerSession
from notion_oauth.gateway.sign_in import THEN, SignInOffer
from notion_oauth.gateway.subscriptions import Subscription
from notion_oauth.gateway.upstream import Failure, SessionLost
from notion_oauth.gateway.waiting_room import LOCAL_METHODS, SIGN_IN_TOOL, UNREACHABLE_AFTER

if TYPE_CHECKING:
    from notion_oauth.gateway.gateway import Gateway

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two attempts
KNOWN_UNREACHABLE_AFTER = 0.8  # seconds, if the waiting room is open
ELICITATION_WAIT = 50.0  # seconds; clients give up after 60
NO_HEADERS: Mapping[str, str] = {}
_LOG = logging.getLogger(__name__)


@dataclass
class _Request(RequestState):
    """A request of the client that is not answered yet."""

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    cancelled: bool = False


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
    """One client's session, on any revision of the protocol. `server` is its session at the server."""

    def __init__(self, gateway: Gateway, server: ServerSession | None = None) -> None:
        self._gateway = gateway
        self.server = server or ServerSession(gateway)
        self._requests: dict[object, _Request] = {}
        self._questions: dict[str, tuple[anyio.Event, list[Any]]] = {}  # requests of the gateway to the client, by id
        self._listed_locally = False  # whether the client has last got the tools of the waiting room
        self._closed = anyio.Event()
        self._number = 0

    # Messages of the client

    async def handle(self, message: Message, deliver: Deliver, headers: Mapping[str, str] = NO_HEADERS) -> None:
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
                if message.method in (jsonrpc.INITIALIZE, jsonrpc.LIST_TOOLS):
                    self._listed_locally = event.local
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
            self._gateway.log(message, outcome, (ended or uptime()) - started, self.server.upstream_id)

    async def _handle(self, message: Message, deliver: Deliver, headers: Mapping[str, str], request: _Request) -> None:
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
            self.server.restart(message)
        if message.method == jsonrpc.INITIALIZED and not await self.server.takes_initialized():
            return
        relay = self._subscribe if message.method == jsonrpc.LISTEN and message.is_request else self._relay
        await relay(message, deliver, headers, request)

    def _cancel(self, message: Message) -> bool:
        """Cancel a request of the client. Returns whether the server needs no notification."""
        request = self._requests.get(_key(message.params.get("requestId")))
        if request is None:
            return self.server.initialize is None
        request.cancelled = True
        if self.server.initialize is None or not request.sent:
            request.scope.cancel()  # without a session, the end of the connection is the signal
            return True
        return False

    async def _relay(self, message: Message, deliver: Deliver, headers: Mapping[str, str], request: _Request) -> None:
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
                    return await self.server.send(message, deliver, headers, request)
                failure = Failure(f"{gateway.upstream.host} did not answer in time.")
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
        self, message: Message, deliver: Deliver, headers: Mapping[str, str], request: _Request
    ) -> None:
        """Keep a stream of subscriptions (2026-07-28) open: opened again whenever it breaks."""
        subscription = Subscription(message, deliver)
        room, pause = self._gateway.waiting_room, LISTEN_PAUSE
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._announce, subscription.tell_tools_changed)
            while not (subscription.ended or request.cancelled):
                try:
                    await self.server.send(message, subscription.deliver, headers, request)
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

    async def _fail(self, message: Message, deliver: Deliver, text: str) -> None:
        if message.is_request:
            await deliver(_local(jsonrpc.failure(message, text)))

    async def _answer_locally(self, message: Message, deliver: Deliver) -> None:
        if message.is_request:
            await deliver(_local(self._gateway.waiting_room.answer(message)))

    # Messages of the server that belong to no request

    async def listen(self, deliver: Deliver, last_id: str | None = None) -> None:
        """Deliver the server's own messages, and the gateway's, until cancelled or the session is closed."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._announce, deliver)
            tasks.start_soon(self.server.listen, deliver, last_id)
            await self._closed.wait()
            tasks.cancel_scope.cancel()

    async def _announce(self, deliver: Deliver) -> None:
        """Tell the client that the tools have changed, whenever the waiting room opens or closes."""
        room = self._gateway.waiting_room
        while True:
            await room.wait_for_change(was_open=self._listed_locally)
            self._listed_locally = room.is_open
            if not room.is_open:
                with suppress(Failure, NotionOAuthError):
                    await self.server.begin()
            await deliver(Event(jsonrpc.notification(jsonrpc.TOOLS_CHANGED)))

    async def close(self) -> None:
        """End the session at the server, and what listens to it."""
        self._closed.set()
        await self.server.close()

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
            self.server.initialize.params.get("capabilities")
            if self.server.initialize is not None
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
