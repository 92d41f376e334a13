"""What BearerAuth does in every HTTP library of httpx's shape: when a token goes out, and which (RFC 6750 §2.1)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from functools import partial
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from notion_oauth import blocking
from notion_oauth.protocol.urls import DEFAULT_PORTS, origin
from notion_oauth.service import NotionOAuth

UNAUTHORIZED = 401


class BearerFlows:
    """Both of the flows that an `Auth` of httpx and of its descendants has; a subclass names its library's body type.

    Requests to another origin go out without a token, across redirects too. A token that is soon to expire is
    refreshed in the background. A 401 is answered once with another token, where the body can be sent again: that
    of a stream cannot, and its 401 is the caller's. Raises into the request what `TokenSource.token` raises.
    """

    whole_body: ClassVar[type]  # of a request that can be sent again

    def __init__(self, oauth: NotionOAuth | None = None) -> None:
        service = oauth or NotionOAuth()
        self._tokens = service.tokens
        scheme, host, port = origin(urlsplit(service.settings.server_url))
        self._origin = (scheme, host.encode("idna") if not host.isascii() else host.encode(), port)

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        if not self._is_ours(request.url):
            yield request
            return
        token = self._tokens.at_hand() or await self._tokens.token()
        response = yield _with(token, request)
        if self._is_refused(response):
            another = await self._tokens.token(rejected=token)
            if isinstance(request.stream, self.whole_body):
                await response.aread()  # the connection is free for the next
                yield _with(another, request)

    def sync_auth_flow(self, request: Any) -> Generator[Any, Any, None]:
        if not self._is_ours(request.url):
            yield request
            return
        token = self._tokens.at_hand() or blocking.run(self._tokens.token)
        response = yield _with(token, request)
        if self._is_refused(response):
            another = blocking.run(partial(self._tokens.token, rejected=token))
            if isinstance(request.stream, self.whole_body):
                response.read()
                yield _with(another, request)

    def _is_ours(self, url: Any) -> bool:
        """Whether a URL, as the library has parsed it, has the origin of the MCP server (RFC 6454 §4)."""
        scheme = url.scheme
        return (scheme, url.raw_host, url.port or DEFAULT_PORTS.get(scheme)) == self._origin

    def _is_refused(self, response: Any) -> bool:
        """Whether it is the resource that refuses the token, not somebody whom it has redirected to."""
        return response.status_code == UNAUTHORIZED and self._is_ours(response.request.url)


def _with(token: SecretStr, request: Any) -> Any:
    request.headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    return request
