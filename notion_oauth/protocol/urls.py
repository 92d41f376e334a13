"""Which URLs a client may request, and which URLs a resource covers."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

_NOT_IN_URLS = frozenset('"<>\\^`{|}')  # RFC 3986 §2; browsers read a backslash as a slash, so the host could differ
DEFAULT_PORTS = {"https": 443, "http": 80}


def is_loopback(host: str | None) -> bool:
    """Return whether a host is a loopback address or localhost (RFC 8252 §7.3)."""
    if not host:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_problem(url: str) -> str | None:
    """Why this URL may not be requested; None for https, or http on loopback, without fragment and user name."""
    if any(not "!" <= character <= "~" or character in _NOT_IN_URLS for character in url):
        return "contains a character that is not allowed in a URL"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for an invalid port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return "is not an https URL"
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        return "is not https (plain http is allowed only for loopback)"
    if "#" in url:
        return "has a fragment"
    return "contains a user name" if "@" in parts.netloc else None


def origin(parts: SplitResult) -> tuple[str, str, int | None]:
    """Scheme, host and port, normalized so that equal origins compare equal (RFC 6454 §4)."""
    return (
        parts.scheme.lower(),
        (parts.hostname or "").lower(),
        parts.port or DEFAULT_PORTS.get(parts.scheme.lower()),
    )


def resource_covers(resource: str, url: str) -> bool:
    """Return whether `resource` is the URL itself or one of its parents: same origin, whole path segments."""
    if url_problem(resource) or url_problem(url):
        return False
    outer, inner = urlsplit(resource), urlsplit(url)
    if origin(outer) != origin(inner) or outer.query not in ("", inner.query):
        return False
    prefix = outer.path.rstrip("/")
    return inner.path == outer.path or inner.path == prefix or inner.path.startswith(prefix + "/")


def mcp_server_name(url: str) -> str:
    """The MCP server at the URL, for people: `Notion's MCP server`, or `the MCP server at` another host."""
    name = server_name(url)
    return "Notion's MCP server" if name == "Notion" else f"the MCP server at {name}"


def server_name(url: str) -> str:
    """The name of an MCP server for people: Notion for Notion's own, otherwise the host, and the port if it is unusual.

    So no other server is called Notion.
    """
    if origin(urlsplit(url)) == ("https", "mcp.notion.com", 443):
        return "Notion"
    _, host, port = origin(urlsplit(url))
    shown = f"[{host}]" if ":" in host else host
    return shown if port in (None, *DEFAULT_PORTS.values()) else f"{shown}:{port}"
