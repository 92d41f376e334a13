"""What commands print: data on standard output, one clear sentence for what is wrong, and the exit code."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from notion_oauth.sandbox import Sandbox
from tests.support.command_line import CommandLine
from tests.support.signing_in import age


@pytest.fixture
def file(cli: CommandLine) -> Path:
    return cli.directory / ".notion-tokens.json"


def test_token_as_json(cli: CommandLine, sandbox: Sandbox, file: Path) -> None:
    cli.run("login")
    found = json.loads(cli.run("token", "--json").stdout)
    assert sandbox.is_access_token_live(found["access_token"])
    assert found == {
        "access_token": cli.run("token").stdout.strip(),
        "token_type": "Bearer",
        "expires_at": json.loads(cli.run("status", "--json").stdout)["expires_at"],
    }
    age(file, hours=2)
    renewed = json.loads(cli.run("token", "--json").stdout)
    assert sandbox.is_access_token_live(renewed["access_token"])
    assert renewed["expires_at"] > found["expires_at"]


def test_check_prints_nothing(cli: CommandLine, sandbox: Sandbox) -> None:
    def check(*more: str) -> int:
        done = cli.run("status", "--check", *more)
        assert (done.stdout, done.stderr) == ("", "")
        return done.returncode

    assert check() == 3
    cli.run("login")
    assert check() == 0
    assert check("--remote") == 0
    sandbox.revoke_grants()
    assert check("--remote") == 4
    cli.run("refresh", NOTION_OAUTH_RETRY_FOR="0")
    assert check() == 6


@pytest.mark.slow
def test_logout_of_all_profiles(cli: CommandLine, sandbox: Sandbox) -> None:
    for profile in ("default", "work"):
        cli.run("login", "--profile", profile)
    cli.run("profile", "use", "work")
    assert cli.run("logout", "--all", "--profile", "work").returncode == 2
    assert sandbox.live_grants == 2
    done = cli.run("logout", "--all", "--json")
    assert {name: each["outcome"] for name, each in json.loads(done.stdout).items()} == {
        "default": "revoked",
        "work": "revoked",
    }
    assert "work: Signed out." in done.stderr
    assert sandbox.live_grants == 0
    assert json.loads(cli.run("profiles", "--json").stdout) == {}
    assert not list(cli.directory.glob("*default-profile"))
    assert "You were not signed in." in cli.run("logout", "--all").stderr


def test_logout_of_all_profiles_continues_after_a_failure(cli: CommandLine, sandbox: Sandbox, file: Path) -> None:
    cli.run("login", "--profile", "work")
    file.write_text("not ours")
    done = cli.run("logout", "--all")
    assert done.returncode == 7
    assert "default: Error: " in done.stderr
    assert "work: Signed out." in done.stderr
    assert sandbox.live_grants == 0


def test_logout_of_a_profile_that_never_was_leaves_nothing(cli: CommandLine) -> None:
    before = set(cli.directory.iterdir())
    done = cli.run("logout", "--profile", "nope")
    assert (done.returncode, done.stderr) == (0, "There was no login in the profile nope.\n")
    assert set(cli.directory.iterdir()) == before
    cli.run("logout", "--token-file", "new/tokens.json")
    assert set(cli.directory.iterdir()) == before


def test_token_that_could_not_be_refreshed_for_min_ttl_is_reported(cli: CommandLine, sandbox: Sandbox) -> None:
    cli.run("login")
    stored = cli.run("token").stdout
    sandbox.fail_next("/token", status=503)
    done = cli.run("token", "--min-ttl", "2h", NOTION_OAUTH_RETRY_FOR="0")
    assert (done.returncode, done.stdout) == (0, stored)
    assert done.stderr == "Warning: The token could not be refreshed. It expires in 1 hour.\n"
    assert cli.run("token", "--min-ttl", "2h").stderr == "", "refreshed, although the server issues no longer ones"


@pytest.fixture
def nothing_listens() -> Iterator[str]:
    """The URL of a server on a port of this machine on which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/mcp"


def test_sign_in_without_a_login_does_not_speak_of_one(cli: CommandLine, nothing_listens: str, file: Path) -> None:
    login = ("login", "--server-url", nothing_listens)
    done = cli.run(*login)
    assert done.returncode == 5
    host = nothing_listens.split("/")[2]
    assert done.stderr == (
        f"Error: Nothing listens on {host}. For Notion itself, do not set --server-url. "
        "To practise, start the practice server with: python cli.py sandbox --port 9000\n"
    )
    cli.run("login")
    file.write_text(file.read_text().replace(cli.environment["NOTION_OAUTH_SERVER_URL"], nothing_listens))
    assert "The stored login is unchanged." in cli.run(*login).stderr


def test_login_of_another_server_names_the_setting_that_uses_it(cli: CommandLine) -> None:
    cli.run("login")
    done = cli.run("status", NOTION_OAUTH_SERVER_URL="https://mcp.notion.com/mcp")
    url = cli.environment["NOTION_OAUTH_SERVER_URL"]
    assert f"To use it, set NOTION_OAUTH_SERVER_URL={url}." in done.stderr
    typed = cli.run("status", "--server-url", "https://mcp.notion.com/mcp").stderr
    assert f"To use it, set --server-url={url}." in typed
    assert typed.endswith(f"python cli.py logout --server-url {url}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("refresh", "--if-older-than", "20"), "20 has no unit: use s, m, h or d, such as 20d"),
        (("login", "--port", "abc"), "'abc' is not a port: use a number from 1 to 65535"),
        (("login", "--port", "0"), "'0' is not a port: use a number from 1 to 65535"),
        (("sandbox", "--port", "65536"), "use a number from 0 to 65535"),
        (("login", "--assertion-file", "nofile"), "There is no file nofile. Check the path after --assertion-file."),
        (("status", "--env-file", "nofile"), "nofile. Check the path in --env-file"),
        (("token", "--profile", "no/name"), "Wrong option --profile: "),
        (("token", "--server-url", "ftp://x"), "Wrong option --server-url: "),
        (("token", "--server-url", "mcp.notion.com"), "is not an https URL, such as https://mcp.notion.com/mcp"),
    ],
)
def test_wrong_options_are_named_as_typed(cli: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    done = cli.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "setting" not in done.stderr.replace("a file with settings", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1A", "A=B", ""])
def test_invalid_name_of_a_variable_is_refused(cli: CommandLine, name: str) -> None:
    done = cli.process("run", "--env", name, "--", "true")
    assert (done.returncode, f"{name!r} is not the name of a variable" in done.stderr) == (2, True)


def test_option_is_named_in_the_place_of_its_setting(cli: CommandLine, tmp_path: Path) -> None:
    with_option = cli.run("token", "--token-file", str(tmp_path))
    with_variable = cli.run("token", NOTION_OAUTH_TOKEN_FILE=str(tmp_path))
    assert "set --token-file to another path" in with_option.stderr
    assert "set NOTION_OAUTH_TOKEN_FILE to another path" in with_variable.stderr
    missing = cli.run("doctor", "--token-file", str(cli.program / "tokens.json"))
    assert "or set --token-file to another path" in missing.stdout


def test_two_warnings_are_two_lines(cli: CommandLine, file: Path) -> None:
    cli.run("login")
    subprocess.run([shutil.which("git") or "git", "init", "-q", str(cli.directory)], check=True)
    cli.directory.chmod(0o777)
    lines = cli.run("status").stdout.splitlines()
    assert len([line for line in lines if line.startswith("Warning: ")]) == 2
    assert len(json.loads(cli.run("status", "--json").stdout)["storage_warning"].splitlines()) == 2


def test_reseal_with_nothing_to_do_says_so(cli: CommandLine) -> None:
    key = cli.run("key").stdout.strip()
    done = cli.run("reseal", NOTION_OAUTH_ENCRYPTION_KEY=key)
    assert (done.returncode, done.stdout) == (0, "")
    assert "There is nothing to encrypt" in done.stderr


@pytest.mark.slow
def test_registrations_whose_key_is_lost_do_not_stop_a_sign_in(cli: CommandLine, sandbox: Sandbox, file: Path) -> None:
    key, other = (cli.run("key").stdout.strip() for _ in range(2))
    cli.run("login", NOTION_OAUTH_ENCRYPTION_KEY=key)
    cli.run("logout", NOTION_OAUTH_ENCRYPTION_KEY=key)
    done = cli.run("login", NOTION_OAUTH_ENCRYPTION_KEY=other)
    assert done.returncode == 0, done.stderr
    assert len(sandbox.requests_to("/register")) == 2
    assert cli.run("login", NOTION_OAUTH_ENCRYPTION_KEY=other).returncode == 0
    assert len(sandbox.requests_to("/register")) == 2, "the new registration is stored"
    lost = cli.run("login", NOTION_OAUTH_ENCRYPTION_KEY=key)
    assert lost.returncode == 7, "a login is not replaced"


def run_into(output: int | None, cli: CommandLine, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with standard output at this descriptor, or closed."""
    command = [sys.executable, str(cli.program), *arguments]
    if output is None:
        command = ["sh", "-c", 'exec "$0" "$@" >&-', *command]
    return subprocess.run(
        command, cwd=cli.directory, env=cli.environment, stdout=output, stderr=subprocess.PIPE, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", [("token",), ("status",), ("profiles", "--json"), ("profiles",), ("doctor",)])
def test_output_that_is_full_or_closed_is_one_sentence(cli: CommandLine, command: tuple[str, ...]) -> None:
    cli.run("login")
    full = os.open("/dev/full", os.O_WRONLY)
    reading, broken = os.pipe()
    os.close(reading)
    for output, reason in ((full, "No space left on device"), (None, "it is closed")):
        done = run_into(output, cli, *command)
        assert (done.returncode, done.stderr) == (1, f"Error: The output cannot be written: {reason}.\n")
    done = run_into(broken, cli, *command)
    assert (done.returncode, done.stderr) == (1, ""), "as other programs before `head`"
    done = run_into(full, cli, "--help")
    assert done.stderr == "Error: The output cannot be written: No space left on device.\n"
    os.close(full)
    os.close(broken)
