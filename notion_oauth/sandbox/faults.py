"""What can go wrong on purpose: refusals, and answers that are lost, slow, endless, or none."""

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
OnArrival = Callable[[RecordedRequest], None]
OnAnswer = Callable[[RecordedRequest, int, bytes], None]
PROMISED = b"1000000"  # bytes that a cut answer announces and never sends: its reader sees that it was cut


@dataclass
class Fault:
    """One thing that goes wrong, the next time its path is asked for."""

    path: str
    method: str | None
    kind: Kind | Literal["answer"]
    status: int = 400
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.1
    size: int = 2 * 1024 * 1024


class Faults:
    """The faults that wait for their request, and the ASGI layer that carries them out and records what came."""

    def __init__(self, app: App, recorder: Recorder, now: Callable[[], float]) -> None:
        self._app, self._recorder, self._now = app, recorder, now
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()
        self.stopping = False  # lets go of answers that hang or drip
        self.on_arrival: OnArrival | None = None
        self.on_answer: OnAnswer | None = None

    def add(self, fault: Fault, times: int) -> None:
        with self._lock:
            self._waiting += [fault] * times

    def _take(self, request: RecordedRequest) -> Fault | None:
        with self._lock:
            for index, fault in enumerate(self._waiting):
                if fault.path == request.path and fault.method in (None, request.method):
                    return self._waiting.pop(index)
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

        if self.on_arrival is not None:
            self.on_arrival(request)
        fault = self._take(request)
        if fault is None:
            await self._process(request, scope, replay, note_status)
        elif fault.kind in ("lose_response", "slow"):
            held: list[Any] = []
            await self._process(request, scope, replay, _keeper(held))
            await _withhold(fault, held, send if fault.kind == "lose_response" else note_status)
        elif fault.kind == "hang":
            await self._until_gone(receive)
        elif fault.kind == "drip":
            await self._drip(fault, note_status)
        else:
            await _misbehave(fault, note_status)

    def _dated(self, send: Any) -> Any:
        """Answers tell the server's time (RFC 9110 §6.6.1), unless a fault tells another."""

        async def dated(message: Any) -> None:
            if message["type"] == "http.response.start" and b"date" not in dict(message["headers"]):
                date = formatdate(self._now(), usegmt=True).encode()
                message = {**message, "headers": [*message["headers"], (b"date", date)]}
            await send(message)

        return dated

    async def _process(self, request: RecordedRequest, scope: Any, receive: Any, send: Any) -> None:
        """Let the server do what it is asked for, and tell who watches before the answer is whole."""
        status, body = 0, b""

        async def seen(message: Any) -> None:
            nonlocal status, body
            status, body = message.get("status", status), body + message.get("body", b"")
            if self.on_answer is not None and message["type"] == "http.response.body" and not message.get("more_body"):
                self.on_answer(request, status, body)
            await send(message)

        await self._app(scope, receive, seen)

    async def _until_gone(self, receive: Any) -> None:
        gone = False
        while not gone and not self.stopping:
            with anyio.move_on_after(0.05):
                gone = (await receive())["type"] == "http.disconnect"

    async def _drip(self, fault: Fault, send: Any) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", PROMISED)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while not self.stopping:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            await anyio.sleep(fault.seconds)


async def _misbehave(fault: Fault, send: Any) -> None:
    if fault.kind == "drop":
        await _cut(send)
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


async def _cut(send: Any) -> None:
    """Begin an answer and end it before what was promised: the server then closes the connection."""
    headers = [(b"content-type", b"application/json"), (b"content-length", PROMISED)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"access_', "more_body": True})


def _keeper(held: list[Any]) -> Callable[[Any], Awaitable[None]]:
    async def keep(message: Any) -> None:
        held.append(message)

    return keep


async def _withhold(fault: Fault, held: list[Any], send: Any) -> None:
    """The answer to what was done is lost, or comes late."""
    if fault.kind == "lose_response":
        await _cut(send)
        return
    await anyio.sleep(fault.seconds)
    for message in held:
        await send(message)


async def _read(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def answer(
    status: int | None, error: str | None, description: str | None, body: bytes | str | None
) -> tuple[int, bytes]:
    """The status and the body of a refusal."""
    if body is None and error is not None:
        document = {"error": error, **({"error_description": description} if description else {})}
        body = json.dumps(document)
    raw = body.encode() if isinstance(body, str) else body or b""
    return status or 400, raw
