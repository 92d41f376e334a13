"""A thread that reads token files all the time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio

from notion_oauth.errors import NotionOAuthError
from notion_oauth.storage import JsonFileStore
from tests.process.chaos.fingerprints import fingerprint

FIELDS = frozenset(
    ["access_token", "token_type", "expires_in", "refresh_token", "client_id", "client_secret", "updated_at"]
)
PAUSE = 0.002  # seconds between two looks at all files


class Watcher:
    """Counts reads, and torn files: such as are no whole JSON document, or one that is no login and no end of one.

    `may_be_gone` says of a file whether there may be none: otherwise its absence is torn too. `stored` keeps when
    each refresh token was first seen in a file, `known_until` when each access token expires by what is stored.
    """

    def __init__(self, files: Sequence[Path], may_be_gone: Callable[[Path], bool], scratch: Path) -> None:
        self._files, self._may_be_gone, self._scratch = files, may_be_gone, scratch
        self._last: dict[Path, bytes] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher")
        self.reads = self.torn = 0
        self.stored: dict[str, float] = {}
        self.known_until: dict[str, float] = {}

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(PAUSE):
            for file in self._files:
                self.reads += 1
                self._look(file)

    def _look(self, file: Path) -> None:
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            self.torn += not self._may_be_gone(file)
            return
        if content != self._last.get(file):
            self._last[file] = content
            self.torn += not self._whole(content)

    def _whole(self, content: bytes) -> bool:
        try:
            document = json.loads(content)
        except ValueError:
            return False
        if not isinstance(document, dict) or not document.keys() >= FIELDS or not document["access_token"]:
            return self._no_login(content)
        self.stored.setdefault(fingerprint(document["refresh_token"] or ""), time.time())
        if document.get("expires_at") is not None:
            self.known_until[fingerprint(document["access_token"])] = document["expires_at"] / 1000
        return True

    def _no_login(self, content: bytes) -> bool:
        """Whether the store reads it as the end of a login, whatever form that has."""
        self._scratch.write_bytes(content)
        try:
            return anyio.run(JsonFileStore(self._scratch).load, "default") is None
        except NotionOAuthError:
            return False
