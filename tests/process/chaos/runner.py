"""Starts workers, disrupts them, signs in again after a lost login, and collects the results."""

from __future__ import annotations

import logging
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio

from notion_oauth.errors import NotSignedIn, SignInRequired
from notion_oauth.sandbox import Sandbox, SandboxOptions, serve_sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.process.chaos.analysis import Analysis, Loss
from tests.process.chaos.disruptions import KINDS, Disks, Disruptions, Login
from tests.process.chaos.file_watcher import FileWatcher
from tests.process.chaos.machine_clock import machine_clock
from tests.process.chaos.report import Report
from tests.process.chaos.server_events import FAULTS, ServerEvents
from tests.process.chaos.worker_events import WorkerEvents
from tests.support.paths import ROOT
from tests.support.signing_in import sign_in

ENOUGH = 20  # of this number of refreshes, at least one must have been made to fail
# Workers may write compiled modules; otherwise each one compiles its imports for seconds
REMOVED = ("NOTION_OAUTH_", "COV", "PYTHONDONTWRITEBYTECODE")
STEP = 0.05  # seconds between two reads of the events


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of a run. Times are in seconds."""

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
    lock_wait: float = 8  # longer than two refreshes that are refused and repeated hold the lock
    disrupt_every: float = 1
    end_every: float = 4


class Runner:
    def __init__(self, plan: Plan, sandbox: Sandbox, directory: Path, disks: Disks) -> None:
        self._plan, self._sandbox, self._directory, self._disks = plan, sandbox, directory, disks
        self._rng = random.Random(plan.seed)  # noqa: S311 - no secret
        faults = random.Random(f"{plan.seed} faults")  # noqa: S311 - used in the server's thread
        self._server_events = ServerEvents(sandbox, faults, plan.faults, plan.timeout)
        self._worker_events = WorkerEvents(directory)
        self._logins = [self._login(number) for number in range(plan.logins)]
        self._watcher = FileWatcher([login.file for login in self._logins], self._may_be_missing, directory / "scratch")
        self._disruptions = Disruptions(
            self._logins,
            self._server_events,
            self._watcher,
            seed=plan.seed,
            stops=(plan.timeout / 2, plan.timeout * 1.5, plan.timeout * 3, plan.lock_wait * 1.2),
            kinds=tuple(kind for kind in KINDS if kind != "disk full" or not disks.skipped),
            is_ready=lambda worker: worker in self._worker_events.ready,
        )
        self._server_events.on_refresh = self._disruptions.on_refresh
        self._analysis = Analysis(
            self._server_events, self._worker_events, self._watcher, self._disruptions, plan.timeout, plan.lock_wait
        )
        self._losses: list[Loss] = []
        self._errors: list[str] = []
        self._started = 0

    def _login(self, number: int) -> Login:
        file = self._directory / f"login-{number}" / ".notion-tokens.json"
        settings = Settings(server_url=self._sandbox.mcp_url, token_file=file, timeout=10.0)
        clock = self._directory / f"login-{number}.clock"
        clock.write_text("0.0")
        return Login(number, NotionOAuth(settings, clock=machine_clock(clock)), file, clock)

    def run(self) -> Report:
        started = time.time()
        for login in self._logins:
            self._sign_in(login)
        try:
            with self._watcher:
                with self._disruptions.targeting():
                    self._until_done(started)
                for login in self._logins:
                    self._stop(login)
                self._read_reports()
                for login in self._logins:
                    self._refresh_once_more(login)
        finally:
            for login in self._logins:
                for process in login.workers.values():
                    process.kill()
                    process.communicate()
        self._worker_events.read()
        return self._report(started)

    def _until_done(self, started: float) -> None:
        next_disruption = next_end = started + 2  # the first workers have started then
        while (now := time.time()) < started + self._plan.seconds:
            for login in self._logins:
                self._start_missing(login)
            time.sleep(STEP)
            self._read_reports()
            self._disruptions.end_due()
            if now >= next_disruption and self._worker_events.ready:
                next_disruption = now + self._rng.expovariate(1 / self._plan.disrupt_every)
                self._disruptions.cause_one()
            if now >= next_end:
                next_end = now + self._rng.expovariate(1 / self._plan.end_every)
                self._server_events.end_tokens_early()
            if self._plan.expiries < math.inf and self._everything_has_happened(now):
                return

    def _everything_has_happened(self, now: float) -> bool:
        return (
            self._analysis.expiries(now) >= self._plan.expiries
            and self._disruptions.counts().keys() >= self._disruptions.kinds
            and self._server_events.faults.keys() >= set(FAULTS)
        )

    # The workers

    def _start_missing(self, login: Login) -> None:
        """Replace the workers that have ended."""
        for name, process in list(login.workers.items()):
            if process.poll() is not None:
                process.communicate()
                del login.workers[name]
                if name not in self._disruptions.killed:
                    self._errors.append(f"worker {name} ended without being killed")
        while len(login.workers) < self._plan.processes:
            name = f"{login.number}-{self._started}"
            self._started += 1
            login.workers[name] = self._start(login, name)

    def _start(self, login: Login, name: str) -> subprocess.Popen[bytes]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(REMOVED)}
        environment = {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "NOTION_OAUTH_SERVER_URL": self._sandbox.mcp_url,
            "NOTION_OAUTH_TOKEN_FILE": str(login.file),
            "NOTION_OAUTH_TIMEOUT": str(self._plan.timeout),
            "NOTION_OAUTH_RETRY_FOR": "5",
        }
        arguments = [name, self._directory / f"{name}.events", self._plan.tasks, self._plan.seed, login.clock]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.process.chaos.worker", *map(str, [*arguments, self._plan.lock_wait])],
            env=environment,
            cwd=self._directory,
            stdin=subprocess.PIPE,
        )

    def _stop(self, login: Login) -> None:
        """Let the workers end."""
        self._disruptions.end_due(login)
        for process in login.workers.values():
            assert process.stdin is not None
            process.stdin.close()
        for name, process in login.workers.items():
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                self._errors.append(f"worker {name} did not stop")
            else:
                if code and name not in self._disruptions.killed:
                    self._errors.append(f"worker {name} ended with {code}")

    # Logins

    def _sign_in(self, login: Login) -> None:
        stored = anyio.run(sign_in, login.oauth)
        login.grant = stored.access_token.get_secret_value().split(":")[1]
        login.signed_in_at = time.time()

    def _may_be_missing(self, file: Path) -> bool:
        login = next(login for login in self._logins if login.file == file)
        return self._server_events.end_of(login.grant) is not None

    def _read_reports(self) -> None:
        for worker, report in self._worker_events.read():
            login = self._logins[int(worker.partition("-")[0])]
            if report["requested"] > login.signed_in_at:
                self._record_loss(login, f"{report['error']}: {report['message']}")

    def _record_loss(self, login: Login, message: str) -> None:
        signed_out = anyio.run(login.oauth.status).status == "unauthenticated"
        if not signed_out and self._server_events.end_of(login.grant) is None:
            self._errors.append(f"a live login was reported as lost: {message}")
            return
        unavoidable, cause = self._analysis.cause(login.number, login.grant)
        accepted = unavoidable and self._plan.rules == "strict"
        record = self._analysis.record(login.number, login.grant, brief=accepted)
        self._losses.append(Loss(login.number, time.time(), accepted, cause, record))
        with self._disruptions.none_of(login):
            self._sign_in(login)

    def _refresh_once_more(self, login: Login) -> None:
        """At the end, without faults: each login must still work."""
        try:
            anyio.run(login.oauth.refresh)
        except (NotSignedIn, SignInRequired) as error:
            self._record_loss(login, f"{type(error).__name__}: {error.message}")

    def _report(self, started: float) -> Report:
        results: dict[str, Any] = {
            "seconds": time.time() - started,
            "started": started,
            "expiries": self._analysis.expiries(time.time()),
            "refreshes": sum(each.status == 200 for each in self._server_events.refreshes),
            "disruptions": self._disruptions.counts(),
            "skipped": self._disks.skipped,
            "faults": self._server_events.faults,
            "received": len(self._worker_events.received),
            "refused": self._analysis.refusals(),
            "transient": self._worker_events.transient,
            "storage": len(self._worker_events.storage),
            "busy": len(self._worker_events.busy),
            "reads": self._watcher.reads,
            "torn": self._watcher.torn,
            "losses": self._losses,
            "errors": [*self._errors, *self._worker_events.errors, *self._analysis.unexpected_problems()],
        }
        if self._plan.faults >= 0.1 and results["refreshes"] >= ENOUGH and not self._server_events.failed_responses():
            results["errors"].append("no response was made to fail: the run has proved nothing")
        return Report(**results)


def run(plan: Plan) -> Report:
    """Run a plan in a temporary directory."""
    options = SandboxOptions(
        reuse=plan.rules,
        access_token_lifetime=plan.lifetime,
        access_token_survives_refresh=plan.rules == "notion",
    )
    with (
        silent("uvicorn.error"),
        tempfile.TemporaryDirectory() as directory,
        Disks([Path(directory) / f"login-{number}" for number in range(plan.logins)]) as disks,
        serve_sandbox(options) as sandbox,
    ):
        return Runner(plan, sandbox, Path(directory), disks).run()


@contextmanager
def silent(name: str) -> Iterator[None]:
    """Silence a logger, which would log each interrupted response, during the block."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
