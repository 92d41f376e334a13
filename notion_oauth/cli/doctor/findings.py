"""What a check has found, and what several checks wait for."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import anyio

from notion_oauth.files.protection import Weakness

Result = Literal["ok", "warning", "failure"]
RESULTS: tuple[Result, ...] = ("ok", "warning", "failure")  # from the best to the worst

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One line of the report: what is so, and what to do about it where that is not well."""

    result: Result
    message: str
    hint: str | None = None


def ok(message: str) -> Finding:
    return Finding("ok", message)


def warning(message: str, hint: str) -> Finding:
    return Finding("warning", message, hint)


def failure(message: str, hint: str) -> Finding:
    return Finding("failure", message, hint)


def weak(*found: Weakness | None) -> list[Finding]:
    """A warning for each weakness that there is."""
    return [warning(each.message, each.hint) for each in found if each is not None]


class NotChecked(Exception):
    """What this check is about was not to be had, as another check tells."""


class Outcome(Generic[T]):
    """What comes of something that is done once, for all who wait for it."""

    def __init__(self) -> None:
        self._over = anyio.Event()
        self._value: T | None = None
        self._error: Exception | None = None

    async def of(self, doing: Awaitable[T]) -> None:
        """Wait for it, and let the others know. Raises nothing: they hear of that."""
        try:
            self._value = await doing
        except Exception as error:
            self._error = error
        self._over.set()

    async def get(self) -> T:
        """What came of it. Raises what it raised: for the one check that tells of it."""
        await self._over.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    async def there(self) -> T:
        """What came of it. Raises NotChecked where that is an error, which another check tells of."""
        await self._over.wait()
        if self._error is not None:
            raise NotChecked
        return self._value  # type: ignore[return-value]
