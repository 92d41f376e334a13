"""Run coroutines from synchronous code or in a shared thread, blocking calls in daemon threads, and shield work.

After gevent's `monkey.patch_all()`, `threading` starts greenlets, and only one event loop can run in a thread: threads
with an event loop are then started with the functions that gevent has replaced.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

FILE_THREADS = 4  # of a SharedLoop, for files; further calls wait
SIGNAL_CHECK = 0.5  # seconds
LATE = 0.1  # seconds; a timer is this late if the process was stopped, or its event loop blocked
GRACE = 1.0  # seconds
_LIBRARY = "current_async_library_cvar"  # of sniffio, which may not be installed


def run(function: Callable[[], Awaitable[T]]) -> T:
    """Run the coroutine in a thread with a new event loop, and return its result or raise its exception.

    Can be called where an event loop already runs. Ctrl-C cancels the coroutine.
    """
    scope: anyio.CancelScope | None = None
    loop: asyncio.AbstractEventLoop | None = None

    async def cancellable() -> T:
        nonlocal scope, loop
        loop = asyncio.get_running_loop()
        with anyio.CancelScope() as scope:
            return await function()
        raise asyncio.CancelledError

    with _one_thread() as submit:
        result: Callable[[], T] = submit(partial(copied_context().run, run_in_this_thread, cancellable))
        try:
            return result()
        except KeyboardInterrupt:
            if loop is not None and scope is not None:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(scope.cancel)
            raise


@contextlib.contextmanager
def _one_thread() -> Iterator[Callable[[Callable[[], Any]], Callable[[], Any]]]:
    """Yield a function that starts a call in a thread, and returns what waits for its result. Wait for it at the end.

    Other greenlets of gevent run meanwhile.
    """
    if (gevent := _patching_gevent()) is None:
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="notion-oauth") as thread:
            yield lambda call: thread.submit(call).result
        return
    started: list[Any] = []

    def start(call: Callable[[], Any]) -> Callable[[], Any]:
        def outcome() -> Callable[[], Any]:
            try:
                value = call()
            except BaseException as error:  # returned, because gevent prints what a thread raises
                return partial(_raise, error)
            return lambda: value

        running = gevent.get_hub().threadpool.spawn(outcome)
        started.append(running)

        def result() -> Any:
            while not running.ready():  # a signal just before the wait is handled after it
                gevent.wait([running], timeout=SIGNAL_CHECK)
            return running.get()()

        return result

    try:
        yield start
    finally:
        gevent.wait(started)


def _raise(error: BaseException) -> NoReturn:
    raise error


def copied_context() -> Context:
    """A copy of the caller's context variables, such as the request id, for a thread with a new event loop.

    Without sniffio's variable: it would make anyio assume that an event loop already runs in that thread.
    """
    context = copy_context()
    for variable in list(context):
        if variable.name == _LIBRARY:
            context.run(variable.set, None)
    return context


def run_in_this_thread(function: Callable[[], Awaitable[T]]) -> T:
    """Like `run`, in the current thread, where no event loop may be running. Ctrl-C cancels the coroutine."""
    return anyio.run(function, backend_options={"loop_factory": _Loop})


def _patching_gevent() -> Any:
    """Return the module gevent if it has patched `threading`, else None."""
    monkey = sys.modules.get("gevent.monkey")
    patched = monkey is not None and monkey.is_module_patched("threading")
    return sys.modules["gevent"] if patched else None


def _unpatched(name: str) -> Any:
    """Return a function of the module _thread, as it was before gevent replaced it."""
    if _patching_gevent() is not None:
        return sys.modules["gevent.monkey"].get_original("_thread", name)
    return getattr(sys.modules["_thread"], name)


def allocate_lock() -> Any:
    """Return a lock between threads of the operating system. Hold it only for code that waits for nothing."""
    return _unpatched("allocate_lock")()


def start_thread(function: Callable[[], object], *, name: str) -> None:
    """Start a thread of the operating system, also under gevent. The interpreter waits for it at exit.

    Raises RuntimeError if no thread can be started.
    """
    if (gevent := _patching_gevent()) is None:
        threading.Thread(target=function, name=name, daemon=False).start()
        return
    running, process = allocate_lock(), os.getpid()
    running.acquire()

    def wait() -> None:
        if os.getpid() == process:  # a forked child has no such thread
            running.acquire()

    atexit.register(wait)

    def run_and_release() -> None:
        try:
            function()
        finally:
            gevent.get_hub().destroy(destroy_loop=True)  # gevent has made one for the sockets of this thread
            atexit.unregister(wait)
            running.release()

    _unpatched("start_new_thread")(run_and_release, ())


async def run_in_daemon_thread(function: Callable[[], T]) -> T:
    """Run the function in a daemon thread: neither a cancelled caller nor the exit of the program waits for it.

    For calls that may never return, such as DNS queries or access to a network file system. Requires asyncio.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(set_outcome: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():
            set_outcome(outcome)

    def call() -> None:
        try:
            outcome = partial(deliver, future.set_result, function())
        except Exception as error:
            outcome = partial(deliver, future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(outcome)

    threading.Thread(target=call, name="notion-oauth-daemon", daemon=True).start()
    return await future


class SharedLoop:
    """One thread with one event loop for all work that is started here. It ends when no work is left.

    The interpreter waits for the thread at exit, because it is not a daemon thread. A forked child starts without it.
    """

    def __init__(self) -> None:
        self._reset()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = allocate_lock()
        self._new: list[_Work] | None = None  # None: no thread
        self._wake: Callable[[], object] | None = None
        self._current: object | None = None  # identifies the thread

    def start(self, work: Callable[[], Coroutine[Any, Any, None]], failed: Callable[[BaseException], object]) -> None:
        """Run the work, which raises nothing, in a copy of this context.

        If the event loop cannot be started, `failed` gets the error. Raises RuntimeError if there is no thread.
        """
        with self._lock:
            if self._new is None:
                current = object()
                start_thread(partial(Context().run, self._run_thread, current), name="notion-oauth loop")
                self._new, self._current = [], current
            self._new.append(_Work(copied_context(), work, failed))
            if self._wake is not None and len(self._new) == 1:  # else the thread has been woken for those before
                self._wake()

    def _run_thread(self, current: object) -> None:
        try:
            run_in_this_thread(self._run)
        except BaseException as error:  # such as too many open files
            with self._lock:
                if self._current is not current:
                    return
                lost, self._new, self._wake = self._new or [], None, None
            for work in lost:
                work.failed(error)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Loop)  # noqa: S101 - made by run_in_this_thread
        loop.shared = {}
        anyio.to_thread.current_default_thread_limiter().total_tokens = FILE_THREADS
        changed = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            changed.set()

        while (new := self._next(partial(loop.call_soon_threadsafe, changed.set), idle=not tasks)) is not None:
            for work in new:
                task = loop.create_task(work.run(), context=work.context)
                tasks.add(task)
                task.add_done_callback(ended)
            await changed.wait()
            changed.clear()
        for resource in loop.shared.values():
            with contextlib.suppress(Exception):  # the other resources are closed too
                await resource.aclose()

    def _next(self, wake: Callable[[], object], *, idle: bool) -> list[_Work] | None:
        """Take the work that was started; None if there is none and the thread is idle, which then ends."""
        with self._lock:
            new = self._new or []
            if new or not idle:
                self._new, self._wake = [], wake
                return new
            self._new = self._wake = self._current = None
            return None


@dataclass(frozen=True)
class _Work:
    context: Context
    run: Callable[[], Coroutine[Any, Any, None]]
    failed: Callable[[BaseException], object]


def shared_resources() -> dict[object, Any] | None:
    """Return what the work of the running SharedLoop shares, by key; None in any other event loop.

    A resource has a method `aclose`, which is called before the loop ends.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None  # Trio
    return loop.shared if isinstance(loop, _Loop) else None


class _Loop(asyncio.SelectorEventLoop):
    """Resolves host names in daemon threads.

    asyncio resolves them in an executor that is joined when the loop ends: a name server that does not answer would
    block us long after the time-out.
    """

    shared: dict[object, Any] | None = None  # in the thread of a SharedLoop

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        return await run_in_daemon_thread(partial(socket.getaddrinfo, host, port, **options))


async def run_within(seconds: float, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work` and return its result. Raises TimeoutError after `seconds`, and whatever `work` raises.

    A process that was stopped meanwhile gets GRACE more seconds when it goes on, to read what has arrived.
    """
    due = anyio.current_time() + seconds
    with anyio.CancelScope() as scope:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return await _run_within_on_trio(due, scope, work)
        timers: list[asyncio.TimerHandle] = []

        def expire() -> None:
            if loop.time() > due + LATE:
                timers.append(loop.call_later(GRACE, scope.cancel))
            else:
                scope.cancel()

        timers.append(loop.call_at(due, expire))
        try:
            return await work()
        finally:
            timers[-1].cancel()
    raise TimeoutError


async def _run_within_on_trio(due: float, scope: anyio.CancelScope, work: Callable[[], Awaitable[T]]) -> T:
    """Run `work`, and cancel the scope at that time, or later if the process was stopped."""

    async def expire() -> None:
        await anyio.sleep_until(due)
        if anyio.current_time() > due + LATE:
            await anyio.sleep(GRACE)
        scope.cancel()

    outcome: Callable[[], T]
    async with anyio.create_task_group() as group:
        group.start_soon(expire)
        try:
            result = await work()
            outcome = lambda: result  # noqa: E731
        except Exception as error:  # raised below, because the task group would put it into an ExceptionGroup
            outcome = partial(_raise, error)
        group.cancel_scope.cancel()
    try:
        return outcome()
    finally:
        del outcome  # a traceback refers to this frame


_BACKGROUND: set[asyncio.Task[None]] = set()  # an event loop alone would not keep its tasks


def start_in_background(work: Callable[[], Coroutine[Any, Any, None]], ended: Callable[[], object]) -> None:
    """Start the work, which raises nothing, in the running event loop: no task waits for it. It ends with the loop.

    Then `ended` is called, also if the work was cancelled before it began.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio  # noqa: PLC0415 - Trio runs this code, so it is installed

        async def run() -> None:
            try:
                await work()
            finally:
                ended()

        trio.lowlevel.spawn_system_task(run)
        return

    def discard(task: asyncio.Task[None]) -> None:
        _BACKGROUND.discard(task)
        ended()

    task = loop.create_task(work())
    _BACKGROUND.add(task)
    task.add_done_callback(discard)


class Signal:
    """Wakes the one task that waits for it, in the same event loop."""

    def __init__(self) -> None:
        self.is_set = False
        self._wake: Callable[[], object] = lambda: None

    def set(self) -> None:
        self.is_set = True
        self._wake()

    async def wait(self, *, shielded: bool) -> None:
        """Wait until it is set. If `shielded`, a cancellation is raised only afterwards, as by `run_shielded`."""
        with anyio.CancelScope(shield=shielded):
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # Trio, where only scopes are cancelled
                event = anyio.Event()
                self._wake = event.set
                if not self.is_set:
                    await event.wait()
                return
            cancelled: asyncio.CancelledError | None = None
            while not self.is_set:
                future: asyncio.Future[None] = loop.create_future()
                self._wake = partial(_resolve, future)
                try:
                    await future
                except asyncio.CancelledError as error:
                    cancelled = error
                    if not shielded:
                        raise
            if cancelled is not None:
                raise cancelled


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def run_shielded(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run the work to completion even if the caller is cancelled; the cancellation is raised afterwards.

    The server may have replaced a refresh token that is not stored yet: cancelling at that point would lose the
    login. The work must limit its own duration.
    """
    with anyio.CancelScope(shield=True):
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return await work()  # pragma: no cover - Trio, where only scopes are cancelled
        return await _shielded(asyncio.create_task(work()))
    raise AssertionError("a shielded scope suppresses nothing")


async def _shielded(task: asyncio.Task[T]) -> T:
    """Wait for the task despite `Task.cancel`, which ignores anyio's scopes."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not report it: the caller is cancelled
    raise cancelled
