"""The store of a sign-in that may never be finished: it leaves nothing behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from notion_oauth.models import Registration, TokenSet, Tombstone
from notion_oauth.protection import Protection
from notion_oauth.storage import TokenStore


class Unfinished:
    """The store of a sign-in under a name that nobody else knows: there is nothing to load, and nothing to keep yet.

    Which issuer a client that was registered by hand belongs to is known once for all, in the profile `common`.
    """

    def __init__(self, store: TokenStore, common: str) -> None:
        self._store = store
        self._common = common

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
        return tuple(kept for kept in await self._store.load_registrations(self._common) if kept.by_hand)

    async def save_registration(self, profile: str, registration: Registration) -> None:
        """Leave it in the pending sign-in, which holds the client too, unless it is all profiles'."""
        if registration.by_hand:
            await self._store.save_registration(self._common, registration)

    async def protection(self, profile: str) -> Protection | None:
        return await self._store.protection(profile)

    async def ensure_writable(self, profile: str) -> None:
        await self._store.ensure_writable(profile)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        yield

    def exclusive(self, profile: str) -> AbstractAsyncContextManager[None]:
        return self._store.exclusive(profile) if profile == self._common else self._alone()
