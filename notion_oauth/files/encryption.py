"""Encryption of stored files with Fernet: without the key, a file can be neither read nor forged.

The file's name is not part of the encrypted data, so a renamed file, or one restored from a backup, can be decrypted.
Authenticating the name would not prevent replacing a file with an older version of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import SecretStr

from notion_oauth.errors import ConfigurationError, Hint, KeyUnavailable, StoreDamaged, StoreEncrypted, WarningWithHint
from notion_oauth.files import system_keyring
from notion_oauth.protocol.messages import parse_json

KEY_SETTING = "NOTION_OAUTH_ENCRYPTION_KEY"
USE_KEYRING = "keyring"  # instead of a key: read the keys from the system keyring
KEYRING_SOURCE = "the system keyring"
FORMAT = 2
UNBOUND_FORMAT = 1  # of version 0.1: not bound to a profile
_SEPARATOR = b"\0"
_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")
_CIPHERTEXT = re.compile(r"[A-Za-z0-9_=-]+")
_KEY_ID = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, repr=False)
class Key:
    """A key, its identifier (a hash that does not reveal the key), and its source."""

    secret: str
    source: str

    @property
    def id(self) -> str:
        content = base64.urlsafe_b64decode(self.secret)
        return hashlib.sha256(b"notion-oauth key id\0" + content).hexdigest()[:8]

    def __repr__(self) -> str:
        return f"Key({self.id} from {self.source})"


def new_key() -> str:
    """Return a new random key, in the form that the setting accepts."""
    from cryptography.fernet import Fernet  # noqa: PLC0415 - most commands encrypt nothing

    return Fernet.generate_key().decode()


def split_keys(text: str) -> tuple[str, ...]:
    """Split a setting into keys, separated by commas or spaces; one may be `keyring`. Raises ValueError."""
    parts = tuple(part for part in re.split(r"[,\s]+", text) if part)
    if not parts or not all(part == USE_KEYRING or _KEY.fullmatch(part) for part in parts):
        raise ValueError("is not a key: create one with the command key, or use keyring")
    return parts


class Encryption:
    """Encrypts with the first key and decrypts with any. `key_file` is the file that contains the keys, if any.

    Raises ConfigurationError if the system keyring is configured and the package keyring is not installed, and
    ValueError unless `keys` is a list of keys, as in the setting.
    """

    def __init__(
        self,
        keys: SecretStr,
        *,
        key_file: Path | None = None,
        read_keyring: Callable[[], str] = system_keyring.read_keys,
    ) -> None:
        self.key_file = key_file
        self._source = KEY_SETTING if key_file is None else f"{KEY_SETTING} in {key_file}"
        self._configured = split_keys(keys.get_secret_value())
        self._read_keyring = read_keyring
        self._keys: tuple[Key, ...] | None = None
        self._failure: KeyUnavailable | None = None
        self._reads = 0
        self._lock = threading.Lock()
        if self.uses_keyring:
            system_keyring.check_installed()

    def __reduce__(self) -> NoReturn:
        raise ConfigurationError(
            "An Encryption cannot be pickled, because pickles must not contain keys.",
            hint=f"Set {KEY_SETTING} in the environment, and create NotionOAuth without the argument store.",
        )

    @property
    def uses_keyring(self) -> bool:
        """Whether keys may have to be read from the system keyring, which is slow."""
        return USE_KEYRING in self._configured

    def all_keys(self) -> tuple[Key, ...]:
        """Return all keys; the first one encrypts. Raises KeyUnavailable if the keyring returns none."""
        return self._keys or self._read_keys(self._reads)

    def _read_keys(self, reads: int) -> tuple[Key, ...]:
        """Read the keys, unless another thread has done so since this caller took `reads` from the counter.

        So all waiting threads share one result.
        """
        with self._lock:
            if self._reads == reads:
                self._reads += 1
                try:
                    self._keys = tuple(key for part in self._configured for key in self._keys_for(part))
                    self._failure = None
                except KeyUnavailable as error:
                    self._failure = error
            if self._failure is not None:
                raise KeyUnavailable(self._failure.message, hint=self._failure.hint)
            assert self._keys is not None  # noqa: S101 - set unless reading failed
            return self._keys

    def _keys_for(self, part: str) -> list[Key]:
        if part != USE_KEYRING:
            return [Key(part, self._source)]
        secrets = self._read_keyring().split()
        if not all(map(_KEY.fullmatch, secrets)):
            raise KeyUnavailable(
                "The entry of notion-oauth in the system keyring is not a key.",
                hint=Hint(
                    "Correct the entry encryption-key of the service notion-oauth. Only if the key is lost, delete it "
                    "and create a new one",
                    "key",
                    {"keyring": None},
                ),
            )
        return [Key(secret, KEYRING_SOURCE) for secret in secrets]

    def key(self, key_id: str) -> Key | None:
        """Return the key with that identifier, or None. An unknown key is looked up once more in the system keyring."""
        reads = self._reads
        key = _find(key_id, self.all_keys())
        if key is None and self.uses_keyring and reads:
            key = _find(key_id, self._read_keys(reads))
        return key

    def encrypt(self, content: bytes, *, bound_to: str) -> bytes:
        """Return the encrypted document: JSON that contains the key's identifier. Raises KeyUnavailable.

        It can be decrypted only with the same `bound_to`, so that one profile's document is useless as another's.
        """
        from cryptography.fernet import Fernet  # noqa: PLC0415

        key = self.all_keys()[0]
        encrypted = Fernet(key.secret).encrypt(bound_to.encode() + _SEPARATOR + content)
        return _document_of(key, encrypted.decode())

    def start(self) -> bytes:
        """Return what a document that `encrypt` returns starts with, unlike others. Raises KeyUnavailable."""
        return _document_of(self.all_keys()[0], "").partition(b'"content"')[0]


def _document_of(key: Key, content: str) -> bytes:
    document = {"sealed": FORMAT, "key_id": key.id, "content": content}
    return json.dumps(document, indent=2).encode() + b"\n"


def _find(key_id: str, keys: tuple[Key, ...]) -> Key | None:
    return next((key for key in keys if key.id == key_id), None)


def encryption_key_id(content: bytes) -> str | None:
    """Return the key identifier that an encrypted file states; None for a plain file."""
    document = _document(content)
    return None if document is None else str(document.get("key_id"))


def encryption_weakness(content: bytes, encryption: Encryption | None, name: str) -> WarningWithHint | None:
    """Return a warning if the file is not encrypted with the first key; None if it is, or if no key is configured.

    Raises KeyUnavailable.
    """
    if encryption is None:
        return None
    key_id, first = encryption_key_id(content), encryption.all_keys()[0]
    if key_id == first.id:
        return None
    now = "in plain text, but a key is set" if key_id is None else f"encrypted with key {key_id}, not with {first.id}"
    return WarningWithHint(f"{name} is {now}.", Hint("The next save encrypts it. Encrypt it now", "reseal"))


def decrypt(content: bytes, path: Path | str, encryption: Encryption | None, *, bound_to: str) -> bytes:
    """Decrypt the content of a document; plain content is returned unchanged.

    Raises StoreEncrypted if no configured key decrypts it, StoreDamaged if the content was changed, KeyUnavailable.
    No message contains any of the content.
    """
    document = _document(content)
    if document is None:
        return content
    key_id, ciphertext = document.get("key_id"), document.get("content")
    if type(document["sealed"]) is not int or document["sealed"] not in (FORMAT, UNBOUND_FORMAT):
        raise StoreEncrypted(f"{path} is encrypted in a format of a later version.", hint="Update notion-oauth.")
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise _damaged(path, "it does not name its key")
    key = None if encryption is None else encryption.key(key_id)
    if key is None:
        raise _no_key(path, key_id, encryption)
    plain = _decrypt_with(key, ciphertext, path)
    if document["sealed"] == UNBOUND_FORMAT:
        return plain
    binding, _, plain = plain.partition(_SEPARATOR)
    if binding != bound_to.encode():
        raise _damaged(path, "it was encrypted for another profile or purpose")
    return plain


def needs_encryption(content: bytes, encryption: Encryption | None) -> bool:
    """Return whether encrypting a document again would protect it better: with the first key, bound to its profile."""
    if encryption is None:
        return False
    document = _document(content)
    current = encryption.all_keys()[0].id
    return document is None or document.get("key_id") != current or document["sealed"] != FORMAT


def _decrypt_with(key: Key, ciphertext: object, path: Path | str) -> bytes:
    from cryptography.fernet import Fernet, InvalidToken  # noqa: PLC0415

    if isinstance(ciphertext, str) and _CIPHERTEXT.fullmatch(ciphertext):
        try:
            return Fernet(key.secret).decrypt(ciphertext)
        except InvalidToken:
            pass
    raise _damaged(path, f"key {key.id} does not decrypt its content")


def _document(content: bytes) -> dict[str, Any] | None:
    try:
        document = parse_json(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) and "sealed" in document and "access_token" not in document else None


def _no_key(path: Path | str, key_id: str, encryption: Encryption | None) -> StoreEncrypted:
    keys = ", ".join(f"{key.id} (from {key.source})" for key in encryption.all_keys()) if encryption else ""
    tried = f"but other keys are set: {keys}" if keys else "but no key is set"
    return StoreEncrypted(
        f"{path} is encrypted with key {key_id}, {tried}.",
        hint=Hint(
            f"Nothing was changed. Add that key to {KEY_SETTING}, or set it to {USE_KEYRING} if the system keyring "
            f"holds the key. If the key is lost, move {path} away and sign in again",
            "login",
        ),
    )


def _damaged(path: Path | str, reason: str) -> StoreDamaged:
    hint = "Nothing was changed. Restore the file from a backup, or move it away and sign in again."
    return StoreDamaged(f"{path} is encrypted and damaged: {reason}.", hint=hint)
