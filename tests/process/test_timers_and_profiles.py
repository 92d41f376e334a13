"""Commands for scripts and timers: minimum lifetime, refresh when due, `run`, profiles."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from notion_oauth.humanize import format_duration, parse_duration
from notion_oauth.sandbox import Sandbox
from tests.conftest import Posted
from tests.support.command_line import PROGRAMS, CommandLine
from tests.support.paths import ROOT
from tests.support.signing_in import age


def test_min_ttl_refreshes_a_token_that_expires_sooner(cli: CommandLine, grants_asked: Posted) -> None:
    cli.run("login")
    first = cli.run("token", "--min-ttl", "30m").stdout
    assert grants_asked() == ["authorization_code"]
    assert cli.run("token", "--min-ttl", "2h").stdout != first, "the new token is used although it is valid for less"
    assert grants_asked() == ["authorization_code", "refresh_token"]


def test_refresh_if_older_than_refreshes_only_when_due(cli: CommandLine, grants_asked: Posted) -> None:
    cli.run("login")
    early = cli.run("refresh", "--if-older-than", "20d")
    assert (early.returncode, "Not due yet." in early.stderr) == (0, True)
    assert grants_asked() == ["authorization_code"]
    due = cli.run("refresh", "--if-older-than", "0s")
    assert (due.returncode, "Refreshed." in due.stderr) == (0, True)
    assert grants_asked() == ["authorization_code", "refresh_token"]


@pytest.mark.parametrize("span", ["soon", "-5m", "1.5h", "", "10 weeks"])
def test_invalid_duration_is_invalid_usage(cli: CommandLine, span: str) -> None:
    done = cli.run("token", f"--min-ttl={span}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--min-ttl" in done.stderr


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("20d", 1728000), ("7", 7)])
def test_parse_duration(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 seconds"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "1 minute"),
        (89, "1 minute"),
        (90, "2 minutes"),
        (3569, "59 minutes"),
        (3570, "1 hour"),
        (5400, "2 hours"),
        (86399, "1 day"),
        (86400, "1 day"),
        (180 * 86400, "180 days"),
    ],
)
def test_format_duration(seconds: int, words: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == words


SHOW = "import os, sys; print(os.environ['{}'], *sys.argv[1:]); sys.exit(7)"


@pytest.mark.slow
def test_run_passes_the_token_in_the_environment(cli: CommandLine, sandbox: Sandbox) -> None:
    cli.run("login")
    done = cli.run("run", "--", sys.executable, "-c", SHOW.format("NOTION_MCP_TOKEN"), "--help", "-x")
    assert (done.returncode, done.stderr) == (7, "")
    token, *rest = done.stdout.split()
    assert sandbox.is_access_token_live(token)
    assert rest == ["--help", "-x"]
    other = cli.run("run", "--env", "MY_TOKEN", sys.executable, "-c", SHOW.format("MY_TOKEN"))
    assert other.stdout.split() == [token]


@pytest.mark.slow
def test_run_reports_a_missing_program(cli: CommandLine) -> None:
    cli.run("login")
    done = cli.run("run", "--", "no-such-program")
    assert done.returncode == 2
    assert "Program 'no-such-program' was not found." in done.stderr


@pytest.mark.slow
def test_run_without_a_login_starts_no_program(cli: CommandLine) -> None:
    assert cli.run("run", "--", sys.executable, "-c", "print('ran')").returncode == 3


@pytest.mark.slow
def test_profiles_are_separate_logins(cli: CommandLine, sandbox: Sandbox) -> None:
    empty = cli.run("profiles")
    assert (empty.returncode, empty.stdout) == (0, "")
    cli.run("login")
    cli.run("login", "--profile", "work")
    assert sandbox.live_grants == 2
    assert cli.run("token").stdout != cli.run("token", "--profile", "work").stdout
    assert cli.run("token", NOTION_OAUTH_PROFILE="work").stdout == cli.run("token", "--profile", "work").stdout
    listed = [line.split("\t") for line in cli.run("profiles").stdout.splitlines()]
    assert [(line[0], line[3], line[4]) for line in listed] == [
        (name, "authenticated", sandbox.mcp_url) for name in ("default", "work")
    ]
    cli.run("logout", "--profile", "work")
    assert cli.run("status").returncode == 0
    assert cli.run("status", "--profile", "work").returncode == 3
    assert list(json.loads(cli.run("profiles", "--json").stdout)) == ["default"]


def test_unusable_profile_is_listed_with_the_others(cli: CommandLine, sandbox: Sandbox) -> None:
    cli.run("login")
    login = cli.directory / ".notion-tokens.json"
    elsewhere = login.read_text().replace(sandbox.base_url, "https://other.example")
    login.with_name(f"{login.name}.elsewhere.profile").write_text(elsewhere)
    login.with_name(f"{login.name}.torn.profile").write_text("{")
    listed = cli.run("profiles")
    assert listed.returncode == 0
    lines = [line.split("\t") for line in listed.stdout.splitlines()]
    assert [(line[0], line[3]) for line in lines] == [
        ("default", "authenticated"),
        ("elsewhere", "unusable"),
        ("torn", "unusable"),
    ]
    other, torn = listed.stderr.splitlines()
    assert other.startswith("elsewhere: The stored login is for https://other.example/mcp")
    assert torn.startswith(f"torn: {login}.torn.profile is damaged")
    found = json.loads(cli.run("profiles", "--json").stdout)
    assert [status["status"] for status in found.values()] == ["authenticated", "unusable", "unusable"]


@pytest.mark.slow
def test_suggested_command_names_the_same_login(cli: CommandLine, sandbox: Sandbox) -> None:
    same = ("--profile", "work", "--token-file", "my tokens.json")
    named = "python cli.py login --profile work --token-file 'my tokens.json'"
    for command in ("token", "status", "refresh"):
        done = cli.run(command, *same)
        assert done.returncode == 3
        assert named in done.stdout + done.stderr
    signed_in = cli.run("login", *same)
    file = cli.directory / "my tokens.json.work.profile"
    assert f"It is stored in {file}." in signed_in.stderr
    assert file.exists()
    sandbox.revoke_grants()
    for command in ("refresh", "token", "status"):
        done = cli.run(command, *same)
        assert done.returncode in (3, 6)
        assert named in done.stdout + done.stderr
    assert "python cli.py login\n" in cli.run("token").stderr


@pytest.mark.parametrize("name", ["a/b", "..", "", "x" * 65])
def test_invalid_profile_name_is_invalid_usage(cli: CommandLine, name: str) -> None:
    done = cli.run("status", f"--profile={name}")
    assert done.returncode == 2
    assert "Wrong option --profile: use at most 64 letters" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("timer", ["cron", "systemd"])
def test_timer_of_the_documentation_works_as_printed(
    cli: CommandLine, sandbox: Sandbox, tmp_path: Path, grants_asked: Posted, timer: str
) -> None:
    """From any directory, with nothing but what cron and a user's systemd set."""
    home = tmp_path / "home"
    (home / ".local/bin").mkdir(parents=True)
    (home / ".local/bin/notion-oauth").symlink_to(PROGRAMS / "notion-oauth")
    environment = {"HOME": str(home), "PATH": "/usr/bin:/bin", "NOTION_OAUTH_SERVER_URL": sandbox.mcp_url}
    if timer == "cron":
        pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
        (command,) = re.findall(r"^0 6 \* \* \* (.+)$", pages, re.MULTILINE)
    else:
        unit = (ROOT / "deploy" / "notion-oauth-refresh.service").read_text()
        command = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)[0].replace("%h", str(home))
    file = home / ".local/share/notion-oauth/tokens.json"
    assert cli.run("login", "--token-file", str(file)).returncode == 0
    age(file, days=21)
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    if timer == "cron":
        assert done.stderr == "", "cron would send it by mail"
    else:
        assert "Refreshed." in done.stderr
    assert grants_asked() == ["authorization_code", "refresh_token"]
