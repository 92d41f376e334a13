"""The output and the exit codes of the commands, as users and scripts run them."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx
import pytest
from typer.testing import CliRunner

from notion_oauth.cli import demo
from notion_oauth.cli.main import app
from notion_oauth.files.directories import Directory
from notion_oauth.sandbox import Sandbox
from tests.conftest import Posted
from tests.support.command_line import CommandLine
from tests.support.signing_in import age

PRINT_TOKEN = "import os; print(os.environ['NOTION_MCP_TOKEN'])"


@pytest.mark.slow
def test_login_status_token_refresh_and_logout(
    cli: CommandLine, sandbox: Sandbox, opened: Callable[[], list[str]]
) -> None:
    server = urlsplit(sandbox.base_url).netloc
    login = cli.process("login")
    assert login.returncode == 0, login.stderr
    assert login.stdout == ""
    assert f"Signed in to {server} as Practice person, workspace Practice workspace." in login.stderr
    assert "The token is valid until " in login.stderr
    assert f"It is stored in {cli.directory / '.notion-tokens.json'}." in login.stderr
    url, shown = opened()
    assert url in login.stderr.splitlines(), "the address is printed on one line"
    assert shown.startswith("200")
    assert "You are signed in" in shown
    assert (cli.directory / ".notion-tokens.json").stat().st_mode & 0o777 == 0o600

    status = cli.process("status")
    assert status.returncode == 0
    assert status.stdout.startswith(f"Signed in to {server}.\n")
    assert "(in 1 hour)" in status.stdout
    as_json = json.loads(cli.process("status", "--json").stdout)
    assert as_json["status"] == "authenticated"
    assert 3500 < as_json["expires_in_seconds"] <= 3600

    token = cli.process("token")
    assert (token.returncode, token.stderr) == (0, "")
    assert token.stdout == token.stdout.strip() + "\n"
    assert sandbox.is_access_token_live(token.stdout.strip())

    refresh = cli.process("refresh")
    assert (refresh.returncode, refresh.stdout) == (0, "")
    assert "Refreshed. The token is valid until" in refresh.stderr
    assert cli.process("token").stdout != token.stdout

    logout = cli.process("logout")
    assert logout.returncode == 0
    assert f"Signed out. {server} has ended the grant." in logout.stderr
    assert sandbox.live_grants == 0
    assert not (cli.directory / ".notion-tokens.json").exists()

    assert cli.process("status").returncode == 3
    again = cli.process("logout")
    assert (again.returncode, "You were not signed in." in again.stderr) == (0, True)


def test_json_is_printed_on_stdout(cli: CommandLine) -> None:
    assert json.loads(cli.run("login", "--json").stdout)["status"] == "authenticated"
    assert json.loads(cli.run("refresh", "--json").stdout)["status"] == "authenticated"
    assert json.loads(cli.run("logout", "--json").stdout) == {"status": "unauthenticated", "outcome": "revoked"}
    status = cli.run("status", "--json")
    file = str(cli.directory / ".notion-tokens.json")
    expected = {"status": "unauthenticated", "profile": "default", "token_file": file, "token_file_source": "clone"}
    assert (status.returncode, json.loads(status.stdout)) == (3, expected)


@pytest.mark.parametrize("command", ["token", "refresh"])
def test_not_signed_in_is_3_and_opens_no_browser(
    cli: CommandLine, command: str, opened: Callable[[], list[str]]
) -> None:
    done = cli.run(command)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "Error: Not signed in. Sign in with: python cli.py login\n"
    assert opened() == []


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["bogus"], {}, "No such command"),
        (["status", "--bogus"], {}, "No such option"),
        (["sandbox", "--port", "70000"], {}, "--port"),
        (["status"], {"NOTION_OAUTH_TIMEOUT": "soon"}, "NOTION_OAUTH_TIMEOUT"),
        (["status", "--server-url", "http://mcp.notion.com/mcp"], {}, "--server-url: the URL is not https"),
    ],
)
def test_invalid_usage_is_2(cli: CommandLine, arguments: list[str], environment: dict[str, str], said: str) -> None:
    done = cli.run(*arguments, **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_refused_by_the_server_is_4(cli: CommandLine, sandbox: Sandbox) -> None:
    sandbox.fail_next("/register", error="invalid_client_metadata", description="No more clients today")
    done = cli.run("login")
    assert done.returncode == 4
    assert "No more clients today" in done.stderr
    sandbox.fail_next("/token", error="invalid_grant")
    assert cli.run("login").returncode == 4
    assert not (cli.directory / ".notion-tokens.json").exists()


def test_no_network_is_5_and_keeps_the_login(cli: CommandLine, sandbox: Sandbox) -> None:
    assert cli.run("login").returncode == 0
    before = (cli.directory / ".notion-tokens.json").read_bytes()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        elsewhere = ("--server-url", f"http://127.0.0.1:{port}/mcp", "--token-file", "other.json")
        assert cli.run("login", *elsewhere).returncode == 5
    for fault in ({"status": 503}, {"status": 502, "body": "<html>"}, {"status": 429, "headers": {"Retry-After": "3"}}):
        sandbox.fail_next("/token", **fault)
        done = cli.run("refresh", NOTION_OAUTH_RETRY_FOR="0")
        assert (done.returncode, done.stdout) == (5, "")
        assert "The stored login is unchanged" in done.stderr
    assert (cli.directory / ".notion-tokens.json").read_bytes() == before
    assert cli.run("token").returncode == 0


@pytest.mark.slow
def test_ended_login_is_6(cli: CommandLine, sandbox: Sandbox) -> None:
    assert cli.run("login").returncode == 0
    sandbox.revoke_grants()
    done = cli.run("refresh")
    assert (done.returncode, done.stdout) == (6, "")
    assert "OAuth grant revoked" in done.stderr
    assert "Sign in again with: python cli.py login" in done.stderr


def test_damaged_token_file_is_7_and_not_changed(cli: CommandLine) -> None:
    file = cli.directory / ".notion-tokens.json"
    file.write_text("not ours")
    for command in ("login", "status", "token", "refresh", "logout"):
        done = cli.run(command)
        assert (done.returncode, done.stdout) == (7, ""), done.stderr
        assert ".notion-tokens.json" in done.stderr
        assert file.read_text() == "not ours"


@pytest.mark.slow
def test_token_refreshes_an_expired_token(cli: CommandLine, sandbox: Sandbox, grants_asked: Posted) -> None:
    cli.run("login")
    age(cli.directory / ".notion-tokens.json", hours=2)
    status = cli.run("status")
    assert status.returncode == 0
    assert "has expired" in status.stdout
    token = cli.run("token").stdout.strip()
    assert sandbox.is_access_token_live(token)
    assert grants_asked() == ["authorization_code", "refresh_token"]


@pytest.mark.slow
@pytest.mark.spec("RFC 8252 §7.3", "Use a loopback address and any port as redirect URI")
@pytest.mark.parametrize("command", [("token",), ("run", "--", sys.executable, "-c", PRINT_TOKEN)])
def test_token_that_is_due_is_refreshed_before_it_is_handed_out(
    cli: CommandLine, sandbox: Sandbox, grants_asked: Posted, command: tuple[str, ...]
) -> None:
    cli.run("login")
    file = cli.directory / ".notion-tokens.json"
    before = json.loads(file.read_text())["access_token"]
    age(file, minutes=57)
    sandbox.misbehave_next("/token", "slow", seconds=0.3)
    done = cli.process(*command)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == json.loads(file.read_text())["access_token"] != before
    assert grants_asked() == ["authorization_code", "refresh_token"]


@pytest.mark.parametrize("failure", ["the server", "the disk"])
def test_token_that_is_due_is_handed_out_if_its_refresh_fails(cli: CommandLine, sandbox: Sandbox, failure: str) -> None:
    cli.run("login")
    file = cli.directory / ".notion-tokens.json"
    age(file, minutes=57)
    if failure == "the server":
        sandbox.fail_next("/token", status=503)
    else:
        reserved = file.with_name(f"{file.name}.reserved")
        reserved.mkdir()
        (reserved / "file").touch()
    done = cli.run("token")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == json.loads(file.read_text())["access_token"]


@pytest.mark.slow
def test_token_of_a_login_that_has_ended_is_6_also_if_it_was_due(cli: CommandLine, sandbox: Sandbox) -> None:
    cli.run("login")
    age(cli.directory / ".notion-tokens.json", minutes=57)
    sandbox.revoke_grants()
    done = cli.run("token")
    assert (done.returncode, done.stdout) == (6, "")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["token", "refresh"])
def test_tokens_that_cannot_be_saved_are_7_and_are_not_lost(
    cli: CommandLine, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, grants_asked: Posted, command: str
) -> None:
    """The command tries again until its time-out. The next one finds the tokens; the old ones are not sent again."""

    def replace(directory: Directory, source: str, target: str) -> None:
        raise OSError(errno.EIO, "Input/output error")

    sandbox.options.reuse = "strict"
    cli.run("login")
    file = cli.directory / ".notion-tokens.json"
    age(file, hours=2)
    with monkeypatch.context() as disk:
        disk.setattr(Directory, "replace", replace)
        done = cli.run(command, NOTION_OAUTH_RETRY_FOR="1")
    assert (done.returncode, done.stdout) == (7, "")
    assert "Input/output error" in done.stderr
    found = cli.run("token")
    assert sandbox.is_access_token_live(found.stdout.strip())
    assert grants_asked() == ["authorization_code", "refresh_token"]


@pytest.mark.slow
def test_second_login_reuses_port_and_registration(
    cli: CommandLine, sandbox: Sandbox, opened: Callable[[], list[str]]
) -> None:
    for _ in range(2):
        assert cli.run("login").returncode == 0
    assert len(sandbox.requests_to("/register")) == 1
    redirect = sandbox.requests_to("/token")[-1].form["redirect_uri"]
    port = int(redirect.split(":")[2].split("/")[0])
    with socket.create_server(("127.0.0.1", port)):
        assert cli.run("login").returncode == 0, "a port that is taken is no error"
    assert len(sandbox.requests_to("/register")) == 2
    assert len([line for line in opened() if line.startswith("http")]) == 3, "one browser page for each sign-in"


@pytest.mark.slow
def test_address_is_printed_if_no_browser_opens(cli: CommandLine) -> None:
    with cli.start("login", BROWSER="false %s") as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("http"))
        assert "code_challenge=" in line
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Interrupted. A request that was already sent may have taken effect." in rest
    assert "Check the status with: python cli.py status" in rest
    assert "No redirect has arrived." in rest
    assert "python cli.py login --new-client" in rest
    assert "Nothing was changed" not in rest
    assert "Traceback" not in rest


@pytest.mark.slow
@pytest.mark.spec("RFC 8252 §8.3", "Use the loopback address, not localhost")
@pytest.mark.spec("MCP §Open Redirection", "Reject a response without the state of its sign-in, or with another")
def test_other_programs_cannot_end_the_sign_in(cli: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wrong states, repeated parameters and other paths get an error page, and the wait continues."""
    with cli.start("login", BROWSER="true %s") as process:
        assert process.stderr is not None
        url = httpx.URL(next(line for line in process.stderr if line.startswith("http")).strip())
        callback = httpx.URL(url.params["redirect_uri"])
        assert (callback.host, callback.path) == ("127.0.0.1", "/callback")
        with httpx.Client(trust_env=False) as client:
            assert client.get(callback, params={"code": "x", "state": "wrong"}).status_code == 400
            assert client.get(callback, params={"error": "access_denied"}).status_code == 400
            assert client.get(callback, params=[("state", "a"), ("state", "b")]).status_code == 400
            assert client.get(callback.copy_with(path="/favicon.ico")).status_code == 404
            page = client.get(url, follow_redirects=True)
            assert "You are signed in" in page.text
        process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.slow
def test_declined_consent_is_4(cli: CommandLine, sandbox: Sandbox) -> None:
    with cli.start("login", BROWSER="true %s") as process:
        assert process.stderr is not None
        url = httpx.URL(next(line for line in process.stderr if line.startswith("http")).strip())
        denied = {"error": "access_denied", "state": url.params["state"], "iss": sandbox.issuer}
        page = httpx.get(url.params["redirect_uri"], params=denied, trust_env=False)
        assert page.status_code == 400
        assert "The sign-in was declined." in page.text
        _, rest = process.communicate(timeout=20)
    assert process.returncode == 4
    assert "The sign-in was declined." in rest


@pytest.mark.slow
def test_hanging_server_is_5_after_the_timeout(cli: CommandLine, sandbox: Sandbox) -> None:
    sandbox.misbehave_next("/.well-known/oauth-protected-resource/mcp", "hang")
    done = cli.run("login", NOTION_OAUTH_TIMEOUT="0.5")
    assert done.returncode == 5
    assert "no complete response within 0.5 seconds" in done.stderr


@pytest.mark.parametrize(
    "command", ["login", "status", "token", "refresh", "run", "profiles", "logout", "sandbox", "demo"]
)
def test_help_has_an_example(cli: CommandLine, command: str) -> None:
    done = cli.run(command, "--help")
    assert done.returncode == 0
    assert "Example:" in done.stdout
    assert f"notion-oauth {command}" in done.stdout


def test_options_override_the_environment(cli: CommandLine, sandbox: Sandbox) -> None:
    environment = {"NOTION_OAUTH_SERVER_URL": "https://mcp.invalid/mcp", "NOTION_OAUTH_TOKEN_FILE": "elsewhere.json"}
    done = cli.run("login", "--server-url", sandbox.mcp_url, "--token-file", "mine.json", **environment)
    assert done.returncode == 0, done.stderr
    assert (cli.directory / "mine.json").exists()
    assert not (cli.directory / "elsewhere.json").exists()


@pytest.mark.slow
def test_sandbox_runs_until_interrupted(cli: CommandLine) -> None:
    with cli.start("sandbox", "--port", "0", "--auto-consent") as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "NOTION_OAUTH_SERVER_URL=" in line)
        server_url = line.split("=", 1)[1].strip()
        done = cli.run("login", NOTION_OAUTH_SERVER_URL=server_url)
        assert done.returncode == 0, done.stderr
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in rest


@pytest.mark.slow
def test_sandbox_reports_a_port_in_use(cli: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = cli.run("sandbox", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "Cannot listen on port" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.slow
def test_demo_succeeds(cli: CommandLine) -> None:
    done = cli.run("demo")
    assert done.returncode == 0, done.stderr
    for said in (
        "Not connected",
        "authenticated",
        "expired",
        "refreshed exactly once",
        "notion-fetch",
        "unauthenticated",
        "401",
    ):
        assert said in done.stdout
    assert "All steps succeeded" in done.stdout
    assert list(cli.directory.iterdir()) == [cli.program]


def test_failed_demo_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure here is a token that does not expire in time."""
    monkeypatch.setattr(demo, "TIMEOUT", 0)
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert "Expected, but did not happen: GET /auth/status returns: expired" in result.stderr
    assert "All steps succeeded" not in result.output


def test_login_of_another_server_is_neither_used_nor_changed(cli: CommandLine, sandbox: Sandbox) -> None:
    assert cli.run("login").returncode == 0
    content = (cli.directory / ".notion-tokens.json").read_bytes()
    before = len(sandbox.requests)
    for command in ("token", "status", "refresh", "login"):
        done = cli.run(command, "--server-url", "https://mcp.notion.com/mcp")
        assert (done.returncode, done.stdout) == (3, "")
        assert f"The stored login is for {sandbox.mcp_url}" in done.stderr
        assert "NOTION_OAUTH_TOKEN_FILE" in done.stderr
    assert (cli.directory / ".notion-tokens.json").read_bytes() == content
    assert len(sandbox.requests) == before


@pytest.mark.slow
def test_no_output_contains_a_secret(cli: CommandLine, sandbox: Sandbox) -> None:
    said = ""
    for command in ("login", "status", "refresh", "logout"):
        done = cli.run(command)
        said += done.stdout + done.stderr
    secrets = [
        value
        for request in sandbox.requests_to("/token")
        for name, value in request.form.items()
        if name in ("code", "code_verifier", "refresh_token", "token")
    ]
    assert len(secrets) >= 4
    assert not [secret for secret in secrets if secret in said]
    assert os.environ.get("HOME", "/nowhere") not in said
