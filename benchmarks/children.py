"""How the runner speaks to a subject's process: one command as an argument, one line of JSON back."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.environments import Ready, child_environment

PATIENCE = 300  # seconds for one command


class SubjectFailed(Exception):
    """A subject's process ended without a result."""


def run(subject: Ready, folder: Path, **command: Any) -> dict[str, Any]:
    """Let a new process carry out one command, in an empty folder of its own."""
    return Child(subject, folder, **command).result()


def measure(module: str, patience: float, **command: Any) -> Any:
    """Let a new process of this project carry out one command, within so many seconds.

    Raises RuntimeError with the last line of what it says where it fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(command)],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no result"])[-1])
    return json.loads(done.stdout)


class Child:
    """A subject's process at work. With `together` it says when it is ready and waits for `go`."""

    def __init__(self, subject: Ready, folder: Path, **command: Any) -> None:
        self._process = subprocess.Popen(
            [subject.python, "-m", subject.module, json.dumps(command, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=child_environment(),
        )

    def wait_until_ready(self) -> None:
        """Return when it has loaded all it needs. One that has failed by now is told of by `result`."""
        if self._process.stdout is not None:
            self._process.stdout.readline()

    def go(self) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended: `result` tells how
                self._process.stdin.write("go\n")
                self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """What it measured. Raises SubjectFailed, with the kind of the error and never what it held."""
        try:
            out, err = self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise SubjectFailed(f"no result within {PATIENCE} seconds") from None
        if self._process.returncode != 0 or not out.strip():
            last = (err.strip().splitlines() or ["no result"])[-1]
            raise SubjectFailed(last.partition(":")[0])
        found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return found
