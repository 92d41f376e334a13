"""The keys that sign the session cookie and encrypt the pending sign-ins in it."""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from notion_oauth.errors import StoreDamaged
from notion_oauth.files import atomic
from notion_oauth.settings import MIN_SECRET_KEY, Settings


def session_keys(settings: Settings) -> tuple[SecretStr, ...]:
    """Return the session keys: `NOTION_OAUTH_SECRET_KEY`, otherwise a generated key, stored next to the token file.

    Raises StorageError if the key can neither be read nor created.
    """
    if settings.secret_keys:
        return settings.secret_keys
    path = key_file(settings)
    decode = partial(_decode_key, path)
    key = atomic.read_file(path, decode)
    if key is None:
        atomic.create_file(path, secrets.token_hex(32).encode() + b"\n")
        key = atomic.read_file(path, decode)  # another worker may have created it first
    return (key or _decode_key(path, b""),)


def _decode_key(path: Path, content: bytes) -> SecretStr:
    key = content.decode(errors="replace").strip()
    if len(key) < MIN_SECRET_KEY:
        raise StoreDamaged(f"{path} has no valid session key.", hint="Delete it: the next start creates a new one.")
    return SecretStr(key)


def session_key_available(settings: Settings, *, fix: bool = True) -> bool:
    """Return whether a new worker would find the session key. Raises StorageError."""
    path = key_file(settings)
    return bool(settings.secret_keys) or atomic.read_file(path, partial(_decode_key, path), fix=fix) is not None


def key_file(settings: Settings) -> Path:
    """Return the file of the generated key."""
    return settings.token_file.with_name(f"{settings.token_file.name}.session-key")
