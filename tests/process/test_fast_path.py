"""The fast path of `token` and `status` agrees with the normal path, and imports few modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from notion_oauth.cli.fast_path import FastLogin, read_fast
from notion_oauth.errors import NotionOAuthError
from notion_oauth.files.locations import user_token_file
from notion_oauth.files.token_file_format import encode_tokens
from notion_oauth.profile_names import profile_file
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import load_settings
from notion_oauth.tokens.status import login_status
from tests.conftest import Posted
from tests.support.command_line import CommandLine
from tests.support.paths import ROOT
from tests.support.signing_in import age
from tests.unit.protocol.builders import tokens

HEAVY = {"pydantic", "httpx", "anyio", "fastapi", "authlib", "rich", "filelock", "cryptography", "asyncio"}
# by a command that makes requests
UNNEEDED = {
    "httpx",
    "rich",
    "pygments",
    "fastapi",
    "starlette",
    "authlib",
    "cryptography",
    "dotenv",
    "jinja2",
    "limits",
}
NOW = datetime.now(UTC)
FRESH: dict[str, Any] = json.loads(
    encode_tokens(tokens(authorized_at=NOW, updated_at=NOW, expires_at=NOW + timedelta(hours=1)))
)
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1e308,
    10**400,
    "",
    "x",
    [],
    {},
    "https://mcp.notion.com/mcp",
    "https://evil.example/mcp",
]


def default_token_file() -> Path:
    file = user_token_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def imported(report: str) -> set[str]:
    """The packages in what `-X importtime` writes to standard error."""
    lines = report.splitlines()
    assert len(lines) > 100
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}


@pytest.mark.parametrize("command", ["token", "status", "status --json", "whoami", "profiles", "run -- true"])
def test_fast_path_imports_no_heavy_module(tmp_path: Path, command: str) -> None:
    file = tmp_path / "tokens.json"
    for profile in ("default", "work"):
        login = profile_file(file, profile)
        login.write_text(json.dumps({**FRESH, "workspace": "Ours"}))
        login.chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", ROOT / "cli.py", *command.split()],
        env={**os.environ, "NOTION_OAUTH_TOKEN_FILE": str(file)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert HEAVY & imported(done.stderr) == set()
    assert done.stdout or command.startswith("run")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["refresh", "token", "logout"])
def test_other_commands_import_only_what_they_need(cli: CommandLine, command: str) -> None:
    cli.run("login")
    age(cli.directory / ".notion-tokens.json", minutes=61)
    done = cli.process(command, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert {"pydantic", "httpcore"} <= imported(done.stderr)
    assert UNNEEDED & imported(done.stderr) == set()


def test_profiles_are_the_same_on_both_paths(cli: CommandLine) -> None:
    for profile, minutes in (("default", 0), ("work", 61)):
        login = profile_file(cli.directory / ".notion-tokens.json", profile)
        login.write_text(json.dumps({**FRESH, "resource": cli.environment["NOTION_OAUTH_SERVER_URL"]}))
        login.chmod(0o600)
        age(login, minutes=minutes)
    fast, normal = (json.loads(cli.run(*words, "--json").stdout) for words in (["profiles"], ["-v", "profiles"]))
    for found in (fast, normal):
        for status in found.values():
            del status["expires_in_seconds"]  # they are some time apart
    assert fast == normal
    assert [status["status"] for status in fast.values()] == ["authenticated", "expired"]


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(changes={"scope": ""})
@example(changes={"scope": " "})
@example(changes={"refresh_token": " ", "expires_at": 1})
@given(changes=st.dictionaries(st.sampled_from(sorted(FRESH)), st.sampled_from(ODD) | st.text(max_size=5), max_size=2))
def test_fast_path_agrees_with_the_normal_path(tmp_path: Path, changes: dict[str, Any]) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({**FRESH, **changes}))
    fast = read_fast(None, file, None)
    if fast is None:
        return  # the normal path decides
    oauth = NotionOAuth(load_settings(token_file=file), clock=lambda: NOW)
    try:
        normal = anyio.run(oauth.status)
    except NotionOAuthError as error:
        raise AssertionError("the normal path refuses a login that the fast path accepts") from error
    assert login_status(fast, now=NOW, lifetimes=Lifetimes(), protection=fast.protection) == normal
    if normal.status == "authenticated":
        stored = anyio.run(oauth.tokens.stored)
        assert stored.access_token.get_secret_value() == fast.access_token


@pytest.mark.parametrize(
    "unusual",
    [
        {"NOTION_OAUTH_TIMEOUT": "never"},
        {"NOTION_OAUTH_REFRESH_WINDOW": "60"},
        {"notion_oauth_profile": "work"},
        {"NOTION_OAUTH_PROFILE": "no/name"},
        {"NOTION_OAUTH_SERVER_URL": "http://example.com/mcp"},
        {"NOTION_OAUTH_SERVER_URL": "https://other.example/mcp"},
        {"NOTION_OAUTH_TOKEN_FILE": "'tokens.json'"},
        {"NOTION_OAUTH_ENV_FILE": "my.env"},
    ],
)
def test_unusual_settings_take_the_normal_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unusual: dict[str, str]
) -> None:
    default_token_file().write_text(json.dumps(FRESH))
    assert isinstance(read_fast(None, None, None), FastLogin)
    for name, value in unusual.items():
        monkeypatch.setenv(name, value)
    assert read_fast(None, None, None) is None


def test_env_file_of_a_clone_takes_the_normal_path(tmp_path: Path) -> None:
    (tmp_path / ".notion-tokens.json").write_text(json.dumps(FRESH))
    assert isinstance(read_fast(None, None, None, clone=tmp_path), FastLogin)
    Path(".env").write_text("NOTION_OAUTH_PROFILE=work\n")
    assert read_fast(None, None, None, clone=tmp_path) is None


def test_repr_of_a_fast_login_shows_no_secret() -> None:
    default_token_file().write_text(json.dumps(FRESH))
    assert FRESH["access_token"] not in repr(read_fast(None, None, None))


@pytest.mark.slow
def test_run_replaces_the_process_after_the_refresh_is_stored(
    cli: CommandLine, sandbox: Sandbox, grants_asked: Posted
) -> None:
    sandbox.options.reuse = "strict"
    cli.run("login")
    age(cli.directory / ".notion-tokens.json", minutes=57)
    sandbox.misbehave_next("/token", "slow", seconds=0.5)
    assert cli.process("run", "--", "true").returncode == 0
    assert grants_asked() == ["authorization_code", "refresh_token"]
    assert cli.run("refresh").returncode == 0
    assert sandbox.live_grants == 1
