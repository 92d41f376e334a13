"""Work that is done once: those who wait for it come and go, in any thread and event loop, and leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from functools import partial

import anyio
import anyio.to_thread
import pytest
import trio

from notion_oauth.errors import NetworkError
from notion_oauth.tokens.single_flight import Abandoned, SharedCall, SingleFlight, reraiser

pytestmark = pytest.mark.anyio
BACKENDS = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
MORE_THAN_WORKERS = 60  # anyio has forty worker threads


class Work:
    """Takes until it is told to end."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.flight, _ = SingleFlight[str]().join_or_start(self._fly)

    async def _fly(self, flight: SharedCall[str]) -> str:
        with flight.abandonable():
            while not self.over.is_set():
                await anyio.sleep(0.01)
            return "done"
        raise AssertionError("an interrupted flight has raised")

    async def awaited_by(self, number: int) -> None:
        """Until exactly so many wait for it."""
        while self.flight.waiting != number:
            await anyio.sleep(0.01)


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.over.set()


@BACKENDS
async def test_waiting_uses_no_worker_thread(work: Work) -> None:
    """Of which a program has few: whatever it does in them itself would wait as long."""
    outcomes: list[str] = []

    async def wait() -> None:
        outcomes.append(await work.flight.result())

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(MORE_THAN_WORKERS):
                tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert work.flight.waiting == MORE_THAN_WORKERS
            assert anyio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            work.over.set()
    assert outcomes == ["done"] * MORE_THAN_WORKERS


@BACKENDS
async def test_work_continues_until_the_last_caller_leaves(work: Work) -> None:
    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            await work.flight.result()

    first, last = anyio.CancelScope(), anyio.CancelScope()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for scope in (first, last):
                tasks.start_soon(wait, scope)
            await work.awaited_by(2)
            first.cancel()
            await work.awaited_by(1)
            assert not work.flight.done
            last.cancel()
        await work.flight.wait_until_done()
        with pytest.raises(Abandoned):
            await work.flight.result()


async def test_work_without_callers_is_not_started() -> None:
    done: list[str] = []

    async def work(flight: SharedCall[None]) -> None:
        with flight.abandonable():
            await anyio.sleep(0)
            done.append("opened a browser")

    flight = SharedCall(work)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(flight.result)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    flight.start()
    with anyio.fail_after(60):
        await flight.wait_until_done()
    assert not done


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelled_caller_leaves_no_reference(work: Work, backend: str) -> None:
    """It may last for minutes, and those who wait in it may be many."""

    async def leave() -> weakref.ref[object]:
        with anyio.move_on_after(0.01):
            await work.flight.wait_until_done()
        here = trio.lowlevel.current_trio_token() if backend == "trio" else asyncio.get_running_loop()
        return weakref.ref(here)

    left = anyio.run(leave, backend=backend)
    gc.collect()
    assert not work.flight.done
    assert left() is None, "the event loop that was to be told"


async def test_closed_event_loop_does_not_block_other_callers(work: Work) -> None:
    outcomes: list[str] = []

    def end_in_the_middle() -> asyncio.Task[None]:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # it would log that the task never ends
        task = loop.create_task(work.flight.wait_until_done())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return task

    async def wait() -> None:
        outcomes.append(await work.flight.result())

    abandoned = await anyio.to_thread.run_sync(end_in_the_middle)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(wait)
            await work.awaited_by(5)
            work.over.set()
    assert outcomes == ["done"] * 5
    assert not abandoned.done()


def raised(again: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the tests tell which
        again()
    return caught.value


def test_own_error_is_copied_for_each_caller() -> None:
    again = reraiser(NetworkError("No answer."))
    one, other = raised(again), raised(again)
    assert one is not other
    assert str(one) == str(other) == str(NetworkError("No answer."))


def test_traceback_of_another_error_does_not_grow() -> None:
    """However often it is raised: each entry of it would keep a caller's variables alive."""
    again = reraiser(raised(partial(os.stat, "/nowhere")))
    first, *_, last = [len(traceback.extract_tb(raised(again).__traceback__)) for _ in range(9)]
    assert first == last
