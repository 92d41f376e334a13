"""The store of sign-ins that browsers begin and may never finish: whatever they do, it stays small.

They begin with a client that waits for the first of them who finishes: it is then that one's, and another is registered
for those who begin later. A person's logins in two browsers so have a client each, which Notion asks for, and a flood
of sign-ins that nobody finishes registers one a day. Beside it waits one for those who ask for more scopes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta

import anyio

from notion_oauth import profile_names
from notion_oauth.clock import Clock
from notion_oauth.errors import ServerUnavailable, TooManyRequests
from notion_oauth.files.protection import Protection
from notion_oauth.models import ClientInformation, EndedLogin, Registration, TokenSet
from notion_oauth.storage import TokenStore

MOST_EXTRA = 100  # registrations in an hour, by each worker, for scopes that the client that waits may not ask for
HOUR = timedelta(hours=1)
SOON = 5.0  # seconds; longer than a registration takes, as a rule
LONGEST_WAIT = timedelta(seconds=20)  # of one who begins, for others' registrations
GOOD_FOR = timedelta(days=1)  # servers forget clients, in months; a login that begins with an old one dies early
REGISTERING = f"{profile_names.VISITOR_PREFIX}registering"  # has a lock alone: a server is waited for under it
_ASK_FOR_NONE = "Sign in without asking for a scope, or try again"


class VisitorRegistrations:
    """The store of one worker's sign-ins that have no name yet: there is no login, and `profile` has their client.

    What other profiles have is passed through: to whom a client by hand belongs is known once for all.
    """

    def __init__(self, store: TokenStore, profile: str, clock: Clock) -> None:
        self._store = store
        self._profile = profile
        self._clock = clock
        self._ordinary = anyio.Lock()  # a kernel lock wakes nobody, and very many may wait here
        self._wide = anyio.Lock()
        self._files = anyio.Lock()  # of what takes a moment
        self._extra: deque[datetime] = deque()

    async def load(self, profile: str) -> TokenSet | None:
        return None

    async def load_ended_login(self, profile: str) -> EndedLogin | None:
        return None

    async def save(self, profile: str, tokens: TokenSet) -> None:
        await self._store.save(profile, tokens)

    async def save_ended_login(self, profile: str, ended: EndedLogin) -> None:
        await self._store.save_ended_login(profile, ended)

    async def delete(self, profile: str) -> bool:
        return await self._store.delete(profile)

    def version(self, profile: str) -> object | None:
        return None

    async def load_registrations(self, profile: str) -> tuple[Registration, ...]:
        """The clients that a sign-in may begin with."""
        kept = await self._store.load_registrations(profile)
        return tuple(one for one in kept if one.preregistered or (not one.claimed and self._is_young(one)))

    def _is_young(self, kept: Registration) -> bool:
        return kept.registered_at is not None and abs(self._clock() - kept.registered_at) < GOOD_FOR

    async def save_registration(self, profile: str, registration: Registration) -> None:
        if registration.preregistered:  # of all profiles, and inside their lock
            await self._store.save_registration(profile, registration)
            return
        async with self._files, self._store.exclusive(profile):
            await self._store.save_registration(profile, registration)

    async def protection(self, profile: str) -> Protection | None:
        return await self._store.protection(profile)

    async def ensure_writable(self, profile: str) -> None:
        await self._store.ensure_writable(profile)

    def exclusive(self, profile: str) -> AbstractAsyncContextManager[None]:
        return self._store.exclusive(profile)

    @asynccontextmanager
    async def registration_lock(self, extra: bool) -> AsyncIterator[None]:
        """Hold registrations alone; whoever finishes a sign-in meanwhile waits for none of them.

        One that is `extra` is made since a client that waits, if any, may not ask for the scopes, which anybody can
        invent: one at a time, a few in an hour, and nobody else waits for it. Raises TooManyRequests for one more,
        ServerUnavailable where others have waited long for a server that is slow, StorageError.
        """
        async with self._extra_alone() if extra else self._alone():
            yield

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            try:
                with anyio.fail_after(LONGEST_WAIT.total_seconds()):
                    await held.enter_async_context(self._ordinary)
                    await held.enter_async_context(self._store.exclusive(REGISTERING))
            except TimeoutError:
                raise ServerUnavailable("The server takes long to register a client, and others wait, too.") from None
            yield

    @asynccontextmanager
    async def _extra_alone(self) -> AsyncIterator[None]:
        try:
            self._wide.acquire_nowait()
        except anyio.WouldBlock:
            message = "This service registers a client for scopes that another asks for just now."
            raise TooManyRequests(message, hint=f"{_ASK_FOR_NONE} in a moment.", retry_after=SOON) from None
        try:
            waited = await self._wide_ones()
            if waited:
                self._require_room()
            yield
            if waited and await self._wide_ones() != waited:
                self._extra.append(self._clock())
        finally:
            self._wide.release()

    async def _wide_ones(self) -> Sequence[Registration]:
        return [kept for kept in await self.load_registrations(self._profile) if kept.extended_scope]

    def _require_room(self) -> None:
        now = self._clock()
        while self._extra and not timedelta() <= now - self._extra[0] < HOUR:
            self._extra.popleft()
        if len(self._extra) >= MOST_EXTRA:
            raise TooManyRequests(
                "This service has registered very many clients of late, for scopes that others asked for.",
                hint=f"{_ASK_FOR_NONE} in an hour.",
                retry_after=(HOUR - (now - self._extra[0])).total_seconds(),
            )

    async def claim(self, client: ClientInformation) -> None:
        """Let nobody else begin with the client: a sign-in was finished with it."""
        async with self._files, self._store.exclusive(self._profile):
            for kept in await self._store.load_registrations(self._profile):
                if kept.client.client_id == client.client_id:
                    await self._store.save_registration(self._profile, kept.model_copy(update={"claimed": True}))
