"""`login --scope`, `--acr-values`, `--max-age` and `--assertion-file`, and `status --remote`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from notion_oauth.sandbox import Sandbox
from tests.support.command_line import CommandLine
from tests.support.signing_in import age

CLIENT = "https://me.example/enterprise.json"


@pytest.mark.slow
def test_scope_is_added_to_the_scopes_of_the_login(cli: CommandLine, sandbox: Sandbox) -> None:
    assert cli.run("login").returncode == 0
    sandbox.options.scopes = ("default", "read", "write")
    assert cli.run("login", "--scope", "write read").returncode == 0
    first, second = sandbox.requests_to("/authorize", "GET")
    assert (first.query["scope"], second.query["scope"]) == ("default", "default write read")
    assert json.loads(cli.run("status", "--json").stdout)["scope"] == "default write read"


def test_acr_values_and_max_age_are_requested(cli: CommandLine, sandbox: Sandbox) -> None:
    assert cli.run("login", "--acr-values", "myACR", "--max-age", "0").returncode == 0
    [asked] = sandbox.requests_to("/authorize", "GET")
    assert (asked.query["acr_values"], asked.query["max_age"]) == ("myACR", "0")
    assert asked.query["scope"] == "default", "what the resource lists"


@pytest.mark.parametrize("option", ["--scope", "--acr-values"])
@pytest.mark.parametrize("value", ['a"b', "a\\b", "ü", "a\nb", " "])
def test_invalid_scope_or_acr_value_is_invalid_usage(
    cli: CommandLine, sandbox: Sandbox, option: str, value: str
) -> None:
    done = cli.run("login", option, value)
    assert (done.returncode, option in done.stderr) == (2, True)
    assert not sandbox.requests


class TestAssertionFile:
    @pytest.fixture(autouse=True)
    def _registered_client(self, cli: CommandLine, sandbox: Sandbox) -> None:
        sandbox.options.client_metadata_documents = {CLIENT: {"client_id": CLIENT, "redirect_uris": []}}
        cli.environment["NOTION_OAUTH_CLIENT_ID"] = CLIENT

    def test_assertion_signs_in_without_a_browser(self, cli: CommandLine, sandbox: Sandbox, tmp_path: Path) -> None:
        file = tmp_path / "assertion.jwt"
        file.write_text(sandbox.identity_provider.assertion(CLIENT) + "\n")
        done = cli.run("login", "--assertion-file", str(file))
        assert (done.returncode, "Signed in to 127.0.0.1:" in done.stderr) == (0, True)
        assert sandbox.is_access_token_live(cli.run("token").stdout.strip())
        assert not sandbox.requests_to("/authorize")

    @pytest.mark.parametrize("broken", ["aa.bb\nbb.cc", "aa.b b.cc", "aa.bb", "aa.bb.cc\n\naa.bb.cc"])
    def test_broken_assertion_is_not_sent(
        self, cli: CommandLine, sandbox: Sandbox, tmp_path: Path, broken: str
    ) -> None:
        file = tmp_path / "assertion.jwt"
        file.write_text(broken)
        done = cli.run("login", "--assertion-file", str(file))
        assert (done.returncode, "contains no assertion" in done.stderr) == (2, True)
        assert not sandbox.requests_to("/token")

    def test_assertion_allows_scope_but_no_browser_options(
        self, cli: CommandLine, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        file = tmp_path / "assertion.jwt"
        file.write_text(sandbox.identity_provider.assertion(CLIENT))
        assert cli.run("login", "--assertion-file", str(file), "--no-browser").returncode == 2
        sandbox.options.scopes = ("default", "write")
        assert cli.run("login", "--assertion-file", str(file), "--scope", "write").returncode == 0
        assert sandbox.requests_to("/token")[-1].form["scope"] == "write"

    def test_assertion_is_read_from_a_pipe(self, cli: CommandLine, sandbox: Sandbox) -> None:
        """As with `--assertion-file <(COMMAND)` in a shell."""
        reading, writing = os.pipe()
        os.write(writing, sandbox.identity_provider.assertion(CLIENT).encode())
        os.close(writing)
        assert cli.run("login", "--assertion-file", f"/dev/fd/{reading}").returncode == 0
        os.close(reading)

    def test_assertion_file_that_is_no_file_does_not_block(self, cli: CommandLine, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path, said in (
            (tmp_path / "pipe", "contains no assertion"),
            ("/dev/zero", "it is neither a file nor a pipe"),
        ):
            done = cli.run("login", "--assertion-file", str(path))
            assert (done.returncode, said in done.stderr) == (2, True)

    def test_refused_assertion_is_4_and_not_shown(self, cli: CommandLine, sandbox: Sandbox, tmp_path: Path) -> None:
        file = tmp_path / "assertion.jwt"
        file.write_text(sandbox.identity_provider.assertion("another-client"))
        done = cli.run("login", "--assertion-file", str(file))
        assert done.returncode == 4
        assert "another client" in done.stderr
        assert file.read_text() not in done.stderr

    @pytest.mark.parametrize("content", [b"", b"canary", b"a.b", b"a..c", b"\xff.b.c"])
    def test_file_without_an_assertion_is_invalid_usage(
        self, cli: CommandLine, sandbox: Sandbox, tmp_path: Path, content: bytes
    ) -> None:
        file = tmp_path / "assertion.jwt"
        file.write_bytes(content)
        done = cli.run("login", "--assertion-file", str(file))
        assert (done.returncode, "contains no assertion" in done.stderr) == (2, True)
        assert "canary" not in done.stderr
        assert not sandbox.requests

    def test_file_that_cannot_be_read_is_named(self, cli: CommandLine, tmp_path: Path) -> None:
        done = cli.run("login", "--assertion-file", str(tmp_path / "missing.jwt"))
        assert done.returncode == 2
        assert "missing.jwt. Check the path after" in done.stderr


class TestRemote:
    def test_introspection_is_shown(self, cli: CommandLine) -> None:
        cli.run("login")
        done = cli.run("status", "--remote")
        assert done.returncode == 0
        assert "the server accepts the token until" in done.stdout
        assert "as practice@example.com" in done.stdout
        found = json.loads(cli.run("status", "--remote", "--json").stdout)
        assert (found["status"], found["remote"]["active"]) == ("authenticated", True)

    def test_token_that_the_server_rejects_is_4(self, cli: CommandLine, sandbox: Sandbox) -> None:
        cli.run("login")
        sandbox.expire_access_tokens()
        assert cli.run("status").returncode == 0
        done = cli.run("status", "--remote")
        assert done.returncode == 4
        assert "no longer accepts this token. Refresh it with: python cli.py refresh" in done.stdout

    def test_server_without_introspection_is_reported(self, cli: CommandLine, sandbox: Sandbox) -> None:
        sandbox.options.offer_introspection = False
        cli.run("login")
        done = cli.run("status", "--remote")
        assert (done.returncode, "offers no introspection" in done.stdout) == (0, True)
        assert json.loads(cli.run("status", "--remote", "--json").stdout)["remote"] is None

    def test_no_login_is_3_without_a_request(self, cli: CommandLine, sandbox: Sandbox) -> None:
        assert cli.run("status", "--remote").returncode == 3
        assert not sandbox.requests

    def test_no_network_is_5_and_the_stored_status_is_shown(self, cli: CommandLine, sandbox: Sandbox) -> None:
        cli.run("login")
        sandbox.fail_next("/introspect", status=503, times=2)
        done = cli.run("status", "--remote")
        assert (done.returncode, "Signed in" in done.stdout) == (5, True)
        assert "503" in done.stderr
        done = cli.run("status", "--remote", "--json")
        found = json.loads(done.stdout)
        assert (done.returncode, found["status"], found["remote"]) == (5, "authenticated", None)

    def test_expired_token_is_not_introspected(self, cli: CommandLine, sandbox: Sandbox) -> None:
        cli.run("login")
        age((cli.directory / ".notion-tokens.json"), hours=2)
        done = cli.run("status", "--remote")
        assert done.returncode == 0
        assert "Not checked at the server: the token has expired." in done.stdout
        assert not sandbox.requests_to("/introspect")

    def test_login_of_another_program_is_completed_first(self, cli: CommandLine, sandbox: Sandbox) -> None:
        cli.run("login")
        stored = json.loads((cli.directory / ".notion-tokens.json").read_text())
        minimal = (
            "access_token",
            "token_type",
            "expires_in",
            "refresh_token",
            "client_id",
            "client_secret",
            "updated_at",
        )
        (cli.directory / ".notion-tokens.json").write_text(json.dumps({name: stored[name] for name in minimal}))
        done = cli.run("status", "--remote")
        assert (done.returncode, "the server accepts the token" in done.stdout) == (0, True)
