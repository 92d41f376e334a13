"""Starts workers, kills them, signs in again where a login is lost, and keeps the accounts."""

from __future__ import annotations

import logging
import math
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio

from notion_oauth.errors import NotSignedIn, SignInRequired
from notion_oauth.sandbox import Sandbox, SandboxOptions, serve_sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.process.chaos.accounts import Accounts, Loss
from tests.process.chaos.journals import Journals
from tests.process.chaos.ledger import Ledger, Refresh
from tests.process.chaos.report import Report
from tests.process.chaos.watching import Watcher
from tests.support.paths import ROOT
from tests.support.signing_in import sign_in

ENOUGH = 20  # refreshes of which some must have been made to fail
# Workers may write compiled modules: without them each compiles all it imports, for seconds
_NOT_THEIRS = ("NOTION_OAUTH_", "COV", "PYTHONDONTWRITEBYTECODE")
STEP = 0.05  # seconds between two looks at the journals
AIMED = 0.5  # of the kills hit whoever is refreshing
AIM = 0.03  # seconds after the server has done a refresh within which its asker is then killed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is to be. Times are in seconds."""

    seconds: float = math.inf
    expiries: float = math.inf
    logins: int = 1
    processes: int = 4  # for each login
    tasks: int = 3  # in each process
    seed: int = 0
    rules: Literal["notion", "strict"] = "notion"
    faults: float = 0.3  # of the refreshes
    lifetime: float = 1
    timeout: float = 0.6
    kill_every: float = 1.5
    end_every: float = 4


@dataclass
class Login:
    """A token file, and the workers that share it."""

    number: int
    oauth: NotionOAuth
    file: Path
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    grant: str = ""
    signed_in_at: float = 0


class Runner:
    def __init__(self, plan: Plan, sandbox: Sandbox, folder: Path) -> None:
        self._plan, self._sandbox, self._folder = plan, sandbox, folder
        self._chance = random.Random(plan.seed)  # noqa: S311 - no secret
        faults = random.Random(f"{plan.seed} faults")  # noqa: S311 - drawn from in the server's thread
        self._ledger = Ledger(sandbox, faults, plan.faults, late=plan.timeout * 1.6, tell=self._refreshed)
        self._journals = Journals(folder)
        self._logins = [self._login(number) for number in range(plan.logins)]
        self._watcher = Watcher([login.file for login in self._logins], self._may_be_gone, folder / "scratch")
        self._killed: dict[str, float] = {}
        self._accounts = Accounts(self._ledger, self._journals, self._watcher, self._killed, plan.timeout)
        self._losses: list[Loss] = []
        self._wrong: list[str] = []
        self._started = 0
        self._aiming = threading.Event()
        self._targets: queue.Queue[tuple[str, float] | None] = queue.Queue()

    def _login(self, number: int) -> Login:
        file = self._folder / f"login-{number}" / ".notion-tokens.json"
        settings = Settings(server_url=self._sandbox.mcp_url, token_file=file, timeout=10.0)
        return Login(number, NotionOAuth(settings), file)

    def run(self) -> Report:
        began = time.time()
        for login in self._logins:
            self._sign_in(login)
        try:
            with self._watcher, self._sniper():
                self._until_done(began)
                for login in self._logins:
                    self._stop(login)
                self._take_reports()
                for login in self._logins:
                    self._refresh_once_more(login)
        finally:
            for login in self._logins:
                for process in login.workers.values():
                    process.kill()
                    process.communicate()
        self._journals.read()
        return self._report(time.time() - began)

    def _until_done(self, began: float) -> None:
        next_kill = next_end = began + 2  # when the first workers are up
        while (now := time.time()) < began + self._plan.seconds:
            for login in self._logins:
                self._fill(login)
            time.sleep(STEP)
            self._take_reports()
            if now >= next_kill and self._journals.ready:
                next_kill = now + self._chance.expovariate(1 / self._plan.kill_every)
                self._kill_somebody()
            if now >= next_end:
                next_end = now + self._chance.expovariate(1 / self._plan.end_every)
                self._ledger.end_tokens_early()
            if self._killed and self._plan.expiries < math.inf and self._accounts.expiries(now) >= self._plan.expiries:
                return

    # The workers

    def _fill(self, login: Login) -> None:
        """Start workers in the place of those that are dead."""
        for name, process in list(login.workers.items()):
            if process.poll() is not None:
                process.communicate()
                del login.workers[name]
                if name not in self._killed:
                    self._wrong.append(f"worker {name} died by itself")
        while len(login.workers) < self._plan.processes:
            name = f"{login.number}-{self._started}"
            self._started += 1
            login.workers[name] = self._start(login, name)

    def _start(self, login: Login, name: str) -> subprocess.Popen[bytes]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(_NOT_THEIRS)}
        environment = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "NOTION_OAUTH_SERVER_URL": self._sandbox.mcp_url,
            "NOTION_OAUTH_TOKEN_FILE": str(login.file),
            "NOTION_OAUTH_TIMEOUT": str(self._plan.timeout),
            "NOTION_OAUTH_RETRY_FOR": "5",
        }
        arguments = [name, str(self._folder / f"{name}.journal"), str(self._plan.tasks), str(self._plan.seed)]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.process.chaos.worker", *arguments],
            env=environment,
            cwd=self._folder,
            stdin=subprocess.PIPE,
        )

    def _stop(self, login: Login) -> None:
        """Let the workers come to their end."""
        for process in login.workers.values():
            assert process.stdin is not None
            process.stdin.close()
        for name, process in login.workers.items():
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                self._wrong.append(f"worker {name} did not stop")
            else:
                if code and name not in self._killed:
                    self._wrong.append(f"worker {name} ended with {code}")

    # Kills

    def _kill_somebody(self) -> None:
        if self._chance.random() < AIMED:
            self._aiming.set()
            return
        living = [name for login in self._logins for name in login.workers if name in self._journals.ready]
        if living:
            self._kill(self._chance.choice(living))

    def _kill(self, name: str) -> None:
        process = self._logins[int(name.partition("-")[0])].workers.get(name)
        if process is not None and name not in self._killed and process.poll() is None:
            self._killed[name] = time.time()
            process.kill()

    def _refreshed(self, refresh: Refresh) -> None:
        """In the server's thread: tells the sniper of a target."""
        if self._aiming.is_set() and refresh.asker and refresh.status == 200:
            self._aiming.clear()
            self._targets.put((refresh.asker.rpartition(".")[0], time.time()))

    @contextmanager
    def _sniper(self) -> Iterator[None]:
        thread = threading.Thread(target=self._snipe, name="sniper")
        thread.start()
        try:
            yield
        finally:
            self._targets.put(None)
            thread.join()

    def _snipe(self) -> None:
        chance = random.Random(f"{self._plan.seed} sniper")  # noqa: S311 - no secret
        while target := self._targets.get():
            name, seen = target
            time.sleep(max(0, seen + chance.uniform(0, AIM) - time.time()))
            self._kill(name)

    # Logins

    def _sign_in(self, login: Login) -> None:
        stored = anyio.run(sign_in, login.oauth)
        login.grant = stored.access_token.get_secret_value().split(":")[1]
        login.signed_in_at = time.time()

    def _may_be_gone(self, file: Path) -> bool:
        login = next(login for login in self._logins if login.file == file)
        return self._ledger.end_of(login.grant) is not None

    def _take_reports(self) -> None:
        for worker, report in self._journals.read():
            login = self._logins[int(worker.partition("-")[0])]
            if report["asked"] > login.signed_in_at:
                self._lost(login, f"{report['error']}: {report['message']}")

    def _lost(self, login: Login, message: str) -> None:
        gone = anyio.run(login.oauth.status).status == "unauthenticated"
        if not gone and self._ledger.end_of(login.grant) is None:
            self._wrong.append(f"a living login was reported as lost: {message}")
            return
        unavoidable, cause = self._accounts.cause(login.grant)
        allowed = unavoidable and self._plan.rules == "strict"
        self._losses.append(Loss(login.number, time.time(), allowed, cause))
        self._sign_in(login)

    def _refresh_once_more(self, login: Login) -> None:
        """At the end, without faults: whoever is signed in can go on."""
        try:
            anyio.run(login.oauth.refresh)
        except (NotSignedIn, SignInRequired) as error:
            self._lost(login, f"{type(error).__name__}: {error.message}")

    def _report(self, seconds: float) -> Report:
        accounts: dict[str, Any] = {
            "seconds": seconds,
            "expiries": self._accounts.expiries(time.time()),
            "refreshes": sum(one.status == 200 for one in self._ledger.refreshes),
            "kills": len(self._killed),
            "faults": self._ledger.faults,
            "served": len(self._journals.handed),
            "refused": self._accounts.refusals(),
            "passing": self._journals.passing,
            "reads": self._watcher.reads,
            "torn": self._watcher.torn,
            "losses": self._losses,
            "wrong": [*self._wrong, *self._journals.wrong],
        }
        if self._plan.faults >= 0.1 and accounts["refreshes"] >= ENOUGH and not self._ledger.failed_answers():
            accounts["wrong"].append("no answer was made to fail, of all that were to: the run has proved nothing")
        return Report(**accounts)


def run(plan: Plan) -> Report:
    """Carry out a plan, in a folder that is gone afterwards."""
    options = SandboxOptions(
        reuse=plan.rules,
        access_token_lifetime=plan.lifetime,
        access_token_survives_refresh=plan.rules == "notion",
    )
    with _silent("uvicorn.error"), tempfile.TemporaryDirectory() as folder, serve_sandbox(options) as sandbox:
        return Runner(plan, sandbox, Path(folder)).run()


@contextmanager
def _silent(name: str) -> Iterator[None]:
    """Leave out what a logger tells of each answer that is cut; others may want it afterwards."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
