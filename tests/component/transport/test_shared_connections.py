"""Requests of shared calls use the same connections; other requests do not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import anyio.to_thread
import pytest

from notion_oauth.errors import NetworkError
from notion_oauth.protocol.messages import Request
from notion_oauth.tokens.single_flight import SharedCall, SingleFlight
from notion_oauth.transport.addresses import Address
from notion_oauth.transport.client import Transport

pytestmark = pytest.mark.anyio
REQUESTS = 5


class Server:
    """An HTTP server that keeps connections, and counts them."""

    def __init__(self) -> None:
        self.connections = 0
        self.cookies: list[str | None] = []
        counter = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                counter.connections += 1
                super().setup()

            def do_GET(self) -> None:
                counter.cookies.append(self.headers["Cookie"])
                self.send_response(200)
                self.send_header("Set-Cookie", "login=1")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=partial(server.http.serve_forever, poll_interval=0.01))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


async def send(transport: Transport, url: str) -> None:
    for _ in range(REQUESTS):
        assert (await transport.send(Request("GET", url))).status == 200


async def test_requests_of_shared_calls_share_a_connection(server: Server) -> None:
    transport = Transport(timeout=timedelta(seconds=10), server_url=server.url)

    async def work(_: SharedCall[None]) -> None:
        await send(transport, server.url)

    call, _ = SingleFlight[None]().join_or_start(work)
    with anyio.fail_after(60):
        await call.result()
    assert server.connections == 1
    assert server.cookies == [None] * REQUESTS, "a cookie would connect the requests of two logins"


@pytest.mark.slow
async def test_cancelled_request_closes_its_connection_and_no_other(server: Server) -> None:
    """A connection that was cancelled during its handshake would stay open as long as the others are in use."""
    accepted: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        transport = Transport(timeout=timedelta(seconds=0.3), server_url=url)
        closed = threading.Event()

        def accept() -> None:
            accepted.append(silent.accept()[0])
            while accepted[0].recv(4096):
                pass
            closed.set()

        threading.Thread(target=accept).start()

        async def work(_: SharedCall[bool]) -> bool:
            await send(transport, server.url)
            with pytest.raises(NetworkError):
                await transport.send(Request("GET", url))
            await anyio.to_thread.run_sync(closed.wait, 30)
            await send(transport, server.url)
            return closed.is_set()

        call, _ = SingleFlight[bool]().join_or_start(work)
        with anyio.fail_after(60):
            assert await call.result(), "closed before the shared loop ends"
    accepted[0].close()
    assert server.connections == 1


async def test_other_requests_have_their_own_connections(server: Server) -> None:
    with anyio.fail_after(60):
        await send(Transport(timeout=timedelta(seconds=10), server_url=server.url), server.url)
    assert server.connections == REQUESTS


@pytest.mark.slow
async def test_changed_proxy_is_used_within_a_second(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared connections lead to where the settings of the system say."""
    url = server.url.replace("127.0.0.1", "mcp.example").replace("http:", "https:")
    transport = Transport(timeout=timedelta(seconds=5), server_url=url, resolve=_no_address)

    async def work(_: SharedCall[None]) -> None:
        with pytest.raises(NetworkError, match="does not resolve"):
            await transport.send(Request("GET", url))
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        await anyio.sleep(1.1)
        with pytest.raises(NetworkError, match="proxy"):
            await transport.send(Request("GET", url))

    call, _ = SingleFlight[None]().join_or_start(work)
    with anyio.fail_after(60):
        await call.result()


async def _no_address(host: str, port: int) -> list[Address]:
    raise socket.gaierror
