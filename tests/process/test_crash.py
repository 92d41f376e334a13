"""A crash at any time of a save leaves either the old content or the new, and blocks no later process."""

from __future__ import annotations

import collections
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from notion_oauth.errors import StoreDamaged
from notion_oauth.files.atomic import RESERVED
from notion_oauth.storage import JsonFileStore
from tests.process.chaos.changes import CHANGES, NAME, NEW, OLD, Change
from tests.support.paths import ROOT
from tests.support.stores import delete_login

pytestmark = pytest.mark.anyio

MAX_CALLS = 300  # more than any save makes
# The system calls that change or sync files; "?": optional, because not every architecture has all of them
SYSTEM_CALLS = (
    "?open,?openat,?creat,?mkdir,?mkdirat,?write,?pwrite64,?writev,?ftruncate,?fallocate,?fchmod,?chmod,?fchown,?fsync,"
    "?fdatasync,?sync_file_range,?rename,?renameat,?renameat2,?link,?linkat,?unlink,?unlinkat,?close"
)
each_change = pytest.mark.parametrize("name", CHANGES)


class Writers:
    """Processes that make a change and are killed at a chosen point."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        assert server.stdin is not None
        assert server.stdout is not None
        self._orders, self._answers = server.stdin, server.stdout

    def start(self, name: str, directory: Path, **order: Any) -> None:
        self.send(json.dumps({"change": name, "site": str(directory), **order}).encode() + b"\n")

    def send(self, line: bytes) -> None:
        self._orders.write(line)
        self._orders.flush()

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer

    def killed(self, name: str, directory: Path, **order: Any) -> str:
        """Kill a writer as ordered. Returns the call at which it died; empty if it completed its change."""
        self.start(name, directory, **order)
        answer = self.answer()
        assert answer["signal"] in (0, signal.SIGXFSZ if "limit" in order else signal.SIGKILL)
        return answer["call"] or ("a write cut short" if answer["signal"] else "")


@pytest.fixture(scope="module")
def crashing() -> Iterator[Writers]:
    # Without coverage, because the processes are killed
    variables = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.process.chaos.crashes"],
        env={**variables, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as server:
        yield Writers(server)


async def new_directory(change: Change, parent: Path) -> Path:
    """A new directory with the files from before the change."""
    directory = parent / str(len(list(parent.iterdir())))
    directory.mkdir()
    if change.prepare is not None:
        await change.prepare(JsonFileStore(directory / NAME))
    return directory


async def check_after_crash(directory: Path, change: Change, *, died: str) -> Any:
    """Check that a crash left valid files and that later changes work. Returns the state after the crash."""
    store = change.store(directory / NAME, lock_wait=timedelta(seconds=1))
    if change.keys is not None:
        before = {NAME, f"{NAME}.clients"} if change.plain_before else set()
        assert {file.name for file in directory.iterdir() if b"canary" in file.read_bytes()} <= before, (
            "no file contains plain text"
        )
    found = await change.read(store)
    assert found in ((change.before, change.after) if died else (change.after,)), f"after a crash at {died}"
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} <= {0o600}
    left = [file for file in directory.iterdir() if file.suffix == ".tmp"]
    assert len(left) <= 1
    async with store.exclusive("default") as hold:  # StoreBusy after a second
        assert (await hold.load()).tokens in (None, OLD, NEW)
        await change.further(hold)
    if change.read is CHANGES["save"].read:
        assert not [file for file in directory.iterdir() if file.suffix == RESERVED], "a save ends the reservation"
    for file in left:
        assert file.exists(), "a recent file is not removed"
        os.utime(file, (time.time() - 120,) * 2)
    async with store.exclusive("default") as hold:
        await change.further(hold)
    assert not [file for file in directory.iterdir() if file.suffix == ".tmp"], "the next save removes abandoned files"
    return found


@pytest.mark.slow
@each_change
async def test_crash_at_any_call_loses_no_data(name: str, crashing: Writers, tmp_path: Path) -> None:
    """Killed before and after each operating system call that the interpreter makes for the change."""
    change, calls, found = CHANGES[name], [], []
    for number in range(1, MAX_CALLS):
        for when in ("before", "after"):
            directory = await new_directory(change, tmp_path)
            calls.append(crashing.killed(name, directory, call=number, when=when))
            found.append(await check_after_crash(directory, change, died=calls[-1]))
        if not calls[-1]:
            break
    assert not calls[-1], "the change was completed"
    assert change.before in found
    assert change.after in found[:-2], "some crashes came after the rename or removal"
    assert {"fsync", "unlink" if name == "delete" else "replace"} <= set(calls), "these calls were interrupted too"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first-save", "save", "registration", "encrypted-save"])
async def test_truncated_write_loses_no_data(name: str, crashing: Writers, tmp_path: Path) -> None:
    """The kernel kills the process when it writes beyond a limit; the bytes up to the limit are on the disk."""
    change = CHANGES[name]
    whole = await new_directory(change, tmp_path)
    assert not crashing.killed(name, whole)
    size = max(file.stat().st_size for file in whole.iterdir())
    for limit in (0, 1, size // 2, size - 1):
        directory = await new_directory(change, tmp_path)
        died = crashing.killed(name, directory, limit=limit)
        assert died
        assert [file.stat().st_size for file in directory.iterdir() if file.suffix == ".tmp"] == [limit]
        assert await check_after_crash(directory, change, died=died) == change.before


async def test_deleting_the_login_removes_what_a_crash_left(crashing: Writers, tmp_path: Path) -> None:
    """A sign-out removes temporary files at once, because they contain tokens."""
    directory = await new_directory(CHANGES["save"], tmp_path)
    assert crashing.killed("save", directory, limit=100)
    assert [file for file in directory.iterdir() if file.suffix == ".tmp"]
    await delete_login(JsonFileStore(directory / NAME), "default")
    assert not [file for file in directory.iterdir() if b"canary" in file.read_bytes()]


async def test_writing_in_place_is_detected(crashing: Writers, tmp_path: Path) -> None:
    """Proves that these tests can fail: with a writer that truncates the file first."""
    change, torn = CHANGES["save"], 0
    orders: list[dict[str, Any]] = [{"call": number, "when": "after"} for number in range(1, MAX_CALLS)]
    for order in [{"limit": 100}, *orders]:
        directory = await new_directory(change, tmp_path)
        died = crashing.killed("save", directory, in_place=True, **order)
        try:
            await check_after_crash(directory, change, died=died)
        except StoreDamaged:
            torn += 1
        if not died:
            break  # it completed: there are no more calls
    assert torn > 1


def _attach_strace(pid: int, *options: str) -> subprocess.Popen[str]:
    """Start strace, and wait until it is attached to the process."""
    command = ["strace", "-f", "-p", str(pid), "-e", f"trace={SYSTEM_CALLS}", *options]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    first = tracer.stderr.readline()
    if "attached" not in first:
        tracer.communicate()
        pytest.skip("strace is not permitted to attach to processes here")
    return tracer


def _trace(crashing: Writers, name: str, directory: Path, *options: str) -> tuple[int, list[str]]:
    """Trace a writer. Returns the signal that killed it, and the system calls since the start of the change."""
    crashing.start(name, directory, wait=True)
    pid = crashing.answer()["pid"]
    try:
        tracer = _attach_strace(pid, *options)
    except BaseException:
        crashing.send(b"g")
        crashing.answer()
        raise
    with tracer:
        crashing.send(b"g")
        answer = crashing.answer()
        _, trace = tracer.communicate()
    return answer["signal"], re.findall(r"^(?:\[pid +\d+\] )?(\w+)\(", trace, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("name", ["save", "registration", "delete"])
async def test_crash_at_any_system_call_loses_no_data(name: str, crashing: Writers, tmp_path: Path) -> None:
    """Killed at the entry of each system call."""
    change, found = CHANGES[name], []
    directory = await new_directory(change, tmp_path)
    ended, calls = _trace(crashing, name, directory)
    assert not ended
    await check_after_crash(directory, change, died="")
    for call, count in collections.Counter(calls).items():
        for number in range(1, count + 1):
            directory = await new_directory(change, tmp_path)
            kill = f"inject={call}:signal=KILL:when={number}"
            ended, started = _trace(crashing, name, directory, "-e", kill)
            assert (ended, started[-1]) == (signal.SIGKILL, call)
            found.append(await check_after_crash(directory, change, died=call))
    assert change.before in found
    assert change.after in found, "the sync of the directory was interrupted"
    assert "fsync" in calls
