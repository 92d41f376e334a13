"""Client registrations for sign-ins that browsers start and may never complete. There are few, whatever browsers do.

Pending sign-ins share one unclaimed client registration; the first to complete claims it, and later sign-ins share a
new one. So a user's logins in two browsers have a client each (Notion allows one grant for each user and client), and
a flood of sign-ins that are never completed registers one client a day. A second unclaimed client serves sign-ins that
request additional scopes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime, timedelta

import anyio

from notion_oauth import profile_names
from notion_oauth.clock import Clock
from notion_oauth.errors import ServerUnavailable, TooManyRequests
from notion_oauth.models import ClientInformation, Registration
from notion_oauth.storage import TokenStore
from notion_oauth.tokens.registrations import Save

MAX_EXTENDED_SCOPE = 100  # registrations an hour of all instances, for scopes that the unclaimed client may not request
HOUR = timedelta(hours=1)
RECHECK = timedelta(minutes=1)  # between two looks for a registration that is more than an hour old
RETRY_AFTER = 5.0  # seconds; a registration is usually faster
LOCK_TIMEOUT = timedelta(seconds=20)  # how long a sign-in waits for the registrations of others
MAX_AGE = timedelta(days=1)  # servers forget clients after months, and a login ends with its client
REGISTERING = f"{profile_names.VISITOR_PREFIX}registering"  # only a lock, held while the server registers a client
_WITHOUT_SCOPE = "Sign in without requesting a scope, or try again"


class VisitorRegistrations:
    """The registrations of sign-ins that have no profile yet. `profile` is where they are stored."""

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
        self._registered: anyio.Event | None = None  # of the task that registers a client for the default scope
        self._file_lock = anyio.Lock()  # for short file operations
        self._full_at: datetime | None = None  # when all registrations of an hour were found to be used
        self._unused_at: datetime | None = None  # when one was claimed that is not used yet
        self._next = 0

    async def load(self) -> Sequence[Registration]:
        """Return the clients that a sign-in may use: the unclaimed ones of the last day."""
        stored = await self._store.load_registrations(self._profile)
        return [one for one in stored if not one.preregistered and not one.claimed and self._is_recent(one)]

    def _is_recent(self, stored: Registration) -> bool:
        return stored.registered_at is not None and abs(self._clock() - stored.registered_at) < MAX_AGE

    async def wait_for_others(self) -> None:
        """Wait while another task of this process registers a client for the default scope, at most `lock_timeout`."""
        if self._registered is not None:
            with anyio.move_on_after(self._lock_timeout.total_seconds()):
                await self._registered.wait()

    @asynccontextmanager
    async def lock(self, *, extra: bool) -> AsyncIterator[Save]:
        """Lock client registrations. Completing a sign-in does not wait for this lock.

        An `extra` registration requests scopes that no unclaimed client may request. Any browser can invent scopes, so
        these run one at a time, a limited number an hour, and other sign-ins do not wait for them. Raises
        TooManyRequests beyond that, ServerUnavailable if a slow server has blocked the lock for long, StorageError.
        """
        async with self._lock_extended_scope() if extra else self._lock_default_scope():
            yield self._save

    async def _save(self, registration: Registration) -> None:
        async with self._file_lock, self._store.exclusive(self._profile) as hold:
            await hold.save_registration(registration)

    @contextmanager
    def _wake_waiting(self) -> Iterator[None]:
        """At the end of the block, wake those that have begun to wait since its start."""
        if self._registered is not None:
            yield
            return
        self._registered = registered = anyio.Event()
        try:
            yield
        finally:
            self._registered = None
            registered.set()

    @asynccontextmanager
    async def _lock_default_scope(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as held:
            held.enter_context(self._wake_waiting())
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
                await self._claim_one()
            yield
            if before and await self._extended_scope_clients() != before:
                self._unused_at = None
        finally:
            self._extended_scope_lock.release()

    async def _extended_scope_clients(self) -> Sequence[Registration]:
        return [stored for stored in await self.load() if stored.extended_scope]

    async def _claim_one(self) -> None:
        """Claim one of the registrations of an hour among all instances. Raises TooManyRequests if none is left."""
        if self._is_less_than(HOUR, self._unused_at):
            return
        if not self._is_less_than(RECHECK, self._full_at):
            for _ in range(self._max_extended_scope):
                self._next = (self._next + 1) % self._max_extended_scope
                if await self._store.claim(f"registration for additional scopes {self._next}", HOUR):
                    self._unused_at = self._clock()
                    return
            self._full_at = self._clock()
        raise TooManyRequests(
            "This service has registered too many clients for additional scopes in the last hour.",
            hint=f"{_WITHOUT_SCOPE} later.",
            retry_after=RECHECK.total_seconds(),
        )

    def _is_less_than(self, age: timedelta, since: datetime | None) -> bool:
        return since is not None and timedelta() <= self._clock() - since < age

    async def claim(self, client: ClientInformation) -> None:
        """Mark the client as claimed: the completed sign-in keeps it, and later sign-ins use another."""
        async with self._file_lock, self._store.exclusive(self._profile) as hold:
            for stored in await self._store.load_registrations(self._profile):
                if stored.client.client_id == client.client_id:
                    await hold.save_registration(stored.model_copy(update={"claimed": True, "replacement": False}))
