"""How a URL is reached: directly or through a proxy, with which certificate authorities, at which addresses."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

import anyio

from notion_oauth.errors import ConfigurationError
from notion_oauth.files.installation import install_hint
from notion_oauth.protocol.urls import DEFAULT_PORTS, is_loopback
from notion_oauth.transport.addresses import Address, Kind, kind_of
from notion_oauth.transport.certificates import find_trusted_authorities

Resolver = Callable[[str, int], Awaitable[Sequence[Address]]]

_PROXY_PORTS = {**DEFAULT_PORTS, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy from the environment. `address` is its URL without credentials, safe to show."""

    variable: str
    address: str
    auth: tuple[bytes, bytes] | None = field(default=None, repr=False)

    @property
    def is_socks(self) -> bool:
        return self.address.startswith("socks")

    def __str__(self) -> str:
        return f"{self.address} ({self.variable})"


@dataclass(frozen=True, slots=True)
class ConnectionPath:
    """How a URL is reached.

    `trust` is None for plain http. `addresses` are those of the host with their kinds; empty if a proxy resolves the
    name, or if it could not be resolved in time.
    """

    host: str
    proxy: Proxy | None
    trust: str | None
    addresses: tuple[tuple[Address, Kind], ...]


async def describe_connection(
    url: str, *, ca_file: Path | None = None, time_limit: timedelta, resolve: Resolver | None = None
) -> ConnectionPath:
    """Describe how a URL would be reached, without connecting; wait for DNS at most `time_limit`.

    Raises ConfigurationError as a request would.
    """
    parts = urlsplit(url)
    host, proxy = parts.hostname or "", proxy_for(url)
    found: Sequence[Address] = ()
    if proxy is None:
        with anyio.move_on_after(time_limit.total_seconds()):
            try:
                found = await (resolve or resolve_host)(host, port_of(url))
            except (OSError, UnicodeError):
                found = ()
    trust = str(find_trusted_authorities(ca_file)) if parts.scheme == "https" else None
    return ConnectionPath(host, proxy, trust, tuple((address, kind_of(address)) for address in found))


async def resolve_host(host: str, port: int) -> list[Address]:
    """Return the addresses of a host, the preferred one first (RFC 6724).

    Raises OSError if there are none, UnicodeError for an invalid name.
    """
    with suppress(ValueError):
        return [ip_address(host)]  # without a thread
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(address) for address in dict.fromkeys(entry[4][0] for entry in found)]


def port_of(url: str) -> int:
    """Return the port of a URL, or the default port of its scheme."""
    parts = urlsplit(url)
    return parts.port or DEFAULT_PORTS[parts.scheme]


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy of HTTPS_PROXY or ALL_PROXY (or the system's settings), unless NO_PROXY lists the host.

    There is no proxy for loopback: its plain text must not leave this machine. Plain http is allowed nowhere else, so
    HTTP_PROXY is never used. Raises ConfigurationError if the proxy cannot be used.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    has_variables = any(variable.lower().endswith("_proxy") for variable in os.environ)
    if is_loopback(host) or not (has_variables or sys.platform in ("darwin", "win32")):
        return None
    from urllib.request import getproxies, getproxies_environment, proxy_bypass  # noqa: PLC0415 - slow to import

    environment = getproxies_environment()
    proxies = environment or getproxies()
    name = next((name for name in (parts.scheme, "all") if proxies.get(name)), None)
    direct = _is_listed(host, port_of(url), environment.get("no", "")) if environment else proxy_bypass(host)
    if name is None or direct:
        return None
    return _parse(_variable(name) if environment else "the system's proxy setting", proxies[name])


def _variable(name: str) -> str:
    """Return the name of the variable that is set; lower case takes precedence, as in other programs."""
    lowercase = f"{name}_proxy"
    return lowercase if os.environ.get(lowercase) else lowercase.upper()


def _is_listed(host: str, port: int, no_proxy: str) -> bool:
    """Return whether NO_PROXY lists a host: by name, parent domain, address, network (10.0.0.0/8) or `*`."""
    for listed in filter(None, (entry.strip().lower() for entry in no_proxy.split(","))):
        if listed == "*" or listed in (host, f"{host}:{port}", f"[{host}]", f"[{host}]:{port}"):
            return True
        domain = "." + listed.removeprefix("*").removeprefix(".")
        if f".{host}".endswith(domain) or f".{host}:{port}".endswith(domain) or _in_network(host, listed):
            return True
    return False


def _in_network(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def _parse(variable: str, value: str) -> Proxy:
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = parts.port
    except ValueError:
        raise _unusable(variable, "it is not a URL") from None
    if parts.scheme not in _PROXY_PORTS:
        raise _unusable(variable, "it does not start with http://, https:// or socks5://")
    if not parts.hostname or not all("!" <= character <= "~" for character in parts.hostname):
        raise _unusable(variable, "it has no valid host")
    # With a path, the parsed host may be the start of a password that contains a slash
    if parts.path.strip("/") or "?" in value or "#" in value:
        raise _unusable(variable, "it has text after the port (in a password, write / ? # as %2F %3F %23)")
    if parts.scheme.startswith("socks") and find_spec("socksio") is None:
        message = f"The proxy that {variable} names uses SOCKS, and the package for that is not installed."
        text = f"Set {variable} to an http:// proxy, or install it"
        raise ConfigurationError(message, hint=install_hint("socks", "socksio", text))
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    username, password = (_SecretBytes(unquote_to_bytes(part or "")) for part in (parts.username, parts.password))
    address = f"{parts.scheme}://{host}:{port or _PROXY_PORTS[parts.scheme]}"
    return Proxy(variable, address, (username, password) if username or password else None)


def _unusable(variable: str, reason: str) -> ConfigurationError:
    hint = f"Set {variable} to http://HOST:PORT (or https://, socks5://), or unset it."
    return ConfigurationError(f"The proxy that {variable} names cannot be used: {reason}.", hint=hint)


class _SecretBytes(bytes):
    """Bytes that `repr` hides: httpcore logs its arguments."""

    def __repr__(self) -> str:
        return "b'***'"
