"""BearerAuth: an httpx.Auth that attaches a valid token (RFC 6750 §2.1)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from functools import partial
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from notion_oauth import blocking
from notion_oauth.protocol.urls import origin
from notion_oauth.service import NotionOAuth


class BearerAuth(httpx.Auth):
    """For `httpx.Client` and `httpx.AsyncClient`: a valid token on requests to the MCP server's own origin.

    Requests to another origin go out without one, across redirects too. A 401 is answered once with
    another token. Raises into the request what `TokenSource.token` raises.
    """

    requires_request_body = True  # so that the request can be sent once more

    def __init__(self, oauth: NotionOAuth | None = None) -> None:
        self._oauth = oauth or NotionOAuth()
        self._origin = origin(urlsplit(self._oauth.settings.server_url))

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        if not self._ours(request):
            yield request
            return
        token = await self._oauth.tokens.token()
        response = yield _with(token, request)
        if self._refused(response):
            await response.aread()
            yield _with(await self._oauth.tokens.token(rejected=token), request)

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if not self._ours(request):
            yield request
            return
        token = blocking.run(self._oauth.tokens.token)
        response = yield _with(token, request)
        if self._refused(response):
            response.read()
            yield _with(blocking.run(partial(self._oauth.tokens.token, rejected=token)), request)

    def _ours(self, request: httpx.Request) -> bool:
        return origin(urlsplit(str(request.url))) == self._origin

    def _refused(self, response: httpx.Response) -> bool:
        """Whether it is the resource that refuses the token, not somebody whom it has redirected to."""
        return response.status_code == httpx.codes.UNAUTHORIZED and self._ours(response.request)


def _with(token: SecretStr, request: httpx.Request) -> httpx.Request:
    request.headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    return request
