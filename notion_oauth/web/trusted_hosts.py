"""Whom a request addresses, who sent it, and over what: checked before anything else looks at it.

Without a public https URL the service is this machine's own: it answers loopback names that come from loopback, so
that neither a neighbour nor a page that rebinds its DNS name reaches it. With one it answers that host alone, over
https alone.
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

HOST_CHECKED = "notion_oauth.guarded"  # in a scope that was checked: it is not checked again
MAX_HOST = 255 + 6  # characters of a name (RFC 1035 §3.1) and a port; what is longer is not remembered
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_PASSED_ON = frozenset({b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"true-client-ip"})
_PASSED_ON_BY = (b"x-forwarded-", b"cf-")
_NAME_PROXY = "name the proxy in NOTION_OAUTH_TRUSTED_PROXIES"


class TrustedHosts:
    """What these settings let in. Made once; a check takes microseconds."""

    def __init__(self, settings: Settings) -> None:
        self._proxies, self._unix = parse_proxies(settings.trusted_proxies or "")
        self.public = settings.is_public
        url = urlsplit(settings.public_url or "")
        self._address = (url.hostname or "").lower(), url.port or DEFAULT_PORTS.get(url.scheme)
        self._host_matches = lru_cache(maxsize=1024)(self._matches)

    def check(self, scope: Scope) -> None:
        """Raise WrongHost, InsecureRequest or BadRequest (all kinds of NotionOAuthError) unless it may go on."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or len(hosts[0]) > MAX_HOST:
            raise BadRequest("A request has one Host header (RFC 9112 §3.2).")
        if not self._host_matches(hosts[0]):
            raise self._wrong_host()
        if self.public:
            if not self.is_https(scope):
                raise InsecureRequest(
                    "This service is served over https alone.",
                    hint=f"Use its https address. Where a proxy ends TLS, {_NAME_PROXY}, and let it send "
                    "X-Forwarded-Proto.",
                )
        elif not self._is_local_request(scope):
            raise InsecureRequest(
                "This service is for its own machine, and does not know its public address.",
                hint=f"Set NOTION_OAUTH_PUBLIC_URL to the https address that browsers use, and {_NAME_PROXY}.",
            )

    def _wrong_host(self) -> NotionOAuthError:
        if self.public:
            hint = "Use its public address. A proxy in front must pass the Host header on as it is."
            return HostNotAllowed("This service does not answer to that host name.", hint=hint)
        return HostNotAllowed(
            "This service is not addressed as localhost, and does not know its public address.",
            hint="Set NOTION_OAUTH_PUBLIC_URL to the address that browsers use.",
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
        """Whether the browser's side is encrypted: by this server, or by a proxy that is trusted and says so."""
        if scope["scheme"] in ("https", "wss"):
            return True
        if not self._is_trusted(peer(scope)):
            return False
        said = [value for name, value in scope["headers"] if name == b"x-forwarded-proto"]
        return bool(said) and said[-1].rpartition(b",")[2].strip().lower() in (b"https", b"wss")

    def client(self, scope: Scope) -> str:
        """The address of whoever asks: the nearest hop that is no proxy of ours. Hops before it may be invented."""
        address = peer(scope)
        if not self._is_trusted(address):
            return address
        said = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
        for hop in reversed(said.decode("latin-1").split(",")):
            stated = _address(hop.strip())
            if stated is None:
                break
            address = stated
            if not self._is_trusted(address):
                break
        return address

    def peer_is_trusted(self, scope: Scope) -> bool:
        """Whether the connection is from a proxy that is named, or from this machine: others may invent what they say.

        Where a server has put another address in the connection's place, that is the one that counts here.
        """
        address = peer(scope)
        return self._is_trusted(address) or _is_this_machines(address)

    def _is_local_request(self, scope: Scope) -> bool:
        """Whether it comes from this machine itself. What a proxy passes on comes from elsewhere.

        One that adds no header of its own cannot be told from a program of this machine.
        """
        if any(name in _PASSED_ON or name.startswith(_PASSED_ON_BY) for name, _ in scope["headers"]):
            return False
        return self.peer_is_trusted(scope)

    def _is_trusted(self, address: str) -> bool:
        found = _ip(address)
        if found is None:
            return self._unix
        return bool(self._proxies) and _is_in(found, self._proxies)


def peer(scope: Scope) -> str:
    """The address at the other end of the connection; empty for a socket file."""
    client: Sequence[object] | None = scope.get("client")
    address = str(client[0]) if client and client[0] else ""
    return address.removeprefix("::ffff:") if "." in address else address


def _is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


@lru_cache(maxsize=4096)
def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for what is none. One of IPv4 in the clothes of IPv6, however it is written, is one of IPv4."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


@lru_cache(maxsize=4096)
def _is_this_machines(address: str) -> bool:
    """Whether it is loopback's, or none: that came over no network, but from a socket file or a test."""
    found = _ip(address)
    return found is None or found.is_loopback


def _address(hop: str) -> str | None:
    """One entry of X-Forwarded-For, without its port; None for what is no address."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    hop = hop.removeprefix("::ffff:") if "." in hop else hop
    return hop if len(hop) <= MAX_HOST and _ip(hop) is not None else None
