"""The command line, in this process or in another, and a browser that consents to everything."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from notion_oauth.cli.main import app
from notion_oauth.interactive.browser import Browser
from notion_oauth.settings import Settings
from tests.support import consenting_browser
from tests.support.consenting_browser import visit
from tests.support.paths import ROOT

PROGRAMS = Path(sys.executable).parent
PROCESSES = {"run", "sandbox", "demo"}  # commands that replace this program, or serve until they are stopped


@dataclass
class CommandLine:
    """Runs `python cli.py …` in the test directory, which is a clone, with only the configured environment.

    `process` starts a process, which takes up to a second, and the browser in two more. `run` runs the same
    command in this process if it can, with a browser in a thread.
    """

    clone: Path | None  # None: the installed command
    directory: Path  # the working directory
    browser_log: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def program(self) -> Path:
        """The clone's `cli.py`, or the installed command."""
        return PROGRAMS / "notion-oauth" if self.clone is None else self.clone / "cli.py"

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.program), *arguments],
            cwd=self.directory,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        if arguments[0] in PROCESSES:
            return self.process(*arguments, **environment)

        def visit_in_thread(browser: Browser, url: str) -> bool:
            visit(url, self.browser_log)
            return True

        with (
            contextlib.chdir(self.directory),
            patch.object(sys, "argv", [str(self.program)]),
            patch.object(Browser, "open", visit_in_thread),
        ):
            done = CliRunner().invoke(app, arguments, obj=self.clone, env={**self.environment, **environment})
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
def opened(cli: CommandLine) -> Callable[[], list[str]]:
    """Each address that the browser opened and the page that it got, one per line."""
    return lambda: cli.browser_log.read_text().splitlines() if cli.browser_log.exists() else []


@pytest.fixture
def cli(settings: Settings, tmp_path: Path) -> CommandLine:
    # Compiled modules may be written: without them each process compiles all it imports, for seconds
    variables = {name: value for name, value in os.environ.items() if name.startswith(("COV", "PATH", "HOME", "XDG"))}
    directory = tmp_path / "work"
    directory.mkdir()
    shutil.copy(ROOT / "cli.py", directory)
    log = tmp_path / "browser.log"
    return CommandLine(
        directory,
        directory,
        log,
        {
            **variables,
            "NOTION_OAUTH_SERVER_URL": settings.server_url,
            "BROWSER": f"{sys.executable} -I {consenting_browser.__file__} %s {log}",
            "COLUMNS": "200",
            "TERM": "dumb",
        },
    )
