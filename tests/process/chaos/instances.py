"""Many logins in PostgreSQL, several instances, and failures: `python -m tests.process.chaos.instances`.

Instances are killed and stopped, connections are terminated, PostgreSQL is stopped hard, and requests and responses
are lost or late. The run ends with 1 if a login is lost, or if a token is wrong or stale. A strict server ends a login
when a refresh token is used twice: with its rules, nothing happens that no client could survive.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
from pydantic import SecretStr

from notion_oauth.errors import NotSignedIn, SignInRequired
from notion_oauth.files.encryption import Encryption, new_key
from notion_oauth.sandbox import Sandbox, SandboxOptions, serve_sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.stores.postgresql import PostgresqlDatabase
from notion_oauth.stores.sql_documents import DatabaseStore
from tests.process.chaos.deck import Deck
from tests.process.chaos.runner import REMOVED, STEP, silent
from tests.process.chaos.server_events import FAULTS, Access, Fault, Refresh, ServerEvents
from tests.process.chaos.worker_events import new_events
from tests.support.databases import Postgresql, run_postgresql
from tests.support.paths import ROOT
from tests.support.signing_in import sign_in

INSTANCES = 3
TOLERANCE = 0.05  # seconds between the clocks of the server and of an instance
KINDS = {
    "notion": (
        *("killed", "killed in a refresh", "killed after a refresh", "stopped", "stopped past its lease"),
        *("stopped in a refresh", "connections terminated", "PostgreSQL stopped hard"),
    ),
    "strict": ("stopped", "connections terminated", "PostgreSQL stopped hard"),
}
NOT_PROCESSED: tuple[Fault, ...] = ("dropped", "garbled", "429", "503")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of a run. Times are in seconds."""

    expiries: int = 10_000
    seconds: float = 900
    logins: int = 160
    tasks: int = 14  # in each instance
    seed: int = 0
    rules: Literal["notion", "strict"] = "notion"
    faults: float = 0.1  # of the refreshes
    lifetime: float = 8
    disrupt_every: float = 4

    @property
    def timeout(self) -> float:
        return 2 if self.rules == "notion" else 8

    @property
    def lease(self) -> float:
        return 6 if self.rules == "notion" else 25


@dataclass
class Login:
    oauth: NotionOAuth
    grants: list[str] = field(default_factory=list)
    signed_in_at: float = 0


@dataclass
class Results:
    """What happened. `failures` must be empty."""

    seconds: float = 0
    expiries: int = 0
    refreshes: int = 0
    refreshed: int = 0
    uses: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    disruptions: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    lost: int = 0

    def __str__(self) -> str:
        per_expiry = self.refreshes / max(1, self.expiries)
        rows: list[tuple[str, object]] = [
            ("seconds", f"{self.seconds:.0f}"),
            ("expiries (tokens that were replaced)", self.expiries),
            ("refreshes sent", self.refreshes),
            ("    per expiry", f"{per_expiry:.3f}"),
            ("    that the server processed, per expiry", f"{self.refreshed / max(1, self.expiries):.3f}"),
            ("disruptions", self.disruptions.total()),
            *((f"    {kind}", count) for kind, count in sorted(self.disruptions.items())),
            ("faults of the server", self.faults.total()),
            *((f"    {kind}", count) for kind, count in sorted(self.faults.items())),
            ("uses of tokens", self.uses),
            *((f"    {kind}", count) for kind, count in sorted(self.refused.items())),
            ("requests for a token that failed", self.failed.total()),
            *((f"    {kind}", count) for kind, count in sorted(self.failed.items())),
            ("logins lost", self.lost),
        ]
        width = max(len(name) for name, _ in rows)
        table = [f"{name:<{width}}  {value:>8}" for name, value in rows]
        return "\n".join([*table, *(f"FAILED: {failure}" for failure in self.failures)])


class Run:
    def __init__(self, plan: Plan, sandbox: Sandbox, postgresql: Postgresql, directory: Path) -> None:
        self._plan, self._sandbox, self._postgresql, self._directory = plan, sandbox, postgresql, directory
        self._rng = random.Random(plan.seed)  # noqa: S311 - no secret
        self._deck = Deck(KINDS[plan.rules], self._rng)
        faults = random.Random(f"{plan.seed} faults")  # noqa: S311 - used in the server's thread
        kinds = FAULTS if plan.rules == "notion" else NOT_PROCESSED
        self._events = ServerEvents(sandbox, faults, plan.faults, plan.timeout, kinds=kinds)
        self._events.on_refresh = self._on_refresh
        self._key = SecretStr(new_key())
        settings = Settings(server_url=sandbox.mcp_url, database_url=postgresql.url, timeout=10, retry_for=20)
        store = DatabaseStore(PostgresqlDatabase(postgresql.url), encryption=Encryption(self._key))
        self._logins = [
            Login(NotionOAuth(settings, store=store, profile=f"user-{number}")) for number in range(plan.logins)
        ]
        self._instances: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0
        self._ends: list[tuple[float, str]] = []  # when an instance that is stopped goes on
        self._target: Literal["killed in a refresh", "killed after a refresh", "stopped in a refresh"] | None = None
        self._killed: set[str] = set()
        self._offsets: dict[Path, int] = {}
        self._ready: set[str] = set()
        self._uses: list[dict[str, Any]] = []
        self.results = Results()

    def run(self) -> Results:
        for login in self._logins:
            self._sign_in(login)
        started = time.time()
        try:
            self._until_done(started)
            self._end_instances()
            self._read_events()
            for number, login in enumerate(self._logins):
                self._refresh_once_more(number, login)
        finally:
            for process in self._instances.values():
                process.kill()
                process.communicate()
        self._evaluate(started)
        return self.results

    def _until_done(self, started: float) -> None:
        next_disruption = started + 3
        while time.time() < started + self._plan.seconds:
            self._start_missing()
            time.sleep(STEP)
            self._read_events()
            self._continue_stopped()
            now = time.time()
            if now >= next_disruption and len(self._ready & self._instances.keys()) == INSTANCES:
                next_disruption = now + self._rng.expovariate(1 / self._plan.disrupt_every)
                self._disrupt(self._deck.draw())
            happened = self.results.disruptions.keys() >= set(KINDS[self._plan.rules])
            if happened and self._expiries() >= self._plan.expiries:
                return

    def _expiries(self) -> int:
        """How many tokens instances had to replace: each has a refresh token, which may be sent several times."""
        return len({each.used for each in self._events.refreshes if each.sender})

    # Instances

    def _start_missing(self) -> None:
        for name, process in list(self._instances.items()):
            if process.poll() is not None:
                process.communicate()
                del self._instances[name]
                if name not in self._killed:
                    self.results.failures.append(f"instance {name} ended with {process.returncode}")
        while len(self._instances) < INSTANCES:
            self._started += 1
            name, plan = f"instance{self._started}", self._plan
            arguments = [name, self._directory / f"{name}.events", plan.logins, plan.tasks, plan.seed, plan.lease]
            self._instances[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.process.chaos.instance", *map(str, arguments)],
                env={
                    **{key: value for key, value in os.environ.items() if not key.startswith(REMOVED)},
                    "PYTHONPATH": str(ROOT),
                    "NOTION_OAUTH_SERVER_URL": self._sandbox.mcp_url,
                    "NOTION_OAUTH_DATABASE_URL": self._postgresql.url,
                    "NOTION_OAUTH_ENCRYPTION_KEY": self._key.get_secret_value(),  # as on a public URL
                    "NOTION_OAUTH_TIMEOUT": str(plan.timeout),
                    "NOTION_OAUTH_RETRY_FOR": "5",
                },
                cwd=self._directory,
                stdin=subprocess.PIPE,
            )

    def _end_instances(self) -> None:
        self._target = None
        self._events.rate = 0
        self._continue_stopped(all_of_them=True)
        for process in self._instances.values():
            assert process.stdin is not None
            process.stdin.close()
        for name, process in self._instances.items():
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                code = -1
            if code and name not in self._killed:
                self.results.failures.append(f"instance {name} did not end, or ended with {code}")
        self._instances.clear()

    def _continue_stopped(self, *, all_of_them: bool = False) -> None:
        due = [end for end in self._ends if all_of_them or end[0] <= time.time()]
        for end in due:
            self._ends.remove(end)
            self._signal(end[1], signal.SIGCONT)

    def _signal(self, name: str, number: signal.Signals) -> None:
        if (process := self._instances.get(name)) is not None:
            process.send_signal(number)

    # Disruptions

    def _disrupt(self, kind: str) -> None:
        stopped = {name for _, name in self._ends}
        running = sorted(self._ready & self._instances.keys() - stopped)
        if kind in ("killed in a refresh", "killed after a refresh", "stopped in a refresh"):
            self._target = kind  # type: ignore[assignment]
            return  # it counts when it happens
        if kind == "connections terminated":
            self._postgresql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            )
        elif kind == "PostgreSQL stopped hard":
            self._postgresql.stop("immediate")
            time.sleep(self._rng.uniform(0.2, 3))
            self._postgresql.start()
        elif not running:
            return
        elif kind == "killed":
            self._kill(self._rng.choice(running))
        else:
            share = self._rng.uniform(1.1, 1.6) if kind == "stopped past its lease" else self._rng.uniform(0.05, 0.2)
            self._stop(self._rng.choice(running), share * self._plan.lease)
        self.results.disruptions[kind] += 1

    def _kill(self, name: str) -> None:
        self._killed.add(name)
        self._signal(name, signal.SIGKILL)

    def _stop(self, name: str, seconds: float) -> None:
        self._ends.append((time.time() + seconds, name))
        self._signal(name, signal.SIGSTOP)

    def _on_refresh(self, refresh: Refresh) -> None:
        """Disrupt the sender, in the server's thread: before or after the server has processed its request."""
        kind, name = self._target, refresh.sender.partition(".")[0]
        if kind is None or name not in self._instances or any(name == stopped for _, stopped in self._ends):
            return
        self._target = None
        if kind == "killed in a refresh":
            self._kill(name)
        elif kind == "killed after a refresh":
            if refresh.fault is not None:
                self._target = kind
                return
            self._sandbox.misbehave_next("/token", "slow", seconds=0.3)
            threading.Timer(0.15, self._kill, [name]).start()
        else:
            self._stop(name, self._rng.uniform(1.1, 1.6) * self._plan.lease)
        self.results.disruptions[kind] += 1

    # Logins

    def _sign_in(self, login: Login) -> None:
        stored = anyio.run(sign_in, login.oauth)
        login.grants.append(stored.access_token.get_secret_value().split(":")[1])
        login.signed_in_at = time.time()

    def _refresh_once_more(self, number: int, login: Login) -> None:
        """At the end, without failures: each login must still work."""
        try:
            anyio.run(login.oauth.refresh)
        except (NotSignedIn, SignInRequired) as error:
            self._lost(number, f"{type(error).__name__}: {error}")

    def _lost(self, number: int, message: str) -> None:
        login = self._logins[number]
        ended = self._events.end_of(login.grants[-1])
        why = "the server has not ended it" if ended is None else f"the server said: {ended.why}"
        history = "".join(
            f"\n    {each.sent:.2f} {each.sender or 'runner'} sent {each.used}, {each.fault or 'no fault'}:"
            f" {each.status} {each.why} at {each.done:.2f}, issued {each.issued}"
            for each in self._events.of_grant[login.grants[-1]][-8:]
        )
        self.results.lost += 1
        self.results.failures.append(f"login {number} was lost at {time.time():.2f}: {message} ({why}){history}")
        self._sign_in(login)

    def _read_events(self) -> None:
        for path in self._directory.glob("*.events"):
            for event in new_events(path, self._offsets):
                if event["kind"] == "ready":
                    self._ready.add(path.stem)
                elif event["kind"] == "failed":
                    self.results.failed[event["error"]] += 1
                elif event["kind"] == "used":
                    self._uses.append(event)
                elif event["requested"] > self._logins[event["login"]].signed_in_at:
                    self._lost(event["login"], event["message"])

    # Results

    def _evaluate(self, started: float) -> None:
        results, refreshes = self.results, [each for each in self._events.refreshes if each.sender]
        results.seconds, results.expiries = time.time() - started, self._expiries()
        results.refreshes, results.refreshed = len(refreshes), sum(each.status == 200 for each in refreshes)
        results.uses, results.faults = len(self._uses), self._events.faults
        for use in self._uses:
            if (problem := self._problem(use, self._events.tokens.get(use["token"]))) is not None:
                results.refused[problem] += 1
        for problem in ("wrong", "stale", "refused while valid"):
            if count := results.refused[problem]:
                results.failures.append(f"{count} tokens were {problem}")

    def _problem(self, use: dict[str, Any], token: Access | None) -> str | None:
        if token is None or token.grant not in self._logins[use["login"]].grants:
            return "wrong"
        if token.expires < use["requested"] - TOLERANCE:
            return "stale"
        if use["status"] != 401:
            return None
        return "refused while valid" if use["answered"] < token.expires else "expired on the way"


def run(plan: Plan) -> Results:
    options = SandboxOptions(reuse=plan.rules, access_token_lifetime=plan.lifetime)
    with (
        silent("uvicorn.error"),
        tempfile.TemporaryDirectory() as directory,
        run_postgresql() as postgresql,
        serve_sandbox(options) as sandbox,
    ):
        return Run(plan, sandbox, postgresql, Path(directory)).run()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.process.chaos.instances", description=__doc__)
    add = parser.add_argument
    add(
        "--expiries",
        type=int,
        default=Plan.expiries,
        help="until that many tokens had to be replaced (%(default)s)",
    )
    add("--seconds", type=float, default=Plan.seconds, help="at most (%(default)s)")
    add("--logins", type=int, default=Plan.logins, help="(%(default)s)")
    add("--seed", type=int, default=0, help="of the random numbers (%(default)s)")
    add("--rules", choices=["notion", "strict"], default="notion", help="for reuse of refresh tokens (%(default)s)")
    add("--faults", type=float, default=Plan.faults, help="share of the refreshes that fail (%(default)s)")
    add("--disrupt-every", type=float, default=Plan.disrupt_every, help="seconds, on average (%(default)s)")
    plan = Plan(**vars(parser.parse_args()))
    print(plan, flush=True)
    results = run(plan)
    print(results)
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
