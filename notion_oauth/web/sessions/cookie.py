"""The middleware of the session cookie. `keys.py` has its keys; `pending.py` encrypts the pending sign-ins in it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from itsdangerous import TimestampSigner
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp

COOKIE = "notion_oauth_session"
HOST_ONLY = "__Host-"  # neither another host nor plain http can set such a cookie (RFC 6265bis §4.1.3.2)


class SessionCookieMiddleware(SessionMiddleware):
    """Starlette's sessions in a signed cookie, with key rotation: the first key signs, all keys verify."""

    def __init__(self, app: ASGIApp, keys: Sequence[SecretStr], *, lifetime: int, secure: bool) -> None:
        super().__init__(
            app,
            secret_key="",
            session_cookie=f"{HOST_ONLY}{COOKIE}" if secure else COOKIE,
            max_age=lifetime,
            same_site="lax",  # strict would omit the cookie from the authorization redirect
            https_only=secure,
        )
        self.signer = TimestampSigner([key.get_secret_value() for key in reversed(keys)])  # the last key signs


def sends_cookie_over_http(app: object) -> bool:
    """Return whether an application uses Starlette's SessionMiddleware with a cookie that is not restricted to https.

    False for any other session middleware, whose settings are unknown.
    """
    found = [each for each in getattr(app, "user_middleware", ()) if each.cls is SessionMiddleware]
    calls = [inspect.signature(SessionMiddleware).bind(app, *each.args, **each.kwargs).arguments for each in found]
    return any(not arguments.get("https_only", False) for arguments in calls)
