"""Injected faults: error responses, and responses that are lost, slow, endless or never sent."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Literal

import anyio

from notion_oauth.sandbox.recording import RecordedRequest, Recorder

Kind = Literal["hang", "drop", "lose_response", "slow", "drip", "oversize", "redirect", "garble"]
App = Callable[[Any, Any, Any], Awaitable[None]]
OnArrival = Callable[[RecordedRequest], Awaitable[None] | None]
OnAnswer = Callable[[RecordedRequest, int, bytes], None]
CONTENT_LENGTH = b"1000000"  # bytes that a truncated response announces, so that its reader notices the truncation


@dataclass
class Fault:
    """A fault for the next request to its path."""

    path: str
    method: str | None
    kind: Kind | Literal["answer"]
    status: int = 400
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.1
    size: int = 2 * 1024 * 1024


class Faults:
    """ASGI middleware that records requests, and applies the pending faults to them."""

    def __init__(self, app: App, recorder: Recorder, now: Callable[[], float]) -> None:
        self._app, self._recorder, self._now = app, recorder, now
        self._pending: list[Fault] = []
        self._lock = threading.Lock()
        self.stopping = False  # ends responses that hang or drip
        self.on_arrival: OnArrival | None = None
        self.on_answer: OnAnswer | None = None

    def add(self, fault: Fault, times: int) -> None:
        with self._lock:
            self._pending += [fault] * times

    def _take(self, request: RecordedRequest) -> Fault | None:
        with self._lock:
            for index, fault in enumerate(self._pending):
                if fault.path == request.path and fault.method in (None, request.method):
                    return self._pending.pop(index)
        return None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        request = self._recorder.record(scope, body)
        sent = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Any:
            return sent.pop() if sent else await receive()

        send = self._dated(send)

        async def note_status(message: Any) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
            await send(message)

        if self.on_arrival is not None and (delay := self.on_arrival(request)) is not None:
            await delay
        fault = self._take(request)
        if fault is None:
            await self._process(request, scope, replay, note_status)
        elif fault.kind in ("lose_response", "slow"):
            messages: list[Any] = []
            await self._process(request, scope, replay, _collector(messages))
            await _withhold(fault, messages, send if fault.kind == "lose_response" else note_status)
        elif fault.kind == "hang":
            await self._wait_for_disconnect(receive)
        elif fault.kind == "drip":
            await self._drip(fault, note_status)
        else:
            await _send_fault(fault, note_status)

    def _dated(self, send: Any) -> Any:
        """Add a Date header with the server's clock (RFC 9110 §6.6.1), unless a fault has set one."""

        async def dated(message: Any) -> None:
            if message["type"] == "http.response.start" and b"date" not in dict(message["headers"]):
                date = formatdate(self._now(), usegmt=True).encode()
                message = {**message, "headers": [*message["headers"], (b"date", date)]}
            await send(message)

        return dated

    async def _process(self, request: RecordedRequest, scope: Any, receive: Any, send: Any) -> None:
        """Let the server process the request, and call `on_answer` before the response is complete."""
        status, body = 0, b""

        async def observed(message: Any) -> None:
            nonlocal status, body
            status, body = message.get("status", status), body + message.get("body", b"")
            if self.on_answer is not None and message["type"] == "http.response.body" and not message.get("more_body"):
                self.on_answer(request, status, body)
            await send(message)

        await self._app(scope, receive, observed)

    async def _wait_for_disconnect(self, receive: Any) -> None:
        disconnected = False
        while not disconnected and not self.stopping:
            with anyio.move_on_after(0.05):
                disconnected = (await receive())["type"] == "http.disconnect"

    async def _drip(self, fault: Fault, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", CONTENT_LENGTH)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while not self.stopping:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await anyio.sleep(fault.seconds)


async def _send_fault(fault: Fault, send: Any) -> None:
    if fault.kind == "drop":
        await _truncate(send)
        return
    headers = [(name.lower().encode(), value.encode()) for name, value in fault.headers.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": headers})
    async for part in _parts(fault):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _parts(fault: Fault) -> AsyncIterator[bytes]:
    if fault.kind != "oversize":
        yield fault.body
        return
    yield b'{"padding": "'
    for _ in range(fault.size // 65536):
        yield b"x" * 65536
    yield b'"}'


async def _truncate(send: Any) -> None:
    """Start a response and end it before its announced length: uvicorn then closes the connection."""
    headers = [(b"content-type", b"application/json"), (b"content-length", CONTENT_LENGTH)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"access_', "more_body": True})


def _collector(messages: list[Any]) -> Callable[[Any], Awaitable[None]]:
    async def collect(message: Any) -> None:
        messages.append(message)

    return collect


async def _withhold(fault: Fault, messages: list[Any], send: Any) -> None:
    """Lose the response of a processed request, or send it late."""
    if fault.kind == "lose_response":
        await _truncate(send)
        return
    await anyio.sleep(fault.seconds)
    for message in messages:
        await send(message)


async def _read(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def error_response(
    status: int | None, error: str | None, description: str | None, body: bytes | str | None
) -> tuple[int, bytes]:
    """Return the status and the body of an error response."""
    if body is None and error is not None:
        document = {"error": error, **({"error_description": description} if description else {})}
        body = json.dumps(document)
    raw = body.encode() if isinstance(body, str) else body or b""
    return status or 400, raw
