"""The transport: whatever a server does wrong ends in one of our errors, within the time-out."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from notion_oauth.errors import MetadataError, NetworkError, NotionOAuthError, ServerUnavailable
from notion_oauth.protocol.messages import Request
from notion_oauth.sandbox import Sandbox
from notion_oauth.transport.client import MAX_BODY, USER_AGENT, Transport

pytestmark = pytest.mark.anyio

TIMEOUT = timedelta(seconds=0.4)
Script = Callable[[socket.socket], None]


@contextmanager
def raw_server(script: Script) -> Iterator[str]:
    """A server that reads the head of one request and then runs the script."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                try:
                    script(connection)
                except OSError:
                    return  # the client has closed the connection

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        thread.join(5)


def drip(head: bytes, each: bytes) -> Script:
    """Send without end, until the client closes the connection."""

    def script(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(each)
            time.sleep(0.05)

    return script


def say(answer: bytes) -> Script:
    return lambda connection: connection.sendall(answer)


async def send(url: str, time_limit: timedelta = timedelta(seconds=10)) -> int:
    response = await Transport(timeout=time_limit, server_url=url).send(Request("GET", url))
    return response.status


def hang(connection: socket.socket) -> None:
    connection.recv(1)  # until the client closes


BOMB = gzip.compress(b"x" * (MAX_BODY * 4))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

MISBEHAVIOUR: dict[str, tuple[Script, type[NotionOAuthError], str]] = {
    "hangs": (hang, NetworkError, "no complete response within 0.4 seconds"),
    "drips its headers": (drip(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), NetworkError, "within 0.4 seconds"),
    "drips one header": (drip(b"HTTP/1.1 200 OK\r\nX-A: ", b"b"), NetworkError, "within 0.4 seconds"),
    "drips its body": (drip(HEAD + b"Content-Length: 9999\r\n\r\n", b"x"), NetworkError, "within 0.4 seconds"),
    "sends nothing": (say(b""), NetworkError, "broke before the response was complete"),
    "speaks another protocol": (say(b"220 smtp.example ESMTP\r\n\r\n"), NetworkError, "broke"),
    "stops midway": (say(HEAD + b"Content-Length: 99\r\n\r\n{"), NetworkError, "broke"),
    "is too long": (
        say(HEAD + f"Content-Length: {MAX_BODY + 1}\r\n\r\n".encode() + b"x" * (MAX_BODY + 1)),
        ServerUnavailable,
        "more than 1024 KiB",
    ),
    "is endless": (drip(HEAD + b"\r\n", b"x" * 400_000), ServerUnavailable, "more than 1024 KiB"),
    "decompresses to too much": (
        say(HEAD + f"Content-Encoding: gzip\r\nContent-Length: {len(BOMB)}\r\n\r\n".encode() + BOMB),
        ServerUnavailable,
        "more than 1024 KiB",
    ),
    "cannot be decompressed": (
        say(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope"),
        NetworkError,
        "is damaged",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("script", "error", "message"), MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
async def test_a_misbehaving_server_ends_in_an_error_in_time(
    script: Script, error: type[NotionOAuthError], message: str
) -> None:
    time_limit = TIMEOUT if "seconds" in message else timedelta(seconds=10)
    with raw_server(script) as url:
        with anyio.fail_after(30), pytest.raises(error, match=message) as caught:
            await send(url, time_limit)
        assert "127.0.0.1" in str(caught.value)
        assert str(caught.value.hint)


async def test_a_redirect_is_returned_and_not_followed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        location = f"Location: http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        with raw_server(say(f"HTTP/1.1 302 Found\r\n{location}\r\nContent-Length: 0\r\n\r\n".encode())) as url:
            assert await send(url) == 302
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


async def test_only_headers_does_not_wait_for_the_body() -> None:
    with raw_server(drip(HEAD + b"X-A: b\r\n\r\n", b"data: x\n\n")) as url:
        request = Request("POST", url, json={}, only_headers=True)
        answer = await Transport(timeout=timedelta(seconds=10), server_url=url).send(request)
    assert (answer.status, answer.headers["x-a"], answer.body) == (200, "b", b"")


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("arrives", [True, False])
async def test_what_arrived_while_the_process_was_stopped_is_read(arrives: bool) -> None:
    """A stopped process runs no event loop, and neither does one that is blocked."""

    def script(connection: socket.socket) -> None:
        time.sleep(0.2)
        if arrives:
            connection.sendall(HEAD + b"Content-Length: 200000\r\n\r\n" + b"x" * 200_000)  # read in several steps
        hang(connection)

    async def block() -> None:
        await anyio.sleep(0.1)
        time.sleep(0.6)  # longer than the time-out

    with raw_server(script) as url:
        async with anyio.create_task_group() as group:
            group.start_soon(block)
            if arrives:
                assert await send(url, TIMEOUT) == 200
            else:
                with pytest.raises(NetworkError, match=r"no complete response within 0\.4 seconds"):
                    await send(url, TIMEOUT)


async def test_exactly_one_mebibyte_is_accepted() -> None:
    with raw_server(say(HEAD + f"Content-Length: {MAX_BODY}\r\n\r\n".encode() + b"x" * MAX_BODY)) as url:
        assert await send(url) == 200


async def test_a_refused_connection_is_a_network_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(NetworkError, match=f"Nothing listens on {host}") as caught:
            await send(f"http://{host}/")
    assert "notion-oauth sandbox --port 9000" in str(caught.value)


async def test_an_unknown_name_is_a_network_error() -> None:
    with pytest.raises(NetworkError, match=r"unknown\.invalid (could not be reached|sent no complete response)"):
        await send("https://unknown.invalid/")


@pytest.mark.spec("MCP §Communication Security", "Use only https endpoints, and http on loopback")
@pytest.mark.parametrize("url", ["http://mcp.notion.com/", "ftp://h.example/", "https://u:p@h.example/", "nonsense"])
async def test_nothing_is_sent_to_a_url_that_is_not_allowed(url: str) -> None:
    with pytest.raises(MetadataError, match="nothing was sent") as caught:
        await Transport(timeout=TIMEOUT).send(Request("GET", url))
    assert "u:p" not in str(caught.value)


async def test_the_proxy_is_used_except_for_loopback(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(say(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")) as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.removesuffix("/x"))
        assert await send(sandbox.base_url) == 200
        with pytest.raises(NetworkError, match=r"h\.example"):
            await send("https://h.example/")


async def test_the_user_agent_names_this_package(sandbox: Sandbox) -> None:
    await send(sandbox.base_url)
    headers = sandbox.requests[0].headers
    assert headers["user-agent"] == USER_AGENT
    assert headers["user-agent"].startswith("notion-oauth/")
    assert headers["accept"] == "application/json"


@pytest.fixture
def self_signed(tmp_path: Path) -> Iterator[str]:
    """An https server on loopback with a self-signed certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            try:
                context.wrap_socket(connection, server_side=True).close()
            except OSError:
                connection.close()  # the client rejects the certificate

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(5)


async def test_a_self_signed_certificate_is_not_trusted(self_signed: str) -> None:
    with pytest.raises(NetworkError, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted") as caught:
        await send(self_signed)
    assert "NOTION_OAUTH_CA_FILE" in str(caught.value.hint)


async def test_a_port_without_tls_is_a_network_error() -> None:
    answer = say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with raw_server(answer) as url, pytest.raises(NetworkError, match=r"TLS handshake with .* failed"):
        await send(url.replace("http:", "https:"))
