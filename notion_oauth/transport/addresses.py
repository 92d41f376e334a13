"""Kinds of IP addresses: public, this machine, private networks, and those that no client may connect to."""

from __future__ import annotations

import socket
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import unquote

Address = IPv4Address | IPv6Address


class Kind(Enum):
    """A kind of address. The values are used in messages."""

    PUBLIC = "a public address"
    LOOPBACK = "an address of this machine"
    PRIVATE = "a private address"
    PLACEHOLDER = "a benchmarking address (RFC 2544), as some proxies use"
    LINK_LOCAL = "a link-local address"
    METADATA = "the address of a cloud metadata service"
    RESERVED = "a reserved address, or one that embeds another"


PRIVATE_KINDS = frozenset({Kind.LOOPBACK, Kind.PRIVATE, Kind.PLACEHOLDER})  # where the configured server may be

# Not covered by a network below: 168.63.129.16 (Azure), 192.0.0.192 (Oracle), 100.100.100.200 (Alibaba)
_METADATA = frozenset(
    ip_address(address)
    for address in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fd00:42::42",
    )
)
_KINDS = tuple(
    (ip_network(network), kind)
    for network, kind in (
        ("127.0.0.0/8", Kind.LOOPBACK),
        ("::1/128", Kind.LOOPBACK),
        ("10.0.0.0/8", Kind.PRIVATE),
        ("172.16.0.0/12", Kind.PRIVATE),
        ("192.168.0.0/16", Kind.PRIVATE),
        ("100.64.0.0/10", Kind.PRIVATE),  # carrier-grade NAT, and private networks such as Tailscale
        ("fc00::/7", Kind.PRIVATE),
        ("198.18.0.0/15", Kind.PLACEHOLDER),  # what proxies that intercept all traffic return for every name
        ("169.254.0.0/16", Kind.LINK_LOCAL),
        ("fe80::/10", Kind.LINK_LOCAL),
    )
)
_NAT64 = ip_network("64:ff9b::/96")  # RFC 6052: how a network without IPv4 reaches public IPv4 addresses
_GLOBAL_UNICAST = ip_network("2000::/3")  # RFC 4291 §2.4; no other IPv6 network is public
_EMBEDDING = tuple(map(ip_network, ("2002::/16", "2001::/32")))  # 6to4, Teredo: no server uses them


def kind_of(address: Address) -> Kind:
    """Return the kind of an address; IPv4-mapped IPv6 and NAT64 are unwrapped (IANA's special-purpose registries)."""
    if isinstance(address, IPv6Address):
        address = IPv6Address(int(address))  # without the zone
        if address.ipv4_mapped is not None:
            return kind_of(address.ipv4_mapped)
        if address in _NAT64:
            embedded = kind_of(IPv4Address(int(address) & 0xFFFFFFFF))
            return Kind.PUBLIC if embedded is Kind.PUBLIC else Kind.RESERVED
    if address in _METADATA:
        return Kind.METADATA
    for network, kind in _KINDS:
        if address in network:
            return kind
    return Kind.PUBLIC if _is_public(address) else Kind.RESERVED


def _is_public(address: Address) -> bool:
    if address.version == 6 and (address not in _GLOBAL_UNICAST or any(address in each for each in _EMBEDDING)):
        return False
    return address.is_global and not address.is_multicast


def literal_address(host: str) -> Address | None:
    """Return the address that a host spells, in any notation; None for a name that needs DNS.

    Other spellings of 127.0.0.1: 2130706433, 0x7f.1, 0177.0.0.1, 127.1, 127.0.0.1. and localhost (RFC 6761 §6.3).
    """
    bare = unquote(host).rstrip(".").lower()
    if bare == "localhost" or bare.endswith(".localhost"):
        return IPv4Address("127.0.0.1")
    try:
        return ip_address(bare)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(bare))
    except (OSError, UnicodeError):
        return None
