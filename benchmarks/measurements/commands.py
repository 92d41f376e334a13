"""The wall time of the commands that scripts call most, over that of a command that does nothing."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.environments import ROOT, child_environment
from benchmarks.logins import FRESH, sign_in
from benchmarks.measurements.context import Context
from benchmarks.tables import Table, milliseconds, times
from notion_oauth.sandbox import serve_sandbox

EMPTY = "an empty Typer command"


def measure(context: Context) -> Iterator[Table]:
    rounds = context.choose(5, 21)
    table = Table(
        "The command line",
        f"Wall time of a new process with a valid token stored and modules compiled; medians of {rounds} alternating"
        " runs.",
        ("Command", "Wall time", "Over an empty command", "Ratio"),
    )
    commands = {
        EMPTY: [str(ROOT / "benchmarks" / "empty_command.py")],
        "`python cli.py token`": [str(ROOT / "cli.py"), "token"],
        "`python cli.py status`": [str(ROOT / "cli.py"), "status"],
    }
    directory = context.new_directory()
    with serve_sandbox() as sandbox:
        login = sign_in(sandbox, directory / "tokens.json", left=FRESH)
        environment = {
            **child_environment(),
            "NOTION_OAUTH_SERVER_URL": sandbox.mcp_url,
            "NOTION_OAUTH_TOKEN_FILE": str(login),
        }
        seconds_of: dict[str, list[float]] = {name: [] for name in commands}
        for name, command in commands.items():  # compiles modules
            _wall_time(command, directory, environment, name)
        for _ in range(rounds):
            for name, command in commands.items():
                seconds_of[name].append(_wall_time(command, directory, environment, name))
    empty = statistics.median(seconds_of[EMPTY])
    for name, seconds in seconds_of.items():
        median = statistics.median(seconds)
        table.add(name, milliseconds(median), milliseconds(median - empty), times(median / empty))
    yield table


def _wall_time(command: list[str], directory: Path, environment: Mapping[str, str], name: str) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=directory, env=environment, capture_output=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(f"{name} ended with code {done.returncode}")
    return seconds
