"""A result that callers share who ask for it together, or within a few seconds of each other."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from notion_oauth.clock import uptime
from notion_oauth.tokens.single_flight import Abandoned, SharedCall, SingleFlight

T = TypeVar("T")


class RecentResult(Generic[T]):
    """Runs the work at most once at a time, and returns its result again for `lifetime` seconds after it was started.

    An error is raised in all callers that wait for it, and is not kept. Any thread and event loop may call.
    """

    def __init__(
        self, work: Callable[[], Coroutine[Any, Any, T]], *, lifetime: float, uptime: Callable[[], float] = uptime
    ) -> None:
        self._work, self._lifetime, self._uptime = work, lifetime, uptime
        self._calls: SingleFlight[T] = SingleFlight()
        self._recent: tuple[T, float] | None = None  # the result, and when the work was started
        self._forgotten = 0  # how often

    async def get(self) -> T:
        """Return the result. Raises what the work raises."""
        while True:
            recent = self._recent
            if recent is not None and self._uptime() - recent[1] < self._lifetime:
                return recent[0]
            call, new = self._calls.join_or_start(self._run)
            try:
                return await call.result(counted=new)
            except Abandoned:
                continue  # this caller joined a call that no other caller waited for any longer

    def forget(self) -> None:
        """Return no result of work that was started before."""
        self._forgotten += 1
        self._recent = None

    async def _run(self, call: SharedCall[T]) -> T:
        started, forgotten = self._uptime(), self._forgotten
        with call.abandonable():
            result = await self._work()
        if forgotten == self._forgotten:
            self._recent = result, started
        return result
