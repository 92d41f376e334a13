"""The cookies beside the session's. They are read from the request, and collected for its response.

Requests of one browser overlap, and their responses arrive in any order. A value that one of them changes has a cookie
of its own, so that no response restores an older value of the others.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Response
from starlette.requests import HTTPConnection

HOST_ONLY = "__Host-"  # neither another host nor plain http can set such a cookie (RFC 6265bis §4.1.3.2)
_COLLECTED = "notion_oauth.cookies"  # in the scope of a request: names to values, and how many seconds they live


class BrowserCookies:
    """Reads and sets cookies: HttpOnly, SameSite=Lax, for all paths; over https also Secure, with HOST_ONLY."""

    def __init__(self, *, public: bool) -> None:
        self._public = public  # browsers use https, even if a proxy that ends TLS does not say so

    def get(self, request: HTTPConnection, name: str) -> str | None:
        """Return the value of a cookie, as the response leaves it."""
        return self.starting_with(request, name).get(name)

    def starting_with(self, request: HTTPConnection, prefix: str) -> Mapping[str, str]:
        """Return the cookies whose names have this prefix, as the response leaves them, the oldest first."""
        start = self._prefix(request)
        found = {
            name.removeprefix(start): value
            for name, value in request.cookies.items()
            if name.startswith(start + prefix)
        }
        for name, (value, _) in request.scope.get(_COLLECTED, {}).items():
            if name.startswith(start + prefix):
                found[name.removeprefix(start)] = value
        return {name: value for name, value in found.items() if value}

    def set(self, request: HTTPConnection, name: str, value: str, *, max_age: int | None = None) -> None:
        """Set a cookie for `max_age` seconds, or until the browser ends."""
        request.scope.setdefault(_COLLECTED, {})[self._prefix(request) + name] = value, max_age

    def delete(self, request: HTTPConnection, name: str) -> None:
        self.set(request, name, "", max_age=0)

    def _prefix(self, request: HTTPConnection) -> str:
        return HOST_ONLY if self._public or request.scope.get("scheme") == "https" else ""


def add_collected_cookies(request: HTTPConnection, response: Response) -> None:
    """Add the cookies that were set while the request was handled."""
    for name, (value, max_age) in request.scope.get(_COLLECTED, {}).items():
        lifetime = "" if max_age is None else f"; Max-Age={max_age}"
        secure = "; secure" if name.startswith(HOST_ONLY) else ""
        response.headers.append("Set-Cookie", f"{name}={value}; path=/{lifetime}; httponly; samesite=lax{secure}")
