"""A token store in the memory of this process, for tests and short programs."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NoReturn, TypeVar

import anyio

from notion_oauth.clock import Clock, uptime, utc_now
from notion_oauth.errors import ConfigurationError, StoreBusy, WarningWithHint
from notion_oauth.files.encryption import Encryption
from notion_oauth.storage import LOCK_WAIT, Kind, Reservation, TokenStore

_POLL = 0.005  # seconds between two tries to get a lock

T = TypeVar("T")


class MemoryStore(TokenStore):
    """Keeps logins in this process, for all of its threads and event loops. They are gone when it ends."""

    def __init__(
        self, *, lock_wait: timedelta = LOCK_WAIT, encryption: Encryption | None = None, clock: Clock = utc_now
    ) -> None:
        super().__init__(MemoryDocuments(lock_wait=lock_wait, clock=clock), encryption=encryption)

    def __reduce__(self) -> NoReturn:
        raise ConfigurationError(
            "A MemoryStore cannot be pickled: its logins exist only in this process.",
            hint="Use a JsonFileStore, which several processes can share.",
        )


@dataclass
class _Profile:
    documents: dict[Kind, bytes] = field(default_factory=dict)
    version: object = ()
    reserved: bytes | None = None
    changed: datetime | None = None


class MemoryDocuments:
    """Documents in dictionaries."""

    def __init__(self, *, lock_wait: timedelta, clock: Clock) -> None:
        self._lock_wait = lock_wait
        self._clock = clock
        self._profiles: dict[str, _Profile] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._claims: dict[str, tuple[float, bytes | None]] = {}
        self._versions = itertools.count()
        self._changing = threading.RLock()

    def name(self, profile: str, kind: Kind) -> str:
        return f"The {kind} of profile {profile}"

    def version(self, profile: str) -> object | None:
        found = self._profiles.get(profile)
        return () if found is None else found.version

    async def read(self, profile: str, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:  # noqa: ARG002 - for stores that wait
        with self._changing:
            content = self._profile(profile).documents.get(kind) if profile in self._profiles else None
        return None if content is None else decode(content)

    async def check_writable(self, profile: str, size: int) -> None:
        pass

    async def profiles(self, *, after: str, limit: int, registered: bool) -> Sequence[str]:
        with self._changing:
            names = [
                name
                for name, found in self._profiles.items()
                if "login" in found.documents or (registered and found.documents)
            ]
        return sorted(name for name in names if name > after)[:limit]

    async def last_changed(self, *, after: str, limit: int, before: datetime) -> Mapping[str, datetime]:
        with self._changing:
            changed = {name: found.changed for name, found in self._profiles.items() if found.changed and name > after}
        changed = {name: when for name, when in changed.items() if when < before}
        return {name: changed[name] for name in sorted(changed)[:limit]}

    async def due(self, before: datetime) -> Sequence[str] | None:  # noqa: ARG002 - only the documents tell
        return None

    async def forget(self, profile: str) -> None:
        with self._changing:
            self._profiles.pop(profile, None)

    def protection(self, profile: str) -> tuple[int | None, Sequence[WarningWithHint]]:  # noqa: ARG002 - there are no files
        return None, ()

    async def claim(self, key: str, lifetime: timedelta) -> bool:
        with self._changing:
            self._claims = {name: claim for name, claim in self._claims.items() if claim[0] > uptime()}
            if key in self._claims:
                return False
            self._claims[key] = uptime() + lifetime.total_seconds(), None
            return True

    async def settle(self, key: str, outcome: bytes) -> None:
        with self._changing:
            if key in self._claims:
                self._claims[key] = self._claims[key][0], outcome

    async def outcome(self, key: str) -> bytes | None:
        until, outcome = self._claims.get(key, (0.0, None))
        return outcome if until > uptime() else None

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[_MemoryHold]:
        with self._changing:
            lock = self._locks[profile]
        deadline = uptime() + self._lock_wait.total_seconds()
        while not lock.acquire(blocking=False):
            if uptime() >= deadline:
                waited = f"{self._lock_wait.total_seconds():g} seconds"
                raise StoreBusy(f"Another task has held the lock of this login for more than {waited}.")
            await anyio.sleep(_POLL)
        try:
            yield _MemoryHold(self, profile)
        finally:
            lock.release()

    def _profile(self, profile: str) -> _Profile:
        return self._profiles.setdefault(profile, _Profile())

    def change(self, profile: str, change: Callable[[_Profile], T]) -> T:
        """Apply a change to a profile in one step."""
        with self._changing:
            found = self._profile(profile)
            result = change(found)
            found.version, found.changed = next(self._versions), self._clock()
            return result


class _MemoryHold:
    """Changes the documents of one profile while its lock is held."""

    cooldown: None = None  # one instance knows what has failed

    def __init__(self, documents: MemoryDocuments, profile: str) -> None:
        self._documents = documents
        self._profile = profile

    async def read(self, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        return await self._documents.read(self._profile, kind, decode, slow=slow)

    async def reserve(self, marker: bytes, size: int) -> None:  # noqa: ARG002 - memory is not reserved
        self._documents.change(self._profile, lambda found: setattr(found, "reserved", marker))

    async def reserved(self) -> Sequence[Reservation]:
        content = self._documents.change(self._profile, lambda found: found.reserved)
        return [] if content is None else [(content, None)]

    async def release(self) -> None:
        self._documents.change(self._profile, lambda found: setattr(found, "reserved", None))

    async def write(
        self,
        kind: Kind,
        content: bytes,
        *,
        expires_at: datetime | None = None,  # noqa: ARG002 - of use to a database
        last: bool = False,  # noqa: ARG002 - of use to a database
    ) -> None:
        def change(found: _Profile) -> None:
            found.documents[kind] = content
            if kind == "login":
                found.reserved = None

        self._documents.change(self._profile, change)

    async def set_aside(self, content: bytes) -> None:
        await self.reserve(content, len(content))

    async def record_failure(self, failure: bytes, *, pause_all: float) -> None:
        pass

    async def delete(self, kind: Kind) -> bool:
        def change(found: _Profile) -> bool:
            if kind == "login":
                found.reserved = None
            return found.documents.pop(kind, None) is not None

        return self._documents.change(self._profile, change)
