"""SingleFlight: callers in any thread and event loop share one call, and leave no reference behind."""

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
    """A shared call that runs until `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.call, _ = SingleFlight[str]().join_or_start(self._run, waits=False)

    async def _run(self, call: SharedCall[str]) -> str:
        with call.abandonable():
            while not self.release.is_set():
                await anyio.sleep(0.01)
            return "done"
        raise AssertionError("an abandoned call has raised")

    async def wait_for_callers(self, number: int) -> None:
        """Wait until exactly this number of callers wait."""
        while self.call.waiting != number:
            await anyio.sleep(0.01)


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.release.set()


@BACKENDS
async def test_waiting_uses_no_worker_thread(work: Work) -> None:
    """A program has few worker threads: a waiting caller must not occupy one."""
    outcomes: list[str] = []

    async def wait() -> None:
        outcomes.append(await work.call.result())

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(MORE_THAN_WORKERS):
                tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert work.call.waiting == MORE_THAN_WORKERS
            assert anyio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            work.release.set()
    assert outcomes == ["done"] * MORE_THAN_WORKERS


@BACKENDS
async def test_work_continues_until_the_last_caller_leaves(work: Work) -> None:
    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            await work.call.result()

    first, last = anyio.CancelScope(), anyio.CancelScope()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for scope in (first, last):
                tasks.start_soon(wait, scope)
            await work.wait_for_callers(2)
            first.cancel()
            await work.wait_for_callers(1)
            assert not work.call.done
            last.cancel()
        await work.call.wait_until_done()
        with pytest.raises(Abandoned):
            await work.call.result()


async def test_work_without_callers_is_not_started() -> None:
    done: list[str] = []

    async def work(call: SharedCall[None]) -> None:
        with call.abandonable():
            await anyio.sleep(0)
            done.append("opened a browser")

    call = SharedCall(work)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call.result)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    call.start()
    with anyio.fail_after(60):
        await call.wait_until_done()
    assert not done


@BACKENDS
async def test_starter_counts_as_waiting_from_the_start() -> None:
    """The work may fail before its starter calls `result`, and must know that a caller waits."""
    waiting: list[int] = []

    async def fail(call: SharedCall[None]) -> None:
        waiting.append(call.waiting)
        raise NetworkError("No answer.")

    for waits in (True, False):
        call, new = SingleFlight[None]().join_or_start(fail, waits=waits)
        with anyio.fail_after(60):
            await call.wait_until_done()
            with pytest.raises(NetworkError):
                await call.result(counted=new and waits)
        assert call.waiting == 0
    assert waiting == [1, 0]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelled_caller_leaves_no_reference(work: Work, backend: str) -> None:
    """The call may last for minutes and have many callers."""

    async def cancel() -> weakref.ref[object]:
        with anyio.move_on_after(0.01):
            await work.call.wait_until_done()
        here = trio.lowlevel.current_trio_token() if backend == "trio" else asyncio.get_running_loop()
        return weakref.ref(here)

    left = anyio.run(cancel, backend=backend)
    gc.collect()
    assert not work.call.done
    assert left() is None, "the event loop of the cancelled caller"


async def test_closed_event_loop_does_not_block_other_callers(work: Work) -> None:
    outcomes: list[str] = []

    def close_while_waiting() -> asyncio.Task[None]:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # it would log a task that never ends
        task = loop.create_task(work.call.wait_until_done())
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        return task

    async def wait() -> None:
        outcomes.append(await work.call.result())

    abandoned = await anyio.to_thread.run_sync(close_while_waiting)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(wait)
            await work.wait_for_callers(5)
            work.release.set()
    assert outcomes == ["done"] * 5
    assert not abandoned.done()


def raised(again: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the tests check which
        again()
    return caught.value


def test_own_error_is_copied_for_each_caller() -> None:
    again = reraiser(NetworkError("No answer."))
    first, second = raised(again), raised(again)
    assert first is not second
    assert str(first) == str(second) == str(NetworkError("No answer."))


def test_traceback_of_another_error_does_not_grow() -> None:
    """Each entry of the traceback would keep the variables of a caller alive."""
    again = reraiser(raised(partial(os.stat, "/nowhere")))
    first, *_, last = [len(traceback.extract_tb(raised(again).__traceback__)) for _ in range(9)]
    assert first == last


async def test_calls_share_one_thread_which_ends_with_them() -> None:
    release, threads = threading.Event(), set[threading.Thread]()

    async def work(call: SharedCall[None]) -> None:
        threads.add(threading.current_thread())
        while not release.is_set():
            await anyio.sleep(0.01)

    calls = [SingleFlight[None]().join_or_start(work)[0] for _ in range(50)]
    release.set()
    with anyio.fail_after(60):
        for call in calls:
            await call.result()
    assert len(threads) == 1
    threads.pop().join(60)


@pytest.mark.parametrize("own_thread", [False, True])
async def test_event_loop_that_cannot_be_created_fails_the_call(
    monkeypatch: pytest.MonkeyPatch, own_thread: bool
) -> None:
    """Such as with too many open files. Later calls are not affected."""

    async def work(call: SharedCall[str]) -> str:
        return "done"

    def refuse(*_: object, **__: object) -> None:
        raise OSError("Too many open files")

    flight = SingleFlight[str](own_thread=own_thread)
    with anyio.fail_after(60):
        while any(each.name == "notion-oauth loop" for each in threading.enumerate()):
            await anyio.sleep(0.01)  # the shared loop of an earlier test ends
        with monkeypatch.context() as patched:
            patched.setattr(anyio, "run", refuse)
            call, _ = flight.join_or_start(work)
            await call.wait_until_done()
        with pytest.raises(OSError, match="Too many open files"):
            await call.result()
        assert await flight.join_or_start(work)[0].result() == "done"


async def test_work_that_blocks_in_its_own_thread_delays_no_other_call() -> None:
    release = threading.Event()

    async def block(call: SharedCall[bool]) -> bool:
        return release.wait(60)

    async def answer(call: SharedCall[str]) -> str:
        return "done"

    blocked, _ = SingleFlight[bool](own_thread=True).join_or_start(block)
    other, _ = SingleFlight[str]().join_or_start(answer)
    with anyio.fail_after(60):
        assert await other.result() == "done"
        assert not blocked.done
        release.set()
        assert await blocked.result()
