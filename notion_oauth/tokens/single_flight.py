"""Run a coroutine once for all concurrent callers, in another thread; any thread and event loop can wait for it."""

from __future__ import annotations

import asyncio
import copy
import math
import os
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, Generic, NoReturn, TypeVar

import anyio

from notion_oauth import concurrency
from notion_oauth.errors import NotionOAuthError

T = TypeVar("T")


def reraiser(error: BaseException) -> Callable[[], NoReturn]:
    """Return a function that raises the error. It may be called many times and from many threads.

    A NotionOAuthError is copied for each caller. Another error may not support copying; raising it again would extend
    its traceback, so that each call resets the traceback to where the error was caught.
    """
    caught = error.__traceback__

    def reraise() -> NoReturn:
        raise copy.copy(error) if isinstance(error, NotionOAuthError) else error.with_traceback(caught)

    return reraise


def _call_soon() -> Callable[[Callable[[], object]], object]:
    """Return a function that schedules a call on this event loop from any thread.

    It raises RuntimeError if the loop is closed.
    """
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        import trio  # noqa: PLC0415 - Trio runs this code, so it is installed

        return trio.lowlevel.current_trio_token().run_sync_soon


class Abandoned(Exception):
    """The work was cancelled: no caller waited any longer, or the timeout passed, before it reached `must_complete`."""


_SHARED_LOOP = concurrency.SharedLoop()


class SharedCall(Generic[T]):
    """One run of the work, shared by its callers. It continues if a caller is cancelled or a caller's event loop ends.

    The work runs in the thread that all shared calls have in common, or in its own `own_thread` if it may block. The
    interpreter waits for both at exit.
    """

    def __init__(
        self, work: Callable[[SharedCall[T]], Coroutine[Any, Any, T]], *, own_thread: bool = False, waiting: int = 0
    ) -> None:
        self._work = work
        self._own_thread = own_thread
        self._outcome: Callable[[], T] | None = None
        self._wakers: set[Callable[[], object]] = set()  # each notifies one event loop that the work is done
        self._waiting = waiting
        self._abandoned = False  # whether all callers have stopped waiting
        self._lock = concurrency.allocate_lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scope: anyio.CancelScope | None = None

    @property
    def done(self) -> bool:
        return self._outcome is not None

    @property
    def waiting(self) -> int:
        """How many callers wait for the outcome."""
        return self._waiting

    def start(self) -> None:
        try:
            if self._own_thread:
                run = partial(concurrency.copied_context().run, self._run_in_this_thread)
                concurrency.start_thread(run, name="notion-oauth sign-in")
            else:
                _SHARED_LOOP.start(self._run, self._fail)
        except RuntimeError as error:  # no thread can be started
            self._fail(error)

    def _run_in_this_thread(self) -> None:
        try:
            concurrency.run_in_this_thread(self._run)
        except BaseException as error:  # such as too many open files
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self.done:
            self._finish(reraiser(error))

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            result = await self._work(self)
        except BaseException as error:  # raised again in every caller
            self._finish(reraiser(error))
        else:
            self._finish(lambda: result)

    def _finish(self, outcome: Callable[[], T]) -> None:
        self._outcome = outcome
        for wake in list(self._wakers):
            with suppress(RuntimeError):  # that event loop is closed: no caller waits in it
                wake()

    async def wait_until_done(self) -> None:
        """Wait until the work has ended. Does not count as waiting for its outcome, and does not raise its error."""
        finished = anyio.Event()
        wake = partial(_call_soon(), finished.set)
        self._wakers.add(wake)
        try:
            if not self.done:  # checked after adding `wake`, so that no end is missed
                await finished.wait()
        finally:
            self._wakers.discard(wake)

    async def result(self, *, counted: bool = False) -> T:
        """Wait for the outcome. Cancelling one caller does not cancel the work. Raises what the work raises.

        `counted`: this caller started the call, and counts as waiting since then.
        """
        with self._count_as_waiting(counted):
            await self.wait_until_done()
        assert self._outcome is not None  # noqa: S101 - the work is done
        return self._outcome()

    @contextmanager
    def _count_as_waiting(self, counted: bool) -> Iterator[None]:
        with self._lock:
            self._waiting += not counted
            self._abandoned = False
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                self._abandoned = not self._waiting
                loop = self._loop if self._abandoned else None
            if loop is not None:
                with suppress(RuntimeError):  # the loop was closed meanwhile
                    loop.call_soon_threadsafe(self._cancel_if_abandoned)

    def _cancel_if_abandoned(self) -> None:
        if self._scope is not None and self._abandoned:
            self._scope.cancel()

    @contextmanager
    def abandonable(self, timeout: timedelta | None = None) -> Iterator[None]:
        """Until `must_complete`, raise Abandoned in the block when no caller waits any longer, or after `timeout`."""
        deadline = math.inf if timeout is None else anyio.current_time() + timeout.total_seconds()
        with anyio.CancelScope(deadline=deadline) as scope:
            self._scope = scope
            self._cancel_if_abandoned()  # all callers may have left before the block
            try:
                yield
            finally:
                self._scope = None
            return
        raise Abandoned

    def must_complete(self) -> None:
        """Let the work run to its end from here on, even without callers."""
        if self._scope is not None:
            self._scope.deadline = math.inf
        self._scope = None


class SingleFlight(Generic[T]):
    """At most one SharedCall at a time in this process. A forked child starts without one.

    With `own_thread`, each call runs in a separate thread: for work that may block its event loop.
    """

    def __init__(self, *, own_thread: bool = False) -> None:
        self._own_thread = own_thread
        self.reset()
        _INSTANCES.add(self)

    def reset(self) -> None:
        """Drop the reference to the running call."""
        self._lock = concurrency.allocate_lock()
        self._current: SharedCall[T] | None = None

    def current(self) -> SharedCall[T] | None:
        """The running call, if there is one."""
        with self._lock:
            return self._current if self._current is not None and not self._current.done else None

    def join_or_start(
        self, work: Callable[[SharedCall[T]], Coroutine[Any, Any, T]], *, waits: bool = True
    ) -> tuple[SharedCall[T], bool]:
        """Return the running call, else start a new one; and whether it is new.

        The caller of a new call counts as waiting from the start, because the work may end before the caller calls
        `result(counted=True)`. Without `waits`, it does not wait.
        """
        joined = self.join_or_start_if(lambda: True, work, waits=waits)
        assert joined is not None  # noqa: S101 - it is always allowed
        return joined

    def join_or_start_if(
        self,
        allowed: Callable[[], bool],
        work: Callable[[SharedCall[T]], Coroutine[Any, Any, T]],
        *,
        waits: bool = True,
    ) -> tuple[SharedCall[T], bool] | None:
        """Like `join_or_start`; None if a new call is not `allowed()`. The check and the start are one atomic step."""
        with self._lock:
            if self._current is not None and not self._current.done:
                return self._current, False
            if not allowed():
                return None
            call = self._current = SharedCall(work, own_thread=self._own_thread, waiting=int(waits))
        call.start()
        return call, True


_INSTANCES: weakref.WeakSet[SingleFlight[Any]] = weakref.WeakSet()


def _reset_after_fork() -> None:
    """Threads do not survive a fork, and a lock that another thread held is never released."""
    for instance in list(_INSTANCES):
        instance.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
