"""Logins in a database: one refresh among all processes, whatever becomes of them and of the database meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from notion_oauth.files.encryption import new_key
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.stores.factory import database_for
from notion_oauth.stores.schema import migrate
from tests.conftest import Posted
from tests.support.databases import Postgresql, Relay, run_postgresql
from tests.support.signing_in import sign_in
from tests.support.stores import save_login, stored

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("postgresql")]

PROCESSES, TASKS = 4, 25
LEASE = 4  # seconds
KEY = SecretStr(new_key())
WORK = """
import json, sys, anyio
from datetime import timedelta
from notion_oauth import NotionOAuth, Settings
from notion_oauth.errors import NotionOAuthError
from notion_oauth.stores.factory import database_for, encryption_for
from notion_oauth.stores.sql_documents import DatabaseStore

settings, tasks, lease = Settings(), int(sys.argv[1]), timedelta(seconds=float(sys.argv[2]))
store = DatabaseStore(database_for(settings), lease=lease, encryption=encryption_for(settings))
oauth = NotionOAuth(settings, store=store)
tokens, errors = [], []

async def ask():
    try:
        tokens.append((await oauth.tokens.token()).get_secret_value())
    except NotionOAuthError as error:
        errors.append(f"{type(error).__name__}: {error}")

async def work():
    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(ask)
    print(json.dumps({"tokens": tokens, "errors": errors}), flush=True)
    await oauth.tokens.wait_until_idle()
    oauth.tokens.check_saved()

print("ready", flush=True)
sys.stdin.readline()
anyio.run(work)
"""


class Workers:
    """Processes that ask for the token of one login, many times at once."""

    def __init__(self, settings: Settings, sandbox: Sandbox, url: str) -> None:
        self._settings, self._sandbox = settings, sandbox
        self._url = url
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, count: int, *, lease: float = 60) -> None:
        """Start processes, and let them ask when all are ready."""
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            "NOTION_OAUTH_SERVER_URL": self._settings.server_url,
            "NOTION_OAUTH_DATABASE_URL": self._url,
            "NOTION_OAUTH_ENCRYPTION_KEY": KEY.get_secret_value(),
        }
        command = [sys.executable, "-c", WORK, str(TASKS), str(lease)]
        pipe = subprocess.PIPE
        new = [
            subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
            for _ in range(count)
        ]
        for worker in new:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in new:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        self.processes += new

    def wait_for_refresh(self, count: int = 1) -> None:
        """Wait until the server has received that many requests for a refresh."""
        deadline = time.monotonic() + 20
        while self.refreshes() < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def refreshes(self) -> int:
        requests = self._sandbox.requests_to("/token", "POST")
        return sum(request.form.get("grant_type") == "refresh_token" for request in requests)

    def results(self, processes: list[subprocess.Popen[str]] | None = None) -> list[dict[str, Any]]:
        """What the processes got, after they have ended without an error."""
        found = []
        for worker in processes or self.processes:
            output, errors = worker.communicate(timeout=60)
            assert (errors, worker.returncode) == ("", 0)
            found.append(json.loads(output))
        return found

    def kill(self) -> None:
        for worker in self.processes:
            worker.kill()
            worker.communicate()


def everything_worked(results: list[dict[str, Any]], *, processes: int = PROCESSES, different: int = 1) -> None:
    assert [result["errors"] for result in results] == [[]] * processes
    assert [len(result["tokens"]) for result in results] == [TASKS] * processes
    assert len({token for result in results for token in result["tokens"]}) <= different


Begin = Callable[[str], Workers]


@pytest.fixture
def begin(sandbox: Sandbox, settings: Settings) -> Iterator[Begin]:
    """Create an expired login in a database, and return the processes to be started."""
    started = ExitStack()

    def make(url: str) -> Workers:
        oauth = NotionOAuth(in_database(settings, url))
        anyio.run(sign_in, oauth)
        login = anyio.run(stored, oauth)
        past = datetime.now(UTC) - timedelta(hours=2)
        times = {"updated_at": past, "authorized_at": past, "expires_at": past + timedelta(hours=1)}
        anyio.run(save_login, oauth.store, "default", login.model_copy(update=times))
        workers = Workers(settings, sandbox, url)
        started.callback(workers.kill)
        return workers

    with started:
        yield make


def in_database(settings: Settings, url: str) -> Settings:
    """Settings as on a public URL, where an encryption key is required with a database."""
    return Settings(**{**dict(settings), "database_url": url, "encryption_key": KEY})


def is_alive(settings: Settings, url: str, sandbox: Sandbox) -> None:
    """The stored login is the one that the server accepts."""
    oauth = NotionOAuth(in_database(settings, url))
    anyio.run(oauth.refresh)
    assert sandbox.live_grants == 1


def sqlite_url(directory: Path) -> str:
    url = f"sqlite:///{directory}/tokens.db"
    database = database_for(Settings(database_url=url))
    assert database is not None
    migrate(database)
    return url


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "pgbouncer"])
def test_processes_refresh_once(
    kind: str, begin: Begin, sandbox: Sandbox, settings: Settings, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    sandbox.options.reuse = "strict"
    url = sqlite_url(tmp_path) if kind == "sqlite" else request.getfixturevalue(kind)
    url = getattr(url, "url", url)
    workers = begin(url)
    sandbox.misbehave_next("/token", "slow", seconds=0.5)
    workers.start(PROCESSES)
    everything_worked(workers.results())
    assert workers.refreshes() == 1
    is_alive(settings, url, sandbox)


def test_connections_are_terminated_during_a_refresh(
    begin: Begin, sandbox: Sandbox, settings: Settings, postgresql: Postgresql
) -> None:
    sandbox.options.reuse = "strict"
    workers = begin(postgresql.url)
    sandbox.misbehave_next("/token", "slow", seconds=2)
    workers.start(PROCESSES)
    workers.wait_for_refresh()
    for _ in range(3):
        time.sleep(0.3)
        postgresql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    everything_worked(workers.results())
    assert workers.refreshes() == 1
    is_alive(settings, postgresql.url, sandbox)


@pytest.mark.parametrize("response_after", [1, 9], ids=["response-while-down", "response-when-back"])
def test_database_is_stopped_during_a_refresh(
    begin: Begin, sandbox: Sandbox, settings: Settings, response_after: int
) -> None:
    sandbox.options.reuse = "strict"
    with run_postgresql() as postgresql:
        workers = begin(postgresql.url)
        sandbox.misbehave_next("/token", "slow", seconds=response_after)
        workers.start(PROCESSES)
        workers.wait_for_refresh()
        postgresql.stop("immediate")
        time.sleep(6)
        postgresql.start()
        back = time.monotonic()
        if response_after < 6:
            while not postgresql.execute("SELECT 1 FROM notion_oauth_logins WHERE fence > 2 AND attempt IS NULL"):
                assert time.monotonic() < back + 2, "tokens are saved within two seconds"
                time.sleep(0.02)
        everything_worked(workers.results())
        assert workers.refreshes() == 1
        is_alive(settings, postgresql.url, sandbox)


def test_database_is_cut_off_during_a_refresh(
    begin: Begin, sandbox: Sandbox, settings: Settings, postgresql: Postgresql
) -> None:
    """The network to the database delivers nothing for a while, and no connection is closed."""
    sandbox.options.reuse = "strict"
    with Relay(postgresql.port) as relay:
        workers = begin(postgresql.url.replace(f":{postgresql.port}/", f":{relay.port}/"))
        sandbox.misbehave_next("/token", "slow", seconds=1)
        workers.start(PROCESSES)
        workers.wait_for_refresh()
        relay.freeze()
        time.sleep(6)
        relay.thaw()
        everything_worked(workers.results())
    assert workers.refreshes() == 1
    is_alive(settings, postgresql.url, sandbox)


def test_holder_is_killed_during_a_refresh(
    begin: Begin, sandbox: Sandbox, settings: Settings, postgresql: Postgresql
) -> None:
    """Notion accepts the previous refresh token once more. Others wait until the lease is over."""
    workers = begin(postgresql.url)
    sandbox.misbehave_next("/token", "slow", seconds=20)
    workers.start(1, lease=LEASE)
    workers.wait_for_refresh()
    workers.start(PROCESSES - 1, lease=LEASE)
    workers.processes[0].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    everything_worked(workers.results(workers.processes[1:]), processes=PROCESSES - 1)
    assert time.monotonic() - killed < LEASE + 3  # with the end of the processes
    assert workers.refreshes() == 2
    is_alive(settings, postgresql.url, sandbox)


def test_holder_is_stopped_past_its_lease(
    begin: Begin, sandbox: Sandbox, settings: Settings, postgresql: Postgresql
) -> None:
    """The second refresh has replaced its tokens at the server, so they must not replace the stored ones."""
    workers = begin(postgresql.url)
    sandbox.misbehave_next("/token", "slow", seconds=0.5)
    workers.start(1, lease=LEASE)
    workers.wait_for_refresh()
    workers.processes[0].send_signal(signal.SIGSTOP)
    workers.start(PROCESSES - 1, lease=LEASE)
    workers.wait_for_refresh(2)
    others = workers.results(workers.processes[1:])
    everything_worked(others, processes=PROCESSES - 1)
    workers.processes[0].send_signal(signal.SIGCONT)
    everything_worked(workers.results(workers.processes[:1]), processes=1)
    assert workers.refreshes() == 2
    is_alive(settings, postgresql.url, sandbox)


@pytest.mark.parametrize("order", ["ended-first", "set-aside-first"])
def test_tokens_of_a_holder_that_was_stopped_past_its_lease_are_not_lost(
    begin: Begin, sandbox: Sandbox, settings: Settings, postgresql: Postgresql, grants_asked: Posted, order: str
) -> None:
    """A server that refuses the old refresh token, but does not end the grant."""
    workers = begin(postgresql.url)
    sandbox.misbehave_next("/token", "slow", seconds=0.5)
    workers.start(1, lease=LEASE)
    workers.wait_for_refresh()
    workers.processes[0].send_signal(signal.SIGSTOP)
    sandbox.fail_next("/token", error="invalid_grant", times=2)
    workers.start(1, lease=LEASE)
    workers.wait_for_refresh(2)
    if order == "ended-first":
        [other] = workers.results(workers.processes[1:])
        assert {error.partition(":")[0] for error in other["errors"]} == {"SignInRequired"}
        workers.processes[0].send_signal(signal.SIGCONT)
    else:
        workers.processes[0].send_signal(signal.SIGCONT)
        everything_worked(workers.results(workers.processes[1:]), processes=1)
    everything_worked(workers.results(workers.processes[:1]), processes=1)
    is_alive(settings, postgresql.url, sandbox)
