"""Claims in files: the first process to claim a name does the work, and the others read its result.

A claim is a file in a directory. It expires after its lifetime, even if the process that made it has died.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import filelock

from notion_oauth.clock import uptime
from notion_oauth.errors import StoreBusy
from notion_oauth.files import atomic
from notion_oauth.protocol.messages import parse_json

LOCK_WAIT = 10.0  # seconds; the lock is held for milliseconds
REMOVE_INTERVAL = 60.0  # seconds between two removals of ended claims


class Claims:
    """The claims in one directory. All methods block, and raise StorageError."""

    def __init__(self, directory: Path, *, uptime: Callable[[], float] = uptime) -> None:
        self._directory, self._uptime = directory, uptime
        self._removed_at = -math.inf

    def claim(self, name: str, lifetime: timedelta) -> bool:
        """Claim the name for `lifetime`. Returns whether it was free."""
        self._remove_ended()
        if self._create(name, lifetime):  # without the lock: one of all callers creates the file
            return True
        if self._read(name) is not None:
            return False
        with self._locked():
            if self._read(name) is not None:
                return False
            atomic.delete_file(self._directory / name, remove_abandoned=False)
            return self._create(name, lifetime)

    def settle(self, name: str, outcome: bytes) -> None:
        """Store the outcome of a claim, for the rest of its lifetime. Only its holder may call this."""
        document = self._read(name)
        if document is not None:
            content = _encode({**document, "outcome": base64.b64encode(outcome).decode()})
            atomic.write_file(self._directory / name, content, remove_abandoned=False)

    def outcome(self, name: str) -> bytes | None:
        """Return the outcome of a claim; None until it is stored, and once the claim has expired."""
        document = self._read(name)
        stored = None if document is None else document.get("outcome")
        return base64.b64decode(stored) if isinstance(stored, str) else None

    def _create(self, name: str, lifetime: timedelta) -> bool:
        content = _encode({"until": time.time() + lifetime.total_seconds()})
        return atomic.create_file(self._directory / name, content, remove_abandoned=False)

    def _read(self, name: str) -> dict[str, Any] | None:
        """Return the claim of that name, unless its lifetime is over."""
        document = atomic.read_file(self._directory / name, _decode)
        return document if document is not None and document["until"] > time.time() else None

    def _remove_ended(self) -> None:
        """Remove the files of ended claims, and what killed writers have left: seldom, because that reads all files."""
        if self._uptime() - self._removed_at < REMOVE_INTERVAL:
            return
        self._removed_at = self._uptime()
        with self._locked():
            for name, changed in atomic.directory_entries(self._directory):
                if not name.startswith(".") and changed < time.time() - 1 and self._read(name) is None:
                    atomic.delete_file(self._directory / name, remove_abandoned=False)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude all who remove claims."""
        path = self._directory / ".lock"
        try:
            atomic.prepare_lock_file(path)
            with filelock.FileLock(path, mode=0o600, timeout=LOCK_WAIT, fallback_to_soft=False):
                yield
        except filelock.Timeout:
            waited = f"{LOCK_WAIT:g} seconds"
            raise StoreBusy(f"Another process has held the lock of {self._directory} for more than {waited}.") from None
        except OSError as error:
            raise atomic.storage_error(path, "locked", error) from None


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _decode(content: bytes) -> dict[str, Any]:
    """An unreadable claim counts as one that has ended."""
    try:
        document = parse_json(content)
    except ValueError:
        document = None
    until = document.get("until") if isinstance(document, dict) else None
    return document if isinstance(document, dict) and isinstance(until, int | float) else {"until": 0}
