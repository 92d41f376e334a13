"""The command line in processes of its own, and a browser that agrees to everything."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from notion_oauth.cli.main import app
from notion_oauth.settings import Settings
from tests.support.paths import ROOT

AGREE = """
import sys, httpx
with open(sys.argv[2], "a") as log: print(sys.argv[1], file=log)
page = httpx.get(sys.argv[1], follow_redirects=True, trust_env=False)
with open(sys.argv[2], "a") as log: print(page.status_code, page.text.replace(chr(10), " "), file=log)
"""


OF_THEIR_OWN = {"login", "run", "sandbox", "demo"}  # commands that start other programs, servers or threads


@dataclass
class CommandLine:
    """Runs `python cli.py …` in the test's folder, with nothing but the given environment.

    `process` starts a process, which takes a second; `run` does so where it matters, and else runs the same
    command in this one.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "cli.py"), *arguments],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] in OF_THEIR_OWN:
            return self.process(*arguments, **environment)
        with contextlib.chdir(self.folder), patch.object(sys, "argv", [str(ROOT / "cli.py")]):
            done = CliRunner().invoke(app, arguments, env={**self.environment, **environment})
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    def process(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, **environment) as process:
            try:
                out, err = process.communicate(timeout=60)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[], list[str]]:
    """What the browser was asked to open and what it was shown, a line each."""
    log = tmp_path / "browser.log"
    return lambda: log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def browser_command(tmp_path: Path) -> str:
    script = tmp_path / "agree.py"
    script.write_text(AGREE)
    return f"{sys.executable} {script} %s {tmp_path / 'browser.log'}"


@pytest.fixture
def cli(settings: Settings, tmp_path: Path, browser_command: str) -> CommandLine:
    # Compiled modules may be written: without them each process compiles all it imports, for seconds
    kept = {name: value for name, value in os.environ.items() if name.startswith(("COV", "PATH", "HOME"))}
    folder = tmp_path / "work"
    folder.mkdir()
    return CommandLine(
        folder,
        {
            **kept,
            "NOTION_OAUTH_SERVER_URL": settings.server_url,
            "BROWSER": browser_command,
            "COLUMNS": "200",
            "TERM": "dumb",
        },
    )
