"""The gateway on standard input and output, for a client that starts this process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

import anyio

from notion_oauth.errors import Hint
from notion_oauth.gateway import jsonrpc
from notion_oauth.gateway.gateway import PATIENCE, Gateway
from notion_oauth.gateway.server_sent_events import Event
from notion_oauth.gateway.session import Session
from notion_oauth.gateway.sign_in import LoopbackSignIn
from notion_oauth.gateway.tools import ToolFilter
from notion_oauth.service import NotionOAuth

MAX_UNWRITTEN = 1024 * 1024  # bytes that wait for a client that does not read; then the server's streams wait too
MAX_MESSAGES = 1000  # of the client that are read ahead
ANSWER_WAIT = 0.3  # seconds after the end of the input for requests in progress, and for the client to read
ORDER_WAIT = 1.0  # seconds
CLOSE_WAIT = 0.3  # seconds to end the session at the server
PARENT_CHECK = 0.5  # seconds


def run(
    oauth: NotionOAuth,
    *,
    tool_filter: ToolFilter | None = None,
    patience: float = PATIENCE,
    render_hint: Callable[[Hint], str] = str,
) -> None:
    """Relay messages between standard input and output and the server of the login, until the input ends.

    Only JSON-RPC is written to standard output: what else this process prints goes to standard error.
    """
    reading, writing = _take_standard_streams()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            sign_in = LoopbackSignIn(oauth, tasks, render_hint=render_hint)
            gateway = Gateway(
                oauth, sign_in=sign_in, tool_filter=tool_filter, patience=patience, render_hint=render_hint
            )
            session = Session(gateway)
            tasks.start_soon(_stop_on_signal, tasks.cancel_scope)
            tasks.start_soon(_stop_without_parent, tasks.cancel_scope)
            try:
                await _serve(session, gateway, _Input(reading), _Output(writing, tasks.cancel_scope))
            finally:
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    with anyio.move_on_after(CLOSE_WAIT):
                        await session.close()
                    await gateway.aclose()

    anyio.run(main)


async def _serve(session: Session, gateway: Gateway, lines: _Input, output: _Output) -> None:
    async def deliver(event: Event) -> None:
        if event.data:  # an event that only tells its id has none
            await output.write(jsonrpc.one_line(event.data))

    async def handle(message: jsonrpc.Message) -> None:
        await session.handle(message, deliver if message.is_request else deliver_others)

    async def deliver_others(event: Event) -> None:
        if not event.final:  # nobody waits for the answer to a notification
            await deliver(event)

    async def begin(message: jsonrpc.Message, handled: anyio.Event) -> None:
        await handle(message)
        handled.set()

    listening = False
    async with anyio.create_task_group() as listener:
        async with anyio.create_task_group() as tasks:
            async for message in _messages(lines, output, strict=gateway.filter.is_set):
                if message.method == jsonrpc.INITIALIZED:
                    handled = anyio.Event()
                    tasks.start_soon(begin, message, handled)
                    with anyio.move_on_after(ORDER_WAIT):  # the server must have it before the requests that follow
                        await handled.wait()
                    if not listening:
                        listener.start_soon(session.listen, deliver)
                        listening = True
                else:
                    tasks.start_soon(handle, message)
            tasks.cancel_scope.deadline = anyio.current_time() + ANSWER_WAIT
        with anyio.move_on_after(ANSWER_WAIT):
            await output.drain()
        listener.cancel_scope.cancel()


async def _messages(lines: _Input, output: _Output, *, strict: bool) -> AsyncGenerator[jsonrpc.Message]:
    """Yield the client's messages, and answer what is none."""
    async for line in lines:
        try:
            message = jsonrpc.parse(line, strict=strict)
        except jsonrpc.InvalidMessage as error:
            await output.write(error.response)
        else:
            yield message


def _take_standard_streams() -> tuple[int, int]:
    """Return descriptors of standard input and output, in whose place are now the null device and standard error."""
    reading, writing = os.dup(0), os.dup(1)
    for descriptor in (reading, writing):
        with suppress(OSError):
            os.set_blocking(descriptor, True)  # the threads that use them wait
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    sys.stdout.flush()
    os.dup2(2, 1)
    return reading, writing


async def _stop_on_signal(scope: anyio.CancelScope) -> None:
    if sys.platform == "win32":  # pragma: no cover - its event loop has no handlers of signals
        return
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()


async def _stop_without_parent(scope: anyio.CancelScope) -> None:
    """End with the client, also if another of its children keeps our input open."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - nothing announces it
        await anyio.sleep(PARENT_CHECK)
    scope.cancel()


class _Input:
    """The lines of a descriptor, read in a thread, because it may be a file, a pipe, a terminal or a socket."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._free = threading.Semaphore(MAX_MESSAGES)
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def _read(self) -> None:
        with suppress(OSError, RuntimeError), os.fdopen(self._descriptor, "rb") as stream:  # RuntimeError: the end
            try:
                for line in stream:
                    self._free.acquire()
                    self._loop.call_soon_threadsafe(self._lines.put_nowait, line)
            finally:
                self._loop.call_soon_threadsafe(self._lines.put_nowait, None)

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        while (line := await self._lines.get()) is not None:
            self._free.release()
            if message := line.strip():
                yield message


class _Output:
    """Lines to a descriptor, written in a thread. A client that has gone ends `scope`."""

    def __init__(self, descriptor: int, scope: anyio.CancelScope) -> None:
        self._descriptor, self._scope = descriptor, scope
        self._loop = asyncio.get_running_loop()
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._ready = threading.Semaphore(0)
        self._written = asyncio.Event()
        threading.Thread(target=self._write, name="stdout", daemon=True).start()

    async def write(self, line: bytes) -> None:
        """Write the line, soon; wait while the client reads too slowly."""
        while self._size > MAX_UNWRITTEN:
            await self._next_write()
        self._size += len(line)
        self._lines.append(line + b"\n")
        self._ready.release()

    async def drain(self) -> None:
        """Wait until all is written."""
        while self._size:
            await self._next_write()

    async def _next_write(self) -> None:
        self._written.clear()
        await self._written.wait()

    def _write(self) -> None:
        with suppress(RuntimeError):  # the event loop has ended
            while True:
                self._ready.acquire()
                line = memoryview(self._lines.popleft())
                size = len(line) - 1
                try:
                    while line:
                        line = line[os.write(self._descriptor, line) :]
                except OSError:
                    self._loop.call_soon_threadsafe(self._scope.cancel)
                    return
                self._loop.call_soon_threadsafe(self._note_written, size)

    def _note_written(self, size: int) -> None:
        self._size -= size
        self._written.set()
