"""Work that must not stop halfway, whatever becomes of its caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def to_the_end(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
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
