"""`doctor` finds what is not well, says what mends it, changes nothing, and tells nothing private."""

from __future__ import annotations

import json
import os
import re
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
from notion_oauth.cli.doctor.findings import Finding, ok
from notion_oauth.cli.doctor.report import CHECKS, Report, run_checks
from notion_oauth.cli.doctor.scrub import scrub
from notion_oauth.files.encryption import Key, new_key
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import load_settings
from tests.support.canaries import Canaries, settings_that_are_secret
from tests.support.command_line import CommandLine
from tests.support.paths import ROOT
from tests.support.servers import ANSWER, Visitors, listening, refusing_proxy
from tests.support.signing_in import sign_in
from tests.support.terminal import Terminal

KEY = "NOTION_OAUTH_ENCRYPTION_KEY"
BEFORE = ["program", "packages", "place", "settings"]
WITH_SETTINGS = [name for name, _ in CHECKS]


class Doctor:
    """Runs the command and remembers what it said, by check."""

    def __init__(self, cli: CommandLine) -> None:
        self.cli = cli
        self.file = cli.folder / ".notion-tokens.json"
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
        """The one line of a check that is not well."""
        (found,) = [each for each in self.of(check) if each[0] != "ok"]
        assert found[2], "without a cure it helps nobody"
        return found[0], found[1], found[2]

    def unwell(self, *but: str) -> set[str]:
        """The checks with a line that is not ok, those apart that only could not be done for the lack of another."""
        return {
            line["check"]
            for line in self.lines
            if line["result"] != "ok" and not line["message"].startswith("Not checked")
        } - set(but)


@pytest.fixture
def doctor(cli: CommandLine) -> Doctor:
    return Doctor(cli)


@pytest.fixture
def signed_in(doctor: Doctor) -> Doctor:
    doctor.sign_in()
    return doctor


def test_where_all_is_well_each_line_says_so(signed_in: Doctor) -> None:
    signed_in.run_checks()
    assert signed_in.unwell() == set()
    assert {line["result"] for line in signed_in.lines} == {"ok"}
    assert signed_in.code == 0


def test_the_json_is_the_same_in_sickness_and_in_health(signed_in: Doctor, sandbox: Sandbox) -> None:
    def schema() -> list[str]:
        assert all(line.keys() == {"check", "result", "message", "cure"} for line in signed_in.lines)
        assert all(isinstance(line["message"], str) for line in signed_in.lines)
        assert all((line["cure"] is None) == (line["result"] == "ok") for line in signed_in.lines)
        return list(dict.fromkeys(line["check"] for line in signed_in.run_checks().lines))

    assert schema() == [*BEFORE, *WITH_SETTINGS, "browser"]
    sandbox.options.metadata_overrides = {"code_challenge_methods_supported": None}
    signed_in.file.write_text("{")
    assert schema() == [*BEFORE, *WITH_SETTINGS, "browser"]


def test_people_get_a_line_for_each_and_the_cure_below_it(doctor: Doctor) -> None:
    lines = doctor.cli.run("doctor").stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("warning  login "))
    assert lines[at].endswith("Not signed in.")
    assert lines[at + 1].strip() == "Sign in with: python cli.py login"
    assert lines[at + 1].index("Sign") == lines[at].index("Not signed in.")


def test_the_login_that_is_meant_is_the_one_of_the_options(doctor: Doctor) -> None:
    doctor.run_checks("--profile", "work", "--token-file", str(doctor.cli.folder / "other.json"))
    assert doctor.worst("login")[2].endswith(f"login --profile work --token-file {doctor.cli.folder}/other.json")
    assert doctor.of("file")[0][1].startswith(f"{doctor.cli.folder}/other.json.work.profile: ")


# It changes nothing


def state_of(folder: Path) -> dict[str, Any]:
    return {
        file.name: (file.read_bytes(), file.lstat().st_mode, file.lstat().st_mtime_ns, file.lstat().st_ino)
        for file in folder.iterdir()
    }


def test_nothing_is_written_mended_registered_or_refreshed(signed_in: Doctor, sandbox: Sandbox) -> None:
    (signed_in.file.with_name(f"{signed_in.file.name}.session-key")).write_text("k" * 40)
    for file in signed_in.cli.folder.iterdir():
        file.chmod(0o644)
    before, asked = state_of(signed_in.cli.folder), len(sandbox.requests)
    signed_in.run_checks()
    assert signed_in.unwell() == {"file", "lock", "registrations", "session key"}
    assert state_of(signed_in.cli.folder) == before
    assert [(request.method, request.path) for request in sandbox.requests[asked:]] == [
        ("POST", "/mcp"),
        ("GET", "/.well-known/oauth-protected-resource/mcp"),
        ("GET", "/.well-known/oauth-authorization-server"),
    ]
    assert "authorization" not in sandbox.requests[asked].headers


def test_before_the_first_sign_in_no_file_is_made(doctor: Doctor) -> None:
    doctor.run_checks(NOTION_OAUTH_TOKEN_FILE=str(doctor.cli.folder / "new" / "tokens.json"))
    assert doctor.unwell() == {"login"}
    assert doctor.of("folder")[0][1].endswith("it is made when it is needed")
    assert list(doctor.cli.folder.iterdir()) == []


# The servers


def test_no_network_is_said_and_hides_nothing_else(signed_in: Doctor) -> None:
    url = "http://127.0.0.1:1/mcp"
    signed_in.run_checks(NOTION_OAUTH_SERVER_URL=url)
    assert signed_in.unwell() == {"server", "metadata", "login"}  # the last: it is for another server
    assert signed_in.worst("server") == (
        "failure",
        "127.0.0.1:1 could not be reached.",
        "Nothing was lost. Check the network connection and try again.",
    )
    assert signed_in.worst("endpoints")[:2] == ("warning", "Not checked, for what it takes was not to be had.")
    assert signed_in.code == 1


def test_a_name_that_leads_nowhere_is_said(doctor: Doctor) -> None:
    doctor.run_checks(NOTION_OAUTH_SERVER_URL="https://nowhere.invalid/mcp", NOTION_OAUTH_TIMEOUT="2")
    assert doctor.worst("route")[:2] == ("failure", "nowhere.invalid leads to no address.")


def test_a_server_that_hangs_hides_nothing_else(signed_in: Doctor, sandbox: Sandbox) -> None:
    sandbox.misbehave_next("/mcp", "hang")
    signed_in.run_checks(NOTION_OAUTH_TIMEOUT="0.5")
    assert signed_in.unwell() == {"server"}
    assert signed_in.worst("server")[1].endswith("sent no complete response within 0.5 seconds.")
    assert signed_in.of("metadata")[0][0] == "ok", "the well-known addresses serve"
    sandbox.misbehave_next("/.well-known/oauth-protected-resource/mcp", "hang")
    signed_in.run_checks(NOTION_OAUTH_TIMEOUT="0.5")
    assert signed_in.unwell() == {"metadata"}
    assert signed_in.of("clock")[0][0] == "ok"


@pytest.mark.parametrize(
    ("status", "headers", "result", "said"),
    [
        (401, {}, "warning", "without a Bearer challenge"),
        (200, {}, "warning", "lets everybody in without a token"),
        (404, {}, "failure", "has no MCP server at that address (HTTP 404)"),
        (503, {}, "failure", "answers HTTP 503"),
    ],
)
def test_an_mcp_server_that_answers_otherwise(
    signed_in: Doctor, sandbox: Sandbox, status: int, headers: dict[str, str], result: str, said: str
) -> None:
    sandbox.fail_next("/mcp", status=status, headers=headers, body="")
    found = signed_in.run_checks().worst("server")
    assert found[0] == result
    assert said in found[1]
    assert signed_in.unwell() == {"server"}


def test_metadata_without_s256_is_a_failure(signed_in: Doctor, sandbox: Sandbox) -> None:
    sandbox.options.metadata_overrides = {"code_challenge_methods_supported": ["plain"]}
    signed_in.run_checks()
    assert signed_in.unwell() == {"metadata"}
    result, message, _ = signed_in.worst("metadata")
    assert result == "failure"
    assert "does not list PKCE with S256" in message


def test_what_the_metadata_says_is_told(signed_in: Doctor, sandbox: Sandbox) -> None:
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


def test_the_client_is_the_one_that_a_sign_in_would_take(signed_in: Doctor, sandbox: Sandbox) -> None:
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
    assert (result, signed_in.unwell()) == ("failure", {"client"})
    assert "registers no clients" in message
    assert "NOTION_OAUTH_CLIENT_ID" in hint


# Clocks


@pytest.mark.parametrize(
    ("ahead", "result", "said"),
    [
        (20, None, "s apart from"),
        (-40, "warning", "s ahead of"),
        (40, "warning", "s behind"),
        (320, "failure", "s behind"),
        (-320, "failure", "s ahead of"),
    ],
)
def test_the_clocks_are_compared(
    signed_in: Doctor, sandbox: Sandbox, ahead: float, result: str | None, said: str
) -> None:
    sandbox.advance(ahead)
    found = signed_in.run_checks().of("clock")
    assert (found[0][0], signed_in.unwell()) == (result or "ok", {"clock"} if result else set())
    assert said in found[0][1]
    seconds = float(found[0][1].split(" s ")[0].split()[-1])
    assert abs(seconds - abs(ahead)) < 15


def test_the_date_that_a_server_tells_is_the_one_that_counts(signed_in: Doctor, sandbox: Sandbox) -> None:
    date = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    sandbox.fail_next("/mcp", status=401, headers={"Date": date, "WWW-Authenticate": "Bearer"})
    assert signed_in.run_checks().worst("clock")[0] == "failure"
    sandbox.fail_next("/mcp", status=401, headers={"Date": "yesterday", "WWW-Authenticate": "Bearer"})
    assert signed_in.run_checks().of("clock")[0][1].endswith("tells no time")


# What is kept


def test_without_its_key_a_sealed_login_is_a_failure(doctor: Doctor) -> None:
    key, other = new_key(), new_key()
    doctor.sign_in(encryption_key=key)
    doctor.run_checks(**{KEY: other})
    assert doctor.unwell() == {"kept", "registrations"}
    result, message, hint = doctor.worst("kept")
    assert result == "failure"
    assert f"is encrypted with key {Key(key, '').id}" in message
    assert "Nothing was changed" in hint
    assert doctor.worst("login")[1].startswith("Not checked")
    doctor.run_checks(**{KEY: key})
    assert doctor.unwell() == set()
    assert doctor.of("kept")[0][1] == f"encrypted with key {Key(key, '').id} from {KEY}"


def test_what_is_kept_weaker_than_it_is_set_up_to_be_is_told(signed_in: Doctor) -> None:
    signed_in.run_checks(**{KEY: new_key()})
    result, message, hint = signed_in.worst("kept")
    assert result == "warning"
    assert "in plain text, although a key is set" in message
    assert hint.endswith("notion-oauth reseal")
    assert signed_in.unwell() == {"kept", "registrations"}


def test_a_key_is_looked_for_before_there_is_a_login(doctor: Doctor) -> None:
    key = new_key()
    said = doctor.run_checks(**{KEY: key}).of("kept")[0][1]
    assert said == f"no token; the next would be encrypted with key {Key(key, '').id} from {KEY}"


def test_a_damaged_file_is_a_failure(signed_in: Doctor) -> None:
    signed_in.file.write_text('{"access_token": ')
    signed_in.run_checks()
    assert signed_in.unwell() == {"kept"}
    assert "it is not JSON" in signed_in.worst("kept")[1]


def as_folder(path: Path) -> None:
    path.mkdir()


def as_link(path: Path) -> None:
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(("make", "said"), [(as_folder, "not a regular file"), (as_link, "symbolic link")])
@pytest.mark.parametrize(("suffix", "check"), [("", "file"), (".lock", "lock")])
def test_what_is_in_the_place_of_a_file_is_told_once(
    signed_in: Doctor, make: Callable[[Path], None], said: str, suffix: str, check: str
) -> None:
    path = signed_in.file.with_name(signed_in.file.name + suffix)
    path.unlink()
    make(path)
    signed_in.run_checks()
    assert signed_in.unwell() == {check}
    assert signed_in.worst(check)[0] == "failure"
    assert said in signed_in.worst(check)[1]


def test_a_file_that_others_may_open_is_told_and_left(signed_in: Doctor) -> None:
    signed_in.file.chmod(0o644)
    signed_in.run_checks()
    assert signed_in.unwell() == {"file"}
    assert signed_in.worst("file") == (
        "warning",
        f"Other users may open {signed_in.file.name} (mode 0644).",
        f"Fix that with: chmod 600 {signed_in.file.name}",
    )
    assert stat.S_IMODE(signed_in.file.stat().st_mode) == 0o644


@pytest.mark.skipif(os.name == "nt", reason="it has no modes")
@pytest.mark.parametrize("signs_in_first", [True, False])
def test_a_folder_in_which_others_may_write_is_told_once(doctor: Doctor, signs_in_first: bool) -> None:
    if signs_in_first:
        doctor.sign_in()
    doctor.cli.folder.chmod(0o777)
    doctor.run_checks()
    assert doctor.unwell("login") == {"folder"}
    result, message, hint = doctor.worst("folder")
    assert result == "warning"
    assert "can be replaced by every user of this machine" in message
    assert hint.endswith(f"chmod go-w {doctor.cli.folder}")


def test_where_nothing_can_be_written_it_is_said(doctor: Doctor) -> None:
    (doctor.cli.folder / "file").write_text("")
    doctor.run_checks(NOTION_OAUTH_TOKEN_FILE=str(doctor.cli.folder / "file" / "tokens.json"))
    assert doctor.worst("folder")[:2] == (
        "failure",
        f"Nothing can be written in {doctor.cli.folder}/file: Not a directory.",
    )


def test_a_file_system_without_locks_is_a_failure(signed_in: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(filelock, "lock_descriptor", no_locks)
    signed_in.run_checks()
    assert signed_in.unwell() == {"folder", "lock"}
    assert "has no locks" in signed_in.worst("folder")[1]
    assert signed_in.worst("lock")[1].endswith("cannot be locked: No locks available.")


def test_who_holds_the_lock_is_told(signed_in: Doctor) -> None:
    lock = signed_in.file.with_name(f"{signed_in.file.name}.lock")
    with filelock.FileLock(lock):
        signed_in.run_checks()
    assert signed_in.unwell() == {"lock"}
    result, message, hint = signed_in.worst("lock")
    assert result == "warning"
    if sys.platform == "linux":
        assert message == f"process {os.getpid()} holds {lock.name}."
        assert hint.endswith(f"kill {os.getpid()}")
    assert signed_in.run_checks().unwell() == set(), "it was let go"


# The login


def test_an_ended_login_is_a_failure_with_its_reason(signed_in: Doctor, sandbox: Sandbox) -> None:
    sandbox.revoke_grants()
    assert signed_in.cli.run("refresh").returncode == 6
    signed_in.run_checks()
    assert signed_in.unwell() == {"login"}
    result, message, hint = signed_in.worst("login")
    assert result == "failure"
    assert "it was revoked" in message
    assert hint == "Sign in again with: python cli.py login"


def test_a_grant_that_is_about_to_end_is_told(signed_in: Doctor) -> None:
    signed_in.run_checks(NOTION_OAUTH_IDLE_DAYS="13")
    assert signed_in.unwell() == {"login"}
    assert signed_in.worst("login") == (
        "warning",
        "The login ends in 12 days unless it is refreshed: it ends after 13 days without a refresh.",
        "Refresh it before that with: python cli.py refresh",
    )
    assert signed_in.code == 0
    signed_in.run_checks(NOTION_OAUTH_GRANT_DAYS="9")
    assert signed_in.worst("login")[2] == "Sign in again before that with: python cli.py login"


def test_a_login_of_a_clock_that_was_wrong_is_told(signed_in: Doctor) -> None:
    document = json.loads(signed_in.file.read_text())
    document["updated_at"] += 3_600_000
    signed_in.file.write_text(json.dumps(document))
    assert "which is yet to come" in signed_in.run_checks().worst("login")[1]


# Settings, and this machine


def test_a_setting_that_there_is_not_is_told_with_the_nearest_one(signed_in: Doctor) -> None:
    (signed_in.cli.folder / ".env").write_text("NOTION_OAUTH_PROFIL=work\nOTHER=1\n")
    signed_in.run_checks(NOTION_OAUTH_TIMEOOT="3", NOTION_OAUTH_TIMEOUT="7", NOTION_OAUTH_QQQQQQQQQQQQQQ="1")
    assert signed_in.unwell() == {"settings"}
    told = {found[1].split()[0]: found[2] for found in signed_in.of("settings") if found[0] == "warning"}
    assert told == {
        "NOTION_OAUTH_PROFIL": "Write NOTION_OAUTH_PROFILE, if that is meant; else unset it.",
        "NOTION_OAUTH_QQQQQQQQQQQQQQ": "Unset it.",
        "NOTION_OAUTH_TIMEOOT": "Write NOTION_OAUTH_TIMEOUT, if that is meant; else unset it.",
    }
    assert signed_in.of("settings")[0][1] == (
        "NOTION_OAUTH_SERVER_URL, NOTION_OAUTH_TIMEOUT (7.0); there is a .env here"
    )
    assert signed_in.code == 0


def test_a_dotenv_with_secrets_that_others_may_read_is_told(signed_in: Doctor) -> None:
    dotenv = signed_in.cli.folder / ".env"
    dotenv.write_text(f"NOTION_OAUTH_SECRET_KEY={'s' * 40}\n")
    dotenv.chmod(0o644)
    signed_in.run_checks()
    assert signed_in.unwell() == {"settings"}
    assert signed_in.worst("settings")[2] == f"Fix that with: chmod 600 {dotenv}"
    assert "NOTION_OAUTH_SECRET_KEY from .env" in signed_in.of("settings")[0][1]


def test_a_wrong_setting_is_a_failure_and_what_needs_none_is_checked(doctor: Doctor) -> None:
    doctor.run_checks(NOTION_OAUTH_TIMEOUT="soon")
    assert [line["check"] for line in doctor.lines] == [*BEFORE, "browser"]
    assert doctor.worst("settings")[0] == "failure"
    assert "NOTION_OAUTH_TIMEOUT" in doctor.worst("settings")[1]
    assert doctor.code == 1


def test_the_port_and_the_browser_of_a_sign_in(signed_in: Doctor) -> None:
    assert signed_in.run_checks().of("port")[0][1] == "one of 127.0.0.1 that this client is registered with is free"
    assert signed_in.of("browser")[0][1] == "login opens the one in the BROWSER variable"
    with socket.create_server(("127.0.0.1", 4321)):  # of the redirect URI that it signed in with
        assert "those that this client is registered with are taken" in signed_in.run_checks().of("port")[0][1]
    assert signed_in.run_checks(BROWSER="w3m").worst("browser")[2].startswith("Correct BROWSER")


# Checks that go wrong themselves


def examined(doctor: Doctor, *checks: tuple[str, Any], **options: Any) -> Report:
    settings = doctor.oauth().settings
    environment = options.pop("environment", {})
    return anyio.run(partial(run_checks, lambda: settings, environment, checks=checks, **options))


async def crashing(case: CheckContext) -> Sequence[Finding]:
    raise ZeroDivisionError("canary-of-a-message")


async def hanging(case: CheckContext) -> Sequence[Finding]:
    await anyio.sleep_forever()
    raise AssertionError


async def well(case: CheckContext) -> Sequence[Finding]:
    return [ok("well")]


def test_a_check_that_crashes_is_a_failure_that_names_the_exception_alone(doctor: Doctor) -> None:
    report = examined(doctor, ("crashing", crashing), ("well", well))
    found = dict(report.rows)
    assert found["crashing"].result == "failure"
    assert found["crashing"].message == "The check itself has failed (ZeroDivisionError)."
    assert found["well"].result == "ok"
    assert "canary" not in json.dumps(report.as_json())


def test_a_check_that_hangs_is_given_up_and_hides_no_other(doctor: Doctor) -> None:
    found = dict(examined(doctor, ("hanging", hanging), ("well", well), patience=timedelta(seconds=0.2)).rows)
    assert found["hanging"].message == "No answer within 0.2 seconds."
    assert found["hanging"].result == "failure"
    assert found["well"].result == "ok"


# Certificates


@contextmanager
def open_to_all(authority: trustme.CA) -> Iterator[int]:
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
def test_a_certificate_that_ends_soon_is_told(
    authority: trustme.CA, tmp_path: Path, before: timedelta, result: str
) -> None:
    ca_file = tmp_path / "company.pem"
    authority.cert_pem.write_to_path(ca_file)
    with open_to_all(authority) as port:
        url = f"https://localhost:{port}/mcp"
        ends = certificate_of(authority).not_valid_after_utc
        settings = load_settings(server_url=url, ca_file=ca_file, token_file=tmp_path / "tokens.json")
        report = anyio.run(partial(run_checks, lambda: settings, {}, clock=lambda: ends - before))
    found = dict(report.rows)["certificate"]
    assert found.result == result
    assert f"good for {before.days} days" in found.message


def certificate_of(authority: trustme.CA) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.issue_cert("localhost").cert_chain_pems[0].bytes())


def test_an_authority_that_is_not_trusted_is_told(authority: trustme.CA, doctor: Doctor) -> None:
    with open_to_all(authority) as port:
        doctor.run_checks(NOTION_OAUTH_SERVER_URL=f"https://localhost:{port}/mcp")
    assert doctor.unwell("login") == {"server", "metadata"}
    assert "is not trusted" in doctor.worst("server")[1]
    assert "NOTION_OAUTH_CA_FILE" in doctor.worst("server")[2]
    doctor.run_checks(NOTION_OAUTH_SERVER_URL="https://localhost:1/mcp", NOTION_OAUTH_CA_FILE="nowhere.pem")
    assert "NOTION_OAUTH_CA_FILE names cannot be used" in doctor.worst("trust")[1]


# What a bug report must not tell


SECRET_PROXY = "http://canary-user:canary%2Fpassword@127.0.0.1:{port}"


@pytest.mark.parametrize("json_too", [[], ["--json"]])
@pytest.mark.parametrize("state", ["well", "damaged", "another key", "behind a proxy", "wrong setting", "no settings"])
def test_nothing_private_is_told(
    cli: CommandLine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, json_too: list[str], state: str
) -> None:
    """Secrets in settings, in a proxy's address and in queries; a person's home and address; this machine's name."""
    monkeypatch.setattr(socket, "gethostname", lambda: "alices-laptop.canary.example")
    canaries, doctor = Canaries(sandbox), Doctor(cli)
    secrets = settings_that_are_secret()
    home = cli.folder / "home-of-alice"
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
    (cli.folder / ".env").write_text("NOTION_OAUTH_CLIENT_SECRET=canary-in-dotenv\n")
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
    ("text", "told"),
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
def test_what_comes_along_is_taken_out(monkeypatch: pytest.MonkeyPatch, text: str, told: str) -> None:
    """The second line of defence: the first is that no check shows any of it."""
    monkeypatch.setattr(socket, "gethostname", lambda: "box.example")
    environment = {
        "NOTION_OAUTH_SECRET_KEY": "canary-first, canary-second",
        "https_proxy": "http://canary-user:canary%2Fpassword@proxy:3128",
        "HOME": "/home/alice",
    }
    assert scrub(environment, "https://mcp.example/mcp?key=canary")(text) == told


def test_colours_are_for_terminals_that_want_them(doctor: Doctor) -> None:
    green = "\x1b[32m"
    assert green not in doctor.cli.run("doctor").stdout
    for wanted in ({}, {"NO_COLOR": "1"}):
        environment = {**doctor.cli.environment, "NOTION_OAUTH_TIMEOUT": "soon", **wanted}
        command = (sys.executable, str(ROOT / "cli.py"), "doctor")
        with Terminal(*command, cwd=doctor.cli.folder, env=environment) as terminal:
            assert terminal.end() == 1
            assert (green in terminal.screen) == (not wanted)
            assert "settings" in terminal.screen


def test_a_peer_that_speaks_no_http_is_a_failure_and_no_crash(doctor: Doctor) -> None:
    with listening(lambda _, connection: connection.sendall(b"\x00\xff" * 64)) as server:
        doctor.run_checks(NOTION_OAUTH_SERVER_URL=f"http://127.0.0.1:{server.port}/mcp")
    assert doctor.unwell("login") == {"server", "metadata"}
    assert "broke before the response was complete" in doctor.worst("server")[1]
