"""The keys that sign the session cookie and encrypt the pending sign-ins in it."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from notion_oauth.files import generated_secrets
from notion_oauth.settings import Settings

_NAME = "session key"


def session_keys(settings: Settings) -> tuple[SecretStr, ...]:
    """Return the session keys: `NOTION_OAUTH_SECRET_KEY`, otherwise a generated key, stored next to the token file.

    Raises StorageError if the key can neither be read nor created.
    """
    return settings.secret_keys or (generated_secrets.get_or_create(key_file(settings), name=_NAME),)


def session_key_available(settings: Settings, *, fix: bool = True) -> bool:
    """Return whether a new worker would find the session key. Raises StorageError."""
    return bool(settings.secret_keys) or generated_secrets.read(key_file(settings), name=_NAME, fix=fix) is not None


def key_file(settings: Settings) -> Path:
    """Return the file of the generated key."""
    return settings.token_file.with_name(f"{settings.token_file.name}.session-key")
