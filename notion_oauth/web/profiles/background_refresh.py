"""Refresh the logins of many profiles while the service runs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import NoReturn

import anyio

from notion_oauth.errors import NotionOAuthError, NotSignedIn
from notion_oauth.service import NotionOAuth
from notion_oauth.tokens.source import CHECK_INTERVAL

MAX_CONCURRENT = 8  # refreshes
_LOG = logging.getLogger(__name__)


class BackgroundRefresh:
    """Refreshes the tokens that are due, of the profiles that `list_profiles` returns at each check."""

    def __init__(
        self,
        list_profiles: Callable[[], Awaitable[Sequence[str]]],
        for_profile: Callable[[str], NotionOAuth],
        *,
        interval: timedelta = CHECK_INTERVAL,
    ) -> None:
        self._list_profiles = list_profiles
        self._for_profile = for_profile
        self._interval = interval
        self._concurrency = anyio.CapacityLimiter(MAX_CONCURRENT)
        self._failures: dict[str, str] = {}  # the last error message of each profile: it is logged once

    async def run(self) -> NoReturn:
        """Check all profiles every 30 seconds until cancelled. Failures are logged; no NotionOAuthError is raised."""
        while True:
            await self._refresh_all()
            await anyio.sleep(self._interval.total_seconds())

    async def _refresh_all(self) -> None:
        profiles = await self._list_profiles()
        for removed in self._failures.keys() - set(profiles):
            del self._failures[removed]
        async with anyio.create_task_group() as tasks:
            for profile in profiles:
                tasks.start_soon(self._refresh, profile)

    async def _refresh(self, profile: str) -> None:
        async with self._concurrency:
            tokens = self._for_profile(profile).tokens
            try:
                await tokens.token()
                await tokens.wait_until_idle()
            except NotionOAuthError as error:
                if error.message != self._failures.get(profile) and not isinstance(error, NotSignedIn):
                    _LOG.warning("Background refresh failed: %s", error.message)
                self._failures[profile] = error.message
            else:
                self._failures.pop(profile, None)
