"""Check the host, the sender and the scheme of a request, before any other code handles it.

The security middleware, the routes of `router.py` in another application, and `ValidToken` call it.

Without a public https URL the service is for this machine only: it answers loopback names, and only to this machine,
so that neither another machine nor a web page that uses DNS rebinding reaches it. With a public URL it answers only
that host, and only over https.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import Scope

from notion_oauth.errors import BadRequest, HostNotAllowed, InsecureRequest, NotionOAuthError
from notion_oauth.protocol.urls import DEFAULT_PORTS, is_loopback
from notion_oauth.settings import Network, Settings, parse_proxies

HOST_CHECKED = "notion_oauth.host_checked"  # set in a scope that has passed: it is not checked again
MAX_HOST = 255 + 6  # characters of a name (RFC 1035 §3.1) and a port; longer values are refused, and not cached
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_PROXY_HEADERS = frozenset({b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip"})
_PROXY_PREFIXES = (b"x-forwarded-", b"cf-")
_ADD_PROXY = "add the proxy to NOTION_OAUTH_TRUSTED_PROXIES"


class TrustedHosts:
    """Checks the host, scheme and sender of requests. Create one instance for an application: it caches results."""

    def __init__(self, settings: Settings) -> None:
        self._proxies, self._unix = parse_proxies(settings.trusted_proxies or "")
        self.public = settings.is_public
        url = urlsplit(settings.public_url or "")
        self._address = (url.hostname or "").lower(), url.port or DEFAULT_PORTS.get(url.scheme)
        self._host_matches = lru_cache(maxsize=1024)(self._matches)

    def check(self, scope: Scope) -> None:
        """Raise HostNotAllowed, InsecureRequest or BadRequest unless the request is allowed."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or len(hosts[0]) > MAX_HOST:
            raise BadRequest(
                "A request must have one Host header (RFC 9112 §3.2).",
                hint="A proxy must send exactly one Host header.",
            )
        if not self._host_matches(hosts[0]):
            raise self._wrong_host()
        if self.public:
            if not self.is_https(scope):
                raise InsecureRequest(
                    "This service requires https.",
                    hint=f"Use its https URL. If a proxy terminates TLS, {_ADD_PROXY}, and make it send "
                    "X-Forwarded-Proto.",
                )
        elif not self._is_local_request(scope):
            raise InsecureRequest(
                "This service has no public URL, so it accepts requests from this machine only.",
                hint=f"Set NOTION_OAUTH_PUBLIC_URL to the https URL that browsers use, and {_ADD_PROXY}.",
            )

    def _wrong_host(self) -> NotionOAuthError:
        if self.public:
            hint = "Use its public URL. A proxy must forward the Host header unchanged."
            return HostNotAllowed("This service does not answer to this host name.", hint=hint)
        return HostNotAllowed(
            "This service has no public URL, so it accepts only requests for localhost.",
            hint="Set NOTION_OAUTH_PUBLIC_URL to the URL that browsers use.",
        )

    def _matches(self, raw: bytes) -> bool:
        found = _HOST.fullmatch(raw.decode("latin-1"))
        if found is None:
            return False
        host, port = found[1].strip("[]").lower(), found[2]
        if not self.public:
            return is_loopback(host)
        return (host, int(port) if port else DEFAULT_PORTS["https"]) == self._address

    def is_https(self, scope: Scope) -> bool:
        """Return whether the browser uses https, to this server or, as a trusted proxy says, to that proxy."""
        if scope["scheme"] in ("https", "wss"):
            return True
        if not self._is_trusted(peer(scope)):
            return False
        protocols = [value for name, value in scope["headers"] if name == b"x-forwarded-proto"]
        return bool(protocols) and protocols[-1].rpartition(b",")[2].strip().lower() in (b"https", b"wss")

    def client(self, scope: Scope) -> str:
        """Return the address of the nearest hop that is not a trusted proxy. Earlier hops can be forged."""
        address = peer(scope)
        if not self._is_trusted(address):
            return address
        hops = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
        for hop in reversed(hops.decode("latin-1").split(",")):
            found = _address(hop.strip())
            if found is None:
                break
            address = found
            if not self._is_trusted(address):
                break
        return address

    def peer_is_trusted(self, scope: Scope) -> bool:
        """Return whether a trusted proxy or this machine sent the request. Other senders can forge headers.

        If the ASGI server has replaced the connection's address, the replacement counts.
        """
        address = peer(scope)
        return self._is_trusted(address) or _is_loopback(address)

    def _is_local_request(self, scope: Scope) -> bool:
        """Return whether the request was sent on this machine, not forwarded by a proxy.

        A proxy that adds no header cannot be distinguished from a program on this machine.
        """
        if any(name in _PROXY_HEADERS or name.startswith(_PROXY_PREFIXES) for name, _ in scope["headers"]):
            return False
        return self.peer_is_trusted(scope)

    def _is_trusted(self, address: str) -> bool:
        found = _ip(address)
        if found is None:
            return self._unix
        return bool(self._proxies) and _is_in(found, self._proxies)


def peer(scope: Scope) -> str:
    """Return the address of the connection's other end; empty for a Unix socket."""
    client: Sequence[object] | None = scope.get("client")
    address = str(client[0]) if client and client[0] else ""
    return address.removeprefix("::ffff:") if "." in address else address


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


@lru_cache(maxsize=4096)
def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return None if it is no IP address. An IPv4-mapped IPv6 address, in any spelling, becomes the IPv4 address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


@lru_cache(maxsize=4096)
def _is_loopback(address: str) -> bool:
    """Return whether it is a loopback address, or not an IP address: then it came from a Unix socket or a test."""
    found = _ip(address)
    return found is None or found.is_loopback


def _address(hop: str) -> str | None:
    """Return one entry of X-Forwarded-For, without its port; None if it is not an IP address."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    hop = hop.removeprefix("::ffff:") if "." in hop else hop
    return hop if len(hop) <= MAX_HOST and _ip(hop) is not None else None
