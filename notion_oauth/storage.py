"""Storage of logins: the contract of a store, `TokenStore` over it, and `JsonFileStore`, one file per profile.

A store keeps documents: bytes, one per profile and kind. What the documents contain, their encryption, and what
happens to tokens that could not be saved is the same for all stores, and lives in `TokenStore`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar
from weakref import WeakValueDictionary

import anyio
from pydantic import SecretStr

from notion_oauth.errors import (
    ConfigurationError,
    Hint,
    LockLost,
    LoginExists,
    LoginMoved,
    StorageError,
    StoreDamaged,
    StoreEncrypted,
    WarningWithHint,
)
from notion_oauth.files import token_file_format
from notion_oauth.files.documents import FileDocuments
from notion_oauth.files.encryption import (
    KEY_SETTING,
    Encryption,
    Key,
    decrypt,
    encryption_key_id,
    encryption_weakness,
    needs_encryption,
)
from notion_oauth.files.permissions import weakness
from notion_oauth.files.protection import Protection
from notion_oauth.models import EndedLogin, Registration, TokenSet
from notion_oauth.profile_names import DEFAULT_PROFILE
from notion_oauth.protocol.lifetime import expiry, parse_time
from notion_oauth.protocol.messages import parse_json

LOCK_WAIT = timedelta(seconds=60)  # longer than any refresh, sign-out or registration holds the lock
MAX_REGISTRATIONS = 20  # per profile, without the preregistered ones
PAGE = 1000  # profiles in one page of a listing
OUTCOME_POLL = timedelta(milliseconds=50)
_MAX_LOGIN_SIZE = 24 * 1024  # bytes; more than any token set needs, encrypted or not

_ALWAYS = datetime.max.replace(tzinfo=UTC)

Kind = Literal["login", "registrations"]
Login = TokenSet | EndedLogin
# A marker, or a login that could not be written and, if the store knows it, the marker that was reserved for it
Reservation = tuple[bytes, bytes | None]
T = TypeVar("T")


class Documents(Protocol):
    """The contract of every store. A method that fails raises StorageError and loses no data.

    Methods are called from several threads, each with a separate event loop that may end after the call, so a store
    must hold nothing that is bound to an event loop. `decode` raises StorageError for a document of another program.
    """

    def name(self, profile: str, kind: Kind) -> str:
        """Return the document's name for messages, such as a path."""

    def version(self, profile: str) -> object | None:
        """Return a value that stays equal as long as the stored login is unchanged. Raises nothing.

        Called each time a token is used, from any thread, so it must take only microseconds. None if a
        database would have to be asked: then a login that was loaded within the last second counts as unchanged.
        """

    async def read(self, profile: str, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        """Return the decoded document; None if there is none. `slow` says that `decode` may block for long."""

    async def check_writable(self, profile: str, size: int) -> None:
        """Raise StorageError unless a login of `size` bytes can be written now."""

    async def profiles(self, *, after: str, limit: int, registered: bool) -> Sequence[str]:
        """Sorted names after `after` of profiles with a login; if `registered`, also those with registrations only."""

    async def last_changed(self, *, after: str, limit: int, before: datetime) -> Mapping[str, datetime]:
        """Profiles of which anything is stored, in sorted order after `after`, and when that last changed.

        Only those that changed before that time.
        """

    async def due(self, before: datetime) -> Sequence[str] | None:
        """Profiles whose login has `expires_at` before that time, the soonest first, or a part of them.

        None if only the documents can tell.
        """

    async def forget(self, profile: str) -> None:
        """Delete everything of a profile that will not be used again."""

    def protection(self, profile: str) -> tuple[int | None, Sequence[WarningWithHint]]:
        """Return the file mode of the login, if there is one, and who else could read or replace it."""

    def exclusive(self, profile: str) -> AbstractAsyncContextManager[DocumentHold]:
        """Lock the profile against all other tasks, threads, processes and machines that share the store.

        The lock is released when its holder dies: by the kernel, or because its lease expires. Waiting can be
        cancelled; the lock is then not held. Raises StoreBusy after waiting for too long.
        """

    async def claim(self, key: str, lifetime: timedelta) -> bool:
        """Claim `key`, the hash of a name: of all callers, only the first gets True until `lifetime` has passed."""

    async def settle(self, key: str, outcome: bytes) -> None:
        """Store the outcome of a claim for the rest of its lifetime."""

    async def outcome(self, key: str) -> bytes | None:
        """Return the outcome of a claim; None until it is settled, and after its end."""


class DocumentHold(Protocol):
    """Reads and changes the documents of one profile while it is locked.

    If the store's locks expire, a change raises LockLost once another holder has taken the lock.
    """

    async def read(self, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        """Return the decoded document, as `Documents.read` does."""

    async def reserve(self, marker: bytes, size: int) -> None:
        """Make sure that the next login of at most `size` bytes can be written, and keep that until it is.

        `marker` is stored at once, and can be read by the next holder if this one dies.
        """

    async def reserved(self) -> Sequence[Reservation]:
        """The reservations that are left, read anew."""

    async def release(self) -> None:
        """End the reservation."""

    async def write(
        self, kind: Kind, content: bytes, *, expires_at: datetime | None = None, last: bool = False
    ) -> None:
        """Replace a document atomically. Once this returns, it survives a crash and a power cut.

        Writing the login ends the reservation. If the login cannot be written, the reservation keeps it.
        `expires_at` is when the login's access token expires; None if it does not, or cannot be refreshed. `last` says
        that this hold changes nothing afterwards, so that the lock can be released in the same step.
        """

    async def set_aside(self, content: bytes) -> None:
        """Keep a login that must not be written now for the next holder, also after the lock was lost."""

    async def delete(self, kind: Kind) -> bool:
        """Delete a document. Returns whether there was one."""

    @property
    def cooldown(self) -> Cooldown | None:
        """What was recorded before this hold; None if the store is not for many instances."""

    async def record_failure(self, failure: bytes, *, pause_all: float) -> None:
        """Record that a request for tokens has failed, until a login is written.

        For `pause_all` seconds, the holds of all profiles have a `Cooldown.pause`.
        """


@dataclass(frozen=True)
class StoredLogin:
    """A login as it was stored at `version`; None if nothing is stored."""

    login: Login | None
    version: object | None

    @property
    def tokens(self) -> TokenSet | None:
        return self.login if isinstance(self.login, TokenSet) else None

    @property
    def ended(self) -> EndedLogin | None:
        return self.login if isinstance(self.login, EndedLogin) else None


@dataclass(frozen=True)
class Attempt:
    """A request for tokens that another holder started and did not finish. It may still reach the server.

    `refresh_token_sha256` is the hash (hexadecimal) of the refresh token that it sent; None if it sent none.
    """

    started_at: datetime | None
    refresh_token_sha256: str | None


@dataclass(frozen=True)
class Cooldown:
    """What other instances have learned of the server. Times are in seconds, by the clock of the store.

    `failure` is what `record_failure` recorded `age` seconds ago; `pause` is how long no request is to be sent.
    """

    failure: bytes | None = None
    age: float = 0.0
    pause: float = 0.0


class _Codec:
    """Reads documents, and encrypts what is to be written."""

    def __init__(self, documents: Documents, encryption: Encryption | None) -> None:
        self.documents = documents
        self.encryption = encryption
        # By profile and content, for as long as somebody uses them: a refresh reads the same login three times
        self._logins: WeakValueDictionary[tuple[str, bytes], Login] = WeakValueDictionary()

    async def read_login(self, profile: str, hold: DocumentHold | None = None) -> Login | None:
        """Return the login, as `read` does. Raises StorageError if it is damaged, or encrypted with a lost key."""
        slow = self.encryption is not None and self.encryption.uses_keyring
        read = partial(self.documents.read, profile) if hold is None else hold.read
        return await read("login", partial(self._decode_login, profile), slow=slow)

    def _decode_login(self, profile: str, content: bytes) -> Login:
        login = self._logins.get((profile, content))
        if login is None:
            login = self.decode(profile, "login", token_file_format.decode_login, content)
            self._logins[profile, content] = login
        return login

    async def read(
        self, profile: str, kind: Kind, decode: Callable[[bytes, str], T], hold: DocumentHold | None = None
    ) -> T | None:
        """Return the decoded document, as far as possible from what `hold` has read."""
        slow = self.encryption is not None and self.encryption.uses_keyring
        read = partial(self.documents.read, profile) if hold is None else hold.read
        return await read(kind, partial(self.decode, profile, kind, decode), slow=slow)

    def decode(self, profile: str, kind: Kind, decode: Callable[[bytes, str], T], content: bytes) -> T:
        name = self.documents.name(profile, kind)
        return decode(decrypt(content, name, self.encryption, bound_to=bound_to(profile, kind)), name)

    async def check_key(self) -> None:
        """Raise KeyUnavailable if the keyring returns no key: nothing could be encrypted."""
        if self.encryption is not None and self.encryption.uses_keyring:
            await anyio.to_thread.run_sync(self.encryption.all_keys)

    async def encrypt(self, content: bytes, binding: str) -> bytes:
        if self.encryption is None:
            return content
        await self.check_key()
        return self.encryption.encrypt(content, bound_to=binding)


class TokenStore:
    """Logins and client registrations in any store. A method that fails raises StorageError and loses no data.

    Change a profile only through the hold that `exclusive` yields, and read it again there first: another process may
    have changed it since.
    """

    has_leases = False  # whether locks are leases, which end by themselves
    max_refreshes = 32  # at once in one event loop: each opens files and a connection, whose number systems limit

    def __init__(self, documents: Documents, *, encryption: Encryption | None = None) -> None:
        self.documents = documents
        self.encryption = encryption
        self._codec = _Codec(documents, encryption)
        self._expiries: dict[str, tuple[object, datetime | None]] = {}

    def check_usable(self) -> None:
        """Raise ConfigurationError if this version cannot use the store. Called when a service starts; blocks."""

    def version(self, profile: str) -> object | None:
        """Return the version of the stored login, in microseconds; None if only `load` can tell. Raises nothing."""
        return self.documents.version(profile)

    async def load(self, profile: str) -> StoredLogin:
        """Return the stored login, or the record of its end. Raises StoreDamaged for unreadable data."""
        version = self.version(profile)  # before reading: a change in between then shows as another version
        return StoredLogin(await self._codec.read_login(profile), version)

    async def load_registrations(self, profile: str) -> tuple[Registration, ...]:
        """Return the stored client registrations, the newest last."""
        return await self._codec.read(profile, "registrations", token_file_format.decode_registrations) or ()

    async def check_writable(self, profile: str) -> None:
        """Raise StorageError unless a login can be saved now. Called before a user is asked to sign in."""
        await self._codec.read_login(profile)  # raises for one that must not be overwritten
        await self._codec.check_key()
        await self.documents.check_writable(profile, _MAX_LOGIN_SIZE)

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[Hold]:
        """Lock the profile against all others that share the store. Raises StoreBusy after waiting for too long.

        The lock is released when its holder dies. Waiting can be cancelled; the lock is then not held.
        """
        async with self.documents.exclusive(profile) as documents:
            hold = Hold(profile, documents, self._codec)
            try:
                yield hold
            finally:
                await hold.close()

    async def profiles(self, *, after: str = "", limit: int = PAGE, registered: bool = False) -> Sequence[str]:
        """One page of profiles with a login, in sorted order; if `registered`, also those with registrations only."""
        return await self.documents.profiles(after=after, limit=limit, registered=registered)

    async def all_profiles(self, *, registered: bool = False) -> AsyncIterator[str]:
        """All profiles, page by page."""
        after = ""
        while page := await self.profiles(after=after, registered=registered):
            for profile in page:
                yield profile
            after = page[-1]

    async def encrypted(self, *, after: str = "", limit: int = PAGE) -> Mapping[str, bool]:
        """One page of profiles with a login or registrations, and whether all is known to have the first key.

        Raises KeyUnavailable.
        """
        return dict.fromkeys(await self.profiles(after=after, limit=limit, registered=True), False)

    async def last_changed(
        self, *, after: str = "", limit: int = PAGE, before: datetime = _ALWAYS
    ) -> Mapping[str, datetime]:
        """Return one page of profiles of which anything is stored and was last changed before that time, and when."""
        return await self.documents.last_changed(after=after, limit=limit, before=before)

    async def due(self, before: datetime) -> Sequence[str]:
        """Return the profiles whose access token expires before that time.

        From a store without an index of expiries, also those whose login cannot be read.
        """
        if (indexed := await self.documents.due(before)) is not None:
            return indexed
        due, seen = [], set()
        async for profile in self.all_profiles():
            seen.add(profile)
            expires_at = await self._expiry(profile)
            if expires_at is not None and expires_at < before:
                due.append(profile)
        for gone in self._expiries.keys() - seen:
            self._expiries.pop(gone, None)
        return due

    async def _expiry(self, profile: str) -> datetime | None:
        version = self.version(profile)
        known = self._expiries.get(profile)
        if known is not None and version is not None and known[0] == version:
            return known[1]
        try:
            tokens = (await self.load(profile)).tokens
            expires_at = None if tokens is None else _due_at(tokens)
        except LoginMoved:
            expires_at = None
        except StorageError:
            expires_at = datetime.min.replace(tzinfo=UTC)
        self._expiries[profile] = version, expires_at
        return expires_at

    async def claim_unused(self, limit: int) -> Sequence[str] | None:  # noqa: ARG002 - of stores with leases
        """Claim logins that have not been refreshed for long, so that no other instance refreshes them.

        None if it is too early, because an instance has just claimed some: the server limits requests.
        """
        return ()

    async def slow_down(self, pause: timedelta) -> None:
        """Let all instances claim nothing until the end of the pause, and fewer logins afterwards."""

    async def forget(self, profile: str) -> None:
        """Delete everything of a profile that will not be used again: its login, registrations and lock."""
        await self.documents.forget(profile)

    async def protection(self, profile: str) -> Protection:
        """Return how the stored login is protected, and what is weaker than it should be."""
        login = await self._protected(profile, "login", token_file_format.decode_login)
        if login is None or not isinstance(login[0], TokenSet):
            return Protection(format=None)
        registrations = await self._protected(profile, "registrations", token_file_format.decode_registrations)
        mode, exposed = await anyio.to_thread.run_sync(self.documents.protection, profile)
        key_file = None if self.encryption is None else self.encryption.key_file
        weaknesses = (
            *(login[2], registrations and registrations[2]),
            *(*exposed, key_file and weakness(key_file)),
        )
        return Protection(
            format="plain" if login[1] is None else "encrypted",
            mode=mode,
            key_id=None if login[1] is None else login[1].id,
            key_source=None if login[1] is None else login[1].source,
            weaknesses=tuple(each for each in weaknesses if each),
        )

    async def _protected(
        self, profile: str, kind: Kind, decode: Callable[[bytes, str], T]
    ) -> tuple[T, Key | None, WarningWithHint | None] | None:
        """Return the document, the key that it is encrypted with, and how that could be better."""

        def read(content: bytes) -> tuple[T, Key | None, WarningWithHint | None]:
            decoded = self._codec.decode(profile, kind, decode, content)
            key_id = encryption_key_id(content)
            key = None if key_id is None or self.encryption is None else self.encryption.key(key_id)
            name = Path(self.documents.name(profile, kind)).name
            return decoded, key, encryption_weakness(content, self.encryption, name)

        return await self.documents.read(profile, kind, read, slow=True)

    async def claim(self, key: str, lifetime: timedelta) -> bool:
        """Claim a key among all that share the store. Returns whether it was free; it is again after `lifetime`.

        Only a hash of the key is stored.
        """
        return await self.documents.claim(_hash(key), lifetime)

    async def settle(self, key: str, outcome: bytes) -> None:
        """Store the outcome of a claim for those who wait for it. Encrypted, if the store has a key."""
        await self.documents.settle(_hash(key), await self._codec.encrypt(outcome, _hash(key)))

    async def outcome(self, key: str, *, wait: timedelta = timedelta()) -> bytes | None:
        """Return the outcome of a claim; None if none is stored within `wait`, or the claim has expired."""
        deadline = anyio.current_time() + wait.total_seconds()
        while (content := await self.documents.outcome(_hash(key))) is None:
            if anyio.current_time() >= deadline:
                return None
            await anyio.sleep(OUTCOME_POLL.total_seconds())
        return decrypt(content, "The outcome of a claim", self.encryption, bound_to=_hash(key))


class Hold:
    """The right to change one profile, until the block of `exclusive` ends. Methods raise StorageError after that."""

    def __init__(self, profile: str, documents: DocumentHold, codec: _Codec) -> None:
        self._profile = profile
        self._documents: DocumentHold | None = documents
        self._codec = codec
        self._reserved = False
        self._keep_reservation = False
        self._loaded = False
        self._has_older = False  # tokens that an earlier holder set aside, and that are older than the stored ones
        self.sent: Attempt | None = None  # the last one of this hold
        self._stored: Login | None = None  # what was loaded, which the decoder then has at hand
        self.attempt: Attempt | None = None  # by an earlier holder of the lock that did not finish; set by `load`

    async def load(self) -> StoredLogin:
        """Return the stored login, or the record of its end, read anew.

        Tokens that an earlier holder received and could not save are saved first, if they are newer.
        """
        documents = self._held()
        version = self._codec.documents.version(self._profile)
        login = self._stored = await self._codec.read_login(self._profile, documents)
        for content, marker in await documents.reserved():
            if (unsaved := self._unsaved(content)) is None:
                self.attempt = self.attempt if self._reserved else _attempt(content)
            elif _is_newer(unsaved, login, marker):
                if isinstance(login, TokenSet) and marker is not None:
                    unsaved = self.with_previous(unsaved, login.refresh_token, sent=_attempt(marker))
                await self._write_login(unsaved)
                login, version = unsaved, self._codec.documents.version(self._profile)
            else:
                self._has_older = True
        self._loaded = True
        return StoredLogin(login, version)

    def _unsaved(self, content: bytes) -> TokenSet | None:
        try:
            found = self._codec.decode(self._profile, "login", token_file_format.decode_login, content)
        except StoreDamaged:
            return None
        return found if isinstance(found, TokenSet) else None

    async def reserve(self, refresh_token: SecretStr | None = None) -> None:
        """Reserve space for the tokens before the request for them is sent, and record the request as an `Attempt`.

        `refresh_token` is the one that the request sends. The reservation lasts until `save`, or the end of the hold.
        """
        documents = self._held()
        if not self._loaded:  # saves what an earlier holder left, raises for a login that must not be overwritten
            await self.load()
        await self._codec.check_key()
        earlier = None if self.attempt is None else self.attempt.refresh_token_sha256
        sent = earlier if refresh_token is None else _hash(refresh_token.get_secret_value())
        now = round(datetime.now(UTC).timestamp() * 1000)
        marker = json.dumps({"attempt": {"started_at": now, "refresh_token_sha256": sent}}).encode()
        await documents.reserve(marker, _MAX_LOGIN_SIZE)
        self.sent = _attempt(marker)
        # An earlier request with the same token may still arrive, even if this one turns out not to
        self._reserved, self._keep_reservation = True, sent is not None and sent == earlier

    def may_still_arrive(self, refresh_token: SecretStr | None) -> bool:
        """Return whether an earlier holder sent this refresh token and its request may still reach the server."""
        sent = None if refresh_token is None else _hash(refresh_token.get_secret_value())
        return sent is not None and self.attempt is not None and self.attempt.refresh_token_sha256 == sent

    def with_previous(self, tokens: TokenSet, refresh_token: SecretStr | None, *, sent: Attempt | None) -> TokenSet:
        """Return the tokens with the refresh token that they have replaced, if a later holder has sent it too.

        When that request arrives, it replaces them, and only the previous refresh token is then valid. `sent` is the
        attempt that they are from.
        """
        if self.attempt == sent or not self.may_still_arrive(refresh_token):
            return tokens
        return tokens.model_copy(update={"previous_refresh_token": refresh_token})

    def request_may_arrive(self) -> None:
        """Keep the `Attempt` after the lock is released: its request may still reach the server."""
        self._keep_reservation = self._reserved

    @property
    def cooldown(self) -> Cooldown | None:
        """The failure that was recorded before this hold, and the pause of all; None if the store records none."""
        return self._held().cooldown

    async def record_failure(self, failure: bytes, *, pause_all: float = 0) -> None:
        """Let the next holders know that a request for tokens has failed, and all others wait for `pause_all` seconds.

        Only stores for many instances record it.
        """
        await self._held().record_failure(failure, pause_all=pause_all)

    async def save(self, tokens: TokenSet, *, last: bool = False) -> None:
        """Replace the login, or the record of its end. Once this returns, it survives a crash and a power cut.

        If the tokens cannot be saved, they are set aside as far as possible, and the next holder finds them. `last`
        says that this hold changes nothing afterwards: a database then releases the lock in the same step.
        """
        reencrypts = await self._should_reencrypt_registrations()
        try:
            await self._write_login(tokens, last=last and not reencrypts)
        except StorageError:
            self.request_may_arrive()
            raise
        if reencrypts:
            with suppress(StorageError):  # the login is saved; `protection` reports the weakness
                await self._reencrypt("registrations", token_file_format.decode_registrations)

    async def _should_reencrypt_registrations(self) -> bool:
        if (encryption := self._codec.encryption) is None:
            return False
        needed = partial(needs_encryption, encryption=encryption)
        with suppress(StorageError):
            return await self._held().read("registrations", needed, slow=encryption.uses_keyring) or False
        return False

    async def _write_login(self, tokens: TokenSet, *, last: bool = False) -> None:
        documents = self._held()
        content = await self._encrypted("login", token_file_format.encode_tokens(tokens))
        try:
            await self._codec.read_login(self._profile, documents)  # raises for one that must not be overwritten
        except StorageError:
            await self._set_aside(documents, content)
            raise
        try:
            await documents.write("login", content, expires_at=_due_at(tokens), last=last)
        except LockLost:
            await self._set_aside(documents, content)
            raise
        self._reserved, self.attempt = False, None

    async def _set_aside(self, documents: DocumentHold, content: bytes) -> None:
        if self._reserved:  # they are from a request
            with suppress(StorageError):
                await documents.set_aside(content)

    async def end(self, ended: EndedLogin) -> None:
        """Replace the login with the record that it has ended, in the same way as `save`."""
        documents = self._held()
        await self._codec.read_login(self._profile, documents)  # raises for one that must not be overwritten
        # Never encrypted: it has no secret, and is read even if the key is lost
        await documents.write("login", token_file_format.encode_ended_login(ended))
        self._reserved, self.attempt = False, None

    async def delete(self) -> bool:
        """Delete the login or the record of its end, not the registrations. Returns whether anything was stored."""
        documents = self._held()
        await self._codec.read_login(self._profile, documents)  # raises for one that must not be overwritten
        self._reserved, self.attempt = False, None
        return await documents.delete("login")

    async def save_registration(self, registration: Registration, *, replace_encrypted: bool = False) -> None:
        """Store a registration; it replaces the one with the same `key`. Preregistered ones are never dropped.

        With `replace_encrypted`, it replaces registrations that no configured key decrypts, instead of raising.
        """
        documents = self._held()
        try:
            old = await self.registrations()
        except StoreEncrypted:
            if not replace_encrypted:
                raise
            old = ()
        stored = (*(each for each in old if not _replaces(registration, each)), registration)
        newest = [each for each in stored if not each.preregistered][-MAX_REGISTRATIONS:]
        remaining = tuple(each for each in stored if each.preregistered or each in newest)
        content = token_file_format.encode_registrations(remaining)
        await documents.write("registrations", await self._encrypted("registrations", content))

    async def reencrypt(self) -> bool:
        """Encrypt the stored data with the first key. Returns whether anything changed.

        Raises ConfigurationError if no key is configured, StorageError; no data is lost then.
        """
        if self._codec.encryption is None:
            hint = Hint(f"Set {KEY_SETTING} to a new key. Create one", "key")
            raise ConfigurationError("No encryption key is configured.", hint=hint)
        await self.load()  # saves tokens that were set aside, which a write would remove
        login = await self._reencrypt("login", token_file_format.decode_login, again=self._has_older)
        return await self._reencrypt("registrations", token_file_format.decode_registrations) or login

    async def move_from(self, source: Hold) -> bool:
        """Move the login and the registrations of the same profile from another store. Returns whether it had a login.

        They are deleted there only once all is stored here, so a crash in between loses nothing, and a second call then
        completes the move. Raises LoginExists if another login is stored here, StorageError; the source is then
        unchanged.
        """
        found, existing = await self.check_can_move_from(source)
        for registration in await source.registrations():
            await self.save_registration(registration)
        if isinstance(found, TokenSet) and _is_later(found, existing):
            await self.save(found)
            if source.may_still_arrive(found.refresh_token):
                await self.reserve(found.refresh_token)
                self.request_may_arrive()
        if isinstance(found, EndedLogin) and existing is None:
            await self.end(found)
        await source.forget()
        return found is not None

    async def check_can_move_from(self, source: Hold) -> tuple[Login | None, Login | None]:
        """Return the login of the source and the one that is stored here. Raises as `move_from` does."""
        found, existing = (await source.load()).login, (await self.load()).login
        if isinstance(found, TokenSet) and isinstance(existing, TokenSet) and not _same_sign_in(found, existing):
            raise LoginExists(f"There is a login in {self._codec.documents.name(self._profile, 'login')} already.")
        return found, existing

    async def is_registered(self) -> bool:
        """Return whether there are client registrations, readable or not."""
        return await self._held().read("registrations", lambda _: True) or False

    async def registrations(self) -> tuple[Registration, ...]:
        """Return the stored client registrations, the newest last."""
        decode = token_file_format.decode_registrations
        return await self._codec.read(self._profile, "registrations", decode, self._held()) or ()

    async def forget(self) -> None:
        """Delete everything of the profile, also the lock itself: a program that waits for it makes a new one."""
        documents = self._held()
        self._reserved, self.attempt = False, None
        await documents.delete("login")
        await documents.delete("registrations")
        with suppress(StorageError):  # Windows does not delete a lock file in use
            await self._codec.documents.forget(self._profile)

    async def _reencrypt(self, kind: Kind, decode: Callable[[bytes, str], Any], *, again: bool = False) -> bool:
        """Encrypt a document if needed, or `again` to remove what is set aside, perhaps encrypted with another key."""
        documents, codec = self._held(), self._codec

        def needed(content: bytes) -> tuple[Any, bytes] | None:
            """Return the document if it has secrets and the first key does not encrypt it for this profile."""
            name = codec.documents.name(self._profile, kind)
            plain = decrypt(content, name, codec.encryption, bound_to=bound_to(self._profile, kind))
            decoded = decode(plain, name)
            secret = not isinstance(decoded, EndedLogin)
            return (decoded, plain) if secret and (again or needs_encryption(content, codec.encryption)) else None

        found = await documents.read(kind, needed, slow=True)
        if found is None:
            return False
        expires_at = _due_at(found[0]) if isinstance(found[0], TokenSet) else None
        await documents.write(kind, await self._encrypted(kind, found[1]), expires_at=expires_at)
        return True

    async def _encrypted(self, kind: Kind, content: bytes) -> bytes:
        return await self._codec.encrypt(content, bound_to(self._profile, kind))

    async def close(self) -> None:
        """End the hold."""
        documents, self._documents = self._documents, None
        if documents is not None and self._reserved and not self._keep_reservation:
            with anyio.CancelScope(shield=True), suppress(StorageError):  # the next holder replaces it
                await documents.release()

    def _held(self) -> DocumentHold:
        if self._documents is None:
            raise StorageError(f"The lock of profile {self._profile} is no longer held: nothing was changed.")
        return self._documents


class JsonFileStore(TokenStore):
    """Stores the default profile in the file at `path`, and profile NAME in `path.NAME.profile`.

    Next to each are `.clients` (registrations), `.lock` (the kernel lock) and, during a request for tokens,
    `.reserved`. All are mode 0600. With `encryption`, files are encrypted when they are written. Plain files are read,
    and encrypted at the next save.
    """

    def __init__(self, path: Path, *, lock_wait: timedelta = LOCK_WAIT, encryption: Encryption | None = None) -> None:
        self.lock_wait = lock_wait
        self._files = FileDocuments(path, lock_wait=lock_wait)
        super().__init__(self._files, encryption=encryption)

    def __reduce__(self) -> tuple[Callable[..., JsonFileStore], tuple[object, ...]]:
        """Pickle the path; an Encryption refuses to be pickled."""
        path = self.path(DEFAULT_PROFILE)
        return partial(JsonFileStore, lock_wait=self.lock_wait, encryption=self.encryption), (path,)

    def path(self, profile: str) -> Path:
        """Return the token file of a profile. Raises ConfigurationError for an invalid name or path."""
        return self._files.path(profile)


def bound_to(profile: str, kind: Kind) -> str:
    """Return what an encrypted document is bound to: it cannot be opened as another profile's or another kind's."""
    return f"{profile}/{kind}"


def _due_at(tokens: TokenSet) -> datetime | None:
    """When the access token expires; None if it does not, or cannot be refreshed."""
    return None if tokens.refresh_token is None else expiry(tokens)


def _is_newer(unsaved: TokenSet, stored: Login | None, marker: bytes | None) -> bool:
    """Whether tokens that an earlier holder received, and could not save, replace what is stored.

    After a pause that outlasts its lock, a holder receives tokens late: their time says nothing. They count if the
    refresh token that they replace is still the stored one, or if the login has ended, which it did over that token.
    """
    sent = None if marker is None else _attempt(marker).refresh_token_sha256
    if isinstance(stored, TokenSet):
        if sent is None:
            return stored.updated_at < unsaved.updated_at
        # Not the previous one: whoever saved the stored tokens may have sent it too
        return stored.refresh_token is not None and sent == _hash(stored.refresh_token.get_secret_value())
    return sent is None or stored is not None  # not for a login that was signed out meanwhile


def _is_later(tokens: TokenSet, stored: Login | None) -> bool:
    """Whether the tokens are from after what is stored of the same sign-in, or from another sign-in than its end."""
    if isinstance(stored, TokenSet):
        return tokens.updated_at > stored.updated_at
    return stored is None or tokens.authorized_at is None or stored.authorized_at != tokens.authorized_at


def _same_sign_in(one: TokenSet, other: TokenSet) -> bool:
    """Return whether both are from one sign-in: a move between stores that was interrupted leaves two copies."""
    known = one.authorized_at is not None
    same = (one.authorized_at, one.issuer, one.client) == (other.authorized_at, other.issuer, other.client)
    return one == other or (known and same)


def _attempt(marker: bytes) -> Attempt:
    """What a reservation says about its attempt, as far as it can be read: its writer may have died while writing."""
    try:
        document = parse_json(marker)
    except ValueError:
        document = None
    found = document.get("attempt") if isinstance(document, dict) else None
    fields = found if isinstance(found, dict) else {}
    sent = fields.get("refresh_token_sha256")
    return Attempt(parse_time(fields.get("started_at")), sent if isinstance(sent, str) else None)


def _replaces(registration: Registration, stored: Registration) -> bool:
    """Whether a stored registration has the same key, or is the one that is no longer a `replacement`."""
    same_client = registration.client.client_id == stored.client.client_id
    return stored.key == registration.key or (stored.replacement and same_client)


def _hash(text: str) -> str:
    return sha256(text.encode(errors="surrogatepass")).hexdigest()
