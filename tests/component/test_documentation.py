"""The code in README.md and docs/: every Python example runs against the practice server, every command line parses,
and the token file is as documented. The slow test runs the shell examples. `test_reference_pages` has the tables.
"""

from __future__ import annotations

import base64
import inspect
import os
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient
from typer.testing import CliRunner
from uvicorn.main import main as uvicorn_command

from notion_oauth import JsonFileStore, NotionOAuth, Settings
from notion_oauth.cli.main import app as command_line
from notion_oauth.sandbox import Sandbox
from tests.support.paths import ROOT
from tests.support.signing_in import sign_in
from tests.support.stores import load_login

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = Path(sys.executable).parent
SERVER = "https://mcp.notion.com/mcp"
PRACTICE_SERVER = "http://127.0.0.1:9000/mcp"
SHELLS = ("sh", "console", "powershell")
STARTS = ("uv run python cli.py", "notion-oauth")  # how the documentation spells a command of ours
# Lines that are not run here: they need a person, never end, install packages, or need something of the reader's
NOT_RUN = re.compile(
    r"\b(login|adopt|import|export(?! [A-Z])|migrate|sandbox|uvicorn|pytest|COMMAND|keyring)\b|uv (sync|pip|add|tool)"
    r"|\.ci/run|localhost:8000"
    r"|^NOTION_"
)
OTHER_SHELL = re.compile(r"\$env:|\$token|^\$ ", re.MULTILINE)  # needs PowerShell, or shows output too


@dataclass(frozen=True)
class Block:
    """A block of code in a document."""

    document: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"

    @property
    def script(self) -> str:
        """The lines of a shell block that can be run here; empty if none of them runs a program of ours."""
        if self.language not in SHELLS or OTHER_SHELL.search(self.code):
            return ""
        lines = self.code.replace("\\\n", " ").splitlines()
        kept = [line for line in lines if not NOT_RUN.search(line.partition("#")[0])]
        return "\n".join(kept) if any(start in line for start in STARTS for line in kept) else ""

    @property
    def commands(self) -> list[list[str]]:
        """The words of each of our own commands in a shell block, without the program's name."""
        text = self.code.replace("\\\n", " ")
        found = re.findall(rf"(?:^|&& |\(|= )(?:\$ )?(?:{'|'.join(STARTS)})(?![.\w-])([^|)\n]*)", text, re.MULTILINE)
        return [shlex.split(line.strip('"'), comments=True) for line in found]


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        text = document.read_text()
        for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield Block(document, text.count("\n", 0, found.start()) + 1, found[1], found[2])


BLOCKS = list(blocks())
PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language in SHELLS]
RUN = [block for block in SHELL if block.script]
UVICORN = re.compile(r"^(?:uv run )?(uvicorn .*)$", re.MULTILINE)


@pytest.fixture
def signed_in(sandbox: Sandbox, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of the environment mean the practice server, with a login in two profiles."""
    monkeypatch.setenv("NOTION_OAUTH_SERVER_URL", sandbox.mcp_url)
    monkeypatch.setenv("NOTION_OAUTH_TOKEN_FILE", str(settings.token_file))
    for profile in ("default", "work"):
        anyio.run(sign_in, NotionOAuth(settings, profile=profile))
    return settings


@pytest.mark.parametrize("example", PYTHON, ids=str)
def test_python_example_runs(example: Block, signed_in: Settings) -> None:
    names: dict[str, Any] = {"__name__": "__example__"}
    exec(example.code.replace(SERVER, signed_in.server_url), names)  # noqa: S102 - our own documentation
    for function in [value for name, value in names.items() if name in ("main", "workspace")]:
        assert isinstance(function, FunctionType)
        keys = (
            [SecretStr(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())]
            if inspect.signature(function).parameters
            else []
        )
        anyio.run(function, *keys)
    if isinstance(names.get("app"), FastAPI):
        _ask(names["app"], has_users="profile" in names)


def _ask(app: FastAPI, *, has_users: bool) -> None:
    """Ask each route of an example's application that needs no form."""
    paths = set(app.openapi()["paths"])
    assert paths & {"/auth/status", "/pages"}
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        if "/auth/status" in paths:
            answer = client.get("/auth/status")
            expected = (401, None) if has_users else (200, "authenticated")
            assert (answer.status_code, answer.json().get("status")) == expected
        if "/pages" in paths:
            assert client.get("/pages").json()["length"] > 0


def test_examples_of_all_kinds_are_found() -> None:
    assert len(PYTHON) > 8
    assert len(RUN) > 3
    assert sum(len(block.commands) for block in SHELL) > 30


@pytest.mark.parametrize("block", [block for block in SHELL if block.commands], ids=str)
def test_commands_in_the_documentation_exist_with_their_options(block: Block) -> None:
    for words in [words for words in block.commands if words != ["--version"]]:
        at = next(place for place, word in enumerate(words, 1) if not word.startswith("-"))  # after the command's name
        done = CliRunner().invoke(command_line, [*words[:at], "--help", *words[at:]])
        assert done.exit_code == 0, f"{words}: {done.output}"
        assert "Example" in done.output


@pytest.mark.parametrize("block", [block for block in SHELL if UVICORN.search(block.code)], ids=str)
def test_uvicorn_commands_in_the_documentation_parse(block: Block) -> None:
    for command in UVICORN.findall(block.code):
        options = uvicorn_command.make_context("uvicorn", shlex.split(command, comments=True)[1:]).params
        assert options["app"] in ("main:app", "notion_oauth.app:create_app")


@pytest.mark.anyio
@pytest.mark.parametrize("block", [block for block in BLOCKS if 'access_token":' in block.code], ids=str)
async def test_documented_token_file_is_a_login(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(block.code)
    tokens = await load_login(JsonFileStore(path), "default")
    assert tokens is not None
    assert tokens.access_token.get_secret_value() == "secret_xyz"
    assert tokens.client is not None
    assert tokens.client.client_id == "dynamic_id_123"
    assert tokens.expires_at is not None
    assert tokens.expires_at.timestamp() == 1707734160 + 3600


@pytest.mark.slow
@pytest.mark.parametrize("block", RUN, ids=str)
def test_shell_example_runs(block: Block, signed_in: Settings, tmp_path: Path) -> None:
    """In a directory that looks like a clone; `uv run` is the environment that runs the tests."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "uv").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (programs / "uv").chmod(0o755)
    for name in ("cli.py", "main.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".curlrc").write_text("fail\n")  # an HTTP error is an error
    environment = os.environ | {"HOME": str(tmp_path), "PATH": f"{programs}:{PROGRAMS}:{os.environ['PATH']}"}
    script = re.sub(r"NOTION_OAUTH_TOKEN_FILE=\S+", "", block.script)  # the login is where the fixture put it
    script = script.replace(SERVER, signed_in.server_url).replace(PRACTICE_SERVER, signed_in.server_url)
    done = subprocess.run(
        ["/bin/sh", "-eu", "-c", script],
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
