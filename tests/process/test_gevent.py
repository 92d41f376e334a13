"""BearerAuth after gevent's `monkey.patch_all()`, which replaces threads by greenlets of one thread."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from notion_oauth.sandbox import Sandbox
from notion_oauth.settings import Settings
from tests.conftest import Posted
from tests.process.test_concurrency import AGES, ONE_REFRESH, aged, environment

__all__ = ["aged"]  # a fixture
GREENLETS = 20
PROGRAM = f"""
import gevent.monkey
gevent.monkey.patch_all()
import gevent, httpx
from notion_oauth import BearerAuth, NotionOAuth

oauth = NotionOAuth()
ticks = []

def tick():
    while True:
        gevent.sleep(0.01)
        ticks.append(1)

def post():
    with httpx.Client(auth=BearerAuth(oauth), trust_env=False, timeout=60) as client:
        ping = {{"jsonrpc": "2.0", "id": 1, "method": "ping"}}
        return client.post(oauth.settings.server_url, json=ping).status_code

gevent.spawn(tick)
greenlets = [gevent.spawn(post) for _ in range({GREENLETS})]
print(*{{each.get() for each in greenlets}}, "other greenlets ran" if len(ticks) > 10 else "blocked")
"""


@pytest.mark.slow
@AGES
def test_greenlets_share_one_refresh(
    minutes: float, sandbox: Sandbox, settings: Settings, aged: Callable[[float], None], grants_asked: Posted
) -> None:
    """Other greenlets run meanwhile, and the process does not exit before a background refresh is stored."""
    aged(minutes)
    before = settings.token_file.read_text()
    sandbox.misbehave_next("/token", "slow", seconds=1.5)
    sandbox.misbehave_next("/mcp", "slow", seconds=0.5)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment(settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr  # whole, for a failure that is rare
    assert (done.stderr, done.stdout) == ("", "200 other greenlets ran\n")
    assert settings.token_file.read_text() != before
    assert grants_asked() == ONE_REFRESH
    assert sandbox.live_grants == 1


CLEANUP_PROGRAM = """
import gevent.monkey
gevent.monkey.patch_all()
import os, signal, sys
import anyio
from notion_oauth import concurrency

ended = []

async def fail():
    raise ValueError

async def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
    try:
        await anyio.sleep_forever()
    finally:
        ended.append("cancelled")

try:
    concurrency.run(fail)
except ValueError:
    print("raised")
try:
    concurrency.run(interrupt)
except KeyboardInterrupt:
    print(*ended)
release = concurrency.allocate_lock()
release.acquire()
concurrency.start_thread(release.acquire, name="under way during the fork")
child = os.fork()
if child == 0:
    sys.exit()
print("exit code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
release.release()
"""


@pytest.mark.slow
def test_errors_ctrl_c_and_forks() -> None:
    """An error is raised and not printed, Ctrl-C cancels, and a forked child waits for no thread of its parent."""
    done = subprocess.run(
        [sys.executable, "-c", CLEANUP_PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout == "raised\ncancelled\nexit code 0\n"
    assert "Traceback" not in done.stderr, "gevent prints a line about the KeyboardInterrupt"
