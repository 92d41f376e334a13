"""Short ways to look into a token store, and to change it under its lock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TypeVar

from notion_oauth.clock import utc_now
from notion_oauth.errors import WarningWithHint
from notion_oauth.models import EndedLogin, Registration, TokenSet
from notion_oauth.service import NotionOAuth
from notion_oauth.storage import Cooldown, DocumentHold, Documents, Kind, Reservation, TokenStore
from notion_oauth.stores.memory import MemoryDocuments

T = TypeVar("T")


async def load_login(store: TokenStore, profile: str) -> TokenSet | None:
    return (await store.load(profile)).tokens


async def stored(oauth: NotionOAuth) -> TokenSet:
    """The login of the default profile, which must be stored."""
    login = await load_login(oauth.store, "default")
    assert login is not None
    return login


async def load_ended_login(store: TokenStore, profile: str) -> EndedLogin | None:
    return (await store.load(profile)).ended


async def save_login(store: TokenStore, profile: str, login: TokenSet | EndedLogin) -> None:
    async with store.exclusive(profile) as hold:
        if isinstance(login, EndedLogin):
            await hold.end(login)
        else:
            await hold.save(login)


async def delete_login(store: TokenStore, profile: str) -> bool:
    async with store.exclusive(profile) as hold:
        return await hold.delete()


async def save_registration(store: TokenStore, profile: str, registration: Registration) -> None:
    async with store.exclusive(profile) as hold:
        await hold.save_registration(registration)


async def reencrypt(store: TokenStore, profile: str) -> bool:
    async with store.exclusive(profile) as hold:
        return await hold.reencrypt()


Hook = Callable[[str, str, bytes | None], Awaitable[object] | None]


class HookedDocuments:
    """Documents in memory, or others, with hooks that are called with the operation, the profile and the content.

    Operations are read, check, reserve, release, write and delete. The first hook runs before the operation, and may
    raise an error in its place; `after` runs when a write is done.
    """

    def __init__(self, hook: Hook, documents: Documents | None = None, *, after: Hook | None = None) -> None:
        self.documents: Documents = documents or MemoryDocuments(lock_wait=timedelta(seconds=60), clock=utc_now)
        self._hook = hook
        self.after = after
        self.held: set[str] = set()  # the profiles that are locked

    async def call(self, operation: str, profile: str, content: bytes | None = None) -> None:
        waiting = self._hook(operation, profile, content)
        if waiting is not None:
            await waiting

    def name(self, profile: str, kind: Kind) -> str:
        return self.documents.name(profile, kind)

    def version(self, profile: str) -> object | None:
        return self.documents.version(profile)

    async def read(self, profile: str, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        await self.call("read", profile)
        return await self.documents.read(profile, kind, decode, slow=slow)

    async def check_writable(self, profile: str, size: int) -> None:
        await self.call("check", profile)
        await self.documents.check_writable(profile, size)

    async def profiles(self, *, after: str, limit: int, registered: bool) -> Sequence[str]:
        return await self.documents.profiles(after=after, limit=limit, registered=registered)

    async def last_changed(self, *, after: str, limit: int, before: datetime) -> Mapping[str, datetime]:
        return await self.documents.last_changed(after=after, limit=limit, before=before)

    async def due(self, before: datetime) -> Sequence[str] | None:
        return await self.documents.due(before)

    async def forget(self, profile: str) -> None:
        await self.documents.forget(profile)

    def protection(self, profile: str) -> tuple[int | None, Sequence[WarningWithHint]]:
        return self.documents.protection(profile)

    async def claim(self, key: str, lifetime: timedelta) -> bool:
        return await self.documents.claim(key, lifetime)

    async def settle(self, key: str, outcome: bytes) -> None:
        await self.documents.settle(key, outcome)

    async def outcome(self, key: str) -> bytes | None:
        return await self.documents.outcome(key)

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[DocumentHold]:
        async with self.documents.exclusive(profile) as hold:
            self.held.add(profile)
            try:
                yield _HookedHold(self, profile, hold)
            finally:
                self.held.remove(profile)


class _HookedHold:
    def __init__(self, documents: HookedDocuments, profile: str, hold: DocumentHold) -> None:
        self._documents, self._profile, self._hold = documents, profile, hold

    @property
    def cooldown(self) -> Cooldown | None:
        return self._hold.cooldown

    async def record_failure(self, failure: bytes, *, pause_all: float) -> None:
        await self._hold.record_failure(failure, pause_all=pause_all)

    async def reserve(self, marker: bytes, size: int) -> None:
        await self._documents.call("reserve", self._profile, marker)
        await self._hold.reserve(marker, size)

    async def read(self, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        await self._documents.call("read", self._profile)
        return await self._hold.read(kind, decode, slow=slow)

    async def reserved(self) -> Sequence[Reservation]:
        return await self._hold.reserved()

    async def release(self) -> None:
        await self._documents.call("release", self._profile)
        await self._hold.release()

    async def write(
        self, kind: Kind, content: bytes, *, expires_at: datetime | None = None, last: bool = False
    ) -> None:
        await self._documents.call("write", self._profile, content)
        await self._hold.write(kind, content, expires_at=expires_at, last=last)
        if self._documents.after is not None:
            self._documents.after("write", self._profile, content)

    async def set_aside(self, content: bytes) -> None:
        await self._documents.call("reserve", self._profile, content)
        await self._hold.set_aside(content)

    async def delete(self, kind: Kind) -> bool:
        await self._documents.call("delete", self._profile)
        return await self._hold.delete(kind)
