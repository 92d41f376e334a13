"""Work that is done once however many ask for it, in a thread of its own; any thread and event loop can wait for it."""

from __future__ import annotations

import asyncio
import copy
import math
import os
import threading
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
    """What raises the error, however often and in however many threads it is called.

    Of an error of ours each gets a copy. Another may be no thing to copy, and raising it adds to its traceback: that
    begins each time where the error was caught.
    """
    caught = error.__traceback__

    def throw() -> NoReturn:
        raise copy.copy(error) if isinstance(error, NotionOAuthError) else error.with_traceback(caught)

    return throw


def _soon() -> Callable[[Callable[[], object]], object]:
    """How any thread has something called by the event loop that runs in this one; RuntimeError once that has ended."""
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        import trio  # noqa: PLC0415 - it runs here, so it is installed

        return trio.lowlevel.current_trio_token().run_sync_soon


class Abandoned(Exception):
    """Nobody waits for the work any longer, and it had not reached the part that must be finished."""


class SharedCall(Generic[T]):
    """One piece of work under way. Its caller may be cancelled, and its event loop may end: the work goes on.

    The thread is no daemon: a program that ends waits until the work has ended too.
    """

    def __init__(self, work: Callable[[SharedCall[T]], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._outcome: Callable[[], T] | None = None
        self._wakes: set[Callable[[], object]] = set()  # each tells one event loop that it has landed
        self._waiting = 0
        self._abandoned = False  # whether all who waited have left
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scope: anyio.CancelScope | None = None

    @property
    def done(self) -> bool:
        return self._outcome is not None

    @property
    def waiting(self) -> int:
        """How many wait for the outcome."""
        return self._waiting

    def start(self) -> None:
        try:
            fly = partial(concurrency.copied_context().run, self._fly)
            threading.Thread(target=fly, name="notion-oauth refresh", daemon=False).start()
        except RuntimeError as error:  # no thread can be started
            self._finish(reraiser(error))

    def _fly(self) -> None:
        async def work() -> T:
            self._loop = asyncio.get_running_loop()
            return await self._work(self)

        try:
            result = concurrency.run_in_this_thread(work)
        except BaseException as error:  # whoever waits gets it
            self._finish(reraiser(error))
        else:
            self._finish(lambda: result)

    def _finish(self, outcome: Callable[[], T]) -> None:
        self._outcome = outcome
        for wake in list(self._wakes):
            with suppress(RuntimeError):  # its event loop has ended, and nobody waits there
                wake()

    async def wait_until_done(self) -> None:
        """Wait for its end without wanting its outcome. Raises nothing of it."""
        over = anyio.Event()
        wake = partial(_soon(), over.set)
        self._wakes.add(wake)
        try:
            if not self.done:  # asked only now: whoever lands it from here on finds `wake`
                await over.wait()
        finally:
            self._wakes.discard(wake)

    async def result(self) -> T:
        """The outcome. A caller that is cancelled leaves; the work goes on. Raises what it raises."""
        with self._boarded():
            await self.wait_until_done()
        assert self._outcome is not None  # noqa: S101 - it has landed
        return self._outcome()

    @contextmanager
    def _boarded(self) -> Iterator[None]:
        with self._lock:
            self._waiting += 1
            self._abandoned = False
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1
                self._abandoned = not self._waiting
                loop = self._loop if self._abandoned else None
            if loop is not None:
                with suppress(RuntimeError):  # it has ended meanwhile
                    loop.call_soon_threadsafe(self._cancel_if_abandoned)

    def _cancel_if_abandoned(self) -> None:
        if self._scope is not None and self._abandoned:
            self._scope.cancel()

    @contextmanager
    def abandonable(self, timeout: timedelta | None = None) -> Iterator[None]:
        """Until `must_complete`, the block ends with GivenUp once nobody waits any longer, or patience is over."""
        deadline = math.inf if timeout is None else anyio.current_time() + timeout.total_seconds()
        with anyio.CancelScope(deadline=deadline) as scope:
            self._scope = scope
            self._cancel_if_abandoned()  # they may have left before it began
            try:
                yield
            finally:
                self._scope = None
            return
        raise Abandoned

    def must_complete(self) -> None:
        """From here on the work runs to its end."""
        if self._scope is not None:
            self._scope.deadline = math.inf
        self._scope = None


class SingleFlight(Generic[T]):
    """At most one flight at a time in this process. A fork begins without any."""

    def __init__(self) -> None:
        self.reset()
        _INSTANCES.add(self)

    def reset(self) -> None:
        """Forget the flight under way."""
        self._lock = threading.Lock()
        self._current: SharedCall[T] | None = None

    def current(self) -> SharedCall[T] | None:
        """The flight under way, if there is one."""
        with self._lock:
            return self._current if self._current is not None and not self._current.done else None

    def join_or_start(self, work: Callable[[SharedCall[T]], Coroutine[Any, Any, T]]) -> tuple[SharedCall[T], bool]:
        """The flight under way, or a new one that does the work; whether it is new."""
        boarded = self.join_or_start_if(lambda: True, work)
        assert boarded is not None  # noqa: S101 - nothing forbids it
        return boarded

    def join_or_start_if(
        self, allowed: Callable[[], bool], work: Callable[[SharedCall[T]], Coroutine[Any, Any, T]]
    ) -> tuple[SharedCall[T], bool] | None:
        """The flight under way, else a new one where that is allowed; asked, and begun, with nobody in between."""
        with self._lock:
            if self._current is not None and not self._current.done:
                return self._current, False
            if not allowed():
                return None
            flight = self._current = SharedCall(work)
        flight.start()
        return flight, True


_INSTANCES: weakref.WeakSet[SingleFlight[Any]] = weakref.WeakSet()


def _forked() -> None:
    """Threads do not survive a fork, and a lock that another thread held stays held for ever."""
    for flights in list(_INSTANCES):
        flights.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
