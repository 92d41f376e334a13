"""Proxies from the environment: used, bypassed, invalid or refusing, and never shown with their passwords."""

from __future__ import annotations

import logging
import re
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from notion_oauth.errors import ConfigurationError, MetadataError, NetworkError
from notion_oauth.protocol.messages import Request
from notion_oauth.transport.addresses import Address, Kind
from notion_oauth.transport.client import Transport
from notion_oauth.transport.proxies import describe_connection, proxy_for
from tests.support.servers import (
    Visitors,
    basic,
    connect_proxy,
    head_of,
    listening,
    refusing_proxy,
    secure_server,
    socks_proxy,
    speaking_at_once,
)

SERVER = "https://mcp.example/mcp"
AUTH = "https://auth.example/token"


async def unknown(host: str, port: int) -> list[Address]:
    raise AssertionError(f"{host} was resolved here, and not by the proxy")


def transport(ca_file: Path | None = None, **options: Any) -> Transport:
    options = {"timeout": timedelta(seconds=10), "server_url": SERVER, "resolve": unknown, **options}
    return Transport(ca_file=ca_file, **options)


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[Visitors]:
    with secure_server(authority, "auth.example", "10.0.0.9") as running:
        yield running


@pytest.mark.anyio
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
async def test_the_proxy_resolves_the_name(
    server: Visitors, ca_file: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with connect_proxy(server.port) as proxy:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        assert (await transport(ca_file).send(Request("GET", AUTH))).status == 200
    assert proxy.heads[0].startswith("CONNECT auth.example:443 HTTP/1.1\r\n")
    assert "Proxy-Authorization" not in proxy.heads[0]
    assert server.names == ["auth.example"]
    assert server.heads[0].startswith("GET /token HTTP/1.1\r\nHost: auth.example\r\n")


@pytest.mark.anyio
async def test_the_proxy_gets_its_credentials(server: Visitors, ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect_proxy(server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"us%40er:c%3Anary@127.0.0.1:{proxy.port}")  # a scheme may be left out
        assert (await transport(ca_file).send(Request("GET", AUTH))).status == 200
    assert f"Proxy-Authorization: {basic('us@er', 'c:nary')}" in proxy.heads[0]
    assert "Proxy-Authorization" not in server.heads[0]


@pytest.mark.anyio
async def test_an_https_proxy_is_supported(
    server: Visitors, authority: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with connect_proxy(server.port, secure=context) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"https://localhost:{proxy.port}")
        assert (await transport(ca_file).send(Request("GET", AUTH))).status == 200
    assert proxy.heads[0].startswith("CONNECT auth.example:443 ")


@pytest.mark.anyio
async def test_a_socks_proxy_is_supported(
    server: Visitors, ca_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with socks_proxy(server.port, user=b"user", password=b"canary") as proxy:
        monkeypatch.setenv("ALL_PROXY", f"socks5h://user:canary@127.0.0.1:{proxy.port}")
        assert (await transport(ca_file).send(Request("GET", AUTH))).status == 200
        assert proxy.heads == ["auth.example"]
        monkeypatch.setenv("ALL_PROXY", f"socks5://user:cAnary@127.0.0.1:{proxy.port}")
        with pytest.raises(NetworkError, match=r"refused the connection to auth\.example") as caught:
            await transport(ca_file).send(Request("GET", AUTH))
    assert "ALL_PROXY" in str(caught.value.hint)
    assert "anary" not in f"{caught.value}{caplog.text}"


def test_socks_without_its_package_has_an_install_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:canary@h.example:1")
    with pytest.raises(ConfigurationError, match="HTTPS_PROXY") as caught:
        proxy_for(AUTH)
    assert "uv sync --extra socks" in str(caught.value.hint)
    assert "canary" not in str(caught.value)


@pytest.mark.anyio
async def test_loopback_uses_no_proxy_and_http_proxy_is_ignored(
    server: Visitors, authority: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert proxy_for(AUTH) is None
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert proxy_for("http://127.0.0.1:8000/mcp") is None
    assert proxy_for("https://localhost:8000/mcp") is None
    assert proxy_for(AUTH) is not None


@pytest.mark.parametrize(
    ("no_proxy", "host", "direct"),
    [
        ("auth.example", "auth.example", True),
        ("AUTH.example", "auth.example", True),
        ("other.example, auth.example", "auth.example", True),
        ("example", "auth.example", True),
        (".example", "auth.example", True),
        ("*.example", "auth.example", True),
        ("auth.example:443", "auth.example", True),
        ("auth.example:8443", "auth.example", False),
        ("h.example", "auth.example", False),
        ("th.example", "auth.example", False),
        ("auth.example.org", "auth.example", False),
        ("*", "auth.example", True),
        ("a.example,*", "auth.example", True),
        ("", "auth.example", False),
        (",", "auth.example", False),
        ("10.0.0.9", "10.0.0.9", True),
        ("10.0.0.0/8", "10.0.0.9", True),
        ("10.1.0.0/16", "10.0.0.9", False),
        ("fd00::/8", "[fd00::9]", True),
        ("fd00::9", "[fd00::9]", True),
        ("[fd00::9]", "[fd00::9]", True),
        ("10.0.0.0/8", "auth.example", False),
    ],
)
def test_no_proxy(monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, direct: bool) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for(f"https://{host}/x") is None) is direct


@pytest.mark.parametrize(
    "value",
    [
        *("ftp://user:canary@h.example:21", "://canary", "http://user:canary@", "http://user:canary@h.example:port"),
        *(
            "http://user:canary@h.example:99999",
            "http://[canary",
            "http://user:12/34@h",
            "http://u?canary",
            "socks4://user:canary@h.example:1",
            "http://can ary",
        ),
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy"])
def test_an_unusable_proxy_is_reported_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=f"proxy that {variable} names cannot be used") as caught:
        proxy_for(AUTH)
    assert variable in str(caught.value.hint)
    assert not {"canary", "12"} & set(re.split(r"\W+", str(caught.value)))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("answer", "reason", "hint"),
    [
        (b"HTTP/1.1 407 canary\r\nContent-Length: 0\r\n\r\n", "HTTP 407", "user name and password .* HTTPS_PROXY"),
        (b"HTTP/1.1 403 canary\r\nContent-Length: 0\r\n\r\n", "HTTP 403", "Check HTTPS_PROXY, or list auth.example"),
        (b"HTTP/1.1 502 canary\r\nContent-Length: 0\r\n\r\n", "HTTP 502", "Check HTTPS_PROXY"),
        (b"220 smtp canary\r\n\r\n", "broke before", "The stored login is unchanged"),
        (b"", "broke before", "The stored login is unchanged"),
    ],
    ids=["407", "403", "502", "another protocol", "nothing"],
)
async def test_a_refusal_of_the_proxy_is_reported(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, reason: str, hint: str
) -> None:
    with refusing_proxy(answer) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:canary@127.0.0.1:{proxy.port}")
        with pytest.raises(NetworkError, match=reason) as caught:
            await transport().send(Request("GET", AUTH))
    assert caught.match(hint)
    assert "auth.example" in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_an_unreachable_proxy_is_reported(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://user:canary@{address}")
        with pytest.raises(NetworkError, match="could not be reached") as caught:
            await transport().send(Request("GET", AUTH))
    assert f"The proxy {scheme}://{address} (HTTPS_PROXY)" in caught.value.message
    assert "canary" not in str(caught.value)


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05\xff", b"\x05\x02\x09\x09"])
async def test_a_proxy_without_socks_is_reported(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    with speaking_at_once(answer) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"socks5://user:canary@127.0.0.1:{proxy.port}")
        with pytest.raises(NetworkError, match=r"auth\.example") as caught:
            await transport().send(Request("GET", AUTH))
    assert "canary" not in str(caught.value)


@pytest.mark.anyio
async def test_a_hanging_proxy_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = threading.Event()

    def hang(seen: Visitors, connection: socket.socket) -> None:
        head_of(connection)
        if connection.recv(1) == b"":
            closed.set()

    with listening(hang) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(NetworkError, match="no complete response"):
            await transport(timeout=timedelta(seconds=0.3)).send(Request("GET", AUTH))
        assert closed.wait(5), "the connection is not left open"


@pytest.mark.anyio
@pytest.mark.parametrize(
    "host", ["127.0.0.1.", "2130706433", "a.localhost", "169.254.169.254", "10.0.0.1", "[fd00::1]"]
)
async def test_an_address_in_a_url_is_checked_before_the_proxy_is_used(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    with refusing_proxy(b"") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(MetadataError, match="nothing was sent"):
            await transport().send(Request("GET", f"https://{host}/"))
        assert proxy.connections == 0


@pytest.mark.anyio
async def test_the_configured_server_may_have_a_private_address_behind_a_proxy(
    server: Visitors, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect_proxy(server.port) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        configured = transport(ca_file, server_url="https://10.0.0.9/mcp")
        assert (await configured.send(Request("GET", "https://10.0.0.9/mcp"))).status == 200


@pytest.mark.anyio
async def test_a_server_behind_a_proxy_allows_no_private_addresses(
    server: Visitors, authority: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address is unknown here, and no connection bypasses the proxy to find out."""

    async def loopback(host: str, port: int) -> list[Address]:
        return [ip_address("127.0.0.1")]

    with refusing_proxy(b"") as proxy, secure_server(authority, "mcp.example") as mcp:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "auth.example")
        behind = transport(ca_file, server_url=f"https://mcp.example:{mcp.port}/mcp", resolve=loopback)
        with pytest.raises(NetworkError, match="nothing was sent"):
            await behind.send(Request("GET", f"https://auth.example:{server.port}/"))
        assert (proxy.connections, mcp.connections, server.connections) == (0, 0, 0)


# Descriptions for `doctor`


@pytest.mark.anyio
async def test_a_proxied_connection_is_described_without_the_password(
    monkeypatch: pytest.MonkeyPatch, ca_file: Path
) -> None:
    monkeypatch.setenv("https_proxy", "http://user:canary@Proxy.example:3128")
    monkeypatch.setenv("SSL_CERT_FILE", "/somewhere/ca.pem")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    path = await describe_connection(SERVER, ca_file=ca_file, time_limit=timedelta(seconds=5), resolve=unknown)
    assert str(path.proxy) == "http://proxy.example:3128 (https_proxy)"
    assert path.trust == f"SSL_CERT_FILE (/somewhere/ca.pem), and NOTION_OAUTH_CA_FILE ({ca_file})"
    assert (path.host, path.addresses) == ("mcp.example", ())
    assert "canary" not in repr(path)


@pytest.mark.anyio
async def test_a_direct_connection_is_described_with_its_addresses() -> None:
    async def resolve(host: str, port: int) -> list[Address]:
        return [ip_address("10.0.0.1"), ip_address("1.1.1.1")]

    path = await describe_connection(SERVER, time_limit=timedelta(seconds=5), resolve=resolve)
    assert path.proxy is None
    assert path.addresses == ((ip_address("10.0.0.1"), Kind.PRIVATE), (ip_address("1.1.1.1"), Kind.PUBLIC))
    plain = await describe_connection("http://localhost:8000/mcp", time_limit=timedelta(seconds=5))
    assert plain.trust is None
    assert (ip_address("127.0.0.1"), Kind.LOOPBACK) in plain.addresses


@pytest.mark.anyio
async def test_a_name_that_does_not_resolve_in_time_has_no_addresses() -> None:
    async def silent(host: str, port: int) -> list[Address]:
        await anyio.sleep_forever()
        raise AssertionError

    async def failing(host: str, port: int) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    for resolve in (silent, failing):
        path = await describe_connection(SERVER, time_limit=timedelta(seconds=0.05), resolve=resolve)
        assert path.addresses == ()
