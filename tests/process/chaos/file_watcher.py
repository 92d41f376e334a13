"""A thread that reads token files continuously."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio

from notion_oauth.errors import NotionOAuthError
from notion_oauth.storage import JsonFileStore
from tests.process.chaos.fingerprints import fingerprint

FIELDS = frozenset(
    ["access_token", "token_type", "expires_in", "refresh_token", "client_id", "client_secret", "updated_at"]
)
BACKUPS = 8  # earlier contents of each file
PAUSE = 0.002  # seconds between two reads of all files


class FileWatcher:
    """Counts reads and torn files: a torn file is no complete JSON document, or neither a login nor an ended login.

    A missing file counts as torn, too, unless `may_be_missing` allows it. `stored` has the time when each refresh token
    was first seen in a file, `known_until` the time when each access token expires according to the file.
    """

    def __init__(self, files: Sequence[Path], may_be_missing: Callable[[Path], bool], scratch: Path) -> None:
        self._files, self._may_be_missing, self._scratch = files, may_be_missing, scratch
        self._last: dict[Path, bytes] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher")
        self.reads = self.torn = 0
        self.stored: dict[str, float] = {}
        self.known_until: dict[str, float] = {}
        self._backups: dict[Path, deque[tuple[str, bytes]]] = {file: deque(maxlen=BACKUPS) for file in files}

    def backups(self, file: Path) -> list[tuple[str, bytes]]:
        """Earlier contents of a file with a login: the fingerprint of the refresh token, and the content."""
        return list(self._backups[file])

    def __enter__(self) -> FileWatcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(PAUSE):
            for file in self._files:
                self.reads += 1
                self._check(file)

    def _check(self, file: Path) -> None:
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            self.torn += not self._may_be_missing(file)
            return
        if content != self._last.get(file):
            self._last[file] = content
            self.torn += not self._is_complete(file, content)

    def _is_complete(self, file: Path, content: bytes) -> bool:
        try:
            document = json.loads(content)
        except ValueError:
            return False
        if not isinstance(document, dict) or not document.keys() >= FIELDS or not document["access_token"]:
            return self._is_ended_login(content)
        refresh_token = fingerprint(document["refresh_token"] or "")
        self.stored.setdefault(refresh_token, time.time())
        self._backups[file].append((refresh_token, content))
        if document.get("expires_at") is not None:
            self.known_until[fingerprint(document["access_token"])] = document["expires_at"] / 1000
        return True

    def _is_ended_login(self, content: bytes) -> bool:
        """Whether the store reads it as an ended login."""
        self._scratch.write_bytes(content)
        try:
            return anyio.run(JsonFileStore(self._scratch).load, "default").ended is not None
        except NotionOAuthError:
            return False
