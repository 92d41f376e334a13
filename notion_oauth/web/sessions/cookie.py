"""The session cookie."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from itsdangerous import TimestampSigner
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp

COOKIE = "notion_oauth_session"
HOST_ONLY = "__Host-"  # such a cookie no other host and no plain http can set (RFC 6265bis §4.1.3.2)


class SessionCookieMiddleware(SessionMiddleware):
    """Starlette's sessions in a signed cookie, with keys that can be rotated: the first signs, all are read."""

    def __init__(self, app: ASGIApp, keys: Sequence[SecretStr], *, lifetime: int, secure: bool) -> None:
        super().__init__(
            app,
            secret_key="",
            session_cookie=f"{HOST_ONLY}{COOKIE}" if secure else COOKIE,
            max_age=lifetime,
            same_site="lax",  # strict would keep the cookie from the redirect that ends a sign-in
            https_only=secure,
        )
        self.signer = TimestampSigner([key.get_secret_value() for key in reversed(keys)])  # the last one signs


def cookie_goes_over_http(app: object) -> bool:
    """Whether an application's sessions are Starlette's own, in a cookie that is not for https alone.

    Of other ways to have sessions nothing is known, and nothing is said.
    """
    own = [each for each in getattr(app, "user_middleware", ()) if each.cls is SessionMiddleware]
    given = [inspect.signature(SessionMiddleware).bind(app, *each.args, **each.kwargs).arguments for each in own]
    return any(not arguments.get("https_only", False) for arguments in given)
