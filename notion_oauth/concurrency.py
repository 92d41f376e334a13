"""Run a coroutine to its end from code that cannot wait for one, and not a moment longer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from functools import partial
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

_LIBRARY = "current_async_library_cvar"  # sniffio's, which may not be installed


def run(function: Callable[[], Awaitable[T]]) -> T:
    """Its result, or its exception. Works in threads that run an event loop too: the coroutine gets its own.

    Ctrl-C while it runs cancels the coroutine.
    """
    scope: anyio.CancelScope | None = None
    loop: asyncio.AbstractEventLoop | None = None

    async def cancellable() -> T:
        nonlocal scope, loop
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as scope:
            return await function()
        raise asyncio.CancelledError

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="notion-oauth") as thread:
        running = thread.submit(copied_context().run, run_in_this_thread, cancellable)
        try:
            return running.result()
        except KeyboardInterrupt:
            if loop is not None and scope is not None:
                with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                    loop.call_soon_threadsafe(scope.cancel)
            raise


def copied_context() -> Context:
    """What is known of a caller, such as the request that it answers, for a thread with an event loop of its own.

    A copy of its context variables, without the one by which anyio would think that a loop runs there already.
    """
    context = copy_context()
    for variable in list(context):
        if variable.name == _LIBRARY:
            context.run(variable.set, None)
    return context


def run_in_this_thread(function: Callable[[], Awaitable[T]]) -> T:
    """The same in this thread, where no event loop may run. Ctrl-C cancels the coroutine."""
    return anyio.run(function, backend_options={"loop_factory": _Loop})


async def run_in_daemon_thread(function: Callable[[], T]) -> T:
    """Run it in a thread that nobody waits for: neither who is cancelled meanwhile, nor the end of the program.

    For what may never answer, such as a name server or a network's file system. Works under asyncio alone.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def deliver(set_outcome: Callable[[Any], None], outcome: Any) -> None:
        if not answer.done():
            set_outcome(outcome)

    def call() -> None:
        try:
            outcome = partial(deliver, answer.set_result, function())
        except Exception as error:
            outcome = partial(deliver, answer.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended without us
            loop.call_soon_threadsafe(outcome)

    threading.Thread(target=call, name="apart", daemon=True).start()
    return await answer


class _Loop(asyncio.SelectorEventLoop):
    """Looks names up in threads that nobody waits for.

    asyncio's own look-up runs in an executor that is joined when the loop ends: a name server that does not
    answer would hold us up long after our time-out.
    """

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        return await run_in_daemon_thread(partial(socket.getaddrinfo, host, port, **options))


async def run_shielded(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Its result, or its exception. A caller that is cancelled meanwhile waits for its end, and is cancelled then.

    For a server that has replaced a refresh token and a store that has not seen it yet: in between, a time-out
    of the caller's would lose the login. The work must have a time-out of its own.
    """
    with anyio.CancelScope(shield=True):
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return await work()  # pragma: no cover - Trio, which knows no cancellation but that of scopes
        return await _shielded(asyncio.create_task(work()))
    raise AssertionError("a shielded scope swallows nothing")


async def _shielded(task: asyncio.Task[T]) -> T:
    """Wait for the task, through `Task.cancel`, which asks no scope."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # looked at, so that asyncio does not report it: the caller has gone
    raise cancelled
