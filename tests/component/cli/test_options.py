"""Options that every command has, and where they may be typed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from notion_oauth import __version__
from tests.support.command_line import CommandLine


def test_version(cli: CommandLine) -> None:
    assert cli.run("--version").stdout == f"notion-oauth {__version__}\n"


@pytest.mark.parametrize("command", [(), ("token",), ("mcp", "config"), ("profile", "use")])
def test_h_is_help(cli: CommandLine, command: tuple[str, ...]) -> None:
    short, long = (cli.run(*command, option) if command else cli.run(option) for option in ("-h", "--help"))
    assert (short.returncode, short.stdout) == (0, long.stdout)
    assert "Usage:" in short.stdout


@pytest.mark.slow
def test_module_is_the_command(cli: CommandLine) -> None:
    command = [sys.executable, "-m", "notion_oauth", "token"]
    done = subprocess.run(command, cwd=cli.directory, env=cli.environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "Error: Not signed in. Sign in with: python -m notion_oauth login\n"


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("-v", "refresh"), ("refresh", "-v"), ("refresh", "--verbose")])
def test_verbose_before_and_after_the_command(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    cli.run("login")
    done = cli.process(*arguments)
    assert " INFO notion_oauth" in done.stderr
    assert " DEBUG " not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("-vv", "refresh"), ("refresh", "-vv"), ("-v", "refresh", "-v")])
def test_very_verbose_before_and_after_the_command(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    cli.run("login")
    assert " DEBUG " in cli.process(*arguments).stderr


def test_login_options_before_the_command(cli: CommandLine) -> None:
    before = ("--profile", "work", "--token-file", "mine.json")
    assert "login --profile work --token-file mine.json" in cli.run(*before, "token").stderr
    assert cli.run(*before, "login").returncode == 0
    assert (cli.directory / "mine.json.work.profile").exists()
    assert cli.run(*before, "whoami", "--profile", "other").returncode == 3, "the option after the command counts"


def test_login_option_that_the_command_does_not_have(cli: CommandLine) -> None:
    done = cli.run("--profile", "work", "key")
    assert (done.returncode, done.stdout) == (2, "")
    assert "The command key has no option --profile." in done.stderr
