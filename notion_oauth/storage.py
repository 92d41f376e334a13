"""Storage of logins: the contract `TokenStore`, and `JsonFileStore`, which writes one file per profile."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import filelock

from notion_oauth import profile_names
from notion_oauth.errors import ConfigurationError, StorageError, StoreBusy
from notion_oauth.files import atomic, permissions, token_file
from notion_oauth.files.directories import make_directory
from notion_oauth.files.encryption import KEY_SETTING, Encryption, decrypt, encryption_weakness
from notion_oauth.files.protection import Protection
from notion_oauth.models import EndedLogin, Registration, TokenSet

LOCK_WAIT = timedelta(seconds=60)  # longer than any refresh, sign-out or registration holds the lock
LOCK_POLL = timedelta(milliseconds=20)
MAX_REGISTRATIONS = 20  # per profile, without the preregistered ones
_SUFFIXES = (".clients", ".lock")
_MAX_LOGIN_SIZE = 24 * 1024  # bytes; more than any token set needs, encrypted or not

T = TypeVar("T")


class TokenStore(Protocol):
    """The contract of every store. A method that fails raises StorageError and loses no data.

    Change a profile's tokens or registrations only inside `exclusive`, and read them again there first: another
    process may have changed them since. Methods are called from several threads, each with a separate event loop that
    may end after the call, so a store must hold nothing that is bound to an event loop.
    """

    async def load(self, profile: str) -> TokenSet | None:
        """The stored login; None if no login is stored or it has ended. Raises StoreDamaged for unreadable data."""

    async def load_ended_login(self, profile: str) -> EndedLogin | None:
        """The record of a login that the server has ended; None if there is a login, or never was one."""

    async def save(self, profile: str, tokens: TokenSet) -> None:
        """Replace the login, or the ended login, atomically. Once this returns, it survives a crash and a power cut."""

    async def save_ended_login(self, profile: str, ended: EndedLogin) -> None:
        """Replace the login with the record that it has ended, in the same way as `save`."""

    async def delete(self, profile: str) -> bool:
        """Delete the login or the ended login, not the registrations. Returns whether anything was stored."""

    def version(self, profile: str) -> object | None:
        """A value that stays equal as long as the stored login is unchanged.

        Called each time a token is used, from any thread, so it must take only microseconds. None if the store cannot
        detect changes: then the login is loaded each time. Raises nothing.
        """

    async def load_registrations(self, profile: str) -> tuple[Registration, ...]:
        """The stored client registrations, the newest last."""

    async def save_registration(self, profile: str, registration: Registration) -> None:
        """Store a registration; it replaces the one with the same `key`. Preregistered ones are never dropped."""

    async def protection(self, profile: str) -> Protection | None:
        """How the stored login is protected, and its weaknesses; None if the store does not know."""

    async def ensure_writable(self, profile: str) -> None:
        """Raise StorageError unless a login can be saved now. Called before the server issues tokens."""

    def exclusive(self, profile: str) -> AbstractAsyncContextManager[None]:
        """Lock the profile against all other tasks, threads, processes and machines that share the store.

        The lock is released when its holder dies: by the kernel, or because its lease expires. Waiting can be
        cancelled; the lock is then not held. Raises StoreBusy after waiting for a minute.
        """


class JsonFileStore:
    """Stores the default profile in the file at `path`, and profile NAME in `path.NAME.profile`.

    Each has two more files: `.lock`, the kernel lock, and `.clients`, the registrations. All are mode 0600. With
    `encryption`, files are encrypted when they are written. Plain files are read, and encrypted at the next save.
    """

    def __init__(self, path: Path, *, lock_wait: timedelta = LOCK_WAIT, encryption: Encryption | None = None) -> None:
        self._path = path
        self._encryption = encryption
        self._lock_wait = lock_wait
        # `version` must take microseconds, and each browser session has a new profile name
        self._file_names = lru_cache(maxsize=1024)(lambda profile: str(self.path(profile)))

    def path(self, profile: str) -> Path:
        """The token file of a profile. Raises ConfigurationError for an invalid name or path."""
        if not self._path.name:
            raise ConfigurationError(
                f"{self._path} is not the path of a file.", hint="Set NOTION_OAUTH_TOKEN_FILE to the path of a file."
            )
        if not profile_names.PROFILE_NAME.match(profile):
            raise ConfigurationError(
                "A profile name consists of letters, digits, - and _ (64 at most).", hint="Choose another name."
            )
        return profile_names.profile_file(self._path, profile)

    async def profiles(self, *, registered: bool = False) -> tuple[str, ...]:
        """Sorted names of the profiles with a login; if `registered`, also those that have only registrations."""
        return await _in_thread(self._profiles, ("", ".clients") if registered else ("",))

    def _profiles(self, suffixes: Sequence[str]) -> tuple[str, ...]:
        names = {name for name, _ in atomic.directory_entries(self._path.parent)}
        pattern = re.compile(
            re.escape(self._path.name) + rf"\.([^.]+)\.profile({'|'.join(map(re.escape, suffixes))})\Z"
        )
        others = {
            match[1] for name in names if (match := pattern.match(name)) and profile_names.PROFILE_NAME.match(match[1])
        }
        default = names & {self._path.name + suffix for suffix in suffixes}
        return tuple(sorted(others | ({profile_names.DEFAULT_PROFILE} if default else set())))

    async def forget(self, profile: str) -> None:
        """Delete all files of a profile that will not be used again: its login, registrations and lock."""
        path = self.path(profile)
        for file in (path, *(profile_names.add_suffix(path, suffix) for suffix in _SUFFIXES)):
            await _in_thread(atomic.delete_file, file)

    async def last_changed(self) -> dict[str, float]:
        """All profiles except the default one, each with the time of its last change, in seconds since 1970."""
        pattern = re.compile(
            re.escape(self._path.name) + rf"\.([^.]+)\.profile({'|'.join(map(re.escape, _SUFFIXES))})?"
        )
        last_changed: dict[str, float] = {}
        for name, changed in await _in_thread(atomic.directory_entries, self._path.parent):
            if (match := pattern.fullmatch(name)) and profile_names.PROFILE_NAME.match(match[1]):
                last_changed[match[1]] = max(last_changed.get(match[1], 0), changed)
        return last_changed

    async def load(self, profile: str) -> TokenSet | None:
        stored = await self._load_async(self.path(profile))
        return stored if isinstance(stored, TokenSet) else None

    async def load_ended_login(self, profile: str) -> EndedLogin | None:
        stored = await self._load_async(self.path(profile))
        return stored if isinstance(stored, EndedLogin) else None

    async def _load_async(self, path: Path) -> TokenSet | EndedLogin | None:
        if self._encryption is not None and self._encryption.uses_keyring:
            return await _in_thread(self._load, path)
        # Not in a thread: it is one kilobyte, read only after a change. Other callers then find it in the cache
        return self._load(path)

    def _load(self, path: Path) -> TokenSet | EndedLogin | None:
        return self._read(path, token_file.decode_login)

    def _read(self, path: Path, decode: Callable[[bytes, Path], T]) -> T | None:
        return atomic.read_file(path, lambda content: decode(decrypt(content, path, self._encryption), path))

    def _write(self, path: Path, content: bytes) -> None:
        atomic.write_file(path, content if self._encryption is None else self._encryption.encrypt(content))

    async def save(self, profile: str, tokens: TokenSet) -> None:
        await _in_thread(self._save, profile, token_file.encode_tokens(tokens))

    def _save(self, profile: str, content: bytes) -> None:
        path = self.path(profile)
        self._load(path)  # raises for a foreign file or one that no key decrypts: neither is overwritten
        self._write(path, content)
        if self._encryption is not None:
            with suppress(StorageError):  # the login is saved; `protection` reports the weakness
                self._reencrypt(self._registrations_path(profile), token_file.decode_registrations)

    async def save_ended_login(self, profile: str, ended: EndedLogin) -> None:
        await _in_thread(self._save_ended_login, self.path(profile), token_file.encode_ended_login(ended))

    def _save_ended_login(self, path: Path, content: bytes) -> None:
        self._load(path)  # as in _save
        atomic.write_file(path, content)  # never encrypted: it has no secret, and is read even if the key is lost

    async def reencrypt(self, profile: str) -> bool:
        """Encrypt the stored data with the first key. Returns whether anything changed. Call inside `exclusive`.

        Raises ConfigurationError if no key is configured, StorageError; no data is lost then.
        """
        if self._encryption is None:
            hint = f"Set {KEY_SETTING} to one from: notion-oauth key"
            raise ConfigurationError("No encryption key is configured.", hint=hint)
        login = await _in_thread(self._reencrypt, self.path(profile), token_file.decode_login)
        path = self._registrations_path(profile)
        return await _in_thread(self._reencrypt, path, token_file.decode_registrations) or login

    def _reencrypt(self, path: Path, decode: Callable[[bytes, Path], Any]) -> bool:
        plain = atomic.read_file(path, lambda content: self._plain_to_encrypt(content, path, decode))
        if plain is not None:
            self._write(path, plain)
        return plain is not None

    def _plain_to_encrypt(self, content: bytes, path: Path, decode: Callable[[bytes, Path], Any]) -> bytes | None:
        """The content to encrypt; None if the first key encrypts it already, or it contains no secret."""
        plain = decrypt(content, path, self._encryption)
        secret = not isinstance(decode(plain, path), EndedLogin)
        return plain if secret and encryption_weakness(content, self._encryption, path.name) else None

    async def protection(self, profile: str) -> Protection:
        return await _in_thread(self._protection, self.path(profile), self._registrations_path(profile))

    def _protection(self, path: Path, registrations_path: Path) -> Protection:
        login = token_file.read_stored(path, token_file.decode_login, self._encryption)
        if login is None or not isinstance(login.content, TokenSet):
            return Protection(format=None)
        registrations = token_file.read_stored(registrations_path, token_file.decode_registrations, self._encryption)
        key_file = None if self._encryption is None else self._encryption.key_file
        weaknesses = (
            *(login.weakness, registrations and registrations.weakness),
            *(permissions.weakness(path), key_file and permissions.weakness(key_file)),
        )
        return Protection(
            format="plain" if login.key is None else "encrypted",
            mode=permissions.mode_of(path),
            key_id=None if login.key is None else login.key.id,
            key_source=None if login.key is None else login.key.source,
            weaknesses=tuple(str(each) for each in weaknesses if each),
        )

    def version(self, profile: str) -> object | None:
        return atomic.file_version(self._file_names(profile))

    async def delete(self, profile: str) -> bool:
        return await _in_thread(self._delete, self.path(profile))

    def _delete(self, path: Path) -> bool:
        self._load(path)  # as in _save
        return atomic.delete_file(path)

    async def load_registrations(self, profile: str) -> tuple[Registration, ...]:
        return await _in_thread(self._load_registrations, self._registrations_path(profile))

    def _load_registrations(self, path: Path) -> tuple[Registration, ...]:
        return self._read(path, token_file.decode_registrations) or ()

    async def save_registration(self, profile: str, registration: Registration) -> None:
        await _in_thread(self._save_registration, self._registrations_path(profile), registration)

    def _save_registration(self, path: Path, new: Registration) -> None:
        stored = (*(old for old in self._load_registrations(path) if old.key != new.key), new)
        newest = [each for each in stored if not each.preregistered][-MAX_REGISTRATIONS:]
        remaining = tuple(each for each in stored if each.preregistered or each in newest)
        self._write(path, token_file.encode_registrations(remaining))

    async def ensure_writable(self, profile: str) -> None:
        await _in_thread(self._ensure_writable, self.path(profile))

    def _ensure_writable(self, path: Path) -> None:
        self._load(path)
        if self._encryption is not None:
            self._encryption.all_keys()  # raises if the keyring returns no key: nothing could be encrypted
        atomic.ensure_writable(path, size=_MAX_LOGIN_SIZE)

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[None]:
        path = profile_names.add_suffix(self.path(profile), ".lock")
        lock = filelock.FileLock(path, mode=0o600, thread_local=False, blocking=False, fallback_to_soft=False)
        try:
            with anyio.fail_after(self._lock_wait.total_seconds()):
                # Polling: a try takes microseconds, and the kernel does not signal a released lock
                while not _acquired(lock):  # noqa: ASYNC110
                    await anyio.sleep(LOCK_POLL.total_seconds())
        except TimeoutError:
            raise StoreBusy(f"Another process holds the lock {path} and did not release it.") from None
        except OSError as error:
            hint = "Fix the cause, or set NOTION_OAUTH_TOKEN_FILE to another path."
            raise StorageError(f"{path} could not be locked: {error.strerror or error}.", hint=hint) from None
        try:
            yield
        finally:
            lock.release()

    def _registrations_path(self, profile: str) -> Path:
        return profile_names.add_suffix(self.path(profile), ".clients")


def _acquired(lock: filelock.BaseFileLock) -> bool:
    path = Path(lock.lock_file)
    make_directory(path.parent)
    atomic.secure_lock_file(path)
    try:
        lock.acquire()
    except filelock.Timeout:
        return False
    return True


async def _in_thread(function: Callable[..., T], *arguments: object) -> T:
    """Run the function in a thread, because disk access may block. Once started, it always completes."""
    return await anyio.to_thread.run_sync(lambda: function(*arguments))
