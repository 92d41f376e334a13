"""What is kept of browser sessions that have gone, and when it is removed: nobody can reach it, and the cookie is lost.

A login goes a day after the moment from which no server takes it any more; until then its browser may come back. Why a
login has ended is kept for as long as a login that nobody uses would live, for the browser that asks. Since the clock
may be wrong, most of all where a machine has just started, nothing goes that was not found over a day before, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import anyio
import anyio.lowlevel

from notion_oauth import profile_names
from notion_oauth.clock import Clock, uptime
from notion_oauth.errors import StorageError
from notion_oauth.models import TokenSet
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.storage import JsonFileStore

MARGIN = timedelta(days=1)  # for clocks that differ, and for a sign-in or a sign-out that is under way
EVERY = timedelta(days=1)
_LOG = logging.getLogger(__name__)


class VisitorCleanup:
    """Forgets the browser sessions' profiles of a store that are over."""

    def __init__(
        self,
        store: JsonFileStore,
        lifetimes: Lifetimes,
        clock: Clock,
        *,
        uptime: Callable[[], float] = uptime,
    ) -> None:
        self._store = store
        self._lifetimes = lifetimes
        self._clock = clock
        self._uptime = uptime
        self._over: dict[str, float] = {}  # and since when, in seconds of uptime
        self._said = ""

    async def go_on(self) -> NoReturn:
        """Sweep now, and once a day, until cancelled. Logs what cannot be removed; raises nothing of ours."""
        while True:
            failure = await self.sweep()
            if failure is not None and str(failure) != self._said:
                _LOG.warning("Files of browser sessions that have ended cannot be removed: %s", failure)
            self._said = "" if failure is None else str(failure)
            await anyio.sleep(EVERY.total_seconds())

    async def sweep(self) -> StorageError | None:
        """Forget what is over now, and was at a sweep a day ago; the first failure, which keeps none of the others."""
        failure: StorageError | None = None
        try:
            last_changed = await self._store.last_changed()
        except StorageError as error:
            return error
        before, self._over = self._over, {}
        for name in filter(profile_names.VISITOR_PROFILE.match, last_changed):
            now, uptime = self._clock(), self._uptime()
            quiet = now - datetime.fromtimestamp(last_changed[name], UTC)
            if quiet > MARGIN and await _is_over(self._store, name, self._lifetimes, quiet=quiet, now=now):
                self._over[name] = before.get(name, uptime)
                try:
                    if uptime - self._over[name] >= EVERY.total_seconds():
                        await self._store.forget(name)
                except StorageError as error:
                    failure = failure or error
            await anyio.lowlevel.checkpoint()  # there may be very many, and others wait for their answers
        return failure


async def _is_over(store: JsonFileStore, name: str, lifetimes: Lifetimes, *, quiet: timedelta, now: datetime) -> bool:
    try:
        login = await store.load(name)
        if login is not None:
            return now - good_until(login, lifetimes) > MARGIN
        if await store.load_ended_login(name) is None:
            return True  # signed out, or never signed in, by somebody who was interrupted
    except StorageError:
        pass  # no key opens it, or it is damaged: by its age it would have ended, whatever it is
    return quiet > lifetimes.idle


def good_until(login: TokenSet, lifetimes: Lifetimes) -> datetime:
    """The moment from which nothing can be done with a login: neither is its token good, nor can it be refreshed.

    A token that does not say how long it is good is as long as the grant. A login that was refreshed after its grant
    should have ended has shown that the server lets it live longer.
    """
    grant_ends = (login.authorized_at or login.updated_at) + lifetimes.grant
    token_ends = login.expires_at or grant_ends
    if login.refresh_token is None:
        return token_ends
    used = login.refreshed_at or login.updated_at
    idle_ends = used + lifetimes.idle
    return max(token_ends, min(idle_ends, grant_ends) if used < grant_ends else idle_ends)
