"""Secrets that this program generates once and stores, each in a file of its own next to the token file."""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from notion_oauth.errors import StoreDamaged
from notion_oauth.files import atomic

MIN_LENGTH = 32  # characters; a generated secret has 64


def get_or_create(path: Path, *, name: str) -> SecretStr:
    """Return the secret in the file, which is created if it is missing. `name` completes "has no valid ...".

    Raises StorageError if the secret can neither be read nor created.
    """
    found = read(path, name=name)
    if found is None:
        atomic.create_file(path, secrets.token_hex(32).encode() + b"\n")
        found = read(path, name=name)  # another process may have created it first
    return found or _decode(path, name, b"")


def read(path: Path, *, name: str, fix: bool = True) -> SecretStr | None:
    """Return the secret in the file; None if there is no file. For `fix`, see `atomic.read_file`.

    Raises StorageError.
    """
    return atomic.read_file(path, partial(_decode, path, name), fix=fix)


def _decode(path: Path, name: str, content: bytes) -> SecretStr:
    secret = content.decode(errors="replace").strip()
    if len(secret) < MIN_LENGTH:
        raise StoreDamaged(f"{path} has no valid {name}.", hint="Delete it: the next start creates a new one.")
    return SecretStr(secret)
