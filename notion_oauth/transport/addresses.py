"""What lies at an address: the internet, this machine, somebody's own network, or nothing that a client may talk to."""

from __future__ import annotations

import socket
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import unquote

Address = IPv4Address | IPv6Address


class Kind(Enum):
    """What lies at an address. The values are words for messages."""

    PUBLIC = "a public address"
    LOOPBACK = "an address of this machine itself"
    PRIVATE = "a private address"
    PLACEHOLDER = "an address that only stands in for another"
    LINK_LOCAL = "a link-local address"
    METADATA = "the address of a cloud's metadata service"
    RESERVED = "an address that is reserved or wraps another"


PRIVATE_KINDS = frozenset(
    {Kind.LOOPBACK, Kind.PRIVATE, Kind.PLACEHOLDER}
)  # where a server of one's own can be; never the rest

# Those that no other row covers are 168.63.129.16 (Azure), 192.0.0.192 (Oracle) and 100.100.100.200 (Alibaba)
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
        ("100.64.0.0/10", Kind.PRIVATE),  # shared by a provider's customers, and by private networks such as Tailscale
        ("fc00::/7", Kind.PRIVATE),
        ("198.18.0.0/15", Kind.PLACEHOLDER),  # what proxies that catch all traffic answer for every name
        ("169.254.0.0/16", Kind.LINK_LOCAL),
        ("fe80::/10", Kind.LINK_LOCAL),
    )
)
_NAT64 = ip_network("64:ff9b::/96")  # RFC 6052: how a network without IPv4 reaches public IPv4 addresses
_GLOBAL_UNICAST = ip_network("2000::/3")  # RFC 4291 §2.4; nothing else of IPv6 is the internet
_WRAPPERS = tuple(map(ip_network, ("2002::/16", "2001::/32")))  # 6to4, Teredo: no server is there


def kind_of(address: Address) -> Kind:
    """What lies at an address, seen through IPv4-mapped IPv6 and NAT64 (IANA's special-purpose registries)."""
    if isinstance(address, IPv6Address):
        address = IPv6Address(int(address))  # without a zone
        if address.ipv4_mapped is not None:
            return kind_of(address.ipv4_mapped)
        if address in _NAT64:
            wrapped = kind_of(IPv4Address(int(address) & 0xFFFFFFFF))
            return Kind.PUBLIC if wrapped is Kind.PUBLIC else Kind.RESERVED
    if address in _METADATA:
        return Kind.METADATA
    for network, kind in _KINDS:
        if address in network:
            return kind
    return Kind.PUBLIC if _is_internet(address) else Kind.RESERVED


def _is_internet(address: Address) -> bool:
    if address.version == 6 and (address not in _GLOBAL_UNICAST or any(address in each for each in _WRAPPERS)):
        return False
    return address.is_global and not address.is_multicast


def literal_address(host: str) -> Address | None:
    """The address that a host is written as, in whatever way; None for a name that has to be looked up.

    127.0.0.1 is also written 2130706433, 0x7f.1, 0177.0.0.1, 127.1, 127.0.0.1. and localhost (RFC 6761 §6.3).
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
