"""A store in memory: it passes the contract that every store must, and serves tests that are not about files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from notion_oauth.models import Registration, TokenSet


class MemoryStore:
    """Keeps everything in dictionaries; its lock is for the tasks of one event loop."""

    def __init__(self) -> None:
        self._tokens: dict[str, TokenSet] = {}
        self._registrations: dict[str, tuple[Registration, ...]] = {}
        self._locks: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    async def load(self, profile: str) -> TokenSet | None:
        return self._tokens.get(profile)

    async def save(self, profile: str, tokens: TokenSet) -> None:
        self._tokens[profile] = tokens

    async def delete(self, profile: str) -> bool:
        return self._tokens.pop(profile, None) is not None

    async def load_registrations(self, profile: str) -> tuple[Registration, ...]:
        return self._registrations.get(profile, ())

    async def save_registration(self, profile: str, registration: Registration) -> None:
        same = (registration.issuer, registration.redirect_uri)
        others = [kept for kept in self._registrations.get(profile, ()) if (kept.issuer, kept.redirect_uri) != same]
        self._registrations[profile] = (*others, registration)

    async def ensure_writable(self, profile: str) -> None:
        pass

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[None]:
        async with self._locks[profile]:
            yield
