"""Encrypt all profiles of a store with the first key, page by page: a database may have very many."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import anyio

from notion_oauth.cli.options import echo, print_rows, print_text
from notion_oauth.errors import KeyUnavailable, NotionOAuthError, StorageError, StoreUnavailable
from notion_oauth.storage import PAGE, TokenStore

CONCURRENT = 8  # profiles
REPORT_INTERVAL = 10.0  # seconds


@dataclass
class Page:
    """What became of some profiles: whether each was encrypted just now, or why it could not be."""

    changed: dict[str, bool] = field(default_factory=dict)
    failures: dict[str, StorageError] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.changed) + len(self.failures)


class Reencryption:
    """Encrypts profiles in the order of their names, after the one and as many as are wanted."""

    def __init__(self, store: TokenStore, *, after: str, limit: int | None) -> None:
        self._store = store
        self._limit = limit
        self.last = after  # of the pages that are complete
        self.count = 0

    async def next_page(self) -> Page:
        """Encrypt one page of profiles; an empty one if there are no more.

        Raises the errors that all other profiles would meet: ConfigurationError, KeyUnavailable, StoreUnavailable.
        """
        limit = PAGE if self._limit is None else min(PAGE, self._limit - self.count)
        names = await self._store.encrypted(after=self.last, limit=limit) if limit else {}
        page = Page(changed=dict.fromkeys(names, False))
        waiting = iter([name for name, encrypted in names.items() if not encrypted])
        errors: list[NotionOAuthError] = []
        async with anyio.create_task_group() as tasks:

            async def work() -> None:
                try:
                    await self._encrypt(waiting, page)
                except NotionOAuthError as error:  # raised below: the task group would wrap it
                    errors.append(error)
                    tasks.cancel_scope.cancel()

            for _ in range(CONCURRENT):
                tasks.start_soon(work)
        if errors:
            raise errors[0]
        self.last = max(names, default=self.last)
        self.count += len(names)
        return page

    async def _encrypt(self, waiting: Iterator[str], page: Page) -> None:
        for name in waiting:
            try:
                async with self._store.exclusive(name) as hold:
                    page.changed[name] = await hold.reencrypt()
            except (KeyUnavailable, StoreUnavailable):
                raise
            except StorageError as error:
                del page.changed[name]
                page.failures[name] = error


class Output:
    """Prints pages as they come: one JSON object, or a line for each profile."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._is_empty = True
        self._reported_at = time.monotonic()
        self.failure: StorageError | None = None  # the first one

    def add(self, page: Page, work: Reencryption) -> None:
        if page.changed and self._as_json:
            print_text(("{" if self._is_empty else ",") + json.dumps(page.changed, indent=2)[1:-2])
        elif page.changed:
            print_rows([(name, "encrypted" if new else "already encrypted") for name, new in page.changed.items()])
        self._is_empty = self._is_empty and not page.changed
        for name, error in page.failures.items():
            self.failure = self.failure or error
            echo(f"{name}: {error.message}", err=True)
        if time.monotonic() - self._reported_at >= REPORT_INTERVAL:
            self._reported_at = time.monotonic()
            echo(f"{work.count} profiles so far, up to {work.last}.", err=True)

    def end(self) -> None:
        if self._as_json:
            print_text("{}" if self._is_empty else "}")
        elif self._is_empty and self.failure is None:
            echo("There is nothing to encrypt: no login and no registration is stored.", err=True)
