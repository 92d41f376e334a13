"""A terminal shows the command of a hint as the user can type it."""

from __future__ import annotations

import shlex
import sys

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
