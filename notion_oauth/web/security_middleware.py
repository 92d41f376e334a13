"""What stands before every route: the check of host and https, and the headers that every answer carries.

Pure ASGI: a request passes through two function calls more, and nothing is buffered.
"""

from __future__ import annotations

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from notion_oauth import pages
from notion_oauth.errors import NotionOAuthError
from notion_oauth.web import responses
from notion_oauth.web.trusted_hosts import HOST_CHECKED, TrustedHosts

HSTS = "max-age=31536000"  # seconds: a year; what else its host serves is not ours to decide


class SecurityMiddleware:
    """Lets in what `hosts` lets in.

    `open_paths` of a public service are asked by health checkers, under whatever name and scheme they use.
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
        return await self._answered(scope, receive, send)

    async def _refuse(self, refused: NotionOAuthError, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        return await responses.failure(Request(scope), refused)(scope, receive, self._secured(send))

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on. What fails in a way that nobody foresaw is told as that, and raised for the log."""
        begun = False
        secured = self._secured(send)

        async def noting(message: Message) -> None:
            nonlocal begun
            if begun:
                return await send(message)
            begun = True
            return await secured(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            if not begun:
                await responses.unforeseen(Request(scope))(scope, receive, secured)
            raise

    def _secured(self, send: Send) -> Send:
        async def secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = message.get("headers", ())
                names = {name for name, _ in there}  # lower case, as ASGI asks for
                missing = [header for header in self._headers if header[0] not in names]
                message = {**message, "headers": [*there, *missing]}
            await send(message)

        return secured
