"""What is kept, sealed: none but who has the key can read it, or make what is taken for it (Fernet).

Nothing of a file's name is sealed in: one that was renamed or restored from a backup opens. It would not keep
anybody who can replace files from putting an older one back.
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
from typing import Any

from pydantic import SecretStr

from notion_oauth.errors import KeyUnavailable, StoreDamaged, StoreEncrypted
from notion_oauth.files import system_keyring
from notion_oauth.files.protection import Weakness
from notion_oauth.protocol.messages import parse_json

KEY_SETTING = "NOTION_OAUTH_ENCRYPTION_KEY"
USE_KEYRING = "keyring"  # in a key's place: the system keyring holds it
KEYRING_SOURCE = "the system keyring"
FORMAT = 1
_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")
_SEALED = re.compile(r"[A-Za-z0-9_=-]+")
_KEY_ID = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, repr=False)
class Key:
    """A key, its identifier (a hash, which tells nothing of it), and where it comes from."""

    secret: str
    source: str

    @property
    def id(self) -> str:
        content = base64.urlsafe_b64decode(self.secret)
        return hashlib.sha256(b"notion-oauth key id\0" + content).hexdigest()[:8]

    def __repr__(self) -> str:
        return f"Key({self.id} from {self.source})"


def new_key() -> str:
    """A new random key, as the setting takes it."""
    from cryptography.fernet import Fernet  # noqa: PLC0415 - most commands seal nothing

    return Fernet.generate_key().decode()


def split_keys(text: str) -> tuple[str, ...]:
    """The keys of a setting, separated by commas or spaces; `keyring` may be one. Raises ValueError, showing none."""
    found = tuple(part for part in re.split(r"[,\s]+", text) if part)
    if not found or not all(part == USE_KEYRING or _KEY.fullmatch(part) for part in found):
        raise ValueError("is not a key: make one with notion-oauth key, or use keyring")
    return found


class Encryption:
    """Seals with the first of the keys, and opens with any of them. `key_file` is where they were read, if in a file.

    Raises ConfigurationError where the keyring is to be asked and keyring is not installed, ValueError for no key.
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
        self._found: tuple[Key, ...] | None = None
        self._failure: KeyUnavailable | None = None
        self._asked = 0
        self._asking = threading.Lock()
        if self.uses_keyring:
            system_keyring.check_installed()

    @property
    def uses_keyring(self) -> bool:
        """Whether the keyring may have to be asked, which takes a while."""
        return USE_KEYRING in self._configured

    def all_keys(self) -> tuple[Key, ...]:
        """All keys, the one that seals first. Raises KeyUnavailable where the keyring gives none."""
        return self._found or self._resolved(self._asked)

    def _resolved(self, asked: int) -> tuple[Key, ...]:
        """Ask the keyring, unless another has since it was asked that many times: all who waited share the answer."""
        with self._asking:
            if self._asked == asked:
                self._asked += 1
                try:
                    self._found = tuple(key for part in self._configured for key in self._of(part))
                    self._failure = None
                except KeyUnavailable as error:
                    self._failure = error
            if self._failure is not None:
                raise KeyUnavailable(self._failure.message, hint=self._failure.hint)
            assert self._found is not None  # noqa: S101 - without a failure there are keys
            return self._found

    def _of(self, part: str) -> list[Key]:
        if part != USE_KEYRING:
            return [Key(part, self._source)]
        kept = self._read_keyring()
        if not all(_KEY.fullmatch(each) for each in kept.split()):
            raise KeyUnavailable(
                "What the system keyring holds for us is no key.",
                hint="Delete it there (notion-oauth, encryption-key).",
            )
        return [Key(each, KEYRING_SOURCE) for each in kept.split()]

    def key(self, key_id: str) -> Key | None:
        """The key of that identifier; None where it is not among ours. A keyring is asked once more first."""
        asked = self._asked
        found = _named(key_id, self.all_keys())
        if found is None and self.uses_keyring and asked:
            found = _named(key_id, self._resolved(asked))
        return found

    def encrypt(self, content: bytes) -> bytes:
        """The content as a sealed file holds it: JSON that names the key's identifier. Raises KeyUnavailable."""
        from cryptography.fernet import Fernet  # noqa: PLC0415

        key = self.all_keys()[0]
        document = {"sealed": FORMAT, "key_id": key.id, "content": Fernet(key.secret).encrypt(content).decode()}
        return json.dumps(document, indent=2).encode() + b"\n"


def _named(key_id: str, keys: tuple[Key, ...]) -> Key | None:
    return next((key for key in keys if key.id == key_id), None)


def encryption_key_id(content: bytes) -> str | None:
    """The identifier of the key that a file says it was sealed with; None for one that is not sealed."""
    document = _document(content)
    return None if document is None else str(document.get("key_id"))


def encryption_weakness(content: bytes, encryption: Encryption | None, name: str) -> Weakness | None:
    """How a file is sealed worse than the next save will seal it; None where it is not.

    Raises KeyUnavailable.
    """
    if encryption is None:
        return None
    key_id, first = encryption_key_id(content), encryption.all_keys()[0]
    if key_id == first.id:
        return None
    how = (
        "kept in plain text, and a key is set"
        if key_id is None
        else f"encrypted with key {key_id}, not with {first.id}"
    )
    return Weakness(f"{name} is {how}.", "The next save changes that, and at once: notion-oauth reseal")


def decrypt(content: bytes, path: Path, encryption: Encryption | None) -> bytes:
    """What was sealed, or the content as it is where it is not sealed.

    Raises StoreSealed where no key that is set opens it, StoreDamaged where what that key has sealed was changed,
    KeyUnavailable. No message shows anything of the content.
    """
    document = _document(content)
    if document is None:
        return content
    key_id, sealed = document.get("key_id"), document.get("content")
    if type(document["sealed"]) is not int or document["sealed"] != FORMAT:
        raise StoreEncrypted(f"{path} is sealed in a way that this version does not know.", hint="Update notion-oauth.")
    if not isinstance(key_id, str) or not _KEY_ID.fullmatch(key_id):
        raise _damaged(path, "it names no key")
    key = None if encryption is None else encryption.key(key_id)
    if key is None:
        raise _no_key(path, key_id, encryption)
    return _opened(key, sealed, path)


def _opened(key: Key, sealed: object, path: Path) -> bytes:
    from cryptography.fernet import Fernet, InvalidToken  # noqa: PLC0415

    if isinstance(sealed, str) and _SEALED.fullmatch(sealed):
        try:
            return Fernet(key.secret).decrypt(sealed)
        except InvalidToken:
            pass
    raise _damaged(path, f"its content is not as key {key.id} has sealed it")


def _document(content: bytes) -> dict[str, Any] | None:
    try:
        document = parse_json(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) and "sealed" in document and "access_token" not in document else None


def _no_key(path: Path, key_id: str, encryption: Encryption | None) -> StoreEncrypted:
    ours = ", ".join(f"{key.id} (from {key.source})" for key in encryption.all_keys()) if encryption else ""
    tried = f"and the keys that are set are others: {ours}" if ours else "and no key is set"
    return StoreEncrypted(
        f"{path} is encrypted with key {key_id}, {tried}.",
        hint=f"Nothing was changed. Add that key to {KEY_SETTING}, or set it to {USE_KEYRING} if the system keyring "
        f"holds the key. If the key is lost, move {path} away and sign in again with: notion-oauth login",
    )


def _damaged(path: Path, reason: str) -> StoreDamaged:
    hint = "Nothing was changed. Restore it from a backup, or move it away and sign in again."
    return StoreDamaged(f"{path} is sealed, and is damaged: {reason}.", hint=hint)
