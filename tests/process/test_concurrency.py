"""One refresh for concurrent tasks, threads, event loops and processes, of an expired token or one that is due."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import httpx
import pytest

from notion_oauth.auth.httpx_auth import BearerAuth
from notion_oauth.errors import SignInRequired
from notion_oauth.protocol.registration import PROBE_CODE
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import TokenStore
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport
from tests.conftest import Posted
from tests.support.signing_in import age, sign_in
from tests.support.stores import HookedDocuments

ONE_REFRESH = ["authorization_code", "refresh_token"]
PROCESSES, TASKS = 8, 25
WORK = f"""
import sys, anyio, httpx
from notion_oauth import BearerAuth, NotionOAuth
oauth = NotionOAuth()

PING = {{"jsonrpc": "2.0", "id": 1, "method": "ping"}}

async def post(client, statuses):
    statuses.append((await client.post(oauth.settings.server_url, json=PING)).status_code)

async def work():
    statuses = []
    async with httpx.AsyncClient(auth=BearerAuth(oauth), trust_env=False, timeout=60) as client:
        async with anyio.create_task_group() as tasks:
            for _ in range({TASKS}):
                tasks.start_soon(post, client, statuses)
    print(*statuses)

print("ready", flush=True)
sys.stdin.readline()
anyio.run(work)
"""


@pytest.fixture
def aged(sandbox: Sandbox, settings: Settings) -> Callable[[float], None]:
    """Make a login of that age in minutes, at a server that ends the grant at any reuse."""
    sandbox.options.reuse = "strict"

    def make(minutes: float) -> None:
        anyio.run(sign_in, NotionOAuth(settings))
        age(settings.token_file, minutes=minutes)

    return make


AGES = pytest.mark.parametrize("minutes", [120, 57], ids=["expired", "due"])


def environment(settings: Settings) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "NOTION_OAUTH_SERVER_URL": settings.server_url,
        "NOTION_OAUTH_TOKEN_FILE": str(settings.token_file),
    }


@pytest.mark.slow
@AGES
def test_processes_and_tasks_refresh_once(
    sandbox: Sandbox, settings: Settings, aged: Callable[[float], None], minutes: float, grants_asked: Posted
) -> None:
    aged(minutes)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORK],
            env=environment(settings),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    outputs = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert outputs == [["200"] * TASKS] * PROCESSES
    assert grants_asked() == ONE_REFRESH
    assert sandbox.live_grants == 1
    anyio.run(NotionOAuth(settings).refresh)
    assert sandbox.live_grants == 1, "the server accepts the stored refresh token"


@AGES
def test_threads_refresh_once(
    sandbox: Sandbox, settings: Settings, aged: Callable[[float], None], minutes: float, grants_asked: Posted
) -> None:
    aged(minutes)
    oauth = NotionOAuth(settings)
    barrier = threading.Barrier(25)

    def ask(_: int) -> int:
        with httpx.Client(auth=BearerAuth(oauth), trust_env=False, timeout=60) as client:
            barrier.wait(10)
            return client.post(settings.server_url, json={"jsonrpc": "2.0", "id": 1, "method": "ping"}).status_code

    with ThreadPoolExecutor(25) as threads:
        assert list(threads.map(ask, range(25))) == [200] * 25
    anyio.run(oauth.tokens.wait_until_idle)
    assert grants_asked() == ONE_REFRESH
    assert sandbox.live_grants == 1


@AGES
def test_event_loops_in_threads_refresh_once(
    sandbox: Sandbox, settings: Settings, aged: Callable[[float], None], minutes: float, grants_asked: Posted
) -> None:
    aged(minutes)
    oauth = NotionOAuth(settings)
    barrier = threading.Barrier(3)

    def loop(backend: str) -> int:
        async def ask_all() -> int:
            found: set[str] = set()

            async def ask() -> None:
                found.add((await oauth.tokens.token()).get_secret_value())

            barrier.wait(10)
            async with anyio.create_task_group() as tasks:
                for _ in range(25):
                    tasks.start_soon(ask)
            return len(found)

        return anyio.run(ask_all, backend=backend)

    with ThreadPoolExecutor(3) as threads:
        assert max(threads.map(loop, ["asyncio", "trio", "asyncio"])) <= 2, (
            "the old token if it is still valid, or the new one"
        )
    anyio.run(oauth.tokens.wait_until_idle)
    assert grants_asked() == ONE_REFRESH
    assert sandbox.live_grants == 1


def test_several_sources_refresh_once(
    sandbox: Sandbox, settings: Settings, aged: Callable[[float], None], grants_asked: Posted
) -> None:
    """As when each part of a program creates its own source."""
    aged(120)
    sources = [NotionOAuth(settings).tokens for _ in range(5)]

    async def ask_all() -> set[str]:
        return {token.get_secret_value() for token in await asyncio.gather(*(source.token() for source in sources))}

    assert len(asyncio.run(ask_all())) == 1
    assert grants_asked() == ONE_REFRESH


@pytest.mark.slow
def test_background_refresh_outlives_its_event_loop(
    sandbox: Sandbox, settings: Settings, aged: Callable[[float], None], grants_asked: Posted
) -> None:
    """A script that ends at once: the process waits for the response and stores it."""
    aged(57)
    sandbox.misbehave_next("/token", "slow", seconds=0.5)
    code = (
        "import asyncio; from notion_oauth import NotionOAuth; asyncio.run(NotionOAuth().tokens.token()); print('done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(settings), capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert grants_asked() == ONE_REFRESH
    anyio.run(NotionOAuth(settings).refresh)
    assert sandbox.live_grants == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_multiprocessing_child_waits_for_its_background_refresh(
    sandbox: Sandbox, settings: Settings, aged: Callable[[float], None], grants_asked: Posted
) -> None:
    """Before Python 3.13, such a child runs no exit handlers."""
    aged(57)
    sandbox.misbehave_next("/token", "slow", seconds=0.5)
    code = """
import anyio, multiprocessing
from notion_oauth import NotionOAuth
oauth = NotionOAuth()
child = multiprocessing.get_context("fork").Process(target=anyio.run, args=(oauth.tokens.token,))
child.start()
child.join()
raise SystemExit(child.exitcode)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(settings), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert grants_asked() == ONE_REFRESH
    anyio.run(NotionOAuth(settings).refresh)
    assert sandbox.live_grants == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_child_refreshes_for_itself(
    sandbox: Sandbox, settings: Settings, aged: Callable[[float], None], tmp_path: Path, grants_asked: Posted
) -> None:
    """Threads do not survive a fork: a child that waited for the thread of its parent would never end."""
    aged(57)
    sandbox.misbehave_next("/token", "slow", seconds=1)
    code = """
import os, sys, anyio
from notion_oauth import NotionOAuth
oauth = NotionOAuth()
first = anyio.run(oauth.tokens.token)  # a background refresh runs now
if (child := os.fork()) == 0:
    anyio.run(oauth.refresh)
    os._exit(0 if anyio.run(oauth.tokens.token) != first else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(settings), capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sandbox.live_grants == 1


class RecordingNetwork(httpx.AsyncHTTPTransport):
    """Records whether the lock is held at each request that changes something at the authorization server."""

    def __init__(self, documents: HookedDocuments) -> None:
        super().__init__()
        self._documents = documents
        self.under_lock: list[bool] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        read_only = request.url.path == "/mcp" or PROBE_CODE.encode() in await request.aread()
        if request.method == "POST" and not read_only:
            self.under_lock.append(bool(self._documents.held))
        return await super().handle_async_request(request)


def test_requests_and_changes_need_the_lock(settings: Settings, sandbox: Sandbox) -> None:
    ahead = timedelta()
    changes: list[str] = []

    def require_lock(operation: str, profile: str, content: bytes | None) -> None:
        if operation in ("write", "delete"):
            assert profile in documents.held, f"{operation} without the lock"
            changes.append(operation)

    documents = HookedDocuments(require_lock)
    network = RecordingNetwork(documents)

    def clock() -> datetime:
        return datetime.now(UTC) + ahead

    client = OAuthClient(Transport(timeout=timedelta(seconds=5), httpx_transport=network), clock=clock)
    oauth = NotionOAuth(settings, store=TokenStore(documents), client=client, clock=clock)

    async def use_all() -> None:
        nonlocal ahead
        rejected = (await sign_in(oauth)).access_token
        await oauth.tokens.token(rejected=rejected)
        await oauth.tokens.token(min_ttl=timedelta(hours=2))
        await oauth.refresh()
        for minutes in (57, 120):  # due, and expired
            ahead += timedelta(minutes=minutes)
            await oauth.tokens.token()
            await oauth.tokens.wait_until_idle()
        sandbox.revoke_grants()
        with pytest.raises(SignInRequired):
            await oauth.refresh()
        await sign_in(oauth)
        await oauth.sign_out()

    anyio.run(use_all)
    assert network.under_lock == [True] * len(network.under_lock)
    assert len(network.under_lock) >= 10
    assert {*changes} == {"write", "delete"}
