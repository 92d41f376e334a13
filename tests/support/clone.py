"""A directory that looks like a clone, in which commands run as a user types them, with this environment's packages."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.support import consenting_browser
from tests.support.paths import ROOT

FILES = ("cli.py", "main.py", "requirements.lock", "pyproject.toml", "README.md")
DIRECTORIES = ("examples", "deploy")


@dataclass
class Clone:
    """The repository's files and its environment. `notion-oauth` is on the PATH, as after `uv tool install`."""

    directory: Path
    home: Path
    server_url: str
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith("COV")}
        log = self.home / "browser.log"
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "BROWSER": f"{sys.executable} -I {consenting_browser.__file__} %s {log}",
            "HOME": str(self.home),
            "XDG_DATA_HOME": os.environ["XDG_DATA_HOME"],  # that of this process, so that both have the same login
            "UV_NO_SYNC": "1",
            "UV_OFFLINE": "1",
            "NOTION_OAUTH_SERVER_URL": self.server_url,
            **self.variables,
        }

    @property
    def oauth(self) -> NotionOAuth:
        """The login of the library and of `notion-oauth`."""
        return NotionOAuth(Settings(server_url=self.server_url, timeout=5.0, retry_for=0))

    def run(self, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command line of a shell."""
        with self.start(command, **variables) as process:
            try:
                out, err = process.communicate(timeout=300)
            finally:  # what it has left in the background
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def start(self, command: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["/bin/sh", "-euc", command],
            cwd=self.directory,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@pytest.fixture
def clone(settings: Settings, tmp_path: Path) -> Clone:
    directory, home = tmp_path / "clone", tmp_path / "home"
    directory.mkdir()
    home.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, directory)
    for name in DIRECTORIES:
        shutil.copytree(ROOT / name, directory / name)
    (directory / ".venv").symlink_to(sys.prefix)
    return Clone(directory, home, settings.server_url)
