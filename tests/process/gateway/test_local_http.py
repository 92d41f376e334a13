"""`notion-oauth mcp serve` is safe on a machine with a browser, other users and other programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.process.gateway.connecting import Home, HttpGateway, http_gateway
from tests.support.mcp_server import McpServer

pytestmark = pytest.mark.slow
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "a test", "version": "1"}},
}
ACCEPT = "application/json, text/event-stream"


@pytest.fixture
def running(home: Home) -> Iterator[HttpGateway]:
    with http_gateway(home) as each:
        yield each


def post(running: HttpGateway, content: bytes | None = None, path: str = "/mcp", **headers: str) -> httpx.Response:
    """Send `initialize` with the secret, unless the headers say otherwise."""
    sent = {"accept": ACCEPT, "content-type": "application/json", "authorization": f"Bearer {running.secret}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    body = content or json.dumps(INITIALIZE).encode()
    with httpx.Client(trust_env=False, timeout=20) as client:
        lines = {name: value for name, value in sent.items() if value}
        return client.post(running.url.removesuffix("/mcp") + path, content=body, headers=lines)


def test_the_secret_is_always_required(running: HttpGateway, home: Home) -> None:
    assert post(running).status_code == 200
    for wrong in ("", "Bearer wrong", f"Basic {running.secret}", f"Bearer {running.secret}x", "Bearer"):
        refused = post(running, authorization=wrong)
        assert refused.status_code == 403
        assert "www-authenticate" not in refused.headers
        assert running.secret not in refused.text
    [file] = home.directory.rglob("*gateway-secret")
    assert file.stat().st_mode & 0o777 == 0o600
    assert running.secret not in running.log.read_text()


def test_the_host_is_checked(running: HttpGateway) -> None:
    port = urlsplit(running.url).port
    assert post(running, host=f"localhost:{port}").status_code == 200
    for other in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example"):
        assert post(running, host=other).status_code == 421


def test_any_origin_is_refused(running: HttpGateway) -> None:
    for origin in ("https://evil.example", "null", running.url.removesuffix("/mcp")):
        refused = post(running, origin=origin)
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers


def test_an_allowed_origin_gets_cors(home: Home) -> None:
    allowed = "https://app.example"
    with http_gateway(home, "--allow-origin", allowed) as running:
        assert post(running, origin=allowed).headers["access-control-allow-origin"] == allowed
        assert post(running, origin="https://evil.example").status_code == 403
        with httpx.Client(trust_env=False) as client:
            wanted = {"origin": allowed, "access-control-request-method": "POST"}
            wanted["access-control-request-headers"] = "authorization, content-type, mcp-protocol-version"
            preflight = client.options(running.url, headers=wanted)
        assert preflight.status_code in (200, 204)
        assert preflight.headers["access-control-allow-origin"] == allowed


def test_large_bodies_are_refused(running: HttpGateway) -> None:
    assert post(running, content=b" " * (16 * 1024 * 1024 + 1)).status_code == 413


def test_there_are_no_well_known_documents(running: HttpGateway) -> None:
    """A host must not find an authorization server here, and begin a sign-in of its own."""
    with httpx.Client(trust_env=False) as client:
        for path in ("oauth-protected-resource", "oauth-protected-resource/mcp", "oauth-authorization-server"):
            answer = client.get(f"{running.url.removesuffix('/mcp')}/.well-known/{path}")
            assert answer.status_code in (403, 404)
            assert "application/json" not in answer.headers.get("content-type", "")


def test_nobody_signed_in_is_no_401(running: HttpGateway) -> None:
    begun = post(running)
    assert begun.status_code == 200
    call: dict[str, Any] = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "echo"}}
    session = begun.headers.get("mcp-session-id", "")
    answer = post(running, json.dumps(call).encode(), mcp_session_id=session, mcp_protocol_version="2025-11-25")
    assert answer.status_code == 200
    assert "notion-sign-in" in answer.text


@pytest.mark.anyio
async def test_what_belongs_here_does_not_go_upstream(home: Home, server: McpServer) -> None:
    await home.sign_in()
    with http_gateway(home) as running:
        server.requests.clear()
        assert post(running, cookie="session=x", x_forwarded_for="1.2.3.4").status_code == 200
        for request in server.requests:
            assert running.secret not in str(request.headers)
            assert "cookie" not in request.headers
            assert "origin" not in request.headers
            assert request.headers["host"] == urlsplit(server.url).netloc


def test_a_taken_port_is_named(running: HttpGateway, home: Home) -> None:
    port = str(urlsplit(running.url).port)
    done = home.run("mcp", "serve", "--port", port)
    assert done.returncode != 0
    assert port in done.stderr
    assert str(running.process.pid) in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_secret_only_loopback_is_served(home: Home) -> None:
    with http_gateway(home, "--no-local-secret") as running:
        assert post(running, authorization="").status_code == 200
    refused = home.run("mcp", "serve", "--no-local-secret", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode != 0
    assert "--no-local-secret" in refused.stderr


def test_a_session_of_another_is_unknown(running: HttpGateway) -> None:
    ping = json.dumps({"jsonrpc": "2.0", "id": 2, "method": "ping"}).encode()
    assert post(running, ping, mcp_session_id="guessed").status_code == 404


def test_the_log_has_no_arguments(home: Home) -> None:
    with http_gateway(home, "--no-local-secret") as running:
        params = {"name": "echo", "arguments": {"word": "MARK"}}
        call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
        post(running, json.dumps(call).encode())
        log = running.log.read_text()
    assert "MARK" not in log


def test_it_listens_on_loopback_alone(running: HttpGateway) -> None:
    port = f"{urlsplit(running.url).port:04X}"
    lines = Path(f"/proc/{running.process.pid}/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in lines if line.split()[1].endswith(f":{port}") and line.split()[3] == "0A"]
    assert listening == [f"0100007F:{port}"]
