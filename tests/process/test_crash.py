"""A crash at any moment of a save leaves the whole old content or the whole new, and holds up nobody after it."""

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
from notion_oauth.storage import JsonFileStore
from tests.process.chaos.changes import CHANGES, NAME, Change
from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio

MANY = 200  # calls; no save makes as many
# Those by which a file is changed or made to last; "?": not every kind of machine has each
SYSTEM_CALLS = (
    "?open,?openat,?creat,?mkdir,?mkdirat,?write,?pwrite64,?writev,?ftruncate,?fallocate,?fchmod,?chmod,?fchown,?fsync,"
    "?fdatasync,?sync_file_range,?rename,?renameat,?renameat2,?link,?linkat,?unlink,?unlinkat,?close"
)
each_change = pytest.mark.parametrize("name", CHANGES)


class Writers:
    """Processes that make a change, and die in it as they are told to."""

    def __init__(self, server: subprocess.Popen[bytes]) -> None:
        assert server.stdin is not None
        assert server.stdout is not None
        self._orders, self._answers = server.stdin, server.stdout

    def start(self, name: str, site: Path, **order: Any) -> None:
        self.send(json.dumps({"change": name, "site": str(site), **order}).encode() + b"\n")

    def send(self, line: bytes) -> None:
        self._orders.write(line)
        self._orders.flush()

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._answers.readline())
        return answer

    def killed(self, name: str, site: Path, **order: Any) -> str:
        """The call at which a writer died that was to be killed so; empty where it made its change to the end."""
        self.start(name, site, **order)
        answer = self.answer()
        assert answer["signal"] in (0, signal.SIGXFSZ if "limit" in order else signal.SIGKILL)
        return answer["call"] or ("a write cut short" if answer["signal"] else "")


@pytest.fixture(scope="module")
def crashing() -> Iterator[Writers]:
    measured_not = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # they are killed
    with subprocess.Popen(
        [sys.executable, "-m", "tests.process.chaos.crashes"],
        env={**measured_not, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as server:
        yield Writers(server)


async def new_site(change: Change, folder: Path) -> Path:
    """A folder with what was there before the change."""
    site = folder / str(len(list(folder.iterdir())))
    site.mkdir()
    if change.prepare is not None:
        await change.prepare(JsonFileStore(site / NAME))
    return site


async def examine(site: Path, change: Change, *, died: str) -> Any:
    """Find what a crash may leave, go on as if nothing had been, and return what was found."""
    store = change.store(site / NAME, lock_wait=timedelta(seconds=1))
    if change.keys is not None:
        before = {NAME, f"{NAME}.clients"} if change.plain_before else set()
        assert {file.name for file in site.iterdir() if b"canary" in file.read_bytes()} <= before, (
            "nothing is in plain text"
        )
    found = await change.read(store)
    assert found in ((change.before, change.after) if died else (change.after,)), f"after a crash at {died}"
    assert {stat.S_IMODE(file.stat().st_mode) for file in site.iterdir()} <= {0o600}
    left = [file for file in site.iterdir() if file.suffix == ".tmp"]
    assert len(left) <= 1
    async with store.exclusive("default"):  # StoreBusy after a second
        await change.further(store)
    for file in left:
        assert file.exists(), "it is too young to be known as abandoned"
        os.utime(file, (time.time() - 120,) * 2)
    await change.further(store)
    assert not [file for file in site.iterdir() if file.suffix == ".tmp"], "the next save sweeps what is abandoned"
    return found


@pytest.mark.slow
@each_change
async def test_crash_at_any_call_loses_no_data(name: str, crashing: Writers, tmp_path: Path) -> None:
    """Before and after each call to the operating system that the interpreter makes for the change."""
    change, calls, found = CHANGES[name], [], []
    for number in range(1, MANY):
        for when in ("before", "after"):
            site = await new_site(change, tmp_path)
            calls.append(crashing.killed(name, site, call=number, when=when))
            found.append(await examine(site, change, died=calls[-1]))
        if not calls[-1]:
            break
    assert not calls[-1], "the change was made to its end"
    assert change.before in found
    assert change.after in found[:-2], "some crashes came after the moment that counts"
    assert {"fsync", "unlink" if name == "delete" else "replace"} <= set(calls), "these were cut short too"


@pytest.mark.parametrize("name", ["first-save", "save", "registration", "encrypted-save"])
async def test_truncated_write_loses_no_data(name: str, crashing: Writers, tmp_path: Path) -> None:
    """The kernel ends the process where it writes beyond a limit, with what is within it on the disk."""
    change = CHANGES[name]
    whole = await new_site(change, tmp_path)
    assert not crashing.killed(name, whole)
    size = max(file.stat().st_size for file in whole.iterdir())
    for limit in (0, 1, size // 2, size - 1):
        site = await new_site(change, tmp_path)
        died = crashing.killed(name, site, limit=limit)
        assert died
        assert [file.stat().st_size for file in site.iterdir() if file.suffix == ".tmp"] == [limit]
        assert await examine(site, change, died=died) == change.before


async def test_deleting_the_login_removes_what_a_crash_left(crashing: Writers, tmp_path: Path) -> None:
    """A sign-out does not wait until it is known as abandoned: it holds tokens."""
    site = await new_site(CHANGES["save"], tmp_path)
    assert crashing.killed("save", site, limit=100)
    assert [file for file in site.iterdir() if file.suffix == ".tmp"]
    await JsonFileStore(site / NAME).delete("default")
    assert not [file for file in site.iterdir() if b"canary" in file.read_bytes()]


async def test_writing_in_place_is_detected(crashing: Writers, tmp_path: Path) -> None:
    """That these tests can fail: at a writer that empties the file first."""
    change, torn = CHANGES["save"], 0
    orders: list[dict[str, Any]] = [{"call": number, "when": "after"} for number in range(1, MANY)]
    for order in [{"limit": 100}, *orders]:
        site = await new_site(change, tmp_path)
        died = crashing.killed("save", site, in_place=True, **order)
        try:
            await examine(site, change, died=died)
        except StoreDamaged:
            torn += 1
        if not died:
            break  # it came to its end: there are no more calls
    assert torn > 1


def _attached(pid: int, *options: str) -> subprocess.Popen[str]:
    """strace, when it holds the process."""
    command = ["strace", "-f", "-p", str(pid), "-e", f"trace={SYSTEM_CALLS}", *options]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    first = tracer.stderr.readline()
    if "attached" not in first:
        tracer.communicate()
        pytest.skip("strace may hold no process here")
    return tracer


def _traced(crashing: Writers, name: str, site: Path, *options: str) -> tuple[int, list[str]]:
    """The signal that ended a writer, and the system calls that it began, from the start of the change."""
    crashing.start(name, site, wait=True)
    pid = crashing.answer()["pid"]
    try:
        tracer = _attached(pid, *options)
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
    """The same by what the kernel is asked for: killed where a system call is about to begin."""
    change, found = CHANGES[name], []
    site = await new_site(change, tmp_path)
    ended, calls = _traced(crashing, name, site)
    assert not ended
    await examine(site, change, died="")
    for call, count in collections.Counter(calls).items():
        for number in range(1, count + 1):
            site = await new_site(change, tmp_path)
            kill = f"inject={call}:signal=KILL:when={number}"
            ended, begun = _traced(crashing, name, site, "-e", kill)
            assert (ended, begun[-1]) == (signal.SIGKILL, call)
            found.append(await examine(site, change, died=call))
    assert change.before in found
    assert change.after in found, "the sync of the folder was cut short"
    assert "fsync" in calls
