"""The check of host and https before every route, and the security headers of every response.

Pure ASGI: it adds two function calls to a request, and buffers nothing.
"""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from notion_oauth import pages
from notion_oauth.errors import NotionOAuthError
from notion_oauth.web import responses
from notion_oauth.web.trusted_hosts import HOST_CHECKED, TrustedHosts

HSTS = "max-age=31536000"  # seconds: one year; without includeSubDomains, because other services may run there


class SecurityMiddleware:
    """Refuses the requests that `hosts` refuses.

    On a public service, `open_paths` are answered under any host name and scheme, for health checkers.
    """

    def __init__(self, app: ASGIApp, hosts: TrustedHosts, *, open_paths: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._hosts = hosts
        self._open_paths = open_paths if hosts.public else frozenset[str]()
        headers = pages.SECURE_HEADERS | ({"Strict-Transport-Security": HSTS} if hosts.public else {})
        self._headers = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["path"] not in self._open_paths:
            try:
                self._hosts.check(scope)
            except NotionOAuthError as refused:
                return await self._refuse(refused, scope, receive, send)
            scope[HOST_CHECKED] = self._hosts
        if self._hosts.public and self._hosts.is_https(scope):
            scope["scheme"] = "https" if scope["type"] == "http" else "wss"
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        return await self._pass_on(scope, receive, send)

    async def _refuse(self, refused: NotionOAuthError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        return await responses.failure(Request(scope), refused)(scope, receive, self._secured(send))

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application. Any exception becomes an internal server error, and is raised again for the log."""
        started = False
        secured = self._secured(send)

        async def first_secured(message: Message) -> None:
            nonlocal started
            if started:
                return await send(message)
            started = True
            return await secured(message)

        try:
            await self._app(scope, receive, first_secured)
        except Exception:
            if not started:
                await responses.internal_error(Request(scope))(scope, receive, secured)
            raise

    def _secured(self, send: Send) -> Send:
        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = message.get("headers", ())
                names = {name for name, _ in present}  # ASGI requires lower case
                missing = [header for header in self._headers if header[0] not in names]
                message = {**message, "headers": [*present, *missing]}
            await send(message)

        return secured
