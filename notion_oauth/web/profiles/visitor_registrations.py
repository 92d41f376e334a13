"""The store for sign-ins that browsers start and may never complete. It stays small whatever browsers do.

Pending sign-ins share one unclaimed client registration; the first to complete claims it, and later sign-ins share a
new one. So a user's logins in two browsers have a client each (Notion allows one grant for each user and client), and
a flood of sign-ins that are never completed registers one client a day. A second unclaimed client serves sign-ins that
request additional scopes.
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

MAX_EXTENDED_SCOPE = 100  # registrations an hour and worker, for scopes that the unclaimed client may not request
HOUR = timedelta(hours=1)
RETRY_AFTER = 5.0  # seconds; a registration is usually faster
LOCK_TIMEOUT = timedelta(seconds=20)  # how long a sign-in waits for the registrations of others
MAX_AGE = timedelta(days=1)  # servers forget clients after months, and a login ends with its client
REGISTERING = f"{profile_names.VISITOR_PREFIX}registering"  # only a lock, held while the server registers a client
_WITHOUT_SCOPE = "Sign in without requesting a scope, or try again"


class VisitorRegistrations:
    """The store of one worker's sign-ins that have no profile yet: it has no logins, and `profile` holds the clients.

    Other profiles are passed through: the issuer of a preregistered client is stored once for all of them.
    """

    def __init__(
        self,
        store: TokenStore,
        profile: str,
        clock: Clock,
        *,
        max_extended_scope: int = MAX_EXTENDED_SCOPE,
        lock_timeout: timedelta = LOCK_TIMEOUT,
    ) -> None:
        self._store = store
        self._profile = profile
        self._clock = clock
        self._max_extended_scope = max_extended_scope
        self._lock_timeout = lock_timeout
        # In-process locks first: a file lock is polled, and very many sign-ins may wait here
        self._default_scope_lock = anyio.Lock()
        self._extended_scope_lock = anyio.Lock()
        self._file_lock = anyio.Lock()  # for short file operations
        self._extended_scope_times: deque[datetime] = deque()

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
        """The clients that a sign-in may use: preregistered ones, and unclaimed ones of the last day."""
        stored = await self._store.load_registrations(profile)
        return tuple(one for one in stored if one.preregistered or (not one.claimed and self._is_recent(one)))

    def _is_recent(self, stored: Registration) -> bool:
        return stored.registered_at is not None and abs(self._clock() - stored.registered_at) < MAX_AGE

    async def save_registration(self, profile: str, registration: Registration) -> None:
        if registration.preregistered:  # shared by all profiles; the caller holds their lock
            await self._store.save_registration(profile, registration)
            return
        async with self._file_lock, self._store.exclusive(profile):
            await self._store.save_registration(profile, registration)

    async def protection(self, profile: str) -> Protection | None:
        return await self._store.protection(profile)

    async def ensure_writable(self, profile: str) -> None:
        await self._store.ensure_writable(profile)

    def exclusive(self, profile: str) -> AbstractAsyncContextManager[None]:
        return self._store.exclusive(profile)

    @asynccontextmanager
    async def registration_lock(self, extended_scope: bool) -> AsyncIterator[None]:
        """Lock client registrations. Completing a sign-in does not wait for this lock.

        An `extended_scope` registration requests scopes that no unclaimed client may request. Any browser can invent
        scopes, so these run one at a time, a limited number an hour, and other sign-ins do not wait for them. Raises
        TooManyRequests beyond that, ServerUnavailable if a slow server has blocked the lock for long, StorageError.
        """
        async with self._lock_extended_scope() if extended_scope else self._lock_default_scope():
            yield

    @asynccontextmanager
    async def _lock_default_scope(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            try:
                with anyio.fail_after(self._lock_timeout.total_seconds()):
                    await held.enter_async_context(self._default_scope_lock)
                    await held.enter_async_context(self._store.exclusive(REGISTERING))
            except TimeoutError:
                raise ServerUnavailable(
                    "The server is slow to register clients, and other sign-ins are waiting."
                ) from None
            yield

    @asynccontextmanager
    async def _lock_extended_scope(self) -> AsyncIterator[None]:
        try:
            self._extended_scope_lock.acquire_nowait()
        except anyio.WouldBlock:
            message = "This service is already registering a client for additional scopes."
            raise TooManyRequests(message, hint=f"{_WITHOUT_SCOPE} in a moment.", retry_after=RETRY_AFTER) from None
        try:
            before = await self._extended_scope_clients()
            if before:  # the first one is not limited
                self._check_limit()
            yield
            if before and await self._extended_scope_clients() != before:
                self._extended_scope_times.append(self._clock())
        finally:
            self._extended_scope_lock.release()

    async def _extended_scope_clients(self) -> Sequence[Registration]:
        return [stored for stored in await self.load_registrations(self._profile) if stored.extended_scope]

    def _check_limit(self) -> None:
        now = self._clock()
        times = self._extended_scope_times
        while times and not timedelta() <= now - times[0] < HOUR:
            times.popleft()
        if len(times) >= self._max_extended_scope:
            raise TooManyRequests(
                "This service has registered too many clients for additional scopes in the last hour.",
                hint=f"{_WITHOUT_SCOPE} in an hour.",
                retry_after=(HOUR - (now - times[0])).total_seconds(),
            )

    async def claim(self, client: ClientInformation) -> None:
        """Reserve the client for the login that was completed with it: later sign-ins do not use it."""
        async with self._file_lock, self._store.exclusive(self._profile):
            for stored in await self._store.load_registrations(self._profile):
                if stored.client.client_id == client.client_id:
                    await self._store.save_registration(self._profile, stored.model_copy(update={"claimed": True}))
