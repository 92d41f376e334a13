"""The bearer of the clients of the gateway's HTTP face: one secret for all profiles of a token file."""

from __future__ import annotations

from pathlib import Path

from pydantic import SecretStr

from notion_oauth.files import generated_secrets
from notion_oauth.settings import Settings

DEFAULT_PORT = 8765


def local_secret(settings: Settings) -> SecretStr:
    """Return the secret, which is generated once and stored next to the token file. Raises StorageError."""
    return generated_secrets.get_or_create(secret_file(settings), name="gateway secret")


def secret_file(settings: Settings) -> Path:
    """Return the file of the secret."""
    return settings.token_file.with_name(f"{settings.token_file.name}.gateway-secret")
