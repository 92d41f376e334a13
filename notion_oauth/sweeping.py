"""What is kept of browser sessions that have gone, and when it is removed: nobody can reach it, and the cookie is lost.

A login goes a day after the moment from which no server takes it any more; until then its browser may come back. Why a
login has ended is kept for as long as a login that nobody uses would live, for the browser that asks.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio.lowlevel

from notion_oauth import places
from notion_oauth.errors import StorageError
from notion_oauth.models import TokenSet
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.storage import JsonFileStore

MARGIN = timedelta(days=1)  # for clocks that differ, and for a sign-in or a sign-out that is under way


async def sweep(store: JsonFileStore, lifetimes: Lifetimes, now: datetime) -> None:
    """Forget all browser sessions' profiles that are over. Raises StorageError."""
    written = await store.written()
    for name in filter(places.OF_A_VISITOR.match, written):
        quiet = now - datetime.fromtimestamp(written[name], UTC)
        if quiet > MARGIN and await _is_over(store, name, lifetimes, quiet=quiet, now=now):
            await store.forget(name)
        await anyio.lowlevel.checkpoint()  # there may be very many, and others wait for their answers


async def _is_over(store: JsonFileStore, name: str, lifetimes: Lifetimes, *, quiet: timedelta, now: datetime) -> bool:
    try:
        login = await store.load(name)
        if login is not None:
            return now - good_until(login, lifetimes) > MARGIN
        if await store.load_tombstone(name) is None:
            return True  # signed out, or never signed in, by somebody who was interrupted
    except StorageError:
        pass  # no key opens it, or it is damaged: by its age it would have ended, whatever it is
    return quiet > lifetimes.idle


def good_until(login: TokenSet, lifetimes: Lifetimes) -> datetime:
    """The moment from which nothing can be done with a login that nobody uses.

    One that was refreshed after its grant should have ended has shown that the server lets it live longer.
    """
    if login.refresh_token is None:
        return login.expires_at or login.updated_at + lifetimes.grant
    used = login.refreshed_at or login.updated_at
    grant_ends = None if login.authorized_at is None else login.authorized_at + lifetimes.grant
    return min(used + lifetimes.idle, grant_ends) if grant_ends and used < grant_ends else used + lifetimes.idle
