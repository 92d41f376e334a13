"""The proxies that are trusted, as a setting names them."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

UNIX = "unix"  # whoever connects through a socket file
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def parse_proxies(text: str) -> tuple[tuple[Network, ...], bool]:
    """The networks, and whether socket files are trusted. Raises ValueError."""
    names = text.replace(",", " ").split()
    try:
        return tuple(ipaddress.ip_network(name, strict=False) for name in names if name != UNIX), UNIX in names
    except ValueError:
        raise ValueError("holds what is neither an address, nor a network, nor `unix`") from None
