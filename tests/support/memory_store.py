"""A store in memory that fulfils the TokenStore contract, for tests that are not about files."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from notion_oauth.files.protection import Protection
from notion_oauth.models import EndedLogin, Registration, TokenSet


class MemoryStore:
    """Stores data in dictionaries, for the tasks, threads and event loops of one process."""

    def __init__(self) -> None:
        self._tokens: dict[str, TokenSet | EndedLogin] = {}
        self._changes = 0
        self._registrations: dict[str, tuple[Registration, ...]] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    async def load(self, profile: str) -> TokenSet | None:
        stored = self._tokens.get(profile)
        return stored if isinstance(stored, TokenSet) else None

    async def load_ended_login(self, profile: str) -> EndedLogin | None:
        stored = self._tokens.get(profile)
        return stored if isinstance(stored, EndedLogin) else None

    async def save(self, profile: str, tokens: TokenSet) -> None:
        self._changes += 1
        self._tokens[profile] = tokens

    async def save_ended_login(self, profile: str, ended: EndedLogin) -> None:
        self._changes += 1
        self._tokens[profile] = ended

    def version(self, profile: str) -> object | None:
        return self._changes

    async def delete(self, profile: str) -> bool:
        self._changes += 1
        return self._tokens.pop(profile, None) is not None

    async def load_registrations(self, profile: str) -> tuple[Registration, ...]:
        return self._registrations.get(profile, ())

    async def save_registration(self, profile: str, registration: Registration) -> None:
        others = [each for each in self._registrations.get(profile, ()) if each.key != registration.key]
        self._registrations[profile] = (*others, registration)

    async def protection(self, profile: str) -> Protection | None:
        return None

    async def ensure_writable(self, profile: str) -> None:
        pass

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[None]:
        lock = self._locks[profile]
        while not lock.acquire(blocking=False):
            await anyio.sleep(0.002)
        try:
            yield
        finally:
            lock.release()
