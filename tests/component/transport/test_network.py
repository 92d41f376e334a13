"""Network failures: stalled handshakes, invalid names, compressed responses; stored logins survive them."""

from __future__ import annotations

import gzip
import socket
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx
import pytest

from notion_oauth.errors import MetadataError, NetworkError, ServerUnavailable, TransientError
from notion_oauth.protocol.messages import Request
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.tokens.revocation import SignOut
from notion_oauth.transport.client import MAX_BODY, Transport
from tests.support.signing_in import begin, sign_in

pytestmark = pytest.mark.anyio

TIMEOUT = timedelta(seconds=0.4)


async def send(url: str, network: httpx.AsyncBaseTransport | None = None) -> bytes:
    return (await Transport(timeout=TIMEOUT, httpx_transport=network).send(Request("GET", url))).body


@contextmanager
def listening(script: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port that accepts one connection and runs the script on it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                script(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(5)


async def test_a_stalled_tls_handshake_times_out() -> None:
    closed = threading.Event()

    def until_closed(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass
        closed.set()

    with listening(until_closed) as port:
        url = f"https://127.0.0.1:{port}/"
        transport = Transport(timeout=TIMEOUT, server_url=url)
        with anyio.fail_after(10), pytest.raises(NetworkError, match=r"no complete response within 0\.4 seconds"):
            await transport.send(Request("GET", url))
        assert closed.wait(5), "the connection is not left open"


@pytest.mark.parametrize("host", ["xn--", "xn--a.invalid", "a" * 64 + ".invalid", "a..b", "-.invalid", "[v1.x]"])
async def test_an_invalid_host_name_is_a_network_error(host: str) -> None:
    with pytest.raises(NetworkError):
        await send(f"https://{host}/")


class FixedResponse(httpx.AsyncBaseTransport):
    """A network on which every server sends the same response, in parts."""

    def __init__(self, content: bytes, **headers: str) -> None:
        self._content, self._headers = content, headers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        async def parts() -> Any:
            for start in range(0, len(self._content), 65536):
                yield self._content[start : start + 65536]

        return httpx.Response(200, headers=self._headers, content=parts())


@pytest.mark.parametrize(
    ("coding", "compressed"),
    [("gzip", gzip.compress(b"{}")), ("deflate", zlib.compress(b"{}")), ("identity", b"{}"), ("", b"{}")],
    ids=["gzip", "deflate", "identity", "nothing"],  # gzip holds the time, and test names must not
)
async def test_an_unrequested_compression_is_decompressed(coding: str, compressed: bytes) -> None:
    assert await send("https://h.example/", FixedResponse(compressed, **{"Content-Encoding": coding})) == b"{}"


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip"])
async def test_an_unsupported_content_encoding_is_refused(coding: str) -> None:
    with pytest.raises(ServerUnavailable, match="was not requested"):
        await send("https://h.example/", FixedResponse(b"{}", **{"Content-Encoding": coding}))


@pytest.mark.slow
async def test_a_decompression_bomb_does_not_fill_the_memory() -> None:
    """One mebibyte of gzip can hold a gibibyte; only its first mebibyte is decompressed."""
    bomb = gzip.compress(bytes(200 * MAX_BODY))
    assert len(bomb) < MAX_BODY
    tracemalloc.start()
    try:
        with pytest.raises(ServerUnavailable, match="more than 1024 KiB"):
            await send("https://h.example/", FixedResponse(bomb, **{"Content-Encoding": "gzip"}))
        assert tracemalloc.get_traced_memory()[1] < 16 * MAX_BODY
    finally:
        tracemalloc.stop()


MISBEHAVIOUR = ["hang", "drop", "lose_response", "drip", "oversize", "redirect", "garble"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MISBEHAVIOUR)
async def test_a_failed_refresh_leaves_the_token_file_unchanged(
    settings: Settings, sandbox: Sandbox, kind: Any
) -> None:
    await sign_in(NotionOAuth(settings))
    before = settings.token_file.read_bytes()
    sandbox.misbehave_next("/token", kind)
    short = settings.model_copy(update={"timeout": TIMEOUT.total_seconds()})
    later = NotionOAuth(short, clock=lambda: datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(TransientError):
        await later.tokens.token()
    assert settings.token_file.read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("kind", MISBEHAVIOUR)
@pytest.mark.parametrize("path", ["/.well-known/oauth-authorization-server", "/register"])
async def test_a_failed_sign_in_leaves_the_token_file_unchanged(
    settings: Settings, sandbox: Sandbox, path: str, kind: Any
) -> None:
    await sign_in(NotionOAuth(settings))
    before = settings.token_file.read_bytes()
    sandbox.misbehave_next(path, kind)
    oauth = NotionOAuth(settings.model_copy(update={"timeout": TIMEOUT.total_seconds()}))
    with pytest.raises((TransientError, MetadataError)):  # MetadataError: a page is no metadata
        await begin(oauth, "http://127.0.0.1:5555/callback")
    assert settings.token_file.read_bytes() == before


@pytest.mark.slow
async def test_sign_out_does_not_wait_longer_than_the_time_out(settings: Settings, sandbox: Sandbox) -> None:
    await sign_in(NotionOAuth(settings))
    sandbox.misbehave_next("/token", "drip", seconds=0.05)  # it never ends by itself
    oauth = NotionOAuth(settings.model_copy(update={"timeout": TIMEOUT.total_seconds()}))
    with anyio.fail_after(30):
        assert await oauth.sign_out() is SignOut.NOT_REACHED
    assert not settings.token_file.exists()


async def test_a_mock_transport_can_replace_the_network() -> None:
    """httpx.MockTransport returns responses that are already read."""
    network = httpx.MockTransport(lambda request: httpx.Response(200, json={"url": str(request.url)}))
    assert await send("https://h.example/", network) == b'{"url":"https://h.example/"}'


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (httpx.ReadTimeout("late"), "sent no complete response"),
        (httpx.ConnectError("refused"), "could not be reached"),
        (httpx.ReadError("reset"), "broke before the response was complete"),
    ],
    ids=lambda case: type(case).__name__,
)
@pytest.mark.parametrize("in_body", [False, True])
async def test_errors_of_another_network_are_ours(failure: httpx.HTTPError, message: str, in_body: bool) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"{"
        raise failure

    async def respond(_: httpx.Request) -> httpx.Response:
        if not in_body:
            raise failure
        return httpx.Response(200, content=parts())

    with pytest.raises(NetworkError, match=message) as caught:
        await send("https://h.example/", httpx.MockTransport(respond))
    assert caught.value.__cause__ is caught.value.__context__ is None, "errors of httpx hold the request"
