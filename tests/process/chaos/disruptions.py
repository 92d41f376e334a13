"""What a machine does to the programs that run on it: kills, stops, full disks, clocks that are set, lost files.

Each disruption hits one login: its workers, its directory or its clock. Half of them hit during a refresh.
"""

from __future__ import annotations

import errno
import math
import os
import queue
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

import anyio

from notion_oauth.errors import StoreBusy
from notion_oauth.service import NotionOAuth
from notion_oauth.storage import JsonFileStore
from tests.process.chaos.deck import Deck
from tests.process.chaos.file_watcher import FileWatcher
from tests.process.chaos.machine_clock import read_clock
from tests.process.chaos.server_events import Refresh, ServerEvents

Kind = Literal["killed", "stopped", "lock deleted", "disk full", "clock set", "backup restored"]
KINDS: tuple[Kind, ...] = ("killed", "stopped", "lock deleted", "disk full", "clock set", "backup restored")
OF_A_WORKER = ("killed", "stopped")
TARGETED = 0.5  # share of the disruptions that hit during a refresh
TARGET_DELAY = 0.05  # seconds at most between the arrival of the refresh at the server and the disruption
DISK, BLOCK = 256 * 1024, 4096  # bytes
MAX_FULL = 2.0  # seconds for which a disk stays full
HOUR, DAY = 3600.0, 86400.0
CLOCKS = (-40 * DAY, -HOUR, -5.0, 0.0, 5.0, HOUR, 40 * DAY)  # seconds that a clock is ahead
SETTLED = 0.05  # seconds in which a request that was sent arrives


@dataclass
class Login:
    """A token file in a directory of its own, the workers that share it, and the clock of their machine."""

    number: int
    oauth: NotionOAuth
    file: Path
    clock: Path
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    grant: str = ""
    signed_in_at: float = 0


@dataclass
class Disruption:
    """What happened to which login, or to which of its workers, and when."""

    kind: Kind
    login: int
    began: float
    worker: str = ""
    token: str = ""  # the fingerprint of the refresh token in a restored backup
    ended: float = math.inf

    def overlaps(self, start: float, end: float) -> bool:
        return self.began <= end and start <= self.ended

    def describe(self) -> str:
        lasted = f" for {self.ended - self.began:.2f} s" if self.began < self.ended < math.inf else ""
        return f"{self.worker or f'login {self.login}'}: {self.kind}{lasted}"


class Disks:
    """A small disk for each login, if this process may mount one. `skipped` says why not."""

    def __init__(self, directories: list[Path]) -> None:
        self._directories = directories
        self.skipped = ""

    def __enter__(self) -> Disks:
        for directory in self._directories:
            directory.mkdir(mode=0o700)
            options = f"size={DISK},mode=0700,uid={os.getuid()},gid={os.getgid()}"
            try:
                done = subprocess.run(
                    ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)],  # noqa: S607
                    capture_output=True,
                    text=True,
                    check=False,
                )
            except OSError as error:
                self.skipped = str(error)
            else:
                failed = done.stderr.strip() or f"mount ended with {done.returncode}"
                self.skipped = self.skipped or (failed if done.returncode else "")
        return self

    def __exit__(self, *_: object) -> None:
        for directory in self._directories:
            if os.path.ismount(directory):
                subprocess.run(["umount", "--lazy", str(directory)], check=True)  # noqa: S607


class Disruptions:
    """Causes disruptions, and keeps a record of them. Their number and order follow from the seed."""

    def __init__(
        self,
        logins: list[Login],
        server_events: ServerEvents,
        watcher: FileWatcher,
        *,
        seed: int,
        stops: tuple[float, ...],
        kinds: tuple[Kind, ...],
        is_ready: Callable[[str], bool],
    ) -> None:
        self._logins, self._server_events, self._watcher = logins, server_events, watcher
        self._stops, self._is_ready = stops, is_ready
        self._rng = random.Random(f"{seed} disruptions")  # noqa: S311 - no secret
        self._deck = Deck(kinds, self._rng)
        self.kinds = frozenset(kinds)
        self._wanted: Kind | None = None  # during the next refresh
        self._targets: queue.Queue[tuple[Kind, str, float] | None] = queue.Queue()
        self._lock = threading.RLock()
        self._lasting: list[tuple[float, Disruption, Callable[[], object]]] = []  # until when, and how it ends
        self.record: list[Disruption] = []
        self.killed: dict[str, float] = {}

    def counts(self) -> Counter[str]:
        return Counter(each.kind for each in self.record)

    def find(self, kind: Kind, name: str | int, start: float = 0, end: float = math.inf) -> list[Disruption]:
        """The disruptions of a worker, or of a login, that overlap the period."""
        return [
            each
            for each in self.record
            if each.kind == kind and name in (each.worker, each.login) and each.overlaps(start, end)
        ]

    def ahead(self, login: int) -> float:
        """How many seconds the clock of a login is ahead."""
        return read_clock(self._logins[login].clock)

    def cause_one(self) -> None:
        """Cause the next disruption, now or during the next refresh."""
        kind = self._deck.draw()
        if kind != "backup restored" and self._rng.random() < TARGETED:
            self._wanted = kind
            return
        ready = [name for login in self._logins for name in login.workers if self._is_ready(name)]
        if ready:
            self._cause(kind, self._rng.choice(ready))

    @contextmanager
    def targeting(self) -> Iterator[None]:
        """During the block, a thread causes the disruptions that must hit during a refresh."""
        thread = threading.Thread(target=self._hit_targets, name="disruptions")
        thread.start()
        try:
            yield
        finally:
            self._targets.put(None)
            thread.join()

    def on_refresh(self, refresh: Refresh) -> None:
        """In the server's thread: choose the sender of this refresh as the next target."""
        if self._wanted is not None and refresh.sender and refresh.fault in (None, "slow", "late"):
            due = time.time() + self._rng.uniform(0, TARGET_DELAY)
            self._targets.put((self._wanted, refresh.sender.rpartition(".")[0], due))
            self._wanted = None

    def _hit_targets(self) -> None:
        while target := self._targets.get():
            kind, worker, due = target
            time.sleep(max(0, due - time.time()))
            self._cause(kind, worker)

    def end_due(self, login: Login | None = None) -> None:
        """End the disruptions that have lasted long enough, or all of a login."""
        with self._lock:
            now = time.time()
            over = [each for each in self._lasting if each[0] <= now or (login and each[1].login == login.number)]
            self._lasting = [each for each in self._lasting if each not in over]
            for _, disruption, end in over:
                end()
                disruption.ended = now

    @contextmanager
    def none_of(self, login: Login) -> Iterator[None]:
        """End the disruptions of a login, and cause none during the block."""
        with self._lock:
            self.end_due(login)
            yield

    def _cause(self, kind: Kind, worker: str) -> None:
        login = self._logins[int(worker.partition("-")[0])]
        with self._lock:
            disruption = Disruption(kind, login.number, time.time(), worker if kind in OF_A_WORKER else "")
            if kind == "killed":
                self._kill(login, disruption)
            elif kind == "stopped":
                self._stop(login, disruption)
            elif kind == "disk full":
                self._fill(login, disruption)
            elif kind == "lock deleted":
                login.file.with_name(f"{login.file.name}.lock").unlink(missing_ok=True)
                self._add(disruption)
            elif kind == "clock set":
                self._set_clock(login)
                self._add(disruption)
            else:
                anyio.run(self._restore, login, disruption)

    def _add(self, disruption: Disruption, end: Callable[[], object] | None = None, seconds: float = 0) -> None:
        self.record.append(disruption)
        if end is None:
            disruption.ended = disruption.began
        else:
            self._lasting.append((disruption.began + seconds, disruption, end))

    def _kill(self, login: Login, disruption: Disruption) -> None:
        process = login.workers.get(disruption.worker)
        if process is not None and disruption.worker not in self.killed and process.poll() is None:
            self.killed[disruption.worker] = disruption.began
            process.kill()
            self._add(disruption)

    def _stop(self, login: Login, disruption: Disruption) -> None:
        process = login.workers.get(disruption.worker)
        if process is None or process.poll() is not None or self.find("stopped", disruption.worker, disruption.began):
            return
        process.send_signal(signal.SIGSTOP)
        self._add(disruption, lambda: process.send_signal(signal.SIGCONT), self._rng.choice(self._stops))

    def _fill(self, login: Login, disruption: Disruption) -> None:
        if self.find("disk full", login.number, disruption.began):
            return
        filler = login.file.with_name("filler")
        try:
            with filler.open("wb", buffering=0) as file:
                for _ in range(DISK // BLOCK):
                    file.write(bytes(BLOCK))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        self._add(disruption, filler.unlink, self._rng.uniform(0.1, 1) * MAX_FULL)

    def _set_clock(self, login: Login) -> None:
        ahead = self._rng.choice([each for each in CLOCKS if each != read_clock(login.clock)])
        scratch = login.clock.with_suffix(".new")
        scratch.write_text(f"{ahead}")
        scratch.replace(login.clock)

    async def _restore(self, login: Login, disruption: Disruption) -> None:
        """Replace the token file by an earlier one, while no refresh is running."""
        store = JsonFileStore(login.file, lock_wait=timedelta(seconds=0.3))
        try:
            async with store.exclusive("default"):
                await anyio.sleep(SETTLED)
                earlier = self._server_events.replayable(login.grant)
                backups = [each for each in self._watcher.backups(login.file) if each[0] in earlier]
                if not backups or self.find("disk full", login.number, disruption.began):
                    return
                disruption.token, content = self._rng.choice(backups)
                scratch = login.file.with_name("restored")
                scratch.touch(mode=0o600)
                scratch.write_bytes(content)
                disruption.began = time.time()
                scratch.replace(login.file)
                self._add(disruption)
        except StoreBusy:
            return  # one of its workers was stopped
