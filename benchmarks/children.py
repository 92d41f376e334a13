"""Communication with a subject's process: one command as an argument, one line of JSON as the result."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.environments import Installed, child_environment

TIME_LIMIT = 300  # seconds for one command


class SubjectFailed(Exception):
    """A subject's process ended without a result."""


def run(subject: Installed, directory: Path, **command: Any) -> dict[str, Any]:
    """Run one command in a new process, in a new empty directory."""
    return Child(subject, directory, **command).result()


def measure(module: str, time_limit: float, **command: Any) -> Any:
    """Run one command in a new process of this project, within a time limit in seconds.

    Raises RuntimeError with the last line of its output if it fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(command)],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=time_limit,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no result"])[-1])
    return json.loads(done.stdout)


class Child:
    """A running process of a subject. With `together`, it reports when it is ready and waits for `go`."""

    def __init__(self, subject: Installed, directory: Path, **command: Any) -> None:
        self._process = subprocess.Popen(
            [subject.python, "-m", subject.module, json.dumps(command, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
            env=child_environment(),
        )

    def wait_until_ready(self) -> None:
        """Return when the process has loaded everything. If it has failed, `result` raises the error."""
        if self._process.stdout is not None:
            self._process.stdout.readline()

    def go(self) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended: `result` raises the error
                self._process.stdin.write("go\n")
                self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """The measurement. Raises SubjectFailed with the type of the error, never with its content."""
        try:
            out, err = self._process.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise SubjectFailed(f"no result within {TIME_LIMIT} seconds") from None
        if self._process.returncode != 0 or not out.strip():
            last = (err.strip().splitlines() or ["no result"])[-1]
            raise SubjectFailed(last.partition(":")[0])
        result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return result
