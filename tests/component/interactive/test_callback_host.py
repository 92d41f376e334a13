"""The host of the redirect URI, and a sign-in that is tried again with another redirect URI or client."""

from __future__ import annotations

import errno
import socket
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from notion_oauth.interactive.loopback import Receiver, bind_redirect_uri, registered_host, serve
from notion_oauth.interactive.peers import owner_of_connection
from notion_oauth.models import AuthorizationResponse
from notion_oauth.sandbox import Sandbox
from tests.support.command_line import CommandLine


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this system has no IPv6 loopback")


def redirect_uris(sandbox: Sandbox) -> list[str]:
    """The host of each redirect URI that was to be registered."""
    return [urlsplit((sent.json or {})["redirect_uris"][0]).hostname or "" for sent in sandbox.requests_to("/register")]


def asked(sandbox: Sandbox) -> list[str]:
    return [urlsplit(sent.query["redirect_uri"]).hostname or "" for sent in sandbox.requests_to("/authorize", "GET")]


class TestListeners:
    def test_default_is_the_loopback_address(self) -> None:
        with bind_redirect_uri(()) as (listeners, uri):
            assert uri.startswith("http://127.0.0.1:")
            assert [each.getsockname()[0] for each in listeners] == ["127.0.0.1"]

    @needs_ipv6
    def test_localhost_is_listened_on_at_both_loopback_addresses(self) -> None:
        with bind_redirect_uri((), host="localhost") as (listeners, uri):
            port = urlsplit(uri).port
            assert [each.getsockname()[:2] for each in listeners] == [("127.0.0.1", port), ("::1", port)]
            assert urlsplit(uri).hostname == "localhost"

    def test_system_without_ipv6(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class WithoutIPv6(socket.socket):
            def bind(self, address: object) -> None:
                if self.family == socket.AF_INET6:
                    raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
                super().bind(address)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "socket", WithoutIPv6)
        with bind_redirect_uri((), host="localhost") as (listeners, _):
            assert [each.getsockname()[0] for each in listeners] == ["127.0.0.1"]

    @needs_ipv6
    def test_port_of_another_program_at_one_address_is_not_used(self) -> None:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
            port = other.getsockname()[1]
            with bind_redirect_uri([f"http://localhost:{port}/callback"], host="localhost") as (listeners, _):
                assert len(listeners) == 2
                assert listeners[0].getsockname()[1] != port

    @pytest.mark.anyio
    @needs_ipv6
    @pytest.mark.parametrize("address", ["127.0.0.1", "[::1]"])
    async def test_redirect_arrives_at_either_address(self, address: str) -> None:
        async def complete(response: AuthorizationResponse) -> str:
            assert response.code is not None
            return response.code.get_secret_value()

        with bind_redirect_uri((), host="localhost") as (listeners, uri):
            receiver = Receiver(complete)
            async with serve(receiver, listeners, own_user=True), httpx.AsyncClient(trust_env=False) as browser:
                page = await browser.get(f"http://{address}:{urlsplit(uri).port}/callback?code=c&state=s")
        assert page.status_code == 200
        assert receiver.result() == "c"

    @needs_ipv6
    def test_owner_of_a_connection_over_ipv6_is_found(self, tmp_path: Path) -> None:
        with (
            socket.create_server(("::1", 0), family=socket.AF_INET6) as server,
            socket.create_connection(server.getsockname()[:2]) as client,
        ):
            addresses = client.getsockname()[:2], client.getpeername()[:2]
            assert owner_of_connection(*addresses) == Path("/proc/self").stat().st_uid

    @pytest.mark.parametrize(
        ("registered", "host"),
        [
            ([], "127.0.0.1"),
            (["http://localhost:1234/callback", "http://127.0.0.1:1/callback"], "localhost"),
            (["https://service.example/callback", "http://127.0.0.1:1/callback"], "127.0.0.1"),
            (["http://localhost:1234/other"], "127.0.0.1"),
        ],
    )
    def test_host_of_the_registered_redirect_uri_is_used_again(self, registered: list[str], host: str) -> None:
        assert registered_host(registered) == host


class TestLogin:
    @pytest.mark.spec("RFC 8252 §8.3", "Deviation: localhost, if the user wants it or the server takes only that")
    def test_localhost_on_request(self, cli: CommandLine, sandbox: Sandbox) -> None:
        done = cli.run("login", "--callback-host", "localhost")
        assert (done.returncode, redirect_uris(sandbox)) == (0, ["localhost"])
        assert asked(sandbox) == ["localhost"]

    def test_other_host_is_invalid_usage(self, cli: CommandLine, sandbox: Sandbox) -> None:
        assert cli.run("login", "--callback-host", "0.0.0.0").returncode == 2
        assert not sandbox.requests

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("error", "description"),
        [
            ("invalid_redirect_uri", None),
            ("invalid_client_metadata", "redirect_uris must use https or http://localhost"),
        ],
    )
    def test_localhost_is_tried_once_if_the_redirect_uri_is_refused(
        self, cli: CommandLine, sandbox: Sandbox, error: str, description: str | None
    ) -> None:
        sandbox.fail_next("/register", status=400, error=error, description=description)
        done = cli.run("login")
        assert done.returncode == 0, done.stderr
        assert redirect_uris(sandbox) == ["127.0.0.1", "localhost"]
        assert "Trying again with the redirect URI of localhost" in done.stderr
        assert cli.run("login").returncode == 0
        assert asked(sandbox) == ["localhost", "localhost"], "the next sign-in starts with it"
        assert len(redirect_uris(sandbox)) == 2

    @pytest.mark.slow
    def test_refusal_in_the_redirect(self, cli: CommandLine, sandbox: Sandbox) -> None:
        def refuse(request: object) -> None:
            location = f"{sandbox.requests_to('/authorize')[0].query['redirect_uri']}?error=invalid_redirect_uri"
            state = sandbox.requests_to("/authorize")[0].query["state"]
            if len(sandbox.requests_to("/authorize")) == 1 and not refused:
                refused.append(True)
                sandbox.misbehave_next(
                    "/authorize", "redirect", location=f"{location}&state={state}&iss={sandbox.issuer}"
                )

        refused: list[bool] = []
        sandbox.observe(on_arrival=lambda request: refuse(request) if request.path == "/authorize" else None)
        done = cli.run("login")
        assert done.returncode == 0, done.stderr
        assert asked(sandbox) == ["127.0.0.1", "localhost"]

    def test_second_refusal_is_reported(self, cli: CommandLine, sandbox: Sandbox) -> None:
        sandbox.fail_next("/register", status=400, error="invalid_redirect_uri", times=2)
        done = cli.run("login")
        assert done.returncode == 4
        assert redirect_uris(sandbox) == ["127.0.0.1", "localhost"]
        assert "NOTION_OAUTH_CLIENT_ID" in done.stderr

    def test_host_of_the_user_is_not_changed(self, cli: CommandLine, sandbox: Sandbox) -> None:
        sandbox.fail_next("/register", status=400, error="invalid_redirect_uri")
        assert cli.run("login", "--callback-host", "127.0.0.1").returncode == 4
        assert redirect_uris(sandbox) == ["127.0.0.1"]

    @pytest.mark.slow
    def test_new_client_on_request(self, cli: CommandLine, sandbox: Sandbox) -> None:
        for option in ([], ["--new-client"], []):
            assert cli.run("login", *option).returncode == 0
        first, second, third = [sent.query["client_id"] for sent in sandbox.requests_to("/authorize", "GET")]
        assert (first != second, second == third) == (True, True)

    @pytest.mark.slow
    @pytest.mark.parametrize("error", ["invalid_client", "unauthorized_client"])
    def test_new_client_is_tried_once_if_the_stored_one_is_refused(
        self, cli: CommandLine, sandbox: Sandbox, error: str
    ) -> None:
        assert cli.run("login").returncode == 0
        sandbox.fail_next("/token", status=400, error="invalid_grant")  # the check of the client
        sandbox.fail_next("/token", status=401, error=error)  # the exchange
        done = cli.run("login")
        assert done.returncode == 0, done.stderr
        assert "Trying again with a new client" in done.stderr
        assert len(sandbox.requests_to("/register")) == 2

    def test_new_client_that_is_refused_is_reported(self, cli: CommandLine, sandbox: Sandbox) -> None:
        sandbox.fail_next("/token", status=401, error="invalid_client", times=2)
        done = cli.run("login")
        assert done.returncode == 4
        assert "login --new-client" in done.stderr
        assert len(sandbox.requests_to("/register")) == 1

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("variables", "options"),
        [({}, "--new-client"), ({"NOTION_OAUTH_CLIENT_ID": "mine"}, "--callback-host localhost")],
    )
    def test_sign_in_without_a_redirect_names_the_way_out(
        self,
        cli: CommandLine,
        monkeypatch: pytest.MonkeyPatch,
        sandbox: Sandbox,
        variables: dict[str, str],
        options: str,
    ) -> None:
        monkeypatch.setattr("notion_oauth.interactive.sign_in.PENDING_LIFETIME", timedelta(seconds=0.5))
        sandbox.fail_next("/authorize", status=400, body="<p>Unknown client")
        done = cli.run("login", "--profile", "work", **variables)
        assert done.returncode == 4
        assert "No redirect arrived within ten minutes" in done.stderr
        assert f"login --profile work {options}" in done.stderr

    def test_options_for_the_browser_do_not_go_with_an_assertion(self, cli: CommandLine, tmp_path: Path) -> None:
        file = tmp_path / "assertion"
        file.write_text("a.b.c")
        for option in (["--new-client"], ["--callback-host", "localhost"]):
            assert cli.run("login", "--assertion-file", str(file), *option).returncode == 2
