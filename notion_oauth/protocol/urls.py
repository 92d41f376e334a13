"""Which URLs a client may talk to, and which resource covers which URL."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlsplit

_NOT_IN_URLS = frozenset('"<>\\^`{|}')  # RFC 3986 §2; browsers take a backslash for a slash, and us elsewhere
DEFAULT_PORTS = {"https": 443, "http": 80}


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address is this machine itself (RFC 8252 §7.3 and localhost)."""
    if not host:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def url_problem(url: str) -> str | None:
    """Why no request may go to this URL; None where it may: https, or http on loopback, without fragment or user."""
    if any(not "!" <= character <= "~" or character in _NOT_IN_URLS for character in url):
        return "holds a character that no URL has"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises for a port that is no number
    except ValueError:
        return "is no URL"
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return "is no https URL"
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        return "is not https (plain http is for loopback alone)"
    if "#" in url:
        return "has a fragment"
    return "holds a user name" if "@" in parts.netloc else None


def origin(parts: SplitResult) -> tuple[str, str, int | None]:
    """Scheme, host and port, in the form in which two URLs of the same origin are equal (RFC 6454 §4)."""
    return (
        parts.scheme.lower(),
        (parts.hostname or "").lower(),
        parts.port or DEFAULT_PORTS.get(parts.scheme.lower()),
    )


def resource_covers(resource: str, url: str) -> bool:
    """Whether `resource` is the URL itself or one of its parents: same origin, whole path segments."""
    if url_problem(resource) or url_problem(url):
        return False
    outer, inner = urlsplit(resource), urlsplit(url)
    if origin(outer) != origin(inner) or outer.query not in ("", inner.query):
        return False
    prefix = outer.path.rstrip("/")
    return inner.path == outer.path or inner.path == prefix or inner.path.startswith(prefix + "/")
