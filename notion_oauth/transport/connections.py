"""Connections: directly, to addresses that were checked and to no others, or through a proxy."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from itertools import chain, zip_longest
from urllib.parse import urlsplit

import anyio
import httpcore
import httpx

from notion_oauth.errors import NetworkError, NotionOAuthError
from notion_oauth.transport.address_policy import AddressPolicy
from notion_oauth.transport.addresses import Address
from notion_oauth.transport.proxies import Proxy, Resolver, port_of, proxy_for

STAGGER = 0.25  # seconds after which the next address is tried too (RFC 8305 §8)
# UnicodeError: an invalid host name
CONNECTION_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, OSError, UnicodeError)


class CheckedTransport(httpx.AsyncBaseTransport):
    """The network for one request. Its connections are closed with it, also when it is given up.

    Without a proxy a name is looked up once, its addresses are checked, and one of these is connected to; the name
    goes on into TLS and the Host header. A proxy looks names up itself and is trusted to filter: whoever has set it
    up decides where it may lead; addresses in URLs are checked all the same. Its own address is not.

    `context` is None for plain http.
    """

    def __init__(
        self, reach: AddressPolicy, *, proxy: Proxy | None, resolve: Resolver, context: ssl.SSLContext | None
    ) -> None:
        self._reach, self._proxy, self._context = reach, proxy, context
        self._sockets = _Direct(reach, resolve, context) if proxy is None else _ToProxy(proxy)
        through = None
        if proxy is not None:
            secure = proxy.address.startswith("https:")
            through = httpcore.Proxy(proxy.address, auth=proxy.auth, ssl_context=context if secure else None)
        self._pool = httpcore.AsyncConnectionPool(context, through, network_backend=self._sockets)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; return when the response headers arrive.

        Raises one of CONNECTION_ERRORS, NetworkError, MetadataError.
        """
        url = request.url
        host, port = url.raw_host.decode("ascii"), port_of(str(url))
        secure = self._context is not None
        if self._proxy is not None:
            self._reach.check_literal(host, port)  # all that can be checked here
        answer = await self._exchange(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        if secure and self._sockets.address is not None and self._reach.is_configured_server(host, port):
            self._reach.confirm_private(self._sockets.address)
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions)

    async def _exchange(self, request: httpcore.Request) -> httpcore.Response:
        try:
            return await self._pool.handle_async_request(request)
        except Exception as error:
            if self._proxy is None or not _is_of_proxy(self._proxy, error):
                raise
            raise _not_let_through(self._proxy, request.url.host.decode("ascii"), error) from None

    async def aclose(self) -> None:
        """Close every connection, those too whose handshake was not over."""
        try:
            await self._pool.aclose()
        finally:
            await self._sockets.close_all()


def _is_of_proxy(proxy: Proxy, error: Exception) -> bool:
    """Whether the proxy has refused; by SOCKS, also whatever its parser stumbles over in an answer that is none."""
    ours = isinstance(error, (*CONNECTION_ERRORS, NotionOAuthError))
    return isinstance(error, httpcore.ProxyError) or (proxy.is_socks and not ours)


def _not_let_through(proxy: Proxy, host: str, error: Exception) -> NetworkError:
    """Why a proxy made no connection. Of what it said in its own words only the status is repeated."""
    reason = "its answer is no SOCKS 5"
    if isinstance(error, httpcore.ProxyError):
        reason = str(error).rstrip(".") if proxy.is_socks else f"HTTP {str(error)[:3]}"
    hint = f"Check {proxy.variable}, or list {host} in NO_PROXY."
    if reason == "HTTP 407" or "username" in reason.lower():
        hint = f"Put a user name and a password that it takes into {proxy.variable}, before the host: USER:PASSWORD@"
    return NetworkError(f"The proxy {proxy} did not let us through to {host} ({reason}).", hint=hint)


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._answer.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._answer.aclose()


class _Sockets(httpcore.AsyncNetworkBackend):
    """Opens connections and remembers them: httpcore forgets one when it is stopped in the middle of a handshake."""

    def __init__(self) -> None:
        self.address: Address | None = None  # the checked one that was connected to last
        self._opened: list[httpcore.AsyncNetworkStream] = []
        self._tcp = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """What httpcore calls. The time is kept by whoever sends the request."""
        return await self.connect(host, port)

    async def connect(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        """A connection for this host and port."""
        raise NotImplementedError

    async def _open(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        stream = await self._tcp.connect_tcp(host, port)
        self._opened.append(stream)
        return stream

    async def close_all(self) -> None:
        """Drop what is open, without a farewell that could be waited for."""
        with anyio.CancelScope(shield=True):
            while self._opened:
                with anyio.CancelScope() as at_once:
                    at_once.cancel()
                    await self._opened.pop().aclose()


class _ToProxy(_Sockets):
    """Connects to the proxy, and to nothing else."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self._proxy = proxy

    async def connect(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        try:
            return await self._open(host, port)
        except CONNECTION_ERRORS:
            message = f"The proxy {self._proxy} could not be reached."
            raise NetworkError(message, hint=f"Check {self._proxy.variable}, and that the proxy runs.") from None


class _Direct(_Sockets):
    """Looks names up, and connects to addresses that may be connected to."""

    def __init__(self, reach: AddressPolicy, resolve: Resolver, context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._reach, self._resolve, self._context = reach, resolve, context

    async def connect(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        own = self._reach.is_configured_server(host, port)
        addresses = await self._resolve(host, port)
        allowed = [address for address in addresses if self._reach.allows(address, own=own)]
        if not allowed and any(map(self._reach.could_be_confirmed, addresses)) and await self._meets_server():
            allowed = [address for address in addresses if self._reach.allows(address, own=own)]
        if not allowed:
            raise self._reach.refusal(host, addresses[0]) if addresses else httpcore.ConnectError("no address")
        return await self._first(allowed, port)

    async def _meets_server(self) -> bool:
        """Ask the server that was set for its certificate, which shows where it is; without any request."""
        url = self._reach.server_url
        if url is None or self._context is None or proxy_for(url) is not None:
            return False
        host, port = urlsplit(url).hostname or "", port_of(url)
        try:
            addresses = [each for each in await self._resolve(host, port) if self._reach.allows(each, own=True)]
            stream = await self._first(addresses, port)
            await stream.start_tls(self._context, server_hostname=host)
        except CONNECTION_ERRORS:
            return False
        if self.address is not None:
            self._reach.confirm_private(self.address)
        return True

    async def _first(self, addresses: Sequence[Address], port: int) -> httpcore.AsyncNetworkStream:
        """The first connection that stands, each address a little after the one before it (RFC 8305 §5)."""
        won: dict[Address, httpcore.AsyncNetworkStream] = {}
        failed: list[httpcore.ConnectError] = []

        async def attempt(address: Address, over: anyio.Event) -> None:
            try:
                won[address] = await self._open(str(address), port)
                tries.cancel_scope.cancel()
            except httpcore.ConnectError as error:
                failed.append(error)
            finally:
                over.set()

        async with anyio.create_task_group() as tries:
            for address in _alternating(addresses):
                over = anyio.Event()
                tries.start_soon(attempt, address, over)
                with anyio.move_on_after(STAGGER):
                    await over.wait()
        if not won:
            raise failed[0] if failed else httpcore.ConnectError("no address")
        self.address, stream = next(iter(won.items()))
        return stream


def _alternating(addresses: Sequence[Address]) -> list[Address]:
    """The best first, then by turns one of each IP version: what is broken is mostly one of the two (RFC 8305 §4)."""
    first = [address for address in addresses if address.version == addresses[0].version]
    other = [address for address in addresses if address.version != addresses[0].version]
    turns = chain.from_iterable(zip_longest(first, other))
    return [address for address in turns if address is not None]
