"""The middleware of the session cookie. `keys.py` has its keys."""

from __future__ import annotations

import inspect
import json
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

from cryptography.fernet import InvalidToken
from itsdangerous import BadSignature, TimestampSigner
from pydantic import SecretStr
from starlette.datastructures import MutableHeaders
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from notion_oauth.web.sessions import encryption
from notion_oauth.web.sessions.browser_cookies import HOST_ONLY

COOKIE = "notion_oauth_session"


class SessionCookieMiddleware(SessionMiddleware):
    """Starlette's sessions in an encrypted and signed cookie, which is sent only if the session has changed.

    With key rotation: the first key encrypts and signs, all keys are accepted. Cookies of earlier versions, which are
    only signed, are accepted, and encrypted when the session changes.
    """

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
        self._encryption = encryption.cookie_encryption(keys, encryption.SESSION)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        sent = HTTPConnection(scope).cookies.get(self.session_cookie)
        before = "{}" if sent is None else self._decrypt(sent)
        scope["session"] = json.loads(before)

        async def send_with_session(message: Message) -> None:
            if message["type"] == "http.response.start":
                after = json.dumps(scope["session"])
                if after != before:
                    MutableHeaders(scope=message).append("Set-Cookie", self._cookie(scope["session"] and after))
            await send(message)

        return await self.app(scope, receive, send_with_session)

    def _decrypt(self, cookie: str) -> str:
        """Return the session as JSON; an empty one for a cookie that is too old, or that no key accepts."""
        try:
            signed = self.signer.unsign(cookie, max_age=self.max_age)
            try:
                content = self._encryption.decrypt(signed)
            except InvalidToken:
                content = b64decode(signed)
            session: Any = json.loads(content)
        except (BadSignature, ValueError):
            return "{}"
        return json.dumps(session)

    def _cookie(self, session: str) -> str:
        if not session:
            return f"{self.session_cookie}=null; path={self.path}; Max-Age=0; {self.security_flags}"
        value = self.signer.sign(self._encryption.encrypt(session.encode())).decode()
        return f"{self.session_cookie}={value}; path={self.path}; Max-Age={self.max_age}; {self.security_flags}"


def sends_cookie_over_http(app: object) -> bool:
    """Return whether an application uses Starlette's SessionMiddleware with a cookie that is not restricted to https.

    False for any other session middleware, whose settings are unknown.
    """
    found = [each for each in getattr(app, "user_middleware", ()) if each.cls is SessionMiddleware]
    calls = [inspect.signature(SessionMiddleware).bind(app, *each.args, **each.kwargs).arguments for each in found]
    return any(not arguments.get("https_only", False) for arguments in calls)
