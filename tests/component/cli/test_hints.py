"""A terminal shows the command of a hint as the user can type it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from notion_oauth.cli.main import app
from tests.support.command_line import CommandLine

SERVER = "http://127.0.0.1:9/mcp"
TYPED = ("--profile", "work", "--token-file", "my tokens.json", "--server-url", SERVER)


def hinted_command(text: str) -> list[str]:
    return shlex.split(text.partition(" with: ")[2].splitlines()[0])


@pytest.mark.parametrize("command", ["token", "refresh", "status"])
def test_hint_repeats_the_options_that_select_the_login(cli: CommandLine, command: str) -> None:
    done = cli.run(command, *TYPED)
    assert done.returncode == 3
    assert hinted_command(done.stderr or done.stdout) == ["python", "cli.py", "login", *TYPED]


def test_profile_of_the_environment_is_in_the_command(cli: CommandLine) -> None:
    done = cli.run("token", NOTION_OAUTH_PROFILE="work")
    assert hinted_command(done.stderr) == ["python", "cli.py", "login", "--profile", "work"]


def test_command_gets_only_the_options_that_it_has(cli: CommandLine) -> None:
    assert cli.run("login", "--token-file", "my tokens.json").returncode == 0
    done = cli.run("reseal", "--token-file", "my tokens.json")
    assert done.returncode == 2
    assert hinted_command(done.stderr) == ["python", "cli.py", "key"]


def test_installed_program_is_named_as_it_was_started(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.directory)
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/notion-oauth"])
    assert "Sign in with: notion-oauth login\n" in CliRunner().invoke(app, ["token"], env=cli.environment).stderr


def test_json_shows_the_command_as_it_can_be_typed(cli: CommandLine) -> None:
    cli.run("login")
    done = cli.run("status", "--json", "--token-file", ".notion-tokens.json", NOTION_OAUTH_GRANT_DAYS="1")
    expected = ["python", "cli.py", "login", "--token-file", ".notion-tokens.json"]
    assert hinted_command(json.loads(done.stdout)["warning"]) == expected
    done = cli.run("refresh", "--json", "--token-file", ".notion-tokens.json", NOTION_OAUTH_GRANT_DAYS="1")
    assert hinted_command(json.loads(done.stdout)["warning"]) == expected


@pytest.mark.slow
def test_list_of_profiles_names_each_profile_in_its_command(cli: CommandLine) -> None:
    cli.run("login")
    cli.run("login", "--profile", "work")
    found = json.loads(cli.run("profiles", "--json", NOTION_OAUTH_GRANT_DAYS="1").stdout)
    commands = {name: hinted_command(status["warning"]) for name, status in found.items()}
    login = ["python", "cli.py", "login"]
    assert commands == {"default": login, "work": [*login, "--profile", "work"]}


@pytest.mark.parametrize(
    ("directory", "environment", "shown"),
    [
        ("project/sub", "project/.venv", "uv run python {} login"),
        ("elsewhere", "project/.venv", "python {} login"),  # uv would not find the project from there
        ("project/sub", "other/.venv", "python {} login"),  # another Python was started below uv run
        ("project/sub", None, "python {} login"),
    ],
)
def test_program_that_uv_run_started_is_named_with_it(
    cli: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    directory: str,
    environment: str | None,
    shown: str,
) -> None:
    cli.directory = tmp_path / directory
    cli.directory.mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "project/.venv"))
    variables = {"UV_RUN_RECURSION_DEPTH": "1", "VIRTUAL_ENV": str(tmp_path / (environment or ""))}
    if environment is None:
        monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
        variables = {"VIRTUAL_ENV": str(tmp_path / "project/.venv")}  # activated
    done = cli.run("token", **variables)
    assert f"Sign in with: {shown.format(cli.program)}\n" in done.stderr
