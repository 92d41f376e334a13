"""Servers name other servers, and none of them can direct us to a private address."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from threading import Thread
from typing import Any

import anyio
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from notion_oauth.errors import MetadataError, NetworkError, NotionOAuthError
from notion_oauth.protocol.messages import Request
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.transport.address_policy import AddressPolicy
from notion_oauth.transport.addresses import Address, Kind, kind_of, literal_address
from notion_oauth.transport.client import Transport
from notion_oauth.transport.proxies import resolve_host
from tests.support.servers import listening, secure_server

TIMEOUT = timedelta(seconds=10)
ALLOW = "NOTION_OAUTH_ALLOW_PRIVATE_ADDRESSES"
LOOPBACK = "http://127.0.0.1:1/mcp"


class Names:
    """A resolver with fixed records. It records the queries."""

    def __init__(self, **records: Sequence[str]) -> None:
        self._records = {name.replace("_", "."): list(addresses) for name, addresses in records.items()}
        self.queries: list[str] = []

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.queries.append(host)
        if host not in self._records:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [ip_address(address) for address in self._records[host]]


async def get(url: str, **options: Any) -> int:
    return (await Transport(timeout=TIMEOUT, **options).send(Request("GET", url))).status


# Addresses

KINDS = {
    Kind.PUBLIC: ("93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"),
    Kind.LOOPBACK: ("127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"),
    Kind.PRIVATE: (
        *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "100.127.255.255"),
        *("fc00::1", "fd12:3456::1", "::ffff:10.0.0.1"),
    ),
    Kind.PLACEHOLDER: ("198.18.0.1", "198.19.255.255"),
    Kind.LINK_LOCAL: ("169.254.1.1", "fe80::1", "fe80::1%eth0", "::ffff:169.254.1.1"),
    Kind.METADATA: (
        *("169.254.169.254", "::ffff:169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16"),
        *("192.0.0.192", "fd00:ec2::254", "fd00:ec2::254%eth0", "fd20:ce::254", "fd00:42::42"),
    ),
    Kind.RESERVED: (
        *("0.0.0.0", "0.1.2.3", "192.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1"),
        *("240.0.0.1", "255.255.255.255", "::", "::127.0.0.1", "::1.1.1.1", "::ffff:0.0.0.0", "ff02::1", "fec0::1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "2001:db8::1"),
        *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2002:101:101::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
        *("4000::1", "5f00::1"),
    ),
}


@pytest.mark.parametrize(("kind", "address"), [(kind, address) for kind, all_ in KINDS.items() for address in all_])
def test_kind_of_an_address(kind: Kind, address: str) -> None:
    assert kind_of(ip_address(address)) is kind


NOT_GLOBAL = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/29"),
    *("192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4"),
    *("240.0.0.0/4", "::/96", "64:ff9b:1::/48", "100::/64", "2001::/32", "2001:db8::/32", "2002::/16", "fc00::/7"),
    *("fe80::/10", "fec0::/10", "ff00::/8"),
]
ANY = st.one_of(st.ip_addresses(), *(st.ip_addresses(network=network) for network in NOT_GLOBAL))


@given(ANY)
def test_an_address_that_is_not_global_is_never_public(address: Address) -> None:
    listed = any(address.version == ip_network(each).version and address in ip_network(each) for each in NOT_GLOBAL)
    if listed or address.is_multicast or not (address.is_global or _embeds_global(address)):
        assert kind_of(address) is not Kind.PUBLIC


def _embeds_global(address: Address) -> bool:
    return isinstance(address, IPv6Address) and address.ipv4_mapped is not None and address.ipv4_mapped.is_global


EMBEDDINGS = {
    "mapped": lambda inner: 0xFFFF << 32 | inner,
    "compatible": lambda inner: inner,
    "NAT64": lambda inner: 0x64FF9B << 96 | inner,
    "6to4": lambda inner: 0x2002 << 112 | inner << 80,
    "Teredo": lambda inner: 0x20010000 << 96 | inner ^ 0xFFFFFFFF,
}


@given(
    st.one_of(*(st.ip_addresses(network=each) for each in NOT_GLOBAL if ":" not in each)),
    st.sampled_from(list(EMBEDDINGS)),
)
def test_an_embedded_address_is_never_public(inner: IPv4Address, embedding: str) -> None:
    assert kind_of(IPv6Address(EMBEDDINGS[embedding](int(inner)))) is not Kind.PUBLIC


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.0.0.1.", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001"),
        *("127%2E0.0.1", "localhost", "LOCALHOST", "localhost.", "a.b.localhost", "A.localhost."),
    ],
)
def test_every_spelling_of_loopback_is_recognised(host: str) -> None:
    assert literal_address(host) == ip_address("127.0.0.1")


@pytest.mark.parametrize("host", ["mcp.notion.com", "localhost.example", "notlocalhost", "1.2.3.4.5", "a", ""])
def test_a_name_is_no_literal_address(host: str) -> None:
    assert literal_address(host) is None


# Which of them are allowed

PRIVATE = {Kind.LOOPBACK: "127.0.0.1", Kind.PRIVATE: "10.0.0.1", Kind.PLACEHOLDER: "198.18.0.1"}
NEVER = {kind: KINDS[kind][0] for kind in (Kind.LINK_LOCAL, Kind.METADATA, Kind.RESERVED)}
ALL = {Kind.PUBLIC: "1.1.1.1", **PRIVATE, **NEVER}


def allowed(policy: AddressPolicy, *, configured: bool = False) -> set[Kind]:
    return {kind for kind, address in ALL.items() if policy.allows(ip_address(address), configured=configured)}


@pytest.mark.parametrize(
    ("server_url", "also"),
    [
        (None, set()),
        ("https://mcp.notion.com/mcp", set()),
        ("https://1.1.1.1/mcp", set()),
        ("http://127.0.0.1:8080/mcp", {Kind.LOOPBACK}),
        ("http://localhost:8080/mcp", {Kind.LOOPBACK}),
        ("https://[::1]/mcp", {Kind.LOOPBACK}),
        ("https://10.1.2.3/mcp", {Kind.PRIVATE}),
        ("https://100.64.0.9/mcp", {Kind.PRIVATE}),
        ("https://[fd00::1]/mcp", {Kind.PRIVATE}),
        ("https://169.254.169.254/mcp", set()),
        ("https://[fe80::1]/mcp", set()),
    ],
)
def test_other_servers_may_share_only_the_kind_of_the_configured_address(
    server_url: str | None, also: set[Kind]
) -> None:
    assert allowed(AddressPolicy(server_url)) == {Kind.PUBLIC, *also}


@pytest.mark.parametrize("kind", ALL)
def test_a_confirmed_private_address_allows_its_kind(kind: Kind) -> None:
    policy = AddressPolicy("https://mcp.corp.example/mcp")
    policy.confirm_private(ip_address(ALL[kind]))
    assert allowed(policy) == {Kind.PUBLIC, *({kind} & set(PRIVATE))}


def test_the_configured_server_may_be_at_any_private_address() -> None:
    assert allowed(AddressPolicy("https://mcp.corp.example/mcp"), configured=True) == {Kind.PUBLIC, *PRIVATE}


def test_allow_private_allows_only_private_kinds() -> None:
    assert allowed(AddressPolicy("https://mcp.notion.com/mcp", allow_private=True)) == {Kind.PUBLIC, *PRIVATE}


def test_the_configured_server_is_matched_by_host_and_port() -> None:
    policy = AddressPolicy("https://mcp.corp.example/mcp")
    assert policy.is_configured_server("mcp.corp.example", 443)
    assert not policy.is_configured_server("mcp.corp.example", 8443)
    assert not policy.is_configured_server("auth.corp.example", 443)


# An address in a URL

LITERALS = [
    *("127.0.0.1", "127.1", "2130706433", "0x7f.1", "127.0.0.1.", "localhost.", "a.localhost", "[::1]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0.0.0.0", "0"),
    *("169.254.169.254", "2852039166", "0xa9fea9fe", "[fd00:ec2::254]", "100.100.100.200", "10.0.0.1", "[fe80::1]"),
]


async def resolve_like_the_system(host: str, port: int) -> list[Address]:
    return [ip_address("169.254.0.1")] if host == "mcp.notion.com" else await resolve_host(host, port)


@pytest.mark.anyio
@pytest.mark.parametrize("server_url", [None, "https://mcp.notion.com/mcp"])
@pytest.mark.parametrize("host", LITERALS)
async def test_a_private_address_in_a_url_is_refused(host: str, server_url: str | None) -> None:
    transport = Transport(timeout=TIMEOUT, server_url=server_url, resolve=resolve_like_the_system)
    with listening(lambda seen, connection: None) as target:
        with pytest.raises(NotionOAuthError, match=r"nothing was sent|could not be reached: its name"):
            await transport.send(Request("GET", f"https://{host}:{target.port}/"))
        assert target.connections == 0


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_refused_address_is_a_metadata_error_with_a_hint(scheme: str) -> None:
    with pytest.raises(MetadataError, match=r"127\.0\.0\.1 is an address of this machine;") as caught:
        await get(f"{scheme}://127.0.0.1:1/")
    assert f"set {ALLOW}=true" in str(caught.value.hint)
    with pytest.raises(MetadataError, match="metadata service") as never:
        await get("https://169.254.169.254/", server_url=LOOPBACK, allow_private=True)
    assert ALLOW not in str(never.value)


# A name in a URL


@pytest.mark.anyio
@pytest.mark.parametrize(
    "address", [address for kind, all_ in KINDS.items() if kind is not Kind.PUBLIC for address in all_]
)
async def test_a_name_that_resolves_to_a_private_address_is_refused(address: str) -> None:
    names = Names(evil_example=[address])
    with listening(lambda seen, connection: None) as target:
        with pytest.raises(NetworkError, match=r"evil\.example resolves to .*; nothing was sent"):
            await get(f"https://evil.example:{target.port}/", resolve=names)
        assert target.connections == 0
    assert names.queries == ["evil.example"]


@pytest.mark.anyio
async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    with pytest.raises(NetworkError, match="could not be reached"):
        await get("https://evil.example/", resolve=Names(evil_example=[]))
    with pytest.raises(NetworkError, match="could not be reached: its name does not resolve"):
        await get("https://evil.example/", resolve=Names())


@pytest.mark.anyio
async def test_the_checked_address_is_the_one_connected_to(authority: trustme.CA, ca_file: Path) -> None:
    """A name is resolved only once, so a second, different answer has no effect (DNS rebinding)."""
    queries: list[str] = []

    async def rebinding(host: str, port: int) -> list[Address]:
        queries.append(host)
        return [ip_address(f"127.0.0.{len(queries)}")]

    with (
        secure_server(authority, "auth.example") as first,
        secure_server(authority, "auth.example", address="127.0.0.2", port=first.port) as second,
    ):
        url = f"https://auth.example:{first.port}/"
        assert await get(url, server_url=LOOPBACK, ca_file=ca_file, resolve=rebinding) == 200
        assert (first.connections, second.connections) == (1, 0)
    assert queries == ["auth.example"]
    assert first.names == ["auth.example"]
    assert f"Host: auth.example:{first.port}" in first.heads[0]


@pytest.mark.anyio
async def test_only_allowed_addresses_of_a_name_are_tried(authority: trustme.CA, ca_file: Path) -> None:
    names = Names(auth_example=["::", "169.254.169.254", "127.0.0.1"])  # connecting to "::" reaches ::1
    with (
        secure_server(authority, "auth.example") as good,
        listening(lambda seen, connection: None, address="::1", port=good.port) as bad,
    ):
        transport = Transport(timeout=TIMEOUT, server_url=LOOPBACK, ca_file=ca_file, resolve=names)
        url = f"https://auth.example:{good.port}/"
        assert (await transport.send(Request("GET", url))).status == 200
        assert (good.connections, bad.connections) == (1, 0)


@pytest.mark.anyio
async def test_a_silent_address_does_not_delay_the_next(authority: trustme.CA, ca_file: Path) -> None:
    """RFC 8305: the next address is tried while the first does not answer, and at once if it refuses."""
    with ExitStack() as stack:
        good = stack.enter_context(secure_server(authority, "auth.example", address="127.0.0.3"))
        silent = stack.enter_context(socket.create_server(("127.0.0.1", good.port), backlog=0))
        for _ in range(3):  # fill the accept queue, so that further connections get no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(silent.getsockname())
        names = Names(auth_example=["127.0.0.1", "127.0.0.2", "127.0.0.3"])  # silent, refusing, good
        url = f"https://auth.example:{good.port}/"
        assert await get(url, server_url=LOOPBACK, ca_file=ca_file, resolve=names) == 200


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_the_time_out_includes_dns(anyio_backend: str) -> None:
    async def silent(host: str, port: int) -> list[Address]:
        await anyio.sleep_forever()
        raise AssertionError

    transport = Transport(timeout=timedelta(seconds=0.2), resolve=silent)
    with anyio.fail_after(10), pytest.raises(NetworkError, match="no complete response within"):
        await transport.send(Request("GET", "https://h.example/"))


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_resolve_host_works_on_every_event_loop(anyio_backend: str) -> None:
    assert ip_address("127.0.0.1") in await resolve_host("localhost", 443)


# A name in the URL of the configured server


@pytest.mark.anyio
async def test_a_private_server_with_a_certificate_allows_other_private_servers(
    authority: trustme.CA, ca_file: Path
) -> None:
    """As in a company network: mcp.corp.example names auth.corp.example, and both have private addresses."""
    names = Names(mcp_example=["127.0.0.1"], auth_example=["127.0.0.1"])
    with secure_server(authority, "mcp.example") as mcp, secure_server(authority, "auth.example") as auth:
        server_url = f"https://mcp.example:{mcp.port}/mcp"
        transport = Transport(timeout=TIMEOUT, server_url=server_url, ca_file=ca_file, resolve=names)
        url = f"https://auth.example:{auth.port}/token"
        # As for a refresh in a new process: only a TLS handshake with the configured server, and no request
        assert (await transport.send(Request("GET", url))).status == 200
        assert (mcp.connections, mcp.heads) == (1, [])
        assert (await transport.send(Request("GET", url))).status == 200
        assert mcp.connections == 1, "it was confirmed before"


@pytest.mark.anyio
async def test_a_confirmed_server_is_not_confirmed_again(authority: trustme.CA, ca_file: Path) -> None:
    names = Names(mcp_example=["127.0.0.1"], auth_example=["127.0.0.1"])
    with secure_server(authority, "mcp.example") as mcp, secure_server(authority, "auth.example") as auth:
        server_url = f"https://mcp.example:{mcp.port}/mcp"
        transport = Transport(timeout=TIMEOUT, server_url=server_url, ca_file=ca_file, resolve=names)
        assert (await transport.send(Request("GET", server_url))).status == 200
        assert (await transport.send(Request("GET", f"https://auth.example:{auth.port}/"))).status == 200
        assert mcp.connections == 1


@pytest.mark.anyio
async def test_a_private_server_without_a_valid_certificate_allows_nothing(
    authority: trustme.CA, ca_file: Path
) -> None:
    """The owner of mcp.example points it at this machine, where another server runs: its certificate does not match."""
    names = Names(mcp_example=["127.0.0.1"], intern_example=["127.0.0.1"])
    with secure_server(authority, "other.example") as other, secure_server(authority, "intern.example") as intern:
        with pytest.raises(NetworkError, match=r"intern\.example resolves to an address of this machine"):
            await get(
                f"https://intern.example:{intern.port}/",
                server_url=f"https://mcp.example:{other.port}/mcp",
                ca_file=ca_file,
                resolve=names,
            )
        assert (other.connections, other.heads) == (1, [])
        assert intern.connections == 0


@pytest.mark.anyio
async def test_an_unreachable_server_allows_nothing(authority: trustme.CA, ca_file: Path) -> None:
    names = Names(intern_example=["127.0.0.1"])
    with secure_server(authority, "intern.example") as intern:
        with pytest.raises(NetworkError, match=r"intern\.example resolves to"):
            await get(
                f"https://intern.example:{intern.port}/",
                server_url="https://mcp.example/",
                ca_file=ca_file,
                resolve=names,
            )
        assert intern.connections == 0


@pytest.mark.anyio
async def test_the_allow_private_addresses_setting_is_used(
    authority: trustme.CA, ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with secure_server(authority, "localhost") as intern:
        url = f"https://localhost:{intern.port}/"
        strict = Settings(server_url="https://1.1.1.1/mcp", ca_file=ca_file)
        with pytest.raises(MetadataError, match="nothing was sent"):
            await Transport.from_settings(strict).send(Request("GET", url))
        monkeypatch.setenv(ALLOW, "true")
        settings = Settings(server_url="https://1.1.1.1/mcp", ca_file=ca_file)
        assert (await Transport.from_settings(settings).send(Request("GET", url))).status == 200


# A whole sign-in


class Documents(BaseHTTPRequestHandler):
    """An MCP server, http on loopback, that is also its authorization server unless `changes` replace that."""

    changes: dict[str, Any] = {}  # noqa: RUF012 - each test makes a subclass

    def do_GET(self) -> None:
        base = f"http://{self.headers['Host']}"
        document: dict[str, Any] = {
            "resource": f"{base}/mcp",
            "authorization_servers": [base],
            "issuer": base,
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "registration_endpoint": f"{base}/register",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
        }
        body = json.dumps({**document, **self.changes}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Write no log."""


@pytest.mark.anyio
@pytest.mark.parametrize("address", ["169.254.169.254", "10.0.0.1", "[fd00:ec2::254]", "2852039166"])
@pytest.mark.parametrize(
    "change",
    [lambda url: {"authorization_servers": [url]}, lambda url: {"registration_endpoint": f"{url}/register"}],
    ids=["authorization server", "endpoint"],
)
async def test_metadata_with_a_private_address_ends_the_sign_in(change: Any, address: str, tmp_path: Path) -> None:
    handler = type("Changed", (Documents,), {"changes": change(f"https://{address}")})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        settings = Settings(
            server_url=f"http://127.0.0.1:{server.server_port}/mcp", token_file=tmp_path / "tokens.json"
        )
        with pytest.raises(MetadataError, match="nothing was sent"):
            await NotionOAuth(settings).begin_authorization("http://127.0.0.1:1234/callback")
        server.shutdown()
        thread.join(5)
