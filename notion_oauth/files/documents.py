"""Documents of profiles in files: one file per profile and kind, with a kernel lock for each profile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Literal, TypeVar

import anyio
import anyio.to_thread
import filelock

from notion_oauth import profile_names
from notion_oauth.errors import ConfigurationError, StoreBusy, WarningWithHint
from notion_oauth.files import atomic, moved, permissions
from notion_oauth.files.claims import Claims
from notion_oauth.files.held_file import HeldFile

LOCK_POLL = timedelta(milliseconds=20)
_SUFFIXES = {"login": "", "registrations": ".clients"}
_OTHER_SUFFIXES = (".lock", atomic.RESERVED)

Kind = Literal["login", "registrations"]
T = TypeVar("T")


class FileDocuments:
    """Stores the default profile in the file at `path`, and profile NAME in `path.NAME.profile`.

    Next to each are `.clients` (registrations), `.lock` (the kernel lock) and, during a request for tokens,
    `.reserved`. All are mode 0600. Profiles with a `.moved` are refused, unless `moving` says that this is for a move.
    """

    def __init__(self, path: Path, *, lock_wait: timedelta, moving: bool = False) -> None:
        self._path = path
        self._moving = moving
        self._lock_wait = lock_wait
        # `version` must take microseconds, and each browser session has a new profile name
        self._file_names = lru_cache(maxsize=1024)(lambda profile: str(self.path(profile)))

    def path(self, profile: str, kind: Kind = "login") -> Path:
        """Return the file of a document. Raises ConfigurationError for an invalid name or path."""
        if not self._path.name:
            raise ConfigurationError(
                f"{self._path} is not the path of a file.", hint="Set NOTION_OAUTH_TOKEN_FILE to the path of a file."
            )
        if not profile_names.PROFILE_NAME.match(profile):
            raise ConfigurationError(
                "A profile name consists of letters, digits, - and _ (64 at most).", hint="Choose another name."
            )
        return profile_names.add_suffix(profile_names.profile_file(self._path, profile), _SUFFIXES[kind])

    def name(self, profile: str, kind: Kind) -> str:
        return str(self.path(profile, kind))

    def version(self, profile: str) -> object | None:
        return atomic.file_version(self._file_names(profile))

    async def read(self, profile: str, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        path = self.path(profile, kind)
        self._check_not_moved(profile)
        if kind == "login":
            permissions.warn_if_linked(path)
        if slow:
            return await in_thread(atomic.read_file, path, decode)
        # Not in a thread: it is a few kilobytes, and a thread takes longer than reading them
        return atomic.read_file(path, decode)

    async def check_writable(self, profile: str, size: int) -> None:
        self._check_not_moved(profile)
        await in_thread(partial(atomic.ensure_writable, self.path(profile), size=size))

    async def profiles(self, *, after: str, limit: int, registered: bool) -> Sequence[str]:
        suffixes = ("", *([".clients"] if registered else []), *([] if self._moving else [moved.SUFFIX]))
        found = await in_thread(self._profiles_with, suffixes)
        return sorted(profile for profile in found if profile > after)[:limit]

    def moved_profiles(self) -> set[str]:
        """Return the profiles that were moved to a database. Raises StorageError."""
        return self._profiles_with((moved.SUFFIX,))

    def _profiles_with(self, suffixes: Sequence[str]) -> set[str]:
        entries = atomic.directory_entries(self._path.parent)
        found = (profile_names.profile_of(self._path, name, suffixes) for name, _ in entries)
        return {profile for profile in found if profile is not None}

    async def last_changed(self, *, after: str, limit: int, before: datetime) -> Mapping[str, datetime]:
        times: dict[str, float] = {}
        suffixes = (*_SUFFIXES.values(), *_OTHER_SUFFIXES)
        for name, changed in await in_thread(atomic.directory_entries, self._path.parent):
            profile = profile_names.profile_of(self._path, name, suffixes)
            if profile is not None and profile > after:
                times[profile] = max(times.get(profile, 0), changed)
        earlier = [profile for profile, changed in times.items() if datetime.fromtimestamp(changed, UTC) < before]
        return {profile: datetime.fromtimestamp(times[profile], UTC) for profile in sorted(earlier)[:limit]}

    async def due(self, before: datetime) -> Sequence[str] | None:  # noqa: ARG002 - only the documents tell
        return None

    async def forget(self, profile: str) -> None:
        path = self.path(profile)
        for suffix in (*_SUFFIXES.values(), *_OTHER_SUFFIXES):
            await in_thread(atomic.delete_file, profile_names.add_suffix(path, suffix))

    def protection(self, profile: str) -> tuple[int | None, Sequence[WarningWithHint]]:
        path = self.path(profile)
        weakness = permissions.weakness(path)
        return permissions.mode_of(path), () if weakness is None else (weakness,)

    async def claim(self, key: str, lifetime: timedelta) -> bool:
        return await in_thread(self._claims.claim, key, lifetime)

    async def settle(self, key: str, outcome: bytes) -> None:
        await in_thread(self._claims.settle, key, outcome)

    async def outcome(self, key: str) -> bytes | None:
        return await in_thread(self._claims.outcome, key)

    def _check_not_moved(self, profile: str) -> None:
        if not self._moving:
            moved.check_not_moved(self.path(profile), self._path)

    @cached_property
    def _claims(self) -> Claims:
        return Claims(profile_names.add_suffix(self.path(profile_names.DEFAULT_PROFILE), ".claims"))

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[_FileHold]:
        path = profile_names.add_suffix(self.path(profile), ".lock")
        lock = filelock.FileLock(path, mode=0o600, thread_local=False, blocking=False, fallback_to_soft=False)
        login = HeldFile(self.path(profile))
        try:
            with anyio.fail_after(self._lock_wait.total_seconds()):
                # Polling: a try takes microseconds, and the kernel does not signal a released lock
                while not _acquired(lock, login):  # noqa: ASYNC110
                    await anyio.sleep(LOCK_POLL.total_seconds())
        except TimeoutError:
            waited = f"{self._lock_wait.total_seconds():g} seconds"
            raise StoreBusy(f"Another process has held the lock {path} for more than {waited}.") from None
        except OSError as error:
            raise atomic.storage_error(path, "locked", error) from None
        try:
            self._check_not_moved(profile)  # now that no move can be in progress
            yield _FileHold(self, profile)
        finally:
            login.release()
            lock.release()


class _FileHold:
    """Changes the files of one profile while its lock is held."""

    cooldown: None = None  # one instance knows what has failed

    def __init__(self, documents: FileDocuments, profile: str) -> None:
        self._documents, self._profile = documents, profile
        self._path = partial(documents.path, profile)
        self._reserved = False

    async def read(self, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        return await self._documents.read(self._profile, kind, decode, slow=slow)

    async def reserve(self, marker: bytes, size: int) -> None:
        await in_thread(partial(atomic.reserve_file, self._path("login"), marker, size=size))
        self._reserved = True

    async def reserved(self) -> Sequence[tuple[bytes, bytes | None]]:
        content = await in_thread(atomic.read_reserved, self._path("login"))
        return [] if content is None else [(content, None)]

    async def release(self) -> None:
        self._reserved = False
        await in_thread(atomic.delete_reserved, self._path("login"))

    async def write(
        self,
        kind: Kind,
        content: bytes,
        *,
        expires_at: datetime | None = None,  # noqa: ARG002 - of use to a database
        last: bool = False,  # noqa: ARG002 - of use to a database
    ) -> None:
        # Tokens that an earlier holder set aside stay untouched: only this hold's own reservation is used
        use_reserved = kind == "login" and self._reserved
        write = atomic.replace_with_reserved if use_reserved else atomic.write_file
        await in_thread(write, self._path(kind), content)
        self._reserved = self._reserved and not use_reserved

    async def set_aside(self, content: bytes) -> None:
        await self.reserve(content, len(content))

    async def record_failure(self, failure: bytes, *, pause_all: float) -> None:
        pass

    async def delete(self, kind: Kind) -> bool:
        return await in_thread(atomic.delete_file, self._path(kind))


def _acquired(lock: filelock.BaseFileLock, login: HeldFile) -> bool:
    atomic.prepare_lock_file(Path(lock.lock_file))
    try:
        lock.acquire()
    except filelock.Timeout:
        return False
    try:
        held = login.acquire()
    except BaseException:
        lock.release()
        raise
    if not held:  # by a holder whose lock file was deleted
        lock.release()
    return held


async def in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run the function in a thread, because disk access may block. Once started, it always completes."""
    return await anyio.to_thread.run_sync(lambda: function(*arguments))
