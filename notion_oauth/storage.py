"""Where logins are kept: the contract `TokenStore`, and `JsonFileStore`, a file for each profile."""

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
KEPT_REGISTRATIONS = 20
_BESIDE = (".clients", ".lock")
_ROOM = 24 * 1024  # bytes; more than any token set takes, sealed or not

T = TypeVar("T")


class TokenStore(Protocol):
    """The contract of every store. All methods raise StorageError where the store fails, and lose nothing then.

    Whoever changes a profile's tokens or registrations does so inside `exclusive`, and reads them again
    there first: what was read before may be another's past. Methods are called from several threads, each with
    an event loop of its own that may end after the call: a store keeps nothing that is bound to one.
    """

    async def load(self, profile: str) -> TokenSet | None:
        """The stored login, None where there is none, or one that has ended. Raises StoreDamaged for what is none."""

    async def load_ended_login(self, profile: str) -> EndedLogin | None:
        """What is kept of a login that the server has ended; None where there is a login, or never was one."""

    async def save(self, profile: str, tokens: TokenSet) -> None:
        """Replace the login or the tombstone in one step; once this returns, it outlives a crash and a power cut."""

    async def save_ended_login(self, profile: str, ended: EndedLogin) -> None:
        """Put a tombstone in the login's place, in the same way."""

    async def delete(self, profile: str) -> bool:
        """Forget the login or the tombstone, not the registrations; whether there was anything."""

    def version(self, profile: str) -> object | None:
        """Something that is equal to what it was before as long as nobody has changed the login.

        Asked at each use of a token, so it takes microseconds, from any thread. None where the store cannot tell:
        then the login is loaded each time. Raises nothing.
        """

    async def load_registrations(self, profile: str) -> tuple[Registration, ...]:
        """The client registrations that are kept, the newest last."""

    async def save_registration(self, profile: str, registration: Registration) -> None:
        """Keep a registration, in the place of the one with the same `key`. Those made by hand are never dropped."""

    async def protection(self, profile: str) -> Protection | None:
        """How the login is kept at rest, and what is weaker than it should be; None where the store cannot tell."""

    async def ensure_writable(self, profile: str) -> None:
        """Raise StorageError unless a login could be saved now. Asked before the server gives what can't be kept."""

    def exclusive(self, profile: str) -> AbstractAsyncContextManager[None]:
        """Hold the profile alone among all tasks, threads, processes and machines that share the store.

        Freed when the holder dies: by the kernel, or by a lease that ends. Whoever waits can be cancelled, and then
        holds nothing. Raises StoreBusy after a minute of waiting.
        """


class JsonFileStore:
    """Keeps the default profile in the file at `path`, and profile NAME in `path.NAME.profile` beside it.

    Next to each lie `.lock`, the kernel lock, and `.clients`, the registrations. All are mode 0600. With `encryption`,
    files are encrypted when they are written. Plain files are read, and encrypted at the next save.
    """

    def __init__(self, path: Path, *, lock_wait: timedelta = LOCK_WAIT, encryption: Encryption | None = None) -> None:
        self._path = path
        self._encryption = encryption
        self._lock_wait = lock_wait
        # `version` has microseconds, and browser sessions have a new name each
        self._named = lru_cache(maxsize=1024)(lambda profile: str(self.path(profile)))

    def path(self, profile: str) -> Path:
        """Where a profile's tokens lie. Raises ConfigurationError for a name that is no file name."""
        if not self._path.name:
            raise ConfigurationError(f"{self._path} names no file.", hint="Set NOTION_OAUTH_TOKEN_FILE to one.")
        if not profile_names.PROFILE_NAME.match(profile):
            raise ConfigurationError(
                "A profile's name is made of letters, digits, - and _ (64 at most).", hint="Choose another name."
            )
        return profile_names.profile_file(self._path, profile)

    async def profiles(self, *, registered: bool = False) -> tuple[str, ...]:
        """The names under which a login is kept, or at least a registration; in order. Raises StorageError."""
        return await _in_thread(self._profiles, ("", ".clients") if registered else ("",))

    def _profiles(self, endings: Sequence[str]) -> tuple[str, ...]:
        names = {name for name, _ in atomic.directory_entries(self._path.parent)}
        pattern = re.compile(re.escape(self._path.name) + rf"\.([^.]+)\.profile({'|'.join(map(re.escape, endings))})\Z")
        others = {
            found[1] for name in names if (found := pattern.match(name)) and profile_names.PROFILE_NAME.match(found[1])
        }
        default = names & {self._path.name + ending for ending in endings}
        return tuple(sorted(others | ({profile_names.DEFAULT_PROFILE} if default else set())))

    async def forget(self, profile: str) -> None:
        """Remove all that is kept of a profile that nobody will use again: its registrations and its lock too."""
        path = self.path(profile)
        for file in (path, *(profile_names.add_suffix(path, suffix) for suffix in _BESIDE)):
            await _in_thread(atomic.delete_file, file)

    async def last_changed(self) -> dict[str, float]:
        """The profiles but for the default one, and when anything of each was written, in seconds since 1970."""
        pattern = re.compile(re.escape(self._path.name) + rf"\.([^.]+)\.profile({'|'.join(map(re.escape, _BESIDE))})?")
        last_changed: dict[str, float] = {}
        for name, changed in await _in_thread(atomic.directory_entries, self._path.parent):
            if (found := pattern.fullmatch(name)) and profile_names.PROFILE_NAME.match(found[1]):
                last_changed[found[1]] = max(last_changed.get(found[1], 0), changed)
        return last_changed

    async def load(self, profile: str) -> TokenSet | None:
        found = await self._found(self.path(profile))
        return found if isinstance(found, TokenSet) else None

    async def load_ended_login(self, profile: str) -> EndedLogin | None:
        found = await self._found(self.path(profile))
        return found if isinstance(found, EndedLogin) else None

    async def _found(self, path: Path) -> TokenSet | EndedLogin | None:
        if self._encryption is not None and self._encryption.uses_keyring:
            return await _in_thread(self._load, path)
        # Not in a thread: a kilobyte, only after it was changed. All who wait for it then find it in memory
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
        self._load(path)  # raises for a file that is not ours, or that no key opens: it is not overwritten
        self._write(path, content)
        if self._encryption is not None:
            with suppress(StorageError):  # the login is safe; `protection` goes on telling what is not as it should be
                self._reencrypt(self._clients(profile), token_file.decode_registrations)

    async def save_ended_login(self, profile: str, ended: EndedLogin) -> None:
        await _in_thread(self._save_ended_login, self.path(profile), token_file.encode_ended_login(ended))

    def _save_ended_login(self, path: Path, content: bytes) -> None:
        self._load(path)  # as in _save
        atomic.write_file(path, content)  # never sealed: it holds no secret, and is read where the key was lost

    async def reencrypt(self, profile: str) -> bool:
        """Seal what is kept with the first key, now; whether anything was not. Called inside `exclusive`, as `save` is.

        Raises ConfigurationError where there is no key, StorageError; nothing is lost then.
        """
        if self._encryption is None:
            hint = f"Set {KEY_SETTING} to one from: notion-oauth key"
            raise ConfigurationError("There is no key to seal with.", hint=hint)
        login = await _in_thread(self._reencrypt, self.path(profile), token_file.decode_login)
        return await _in_thread(self._reencrypt, self._clients(profile), token_file.decode_registrations) or login

    def _reencrypt(self, path: Path, decode: Callable[[bytes, Path], Any]) -> bool:
        plain = atomic.read_file(path, lambda content: self._plain_to_encrypt(content, path, decode))
        if plain is not None:
            self._write(path, plain)
        return plain is not None

    def _plain_to_encrypt(self, content: bytes, path: Path, decode: Callable[[bytes, Path], Any]) -> bytes | None:
        """What is to be sealed; None where it is, with the first key, or holds no secret."""
        plain = decrypt(content, path, self._encryption)
        secret = not isinstance(decode(plain, path), EndedLogin)
        return plain if secret and encryption_weakness(content, self._encryption, path.name) else None

    async def protection(self, profile: str) -> Protection:
        return await _in_thread(self._protection, self.path(profile), self._clients(profile))

    def _protection(self, path: Path, clients: Path) -> Protection:
        login = token_file.read_stored(path, token_file.decode_login, self._encryption)
        if login is None or not isinstance(login.content, TokenSet):
            return Protection(format=None)
        beside = token_file.read_stored(clients, token_file.decode_registrations, self._encryption)
        key_file = None if self._encryption is None else self._encryption.key_file
        told = (
            *(login.weakness, beside and beside.weakness),
            *(permissions.weakness(path), key_file and permissions.weakness(key_file)),
        )
        return Protection(
            format="plain" if login.key is None else "encrypted",
            mode=permissions.mode_of(path),
            key_id=None if login.key is None else login.key.id,
            key_source=None if login.key is None else login.key.source,
            weaknesses=tuple(str(each) for each in told if each),
        )

    def version(self, profile: str) -> object | None:
        return atomic.file_version(self._named(profile))

    async def delete(self, profile: str) -> bool:
        return await _in_thread(self._delete, self.path(profile))

    def _delete(self, path: Path) -> bool:
        self._load(path)  # as in _save
        return atomic.delete_file(path)

    async def load_registrations(self, profile: str) -> tuple[Registration, ...]:
        return await _in_thread(self._load_registrations, self._clients(profile))

    def _load_registrations(self, path: Path) -> tuple[Registration, ...]:
        return self._read(path, token_file.decode_registrations) or ()

    async def save_registration(self, profile: str, registration: Registration) -> None:
        await _in_thread(self._save_registration, self._clients(profile), registration)

    def _save_registration(self, path: Path, new: Registration) -> None:
        kept = (*(old for old in self._load_registrations(path) if old.key != new.key), new)
        newest = [one for one in kept if not one.preregistered][-KEPT_REGISTRATIONS:]
        self._write(
            path, token_file.encode_registrations(tuple(one for one in kept if one.preregistered or one in newest))
        )

    async def ensure_writable(self, profile: str) -> None:
        await _in_thread(self._ensure_writable, self.path(profile))

    def _ensure_writable(self, path: Path) -> None:
        self._load(path)
        if self._encryption is not None:
            self._encryption.all_keys()  # raises where the keyring gives none: nothing could be sealed
        atomic.ensure_writable(path, size=_ROOM)

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[None]:
        path = profile_names.add_suffix(self.path(profile), ".lock")
        lock = filelock.FileLock(path, mode=0o600, thread_local=False, blocking=False, fallback_to_soft=False)
        try:
            with anyio.fail_after(self._lock_wait.total_seconds()):
                # A try takes microseconds, and the kernel wakes nobody: no thread, no event
                while not _acquired(lock):  # noqa: ASYNC110
                    await anyio.sleep(LOCK_POLL.total_seconds())
        except TimeoutError:
            raise StoreBusy(f"Another process holds {path}, and did not let go.") from None
        except OSError as error:
            hint = "Mend that, or set NOTION_OAUTH_TOKEN_FILE to another path."
            raise StorageError(f"{path} could not be locked: {error.strerror or error}.", hint=hint) from None
        try:
            yield
        finally:
            lock.release()

    def _clients(self, profile: str) -> Path:
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
    """Run it where waiting for a disk holds up no event loop. Once begun it runs to its end, cancelled or not."""
    return await anyio.to_thread.run_sync(lambda: function(*arguments))
