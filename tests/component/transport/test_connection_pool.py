"""A ConnectionPool serves requests at the same time, reads responses in parts, and keeps connections."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
import trustme

from notion_oauth.transport.client import Transport
from notion_oauth.transport.connections import ConnectionPool, http_request

pytestmark = pytest.mark.anyio
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Server:
    """Sends a part of each response at once, and the rest when it is released."""

    def __init__(self) -> None:
        self.connections = 0
        self.ended = 0
        self.released = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(HEAD + b"3\r\none\r\n")
                await self.released.wait()
                writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
        except asyncio.IncompleteReadError:
            self.ended += 1
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/a;b?c=d"
        with anyio.fail_after(30):
            yield server
        server.released.set()


@asynccontextmanager
async def pool_to(server: Server, *, max_idle: int = 10, idle_time: float = 60) -> AsyncIterator[ConnectionPool]:
    transport = Transport(timeout=timedelta(seconds=10), server_url=server.url)
    async with aclosing(transport.pool(server.url, max_idle=max_idle, idle_time=idle_time)) as pool:
        yield pool


async def read(pool: ConnectionPool, server: Server) -> bytes:
    async with aclosing(await pool.send(http_request("GET", server.url, {}))) as response:
        return await response.aread()


async def test_responses_are_read_at_the_same_time_and_their_connections_used_again(server: Server) -> None:
    async with pool_to(server) as pool:
        responses = [await pool.send(http_request("GET", server.url, {})) for _ in range(3)]
        parts = [response.aiter_stream() for response in responses]
        assert [await anext(part) for part in parts] == [b"one"] * 3
        server.released.set()
        for response, part in zip(responses, parts, strict=True):
            assert await anext(part) == b"two"
            assert [rest async for rest in part] == []
            await response.aclose()
        for _ in range(3):
            assert await read(pool, server) == b"onetwo"
    assert server.connections == 3


@pytest.mark.parametrize(("max_idle", "idle_time"), [(0, 60.0), (10, 0.0)])
async def test_connections_that_may_not_wait_are_not_used_again(
    server: Server, max_idle: int, idle_time: float
) -> None:
    server.released.set()
    async with pool_to(server, max_idle=max_idle, idle_time=idle_time) as pool:
        for _ in range(3):
            assert await read(pool, server) == b"onetwo"
    assert server.connections == 3


async def test_connection_of_a_response_that_was_not_read_is_closed(server: Server) -> None:
    async with pool_to(server) as pool:
        async with aclosing(await pool.send(http_request("GET", server.url, {}))) as response:
            with anyio.move_on_after(0.05):
                await response.aread()
        server.released.set()
        assert await read(pool, server) == b"onetwo"
        assert server.connections == 2
    while server.ended < 2:
        await asyncio.sleep(0)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("parts", [[OK + b"my", OK + b"no"], [b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\n", b"no"]])
async def test_what_a_server_sends_after_a_response_is_not_the_next_response(
    parts: list[bytes], authority: trustme.CA, ca_file: Path, *, secure: bool
) -> None:
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.transport.writelines(parts)  # with TLS, two records at the same time
        writer.close()

    context = None
    if secure:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(context)
    async with await asyncio.start_server(serve, "localhost", 0, family=socket.AF_INET, ssl=context) as listening:
        port = listening.sockets[0].getsockname()[1]
        url = f"{'https' if secure else 'http'}://localhost:{port}/"
        transport = Transport(timeout=timedelta(seconds=10), server_url=url, ca_file=ca_file)
        async with aclosing(transport.pool(url, max_idle=10, idle_time=60)) as pool:
            for _ in range(3):
                async with aclosing(await pool.send(http_request("GET", url, {}))) as response:
                    assert await response.aread() in (b"my", b"")
    assert len(connections) == 3


async def test_request_to_another_origin_is_refused(server: Server) -> None:
    async with pool_to(server) as pool:
        with pytest.raises(ValueError, match="another origin"):
            await pool.send(http_request("GET", "https://other.example/", {}))
    assert server.connections == 0


@pytest.mark.parametrize(
    ("url", "host", "target"),
    [
        ("https://H.example", "h.example", "/"),
        ("https://h.example:443?q", "h.example", "/?q"),
        ("https://h.example:8443/a;b/%2F?c=d;e&f", "h.example:8443", "/a;b/%2F?c=d;e&f"),
        ("http://[::1]:80/x", "[::1]", "/x"),
    ],
)
def test_request_names_its_host_and_target(url: str, host: str, target: str) -> None:
    request = http_request("POST", url, {"A": "b"}, b"12")
    assert request.headers == [(b"Host", host.encode()), (b"Content-Length", b"2"), (b"A", b"b")]
    assert request.url.target == target.encode()
