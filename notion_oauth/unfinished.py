"""The store of sign-ins that browsers begin and may never finish: whatever they do, it stays small.

They begin with a client that waits for the first of them who finishes: it is then that one's, and another is registered
for those who begin later. A person's logins in two browsers so have a client each, which Notion asks for, and a flood
of sign-ins that nobody finishes registers one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import anyio

from notion_oauth.errors import TooManyRequests
from notion_oauth.models import ClientInformation, Registration, TokenSet, Tombstone
from notion_oauth.oauth_client import Clock
from notion_oauth.protection import Protection
from notion_oauth.storage import TokenStore

MOST_EXTRA = 100  # registrations in an hour, by each worker, for scopes that the client that waits may not ask for
HOUR = timedelta(hours=1)


class Unfinished:
    """The store of one worker's sign-ins that have no name yet: there is no login, and `profile` has their client.

    What other profiles have is passed through: to whom a client by hand belongs is known once for all.
    """

    def __init__(self, store: TokenStore, profile: str, clock: Clock) -> None:
        self._store = store
        self._profile = profile
        self._clock = clock
        self._one_at_a_time = anyio.Lock()  # a kernel lock wakes nobody, and very many may wait here
        self._extra: deque[datetime] = deque()

    async def load(self, profile: str) -> TokenSet | None:
        return None

    async def load_tombstone(self, profile: str) -> Tombstone | None:
        return None

    async def save(self, profile: str, tokens: TokenSet) -> None:
        await self._store.save(profile, tokens)

    async def save_tombstone(self, profile: str, grave: Tombstone) -> None:
        await self._store.save_tombstone(profile, grave)

    async def delete(self, profile: str) -> bool:
        return await self._store.delete(profile)

    def stamp(self, profile: str) -> object | None:
        return None

    async def load_registrations(self, profile: str) -> tuple[Registration, ...]:
        """The clients that a sign-in may begin with."""
        return tuple(kept for kept in await self._store.load_registrations(profile) if not kept.taken)

    async def save_registration(self, profile: str, registration: Registration) -> None:
        await self._store.save_registration(profile, registration)

    async def protection(self, profile: str) -> Protection | None:
        return await self._store.protection(profile)

    async def ensure_writable(self, profile: str) -> None:
        await self._store.ensure_writable(profile)

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[None]:
        async with self._one_at_a_time, self._store.exclusive(profile):
            yield

    async def may_register(self) -> None:
        """Let a client be registered in the place of one that waits: for other scopes, which anybody can invent.

        Called inside `exclusive`. Raises TooManyRequests where that was done very often. Without one that waits it is
        always done.
        """
        if not await self.load_registrations(self._profile):
            return
        now = self._clock()
        while self._extra and not timedelta() <= now - self._extra[0] < HOUR:
            self._extra.popleft()
        if len(self._extra) >= MOST_EXTRA:
            raise TooManyRequests(
                "This service has registered very many clients of late, for scopes that others asked for.",
                cure="Sign in without asking for a scope, or try again in an hour.",
                retry_after=(HOUR - (now - self._extra[0])).total_seconds(),
            )
        self._extra.append(now)

    async def taken(self, client: ClientInformation) -> None:
        """Let nobody else begin with the client: a sign-in was finished with it."""
        async with self.exclusive(self._profile):
            for kept in await self.load_registrations(self._profile):
                if kept.client.client_id == client.client_id:
                    await self.save_registration(self._profile, kept.model_copy(update={"taken": True}))
