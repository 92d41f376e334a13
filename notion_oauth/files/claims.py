"""Claims in files: the first process to claim a name does the work, and the others read its result.

A claim is a file in a directory. It expires after its lifetime, even if the process that made it has died.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import filelock

from notion_oauth.errors import StoreBusy
from notion_oauth.files import atomic
from notion_oauth.protocol.messages import parse_json

LOCK_WAIT = 10.0  # seconds; the lock is held for milliseconds


def claim(directory: Path, name: str, lifetime: timedelta) -> bool:
    """Claim the name for `lifetime`. Returns whether it was free. Raises StorageError."""
    with _locked(directory):
        _remove_ended(directory)
        if _read(directory, name) is not None:
            return False
        _write(directory, name, {"until": time.time() + lifetime.total_seconds()})
        return True


def settle(directory: Path, name: str, outcome: bytes) -> None:
    """Store the outcome of a claim, for the rest of its lifetime. Raises StorageError."""
    with _locked(directory):
        document = _read(directory, name)
        if document is not None:
            _write(directory, name, {**document, "outcome": base64.b64encode(outcome).decode()})


def outcome(directory: Path, name: str) -> bytes | None:
    """Return the outcome of a claim; None until it is stored, and once the claim has expired. Raises StorageError."""
    document = _read(directory, name)
    stored = None if document is None else document.get("outcome")
    return base64.b64decode(stored) if isinstance(stored, str) else None


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    path = directory / ".lock"
    try:
        atomic.prepare_lock_file(path)
        with filelock.FileLock(path, mode=0o600, timeout=LOCK_WAIT, fallback_to_soft=False):
            yield
    except filelock.Timeout:
        raise StoreBusy(
            f"Another process has held the lock of {directory} for more than {LOCK_WAIT:g} seconds."
        ) from None
    except OSError as error:
        raise atomic.storage_error(path, "locked", error) from None


def _read(directory: Path, name: str) -> dict[str, Any] | None:
    """Return the claim of that name, unless its lifetime is over."""
    document = atomic.read_file(directory / name, _decode)
    return document if document is not None and document["until"] > time.time() else None


def _write(directory: Path, name: str, document: dict[str, Any]) -> None:
    atomic.write_file(directory / name, json.dumps(document).encode())


def _decode(content: bytes) -> dict[str, Any]:
    """An unreadable claim counts as one that has ended."""
    try:
        document = parse_json(content)
    except ValueError:
        document = None
    until = document.get("until") if isinstance(document, dict) else None
    return document if isinstance(document, dict) and isinstance(until, int | float) else {"until": 0}


def _remove_ended(directory: Path) -> None:
    for name, changed in atomic.directory_entries(directory):
        if not name.startswith(".") and changed < time.time() - 1 and _read(directory, name) is None:
            atomic.delete_file(directory / name)
