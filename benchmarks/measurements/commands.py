"""The processor time of the commands, over that of a command that does nothing."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import ROOT, Candidate, Skipped, child_environment, prepare
from benchmarks.logins import EXPIRED, FRESH, expire_in, sign_in
from benchmarks.measurements.context import Context
from benchmarks.tables import Table, milliseconds, times
from notion_oauth.sandbox import Sandbox, serve_sandbox

EMPTY = "an empty Typer command"
PROFILES = 3


@dataclass(frozen=True)
class _Command:
    name: str
    arguments: Sequence[str]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class _Cost:
    cpu: float  # seconds
    wall: float


def measure(context: Context) -> Iterator[Table]:
    rounds = context.choose(5, 21)
    table = Table(
        "The command line",
        f"New processes in an environment with this package alone, modules compiled; medians of {rounds} alternating"
        f" runs. The ratio is that of processor time. `profiles` lists {PROFILES} logins, and `run` starts `true`.",
        ("Command", "Processor time", "Ratio", "Wall time"),
    )
    directory = context.new_directory()
    package = Candidate("notion-oauth", "environment", (str(ROOT),), ("notion-oauth",))
    environment = prepare(package, directory)
    if isinstance(environment, Skipped):
        table.add_failed("notion-oauth", environment.reason)
        yield table
        return
    with serve_sandbox() as sandbox:
        variables = {
            **child_environment(),
            "NOTION_OAUTH_SERVER_URL": sandbox.mcp_url,
            "NOTION_OAUTH_TOKEN_FILE": str(directory / "tokens.json"),
        }
        costs: dict[str, list[_Cost]] = {}
        for index in range(rounds + 1):
            for command in _commands(sandbox, directory, str(Path(environment.python).with_name("notion-oauth"))):
                command.prepare()
                cost = _cost([environment.python, *command.arguments], directory, variables, command.name)
                if index:  # the first compiles modules
                    costs.setdefault(command.name, []).append(cost)
    empty = statistics.median(cost.cpu for cost in costs[EMPTY])
    for name, found in costs.items():
        cpu, wall = statistics.median(cost.cpu for cost in found), statistics.median(cost.wall for cost in found)
        table.add(name, milliseconds(cpu), times(cpu / empty), milliseconds(wall))
    yield table


def _commands(sandbox: Sandbox, directory: Path, program: str) -> Iterator[_Command]:
    file = directory / "tokens.json"
    sign_in(sandbox, file, left=FRESH)
    for number in range(1, PROFILES):
        named = directory / f"tokens.json.p{number}.profile"
        if not named.exists():
            named.write_bytes(file.read_bytes())
            named.chmod(0o600)
    yield _Command(EMPTY, [str(ROOT / "benchmarks" / "empty_command.py")])
    for words in ("token", "status", "profiles", "run -- true", "refresh"):
        yield _Command(f"`{words}`", [program, *words.split()])
    yield _Command("`token` that is due", [program, "token"], lambda: expire_in(file, EXPIRED))
    yield _Command("`logout`", [program, "logout"])


def _cost(command: Sequence[str], directory: Path, environment: Mapping[str, str], name: str) -> _Cost:
    started = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=directory, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{name} ended with code {process.returncode}")
    return _Cost(used.ru_utime + used.ru_stime, wall)
