"""Requests of shared calls use the same connections; other requests do not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import pytest

from notion_oauth.protocol.messages import Request
from notion_oauth.tokens.single_flight import SharedCall, SingleFlight
from notion_oauth.transport.client import Transport

pytestmark = pytest.mark.anyio
REQUESTS = 5


class Server:
    """An HTTP server that keeps connections, and counts them."""

    def __init__(self) -> None:
        self.connections = 0
        counter = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                counter.connections += 1
                super().setup()

            def do_GET(self) -> None:
                self.send_response(200)
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


async def test_other_requests_have_their_own_connections(server: Server) -> None:
    with anyio.fail_after(60):
        await send(Transport(timeout=timedelta(seconds=10), server_url=server.url), server.url)
    assert server.connections == REQUESTS
