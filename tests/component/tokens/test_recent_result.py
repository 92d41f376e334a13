"""A result is returned again for some seconds, and an error is not."""

from __future__ import annotations

import pytest

from notion_oauth.tokens.recent_result import RecentResult

pytestmark = pytest.mark.anyio


class Work:
    """Returns how often it was called, or raises an error."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.now = 0.0
        self.takes = 0.0  # seconds

    async def __call__(self) -> int:
        self.calls += 1
        self.now += self.takes
        if self.error is not None:
            raise self.error
        return self.calls


async def test_result_is_returned_again_until_its_lifetime_has_passed() -> None:
    work = Work()
    recent = RecentResult(work, lifetime=10, uptime=lambda: work.now)
    assert [await recent.get(), await recent.get()] == [1, 1]
    work.now = 9.9
    assert await recent.get() == 1
    work.now = 10
    assert await recent.get() == 2


async def test_lifetime_is_counted_from_the_start_of_the_work() -> None:
    work = Work()
    work.takes = 11
    recent = RecentResult(work, lifetime=10, uptime=lambda: work.now)
    assert [await recent.get(), await recent.get()] == [1, 2]


async def test_result_that_is_forgotten_is_not_returned_again() -> None:
    work = Work()
    recent = RecentResult(work, lifetime=10, uptime=lambda: work.now)
    await recent.get()
    recent.forget()
    assert await recent.get() == 2


async def test_result_of_work_that_runs_is_forgotten_too() -> None:
    work = Work()

    async def interrupted() -> int:
        result = await work()
        if result == 1:
            recent.forget()
        return result

    recent = RecentResult(interrupted, lifetime=10, uptime=lambda: work.now)
    assert [await recent.get(), await recent.get(), await recent.get()] == [1, 2, 2]


async def test_error_is_not_kept() -> None:
    work = Work()
    recent = RecentResult(work, lifetime=10, uptime=lambda: work.now)
    work.error = ValueError("once")
    with pytest.raises(ValueError, match="once"):
        await recent.get()
    work.error = None
    assert await recent.get() == 2
