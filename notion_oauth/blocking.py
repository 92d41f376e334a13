"""Run a coroutine to its end from code that cannot wait for one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import anyio

T = TypeVar("T")


def run(function: Callable[[], Awaitable[T]]) -> T:
    """Its result, or its exception. Works in threads that run an event loop too: the coroutine gets its own."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="notion-oauth") as thread:
        return thread.submit(anyio.run, function).result()
