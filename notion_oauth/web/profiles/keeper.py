"""Keep the logins that nobody uses: refresh each before the server ends it as idle, one instance each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn

import anyio

from notion_oauth.errors import NotionOAuthError, ServerUnavailable, StorageError
from notion_oauth.service import NotionOAuth
from notion_oauth.storage import TokenStore
from notion_oauth.tokens.backoff import MAX_RETRY_AFTER
from notion_oauth.tokens.source import CHECK_INTERVAL

BATCH = 10  # logins that an instance claims at once
TURN = timedelta(seconds=2)  # between two claims while logins are due
PAUSE = timedelta(seconds=30)  # after a 429 or 503 without Retry-After
RECENT = timedelta(days=1)  # a refresh that is more recent makes another one unnecessary
_LOG = logging.getLogger(__name__)


class Keeper:
    """Refreshes the logins that the store lets this instance claim."""

    def __init__(
        self, store: TokenStore, for_profile: Callable[[str], NotionOAuth], *, interval: timedelta = CHECK_INTERVAL
    ) -> None:
        self._store = store
        self._for_profile = for_profile
        self._interval = interval
        self._last_failure = ""

    async def run(self) -> NoReturn:
        """Keep logins until cancelled. Failures are logged; no NotionOAuthError is raised."""
        while True:
            pause = self._interval
            try:
                claimed = await self.keep()
            except NotionOAuthError as error:
                if error.message != self._last_failure:
                    _LOG.warning("Unused logins cannot be kept: %s", error)
                self._last_failure = error.message
            else:
                self._last_failure = ""
                if claimed is None or claimed == BATCH:
                    pause = TURN
            await anyio.sleep(pause.total_seconds())

    async def keep(self) -> int | None:
        """Refresh some logins that are due. Returns how many were claimed; None if it is another instance's turn."""
        claimed = await self._store.claim_unused(BATCH)
        async with anyio.create_task_group() as tasks:
            for profile in claimed or ():
                tasks.start_soon(self._refresh, profile)
        return None if claimed is None else len(claimed)

    async def _refresh(self, profile: str) -> None:
        try:
            await self._for_profile(profile).refresh(if_older_than=RECENT)
        except NotionOAuthError as error:  # the audit log has it; the login is claimed again tomorrow
            if isinstance(error, ServerUnavailable) and error.not_processed:
                pause = PAUSE.total_seconds() if error.retry_after is None else error.retry_after
                with suppress(StorageError):  # the failure of this login is recorded too, and pauses all
                    await self._store.slow_down(timedelta(seconds=min(pause, MAX_RETRY_AFTER)))
