"""Sends requests through a transport of httpx, which tests and special networks put in the place of connections."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import cast

import httpcore
import httpx

from notion_oauth.transport.connections import Body


class HttpxSender:
    """Sends requests of httpcore through a transport of httpx, which is closed with each response."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def send(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request, as a ConnectionPool does."""
        url, content = request.url, cast("AsyncIterable[bytes]", request.stream)
        with _errors_of_httpcore():
            sent = httpx.Request(
                request.method.decode("ascii"),
                httpx.URL(
                    scheme=url.scheme.decode("ascii"),
                    host=url.host.decode("ascii"),
                    port=url.port,
                    raw_path=url.target,
                ),
                headers=request.headers,
                content=b"".join([part async for part in content]),
            )
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._transport)
                answer = await self._transport.handle_async_request(sent)
                stack.push_async_callback(answer.aclose)
                close = stack.pop_all().aclose
        return httpcore.Response(
            answer.status_code, headers=answer.headers.raw, content=Body(partial(_parts, answer), close)
        )


async def _parts(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it was sent; a response that httpx has already read has no such form."""
    with _errors_of_httpcore():
        async for part in answer.aiter_raw() if "content-encoding" in answer.headers else answer.aiter_bytes():
            yield part


@contextmanager
def _errors_of_httpcore() -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise TimeoutError from error
    except httpx.ConnectError as error:
        raise httpcore.ConnectError(*error.args) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise httpcore.NetworkError(*error.args) from error
