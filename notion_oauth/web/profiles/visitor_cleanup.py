"""Remove what ended browser sessions have left in the store: without the cookie no request can reach it.

A login is removed one day after it can neither be used nor refreshed; until then its browser may return. The reason
why a login ended is stored as long as an idle login would live, for a browser that returns. The clock may be wrong,
most of all just after a machine has started, so a profile is removed only if it was found ended a day earlier too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import NoReturn

import anyio
import anyio.lowlevel

from notion_oauth import profile_names
from notion_oauth.clock import Clock, uptime
from notion_oauth.errors import StorageError
from notion_oauth.models import TokenSet
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.storage import TokenStore

MARGIN = timedelta(days=1)  # for clocks that differ, and for a sign-in or a sign-out in progress
INTERVAL = timedelta(days=1)
_LOG = logging.getLogger(__name__)


class VisitorCleanup:
    """Removes the ended profiles of browser sessions from a store."""

    def __init__(
        self,
        store: TokenStore,
        lifetimes: Lifetimes,
        clock: Clock,
        *,
        uptime: Callable[[], float] = uptime,
        interval: timedelta = INTERVAL,
    ) -> None:
        self._store = store
        self._lifetimes = lifetimes
        self._clock = clock
        self._uptime = uptime
        self._interval = interval
        self._ended_since: dict[str, float] = {}  # uptime, in seconds, by profile
        self._last_failure = ""

    async def run(self) -> NoReturn:
        """Remove ended profiles now and once a day, until cancelled. A StorageError is logged, not raised."""
        while True:
            failure = await self.remove_ended()
            if failure is not None and str(failure) != self._last_failure:
                _LOG.warning("Files of ended browser sessions cannot be removed: %s", failure)
            self._last_failure = "" if failure is None else str(failure)
            await anyio.sleep(self._interval.total_seconds())

    async def remove_ended(self) -> StorageError | None:
        """Remove the profiles that have ended, and had at a check one day ago.

        Continue after a failure, and return the first one, or None.
        """
        failure: StorageError | None = None
        ended_before, self._ended_since = self._ended_since, {}
        after = ""
        # A database may have very many profiles: there, only those are looked at that no server lets live any longer
        unchanged_for = self._lifetimes.idle + MARGIN if self._store.has_leases else MARGIN
        before = self._clock() - unchanged_for
        while True:
            try:
                page = await self._store.last_changed(after=after, before=before)
            except StorageError as error:
                return failure or error
            if not page:
                return failure
            failure = await self._remove_ended(page, ended_before) or failure
            after = max(page)

    async def _remove_ended(
        self, last_changed: Mapping[str, datetime], ended_before: Mapping[str, float]
    ) -> StorageError | None:
        failure: StorageError | None = None
        for name in filter(profile_names.VISITOR_PROFILE.match, last_changed):
            now, uptime = self._clock(), self._uptime()
            unchanged_for = now - last_changed[name]
            if unchanged_for > MARGIN and await self._has_ended(name, unchanged_for=unchanged_for, now=now):
                self._ended_since[name] = ended_before.get(name, uptime)
                try:
                    if uptime - self._ended_since[name] >= self._interval.total_seconds():
                        await self._store.forget(name)
                except StorageError as error:
                    failure = failure or error
            await anyio.lowlevel.checkpoint()  # there may be very many profiles, and requests must not wait for all
        return failure

    async def _has_ended(self, name: str, *, unchanged_for: timedelta, now: datetime) -> bool:
        try:
            stored = await self._store.load(name)
            if stored.tokens is not None:
                return now - usable_until(stored.tokens, self._lifetimes) > MARGIN
            if stored.ended is None:
                return True  # an interrupted sign-out or sign-in has left a file
        except StorageError:
            pass  # encrypted with a lost key, or damaged: only its age counts
        return unchanged_for > self._lifetimes.idle


def usable_until(login: TokenSet, lifetimes: Lifetimes) -> datetime:
    """Return the time from which the token has expired and cannot be refreshed.

    A token without `expires_in` is valid as long as the grant. If a login was refreshed after its grant should have
    ended, the server allows a longer grant than the setting, and only idle time counts.
    """
    grant_ends = (login.authorized_at or login.updated_at) + lifetimes.grant
    token_ends = login.expires_at or grant_ends
    if login.refresh_token is None:
        return token_ends
    used = login.refreshed_at or login.updated_at
    idle_ends = used + lifetimes.idle
    return max(token_ends, min(idle_ends, grant_ends) if used < grant_ends else idle_ends)
