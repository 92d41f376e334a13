"""Whatever a file, the environment or an argument contains: no command lets it control the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from notion_oauth.errors import NotionOAuthError, WarningWithHint, escape
from notion_oauth.files.token_file_format import encode_registrations
from notion_oauth.models import Registration
from tests.support.command_line import CommandLine
from tests.unit.protocol.builders import PUBLIC

# Sets the title of the window, moves the cursor, changes the direction of text, and starts a line
HOSTILE = "x\x1b]0;evil\x07\x9b2J\r\x00\u202e\u2028\nWarning: y"
HOSTILE_ARGUMENT = HOSTILE.replace("\0", "")
COMMANDS = (
    *(("status",), ("status", "--json"), ("status", "--remote"), ("profiles",), ("profiles", "--json")),
    *(("whoami",), ("whoami", "--json")),
    *(("doctor",), ("doctor", "--json"), ("token",), ("refresh",), ("logout",)),
)


def assert_harmless(output: str) -> None:
    unprintable = {character for character in output if character not in "\n\t" and not character.isprintable()}
    assert not unprintable
    assert "\nWarning: y" not in output


def run_all(cli: CommandLine, *arguments: str, **environment: str) -> str:
    output = ""
    for command in COMMANDS:
        done = cli.run(*command, *arguments, **environment)
        assert_harmless(done.stdout + done.stderr)
        output += done.stdout + done.stderr
    return output


@pytest.fixture
def file(cli: CommandLine) -> Path:
    return cli.directory / ".notion-tokens.json"


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        ("token_type", "scope", "requested_scope", "issuer", "client_id"),
        ("token_endpoint", "revocation_endpoint", "introspection_endpoint"),
        ("resource",),
        ("token_endpoint_auth_method",),
        ("workspace", "workspace_id", "user", "user_id", "email"),
    ],
    ids=lambda fields: fields[0],
)
def test_token_file_cannot_control_the_terminal(cli: CommandLine, file: Path, fields: Sequence[str]) -> None:
    cli.run("login")
    file.write_text(json.dumps({**json.loads(file.read_text()), **dict.fromkeys(fields, HOSTILE)}))
    run_all(cli, NOTION_OAUTH_RETRY_FOR="0")


@pytest.mark.parametrize("fields", [("error", "description", "issuer", "resource", "scope"), ("reason",)])
def test_record_of_an_ended_login_cannot_control_the_terminal(
    cli: CommandLine, file: Path, fields: Sequence[str]
) -> None:
    ended = {"ended_at": 1, "reason": "ended", "error": "invalid_grant", "description": "Grant not found"}
    file.write_text(json.dumps({**ended, **dict.fromkeys(fields, HOSTILE)}))
    file.chmod(0o600)
    run_all(cli)


@pytest.mark.slow
def test_registrations_cannot_control_the_terminal(cli: CommandLine, file: Path) -> None:
    registration = Registration(issuer=HOSTILE, redirect_uri=HOSTILE, client=PUBLIC, scope=HOSTILE)
    file.with_name(f"{file.name}.clients").write_bytes(encode_registrations((registration,)))
    assert r"\x1b]0;evil" in run_all(cli)


@pytest.mark.parametrize("planted", [{"key_id": HOSTILE}, {"key_id": "0" * 8, "content": HOSTILE}])
def test_encrypted_file_cannot_control_the_terminal(cli: CommandLine, file: Path, planted: dict[str, str]) -> None:
    file.write_text(json.dumps({"sealed": 2, **planted}))
    file.chmod(0o600)
    run_all(cli)


@pytest.mark.parametrize("unsendable", ["secret\x1b]0;evil\x07", "secret\r\nX-Injected: y", "secret secret", "sécret"])
def test_access_token_that_no_server_issues_is_not_printed(cli: CommandLine, file: Path, unsendable: str) -> None:
    cli.run("login")
    file.write_text(json.dumps({**json.loads(file.read_text()), "access_token": unsendable}))
    done = cli.run("token")
    assert (done.returncode, done.stdout) == (7, "")
    assert "its access_token contains a character that no token has" in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.slow
def test_paths_and_variables_cannot_control_the_terminal(cli: CommandLine) -> None:
    directory = cli.directory / HOSTILE_ARGUMENT
    directory.mkdir()
    file = directory / "tokens.json"
    done = cli.run("login", "--token-file", str(file))
    assert done.returncode == 0
    assert_harmless(done.stdout + done.stderr)
    assert r"\x1b]0;evil" in done.stderr
    directory.chmod(0o777)  # there is a warning about both
    file.chmod(0o666)
    assert r"\x1b]0;evil" in run_all(cli, "--token-file", str(file))
    missing = str(directory / "missing.json")
    assert r"\x1b]0;evil" in run_all(cli, NOTION_OAUTH_TOKEN_FILE=missing, BROWSER=HOSTILE_ARGUMENT)


@pytest.mark.parametrize(
    "arguments",
    [
        (f"--{HOSTILE_ARGUMENT}",),
        (HOSTILE_ARGUMENT,),
        ("status", f"--{HOSTILE_ARGUMENT}"),
        ("status", HOSTILE_ARGUMENT),
        ("status", "--profile", HOSTILE_ARGUMENT),
        ("status", "--server-url", HOSTILE_ARGUMENT),
        ("token", "--min-ttl", HOSTILE_ARGUMENT),
        ("login", "--port", HOSTILE_ARGUMENT),
        ("login", "--scope", HOSTILE_ARGUMENT),
        ("login", "--assertion-file", HOSTILE_ARGUMENT),
    ],
)
def test_arguments_cannot_control_the_terminal(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    done = cli.run(*arguments)
    assert done.returncode == 2
    assert_harmless(done.stderr + done.stdout)


def test_errors_and_warnings_cannot_control_the_terminal_of_another_program() -> None:
    error = NotionOAuthError(f"It is {HOSTILE}.", hint=HOSTILE)
    assert_harmless(f"{error} {error.message} {error.hint} {error.args}")
    assert_harmless(WarningWithHint(HOSTILE, HOSTILE))
    assert_harmless(WarningWithHint(HOSTILE, HOSTILE).message)


def test_text_that_is_no_danger_stays_as_it_is() -> None:
    text = "Grüße, 世界\u3000🔑 “x” \u00a0"
    assert escape(text) == text
    assert escape("a\nb\x1b", keep="\n") == "a\nb\\x1b"
