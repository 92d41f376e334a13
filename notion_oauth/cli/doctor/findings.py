"""The findings of a check, and results that several checks share."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import anyio

from notion_oauth.errors import Hint, WarningWithHint

Result = Literal["ok", "warning", "failure"]
RESULTS: tuple[Result, ...] = ("ok", "warning", "failure")  # from the best to the worst

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was found, and how to fix it unless the result is ok."""

    result: Result
    message: str
    hint: Hint | str | None = None
    depends_on: str | None = None  # the failed check because of which this one was skipped


def ok(message: str) -> Finding:
    return Finding("ok", message)


def warning(message: str, hint: Hint | str) -> Finding:
    return Finding("warning", message, hint)


def failure(message: str, hint: Hint | str) -> Finding:
    return Finding("failure", message, hint)


def warnings_for(*weaknesses: WarningWithHint | None) -> list[Finding]:
    """A warning for each weakness that is not None."""
    return [warning(each.message, each.hint) for each in weaknesses if each is not None]


class CheckSkipped(Exception):
    """A prerequisite of this check failed; the check that is the argument reports that failure."""

    def finding(self) -> Finding:
        message = f"Skipped: depends on the check {self}, which failed."
        return Finding("warning", message, "Fix the failures above first.", depends_on=str(self))


class SharedResult(Generic[T]):
    """The result of work that is done once and awaited by several checks."""

    def __init__(self, check: str) -> None:
        """`check` is the name of the check that reports a failure of the work."""
        self._check = check
        self._done = anyio.Event()
        self._value: T | None = None
        self._error: Exception | None = None

    async def run(self, work: Awaitable[T]) -> None:
        """Do the work and publish its result or its error. Raises nothing."""
        try:
            self._value = await work
        except Exception as error:
            self._error = error
        self._done.set()

    async def get(self) -> T:
        """The result. Raises the error of the work: for the one check that reports it."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    async def get_or_skip(self) -> T:
        """The result. Raises CheckSkipped if the work failed, for checks that depend on it but do not report it."""
        await self._done.wait()
        if isinstance(self._error, CheckSkipped):
            raise self._error
        if self._error is not None:
            raise CheckSkipped(self._check)
        return self._value  # type: ignore[return-value]
