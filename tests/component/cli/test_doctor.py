"""`doctor` finds problems and suggests fixes; it changes nothing and reveals nothing private."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import filelock
import pytest
import trustme
from cryptography import x509

from notion_oauth.cli.doctor.context import CheckContext
from notion_oauth.cli.doctor.findings import Finding, ok, warning
from notion_oauth.cli.doctor.gateway_checks import port_finding
from notion_oauth.cli.doctor.report import CHECKS, Report, run_checks
from notion_oauth.cli.doctor.scrub import scrub
from notion_oauth.files.encryption import Key, new_key
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import load_settings
from tests.support.canaries import Canaries, settings_that_are_secret
from tests.support.command_line import CommandLine
from tests.support.servers import ANSWER, Visitors, listening, refusing_proxy
from tests.support.signing_in import sign_in
from tests.support.terminal import Terminal

KEY = "NOTION_OAUTH_ENCRYPTION_KEY"
BEFORE = ["program", "packages", "place", "settings"]
WITH_SETTINGS = [name for name, _ in CHECKS]


class Doctor:
    """Runs the command and parses its report."""

    def __init__(self, cli: CommandLine) -> None:
        self.cli = cli
        self.file = cli.directory / ".notion-tokens.json"
        self.code = -1
        self.lines: list[dict[str, Any]] = []

    def oauth(self, **settings: Any) -> NotionOAuth:
        url = self.cli.environment["NOTION_OAUTH_SERVER_URL"]
        return NotionOAuth(load_settings(server_url=url, token_file=self.file, retry_for=0, **settings))

    def sign_in(self, **settings: Any) -> None:
        anyio.run(sign_in, self.oauth(**settings))

    def run_checks(self, *arguments: str, **environment: str) -> Doctor:
        done = self.cli.run("doctor", "--json", *arguments, **environment)
        assert done.stderr == ""
        self.code, document = done.returncode, json.loads(done.stdout)
        self.lines = document["checks"]
        results = {line["result"] for line in self.lines}
        assert document["result"] == next(each for each in ("failure", "warning", "ok") if each in results)
        assert self.code == (1 if "failure" in results else 0)
        return self

    def of(self, check: str) -> list[tuple[str, str, str | None]]:
        return [(each["result"], each["message"], each["cure"]) for each in self.lines if each["check"] == check]

    def worst(self, check: str) -> tuple[str, str, str]:
        """The only line of a check that is not ok."""
        (found,) = [each for each in self.of(check) if each[0] != "ok"]
        assert found[2], "a problem without a hint"
        return found[0], found[1], found[2]

    def problems(self, *ignored: str) -> set[str]:
        """The checks with a line that is not ok, without those that were only skipped because another check failed."""
        return {
            line["check"]
            for line in self.lines
            if line["result"] != "ok" and not line["message"].startswith("Skipped: ")
        } - set(ignored)


@pytest.fixture
def doctor(cli: CommandLine, tmp_path: Path) -> Doctor:
    cli.environment["HOME"] = str(tmp_path / "home")  # it has no MCP clients
    return Doctor(cli)


@pytest.fixture
def signed_in(doctor: Doctor) -> Doctor:
    doctor.sign_in()
    return doctor


def test_without_problems_every_line_is_ok(signed_in: Doctor) -> None:
    signed_in.run_checks()
    assert signed_in.problems() == set()
    assert {line["result"] for line in signed_in.lines} == {"ok"}
    assert signed_in.code == 0


def test_json_has_the_same_structure_with_and_without_problems(signed_in: Doctor, sandbox: Sandbox) -> None:
    def schema() -> list[str]:
        assert all(line.keys() == {"check", "result", "message", "cure"} for line in signed_in.lines)
        assert all(isinstance(line["message"], str) for line in signed_in.lines)
        assert all((line["cure"] is None) == (line["result"] == "ok") for line in signed_in.lines)
        return list(dict.fromkeys(line["check"] for line in signed_in.run_checks().lines))

    assert schema() == [*BEFORE, *WITH_SETTINGS, "browser"]
    sandbox.options.metadata_overrides = {"code_challenge_methods_supported": None}
    signed_in.file.write_text("{")
    assert schema() == [*BEFORE, *WITH_SETTINGS, "browser"]


def test_text_output_has_a_line_per_finding_followed_by_its_hint(doctor: Doctor) -> None:
    lines = doctor.cli.run("doctor").stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("warning  login "))
    assert lines[at].endswith("Not signed in.")
    assert lines[at + 1].strip() == "Sign in with: python cli.py login"
    assert lines[at + 1].index("Sign") == lines[at].index("Not signed in.")


def test_first_line_is_the_verdict(signed_in: Doctor, sandbox: Sandbox) -> None:
    def verdict(**environment: str) -> str:
        return signed_in.cli.run("doctor", **environment).stdout.splitlines()[0]

    assert verdict() == "Everything works."
    (signed_in.cli.directory / ".notion-tokens.json").chmod(0o644)
    assert verdict() == "No check fails. 1 warning."
    sandbox.fail_next("/mcp", status=503)
    assert verdict() == "1 check fails: server. 1 warning."
    assert verdict(NOTION_OAUTH_TIMEOUT="soon") == "1 check fails: settings."


def test_what_depends_on_a_failed_check_is_in_its_line(doctor: Doctor) -> None:
    lines = doctor.cli.run("doctor", NOTION_OAUTH_SERVER_URL="http://127.0.0.1:1/mcp").stdout.splitlines()
    assert lines[0] == "1 check fails: server. 1 warning."
    at = next(number for number, line in enumerate(lines) if line.startswith("failure  server "))
    assert lines[at + 2].strip() == (
        "Not checked because of this: certificate, clock, metadata, endpoints, issuer route, client."
    )
    shown = {line[9:].split("  ")[0] for line in lines[2:] if not line.startswith(" ")}
    assert "server" in shown
    assert not shown & {"certificate", "clock", "metadata", "endpoints", "issuer route", "client"}


@pytest.mark.slow
def test_lines_are_wrapped_at_words_on_a_terminal_alone(doctor: Doctor) -> None:
    environment = {**doctor.cli.environment, "COLUMNS": "60"}
    command = (sys.executable, str(doctor.cli.program), "doctor")
    with Terminal(*command, cwd=doctor.cli.directory, env=environment) as terminal:
        terminal.end()
        lines = terminal.screen.splitlines()
    unwrapped = doctor.cli.process("doctor").stdout
    assert len([word for line in lines for word in line.split()]) == len(unwrapped.split()), "no word is broken"
    assert len(lines) > len(unwrapped.splitlines())
    assert all(len(line) <= 60 or len(line.split()[-1]) > 30 for line in lines)


def test_options_select_the_login_that_is_checked(doctor: Doctor) -> None:
    doctor.run_checks("--profile", "work", "--token-file", str(doctor.cli.directory / "other.json"))
    assert doctor.worst("login")[2].endswith(f"login --profile work --token-file {doctor.cli.directory}/other.json")
    assert doctor.of("file")[0][1].startswith(f"{doctor.cli.directory}/other.json.work.profile: ")


# It changes nothing


def state_of(directory: Path) -> dict[str, Any]:
    return {
        file.name: (file.read_bytes(), file.lstat().st_mode, file.lstat().st_mtime_ns, file.lstat().st_ino)
        for file in directory.iterdir()
    }


def test_doctor_writes_repairs_registers_and_refreshes_nothing(signed_in: Doctor, sandbox: Sandbox) -> None:
    (signed_in.file.with_name(f"{signed_in.file.name}.session-key")).write_text("k" * 40)
    for file in signed_in.cli.directory.iterdir():
        file.chmod(0o644)
    before, asked = state_of(signed_in.cli.directory), len(sandbox.requests)
    signed_in.run_checks()
    assert signed_in.problems() == {"file", "lock", "registrations", "session key"}
    assert state_of(signed_in.cli.directory) == before
    assert [(request.method, request.path) for request in sandbox.requests[asked:]] == [
        ("POST", "/mcp"),
        ("GET", "/.well-known/oauth-protected-resource/mcp"),
        ("GET", "/.well-known/oauth-authorization-server"),
    ]
    assert "authorization" not in sandbox.requests[asked].headers


def test_doctor_creates_no_file_before_the_first_sign_in(doctor: Doctor) -> None:
    doctor.run_checks(NOTION_OAUTH_TOKEN_FILE=str(doctor.cli.directory / "new" / "tokens.json"))
    assert doctor.problems() == {"login"}
    assert doctor.of("folder")[0][1].endswith("it is created when needed")
    assert list(doctor.cli.directory.iterdir()) == [doctor.cli.program]


# The servers


START_SERVER = (
    "The stored login is unchanged. For Notion itself, do not set NOTION_OAUTH_SERVER_URL. To practise, start the "
    "practice server with: python cli.py sandbox --port 9000"
)


def test_no_network_is_reported_and_other_checks_still_run(signed_in: Doctor) -> None:
    url = "http://127.0.0.1:1/mcp"
    signed_in.run_checks(NOTION_OAUTH_SERVER_URL=url)
    assert signed_in.problems() == {"server", "metadata", "login"}  # login: the stored one is for another server
    assert signed_in.worst("server") == (
        "failure",
        "Nothing listens on 127.0.0.1:1.",
        START_SERVER,
    )
    assert signed_in.worst("endpoints")[:2] == ("warning", "Skipped: depends on the check metadata, which failed.")
    assert signed_in.code == 1


def test_host_name_that_does_not_resolve_is_reported(doctor: Doctor) -> None:
    doctor.run_checks(NOTION_OAUTH_SERVER_URL="https://nowhere.invalid/mcp", NOTION_OAUTH_TIMEOUT="2")
    assert doctor.worst("route")[:2] == (
        "failure",
        "nowhere.invalid could not be reached: its name does not resolve.",
    )


def test_name_that_does_not_resolve_is_one_failure(doctor: Doctor) -> None:
    done = doctor.cli.run("doctor", NOTION_OAUTH_SERVER_URL="https://nowhere.invalid/mcp", NOTION_OAUTH_TIMEOUT="2")
    assert done.stdout.count("nowhere.invalid could not be reached: its name does not resolve.") == 1
    assert "server" not in done.stdout.splitlines()[0]


def test_end_of_the_login_is_the_same_in_status(signed_in: Doctor) -> None:
    signed_in.run_checks()
    assert any("the login ends in 30 days, on " in found[1] for found in signed_in.of("login"))
    assert "(in 30 days)" in signed_in.cli.run("status").stdout


@pytest.mark.slow
def test_hanging_server_is_reported_and_other_checks_still_run(signed_in: Doctor, sandbox: Sandbox) -> None:
    sandbox.misbehave_next("/mcp", "hang")
    signed_in.run_checks(NOTION_OAUTH_TIMEOUT="0.5")
    assert signed_in.problems() == {"server"}
    assert signed_in.worst("server")[1].endswith("sent no complete response within 0.5 seconds.")
    assert signed_in.of("metadata")[0][0] == "ok", "the well-known URLs still work"
    sandbox.misbehave_next("/.well-known/oauth-protected-resource/mcp", "hang")
    signed_in.run_checks(NOTION_OAUTH_TIMEOUT="0.5")
    assert signed_in.problems() == {"metadata"}
    assert signed_in.of("clock")[0][0] == "ok"


@pytest.mark.parametrize(
    ("status", "headers", "result", "said"),
    [
        (401, {}, "warning", "without a Bearer challenge"),
        (200, {}, "warning", "accepts requests without a token"),
        (404, {}, "failure", "has no MCP server at this URL (HTTP 404)"),
        (503, {}, "failure", "answers HTTP 503"),
    ],
)
def test_unexpected_answer_of_the_mcp_server_is_reported(
    signed_in: Doctor, sandbox: Sandbox, status: int, headers: dict[str, str], result: str, said: str
) -> None:
    sandbox.fail_next("/mcp", status=status, headers=headers, body="")
    found = signed_in.run_checks().worst("server")
    assert found[0] == result
    assert said in found[1]
    assert signed_in.problems() == {"server"}


def test_metadata_without_s256_is_a_failure(signed_in: Doctor, sandbox: Sandbox) -> None:
    sandbox.options.metadata_overrides = {"code_challenge_methods_supported": ["plain"]}
    signed_in.run_checks()
    assert signed_in.problems() == {"metadata"}
    result, message, _ = signed_in.worst("metadata")
    assert result == "failure"
    assert "does not list PKCE with S256" in message


def test_metadata_and_endpoints_are_shown(signed_in: Doctor, sandbox: Sandbox) -> None:
    said = signed_in.run_checks().of("metadata")[0][1]
    assert said == f"issuer {sandbox.issuer}; PKCE with S256; redirects name their issuer (RFC 9207)"
    host = sandbox.base_url.removeprefix("http://")
    assert signed_in.of("endpoints")[0][1] == (
        f"token, registration, revocation, introspection, authorization at {host}"
    )
    sandbox.options.announce_iss = False
    sandbox.options.offer_revocation = sandbox.options.offer_introspection = False
    assert "redirects do not name their issuer" in signed_in.run_checks().of("metadata")[0][1]
    assert signed_in.of("endpoints")[0][1].endswith(f"{host}; no revocation, no introspection")


@pytest.mark.slow
def test_client_is_the_one_that_a_sign_in_would_use(signed_in: Doctor, sandbox: Sandbox) -> None:
    document = {"NOTION_OAUTH_CLIENT_METADATA_URL": "https://client.example/metadata.json"}
    assert signed_in.run_checks().of("client")[0][1] == "dynamic registration"
    assert signed_in.run_checks(**document).of("client")[0][1] == "client ID metadata document"
    preregistered = {**document, "NOTION_OAUTH_CLIENT_ID": "mine"}
    assert signed_in.run_checks(**preregistered).of("client")[0][1].startswith("preregistered; ")
    sandbox.options.metadata_overrides = {
        "registration_endpoint": None,
        "client_id_metadata_document_supported": None,
    }
    assert signed_in.run_checks(NOTION_OAUTH_CLIENT_ID="mine").code == 0
    result, message, hint = signed_in.run_checks(**document).worst("client")
    assert (result, signed_in.problems()) == ("failure", {"client"})
    assert "registers no clients" in message
    assert "NOTION_OAUTH_CLIENT_ID" in hint


# Clocks


@pytest.mark.parametrize(
    ("ahead", "result", "said"),
    [
        (20, None, "s difference from"),
        (-40, "warning", "s ahead of"),
        (40, "warning", "s behind"),
        (320, "failure", "s behind"),
        (-320, "failure", "s ahead of"),
    ],
)
def test_clock_difference_is_reported(
    signed_in: Doctor, sandbox: Sandbox, ahead: float, result: str | None, said: str
) -> None:
    sandbox.advance(ahead)
    found = signed_in.run_checks().of("clock")
    assert (found[0][0], signed_in.problems()) == (result or "ok", {"clock"} if result else set())
    assert said in found[0][1]
    seconds = float(found[0][1].split(" s ")[0].split()[-1])
    assert abs(seconds - abs(ahead)) < 15


def test_clock_check_uses_the_date_header(signed_in: Doctor, sandbox: Sandbox) -> None:
    date = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    sandbox.fail_next("/mcp", status=401, headers={"Date": date, "WWW-Authenticate": "Bearer"})
    assert signed_in.run_checks().worst("clock")[0] == "failure"
    sandbox.fail_next("/mcp", status=401, headers={"Date": "yesterday", "WWW-Authenticate": "Bearer"})
    assert signed_in.run_checks().of("clock")[0][1].endswith("sends no valid Date header")


# Stored files


def test_encrypted_login_without_its_key_is_a_failure(doctor: Doctor) -> None:
    key, other = new_key(), new_key()
    doctor.sign_in(encryption_key=key)
    doctor.run_checks(**{KEY: other})
    assert doctor.problems() == {"kept", "registrations"}
    result, message, hint = doctor.worst("kept")
    assert result == "failure"
    assert f"is encrypted with key {Key(key, '').id}" in message
    assert "Nothing was changed" in hint
    assert doctor.worst("login")[1].startswith("Skipped: ")
    doctor.run_checks(**{KEY: key})
    assert doctor.problems() == set()
    assert doctor.of("kept")[0][1] == f"encrypted with key {Key(key, '').id} from {KEY}"


def test_plain_text_login_is_a_warning_if_a_key_is_set(signed_in: Doctor) -> None:
    signed_in.run_checks(**{KEY: new_key()})
    result, message, hint = signed_in.worst("kept")
    assert result == "warning"
    assert "in plain text, but a key is set" in message
    assert hint.endswith("python cli.py reseal")
    assert signed_in.problems() == {"kept", "registrations"}


def test_key_is_checked_before_the_first_sign_in(doctor: Doctor) -> None:
    key = new_key()
    said = doctor.run_checks(**{KEY: key}).of("kept")[0][1]
    assert said == f"no token; the next one will be encrypted with key {Key(key, '').id} from {KEY}"


def test_a_damaged_file_is_a_failure(signed_in: Doctor) -> None:
    signed_in.file.write_text('{"access_token": ')
    signed_in.run_checks()
    assert signed_in.problems() == {"kept"}
    assert "it is not JSON" in signed_in.worst("kept")[1]


def as_folder(path: Path) -> None:
    path.mkdir()


def as_link(path: Path) -> None:
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(("make", "said"), [(as_folder, "not a regular file"), (as_link, "symbolic link")])
@pytest.mark.parametrize(("suffix", "check"), [("", "file"), (".lock", "lock")])
def test_directory_or_link_instead_of_a_file_is_reported_once(
    signed_in: Doctor, make: Callable[[Path], None], said: str, suffix: str, check: str
) -> None:
    path = signed_in.file.with_name(signed_in.file.name + suffix)
    path.unlink()
    make(path)
    signed_in.run_checks()
    assert signed_in.problems() == {check}
    assert signed_in.worst(check)[0] == "failure"
    assert said in signed_in.worst(check)[1]


def test_file_open_to_other_users_is_reported_and_not_changed(signed_in: Doctor) -> None:
    signed_in.file.chmod(0o644)
    signed_in.run_checks()
    assert signed_in.problems() == {"file"}
    assert signed_in.worst("file") == (
        "warning",
        f"Other users may open {signed_in.file} (mode 0644).",
        f"Fix that with: chmod 600 {signed_in.file}",
    )
    assert stat.S_IMODE(signed_in.file.stat().st_mode) == 0o644


def test_second_name_of_the_token_file_is_reported(signed_in: Doctor) -> None:
    signed_in.file.with_name("backup.json").hardlink_to(signed_in.file)
    signed_in.run_checks()
    assert signed_in.problems() == {"file"}
    result, message, hint = signed_in.worst("file")
    assert (result, message) == (
        "warning",
        f"{signed_in.file} has another name (hard link). A program that uses the other name would end this login.",
    )
    assert f"-samefile {signed_in.file}" in (hint or "")


@pytest.mark.skipif(os.name == "nt", reason="it has no modes")
@pytest.mark.parametrize("signs_in_first", [True, False])
def test_directory_writable_by_other_users_is_reported_once(doctor: Doctor, signs_in_first: bool) -> None:
    if signs_in_first:
        doctor.sign_in()
    doctor.cli.directory.chmod(0o777)
    doctor.run_checks()
    assert doctor.problems("login") == {"folder"}
    result, message, hint = doctor.worst("folder")
    assert result == "warning"
    assert "can be replaced by every user of this machine" in message
    assert hint.endswith(f"chmod go-w {doctor.cli.directory}")


def test_directory_that_cannot_be_written_is_a_failure(doctor: Doctor) -> None:
    (doctor.cli.directory / "file").write_text("")
    doctor.run_checks(NOTION_OAUTH_TOKEN_FILE=str(doctor.cli.directory / "file" / "tokens.json"))
    assert doctor.worst("folder")[:2] == (
        "failure",
        f"Files cannot be written in {doctor.cli.directory}/file: Not a directory.",
    )


def test_a_file_system_without_locks_is_a_failure(signed_in: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(filelock, "lock_descriptor", no_locks)
    signed_in.run_checks()
    assert signed_in.problems() == {"folder", "lock"}
    assert "does not support locks" in signed_in.worst("folder")[1]
    assert signed_in.worst("lock")[1].endswith("cannot be locked: No locks available.")


@pytest.mark.slow
def test_process_that_holds_the_lock_is_reported(signed_in: Doctor) -> None:
    lock = signed_in.file.with_name(f"{signed_in.file.name}.lock")
    with filelock.FileLock(lock):
        signed_in.run_checks()
    assert signed_in.problems() == {"lock"}
    result, message, hint = signed_in.worst("lock")
    assert result == "warning"
    if sys.platform == "linux":
        assert message == f"Process {os.getpid()} holds {lock.name}."
        assert hint.endswith(f"kill {os.getpid()}")
    assert signed_in.run_checks().problems() == set(), "it was released"


# The login


@pytest.mark.slow
def test_an_ended_login_is_a_failure_with_its_reason(signed_in: Doctor, sandbox: Sandbox) -> None:
    sandbox.revoke_grants()
    assert signed_in.cli.run("refresh").returncode == 6
    signed_in.run_checks()
    assert signed_in.problems() == {"login"}
    result, message, hint = signed_in.worst("login")
    assert result == "failure"
    assert "the app was disconnected in the settings" in message
    assert hint == "Sign in again with: python cli.py login"


def test_grant_that_ends_soon_is_a_warning(signed_in: Doctor) -> None:
    signed_in.run_checks(NOTION_OAUTH_IDLE_DAYS="13")
    assert signed_in.problems() == {"login"}
    assert signed_in.worst("login") == (
        "warning",
        "The login ends in 12 days unless it is refreshed: it ends after 13 days without a refresh.",
        "Refresh it before that with: python cli.py refresh",
    )
    assert signed_in.code == 0
    signed_in.run_checks(NOTION_OAUTH_GRANT_DAYS="9")
    assert signed_in.worst("login")[2] == "Sign in again before that with: python cli.py login"


def test_login_with_a_future_timestamp_is_a_warning(signed_in: Doctor) -> None:
    document = json.loads(signed_in.file.read_text())
    document["updated_at"] += 3_600_000
    signed_in.file.write_text(json.dumps(document))
    assert "in the future" in signed_in.run_checks().worst("login")[1]


# Settings, and this machine


def test_unknown_setting_is_reported_with_the_closest_name(signed_in: Doctor) -> None:
    (signed_in.cli.directory / ".env").write_text("NOTION_OAUTH_PROFIL=work\nOTHER=1\n")
    signed_in.run_checks(NOTION_OAUTH_TIMEOOT="3", NOTION_OAUTH_TIMEOUT="7", NOTION_OAUTH_QQQQQQQQQQQQQQ="1")
    assert signed_in.problems() == {"settings"}
    hints = {found[1].split()[0]: found[2] for found in signed_in.of("settings") if found[0] == "warning"}
    assert hints == {
        "NOTION_OAUTH_PROFIL": "Did you mean NOTION_OAUTH_PROFILE? Otherwise unset it.",
        "NOTION_OAUTH_QQQQQQQQQQQQQQ": "Unset it.",
        "NOTION_OAUTH_TIMEOOT": "Did you mean NOTION_OAUTH_TIMEOUT? Otherwise unset it.",
    }
    assert signed_in.of("settings")[0][1] == (
        f"NOTION_OAUTH_SERVER_URL, NOTION_OAUTH_TIMEOUT (7.0); with the env file {signed_in.cli.directory / '.env'}"
    )
    assert signed_in.code == 0


def test_dotenv_with_secrets_readable_by_others_is_reported(signed_in: Doctor) -> None:
    dotenv = signed_in.cli.directory / ".env"
    dotenv.write_text(f"NOTION_OAUTH_SECRET_KEY={'s' * 40}\n")
    dotenv.chmod(0o644)
    signed_in.run_checks()
    assert signed_in.problems() == {"settings"}
    assert signed_in.worst("settings")[2] == f"Fix that with: chmod 600 {dotenv}"
    assert "NOTION_OAUTH_SECRET_KEY from .env" in signed_in.of("settings")[0][1]


def test_invalid_setting_is_a_failure_and_checks_without_settings_still_run(doctor: Doctor) -> None:
    doctor.run_checks(NOTION_OAUTH_TIMEOUT="soon")
    assert [line["check"] for line in doctor.lines] == [*BEFORE, "browser"]
    assert doctor.worst("settings")[0] == "failure"
    assert "NOTION_OAUTH_TIMEOUT" in doctor.worst("settings")[1]
    assert doctor.code == 1


def test_port_and_browser_of_a_sign_in_are_checked(signed_in: Doctor) -> None:
    assert signed_in.run_checks().of("port")[0][1] == "a registered redirect port on 127.0.0.1 is free"
    assert signed_in.of("browser")[0][1] == "login opens its page with the BROWSER variable"
    with socket.create_server(("127.0.0.1", 4321)):  # of the redirect URI that it signed in with
        assert "registered redirect URIs are in use" in signed_in.run_checks().of("port")[0][1]
    assert signed_in.run_checks(BROWSER="w3m").worst("browser")[2].startswith("Correct or unset BROWSER")


# Checks that fail themselves


def run_with_checks(doctor: Doctor, *checks: tuple[str, Any], **options: Any) -> Report:
    settings = doctor.oauth().settings
    environment = options.pop("environment", {})
    return anyio.run(partial(run_checks, lambda: settings, environment, checks=checks, **options))


async def crashing(context: CheckContext) -> Sequence[Finding]:
    raise ZeroDivisionError("canary-of-a-message")


async def hanging(context: CheckContext) -> Sequence[Finding]:
    await anyio.sleep_forever()
    raise AssertionError


async def well(context: CheckContext) -> Sequence[Finding]:
    return [ok("well")]


def test_crash_of_a_check_is_reported_by_exception_name_only(doctor: Doctor) -> None:
    report = run_with_checks(doctor, ("crashing", crashing), ("well", well))
    found = dict(report.rows)
    assert found["crashing"].result == "failure"
    assert found["crashing"].message == "The check itself failed (ZeroDivisionError)."
    assert found["well"].result == "ok"
    assert "canary" not in json.dumps(report.as_json())


def test_hanging_check_times_out_and_other_checks_still_run(doctor: Doctor) -> None:
    found = dict(run_with_checks(doctor, ("hanging", hanging), ("well", well), time_limit=timedelta(seconds=0.2)).rows)
    assert found["hanging"].message == "No result within 0.2 seconds."
    assert found["hanging"].result == "failure"
    assert found["well"].result == "ok"


# Certificates


@contextmanager
def https_server(authority: trustme.CA) -> Iterator[int]:
    """The port of an https server that reads each request to its end and answers {}."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    def serve(_: Visitors, connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure, secure.makefile("rb") as request:
            size = 0
            while (line := request.readline().strip().lower()) != b"":
                size = int(line.partition(b":")[2]) if line.startswith(b"content-length:") else size
            request.read(size)
            secure.sendall(ANSWER)

    with listening(serve) as server:
        yield server.port


@pytest.mark.parametrize(("before", "result"), [(timedelta(days=15), "ok"), (timedelta(days=13), "warning")])
def test_certificate_that_expires_soon_is_a_warning(
    authority: trustme.CA, tmp_path: Path, before: timedelta, result: str
) -> None:
    ca_file = tmp_path / "company.pem"
    authority.cert_pem.write_to_path(ca_file)
    with https_server(authority) as port:
        url = f"https://localhost:{port}/mcp"
        ends = certificate_of(authority).not_valid_after_utc
        settings = load_settings(server_url=url, ca_file=ca_file, token_file=tmp_path / "tokens.json")
        report = anyio.run(partial(run_checks, lambda: settings, {}, clock=lambda: ends - before))
    found = dict(report.rows)["certificate"]
    assert found.result == result
    assert f"{before.days} days" in found.message


def certificate_of(authority: trustme.CA) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.issue_cert("localhost").cert_chain_pems[0].bytes())


def test_untrusted_certificate_authority_is_reported(authority: trustme.CA, doctor: Doctor) -> None:
    with https_server(authority) as port:
        doctor.run_checks(NOTION_OAUTH_SERVER_URL=f"https://localhost:{port}/mcp")
    assert doctor.problems("login") == {"server", "metadata"}
    assert "is not trusted" in doctor.worst("server")[1]
    assert "NOTION_OAUTH_CA_FILE" in doctor.worst("server")[2]
    doctor.run_checks(NOTION_OAUTH_SERVER_URL="https://localhost:1/mcp", NOTION_OAUTH_CA_FILE="nowhere.pem")
    assert "No certificates can be loaded from NOTION_OAUTH_CA_FILE" in doctor.worst("trust")[1]


# Private data in the report


SECRET_PROXY = "http://canary-user:canary%2Fpassword@127.0.0.1:{port}"


@pytest.mark.parametrize("json_too", [[], ["--json"]])
@pytest.mark.parametrize("state", ["well", "damaged", "another key", "behind a proxy", "wrong setting", "no settings"])
def test_report_contains_no_private_data(
    cli: CommandLine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, json_too: list[str], state: str
) -> None:
    """Secrets in settings, a proxy's URL and queries; the user's home directory and e-mail address; the host name."""
    monkeypatch.setattr(socket, "gethostname", lambda: "alices-laptop.canary.example")
    canaries, doctor = Canaries(sandbox), Doctor(cli)
    secrets = settings_that_are_secret()
    home = cli.directory / "home-of-alice"
    file = home / "alice@canary.example" / "alices-laptop" / "tokens.json"
    doctor.file = file
    doctor.sign_in(encryption_key=secrets[KEY])
    environment = {
        **secrets,
        "HOME": str(home),
        "NOTION_OAUTH_TOKEN_FILE": str(file),
        "NOTION_OAUTH_CLIENT_ID": "mine",
        "NOTION_OAUTH_CLIENT_SECRET": "canary-client-secret",
        "NOTION_OAUTH_SERVER_URL": f"{sandbox.mcp_url}?key=canary-of-a-query",
        "HTTP_PROXY": SECRET_PROXY.format(port=1),
    }
    (cli.directory / ".env").write_text("NOTION_OAUTH_CLIENT_SECRET=canary-in-dotenv\n")
    if state == "damaged":
        file.write_text('{"access_token": "canary-in-a-file"')
    elif state == "another key":
        environment[KEY] = new_key()
    elif state == "wrong setting":
        environment["NOTION_OAUTH_SECRET_KEY"] = "canary-short"
    elif state == "no settings":
        environment["NOTION_OAUTH_ENCRYPTION_KEY"] = "canary-of-no-key"
    canaries.add(**{name.lower(): value for name, value in environment.items() if name in secrets})
    with refusing_proxy(b"HTTP/1.1 407 Who\r\n\r\n") as proxy:
        if state == "behind a proxy":
            environment["NOTION_OAUTH_SERVER_URL"] = "https://mcp.example/mcp?key=canary-of-a-query"
            environment["HTTPS_PROXY"] = SECRET_PROXY.format(port=proxy.port)
        done = cli.run("doctor", *json_too, **environment)
    said = done.stdout + done.stderr
    assert canaries.seen_in(said) == []
    assert re.findall(r"canary\S*", said) == []
    assert str(home) not in said
    assert not {"alice@", "alices-laptop"} & set(re.findall(r"alice@|alices-laptop", said))
    if state not in ("wrong setting", "no settings"):
        assert "~/[e-mail]/HOST/tokens.json" in said
    if state == "behind a proxy":
        assert f"mcp.example through the proxy http://127.0.0.1:{proxy.port} (HTTPS_PROXY)" in said


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("keys canary-second and canary-first", "keys [redacted] and [redacted]"),
        ("at http://canary-user:canary/password@proxy", "at http://[redacted]:[redacted]@proxy"),
        ("at https://mcp.example/mcp?key=canary", "at https://mcp.example/mcp?[redacted]"),
        ("by alice.b+c@mail.example.", "by [e-mail]."),
        ("on box.example, box and boxes", "on HOST, HOST and boxes"),
        ("/home/alice/x, '/home/alice' and /home/alicette", "~/x, '~' and /home/alicette"),
        ("at /callback?code=canary", "at /callback?code=[redacted]"),
    ],
)
def test_scrub_removes_private_data(monkeypatch: pytest.MonkeyPatch, text: str, scrubbed: str) -> None:
    """A second line of defence: no check is meant to show any of it."""
    monkeypatch.setattr(socket, "gethostname", lambda: "box.example")
    environment = {
        "NOTION_OAUTH_SECRET_KEY": "canary-first, canary-second",
        "https_proxy": "http://canary-user:canary%2Fpassword@proxy:3128",
        "HOME": "/home/alice",
    }
    assert scrub(environment, "https://mcp.example/mcp?key=canary")(text) == scrubbed


@pytest.mark.slow
def test_only_terminals_without_no_color_get_colours(doctor: Doctor) -> None:
    green = "\x1b[32m"
    assert green not in doctor.cli.run("doctor").stdout
    for wanted in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"}):
        environment = {**doctor.cli.environment, "TERM": "xterm", "NOTION_OAUTH_TIMEOUT": "soon", **wanted}
        command = (sys.executable, str(doctor.cli.program), "doctor")
        with Terminal(*command, cwd=doctor.cli.directory, env=environment) as terminal:
            assert terminal.end() == 1
            assert (green in terminal.screen) == (not wanted)
            assert "settings" in terminal.screen


def test_peer_without_http_is_a_failure_and_no_crash(doctor: Doctor) -> None:
    with listening(lambda _, connection: connection.sendall(b"\x00\xff" * 64)) as server:
        doctor.run_checks(NOTION_OAUTH_SERVER_URL=f"http://127.0.0.1:{server.port}/mcp")
    assert doctor.problems("login") == {"server", "metadata"}
    assert "broke before the response was complete" in doctor.worst("server")[1]


def test_clients_with_the_gateway_are_listed_and_a_program_that_does_not_exist_is_reported(
    doctor: Doctor, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    doctor.run_checks()
    assert doctor.of("clients") == [("ok", "none configured yet", None)]
    doctor.cli.run("mcp", "config", "cursor", "--write", "--profile", "work")
    goose = home / ".config" / "goose" / "config.yaml"
    goose.parent.mkdir(parents=True)
    goose.write_text(doctor.cli.run("mcp", "config", "goose").stdout.replace(str(doctor.cli.program), "/notion-oauth"))
    missing = {"command": "/gone/notion-oauth", "args": ["mcp"]}
    others = {
        "a": {"url": "http://127.0.0.1:x/mcp"},
        "b": {"command": None, "args": None},
        "c": None,
        "d": {"args": [1]},
    }
    (home / ".claude.json").write_text(json.dumps({"mcpServers": {"notion": missing, **others}}))
    doctor.run_checks(XDG_CONFIG_HOME="")
    assert doctor.of("clients")[0][1] == "configured for Claude Code (notion), Cursor (notion-work), goose (notion)"
    assert doctor.worst("clients") == (
        "warning",
        "notion in the configuration of Claude Code starts /gone/notion-oauth, which does not exist.",
        "Write it again with: python cli.py mcp config claude-code --write",
    )


def test_a_client_that_connects_to_a_gateway_that_does_not_run_is_reported(doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    doctor.cli.run("mcp", "config", "cursor", "--http", "--port", str(port), "--write")
    assert doctor.run_checks().worst("clients") == (
        "warning",
        f"Cursor (notion) connects to port {port}, where nothing listens.",
        f"Start the gateway with: python cli.py mcp serve --port {port}",
    )


def test_a_port_that_another_program_holds_is_reported_with_its_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.close()
        assert port_finding(port) == ok(f"mcp serve is not running; port {port} is free")
    with listening(lambda _, connection: connection.sendall(b"SSH-2.0\r\n")) as other:
        name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
        assert port_finding(other.port).message == f"Port {other.port} is in use by process {os.getpid()} ({name})."


@pytest.mark.slow
def test_mcp_serve_is_recognized_at_its_port(cli: CommandLine) -> None:
    with cli.start("mcp", "serve", "--port", "0") as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        port = next(int(found[1]) for line in lines if (found := re.search(r"at http://127\.0\.0\.1:(\d+)/mcp", line)))
        assert port_finding(port) == ok(f"mcp serve answers on port {port}")
        process.send_signal(signal.SIGSTOP)
        hint = f"Stop process {process.pid}, and start it again."
        assert port_finding(port) == warning(f"mcp serve listens on port {port} and does not answer.", hint)
        process.kill()
