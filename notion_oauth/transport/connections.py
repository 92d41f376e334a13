"""Connections: directly, only to addresses that were checked, or through a proxy."""

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

MAX_IDLE_TIME = 1.0  # seconds; servers close an idle connection later, so that it is not closed during a request
STAGGER = 0.25  # seconds after which the next address is tried too (RFC 8305 §8)
# UnicodeError: an invalid host name
CONNECTION_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, OSError, UnicodeError)


class CheckedTransport(httpx.AsyncBaseTransport):
    """The transport for one request at a time. Its connection is closed with it, also if a request is cancelled.

    A further request to the same origin within MAX_IDLE_TIME uses the same connection, whose address was checked.

    Without a proxy, a name is resolved once, its addresses are checked, and one of these is connected to; TLS and the
    Host header use the name. A proxy resolves names itself, and its operator decides where it may connect to:
    only addresses in URLs are checked. The address of the proxy is not checked.

    `context` is None for plain http.
    """

    def __init__(
        self, policy: AddressPolicy, *, proxy: Proxy | None, resolve: Resolver, context: ssl.SSLContext | None
    ) -> None:
        self._policy, self._proxy, self._context = policy, proxy, context
        self._backend = _DirectBackend(policy, resolve, context) if proxy is None else _ProxyBackend(proxy)
        pool_proxy = None
        if proxy is not None:
            secure = proxy.address.startswith("https:")
            pool_proxy = httpcore.Proxy(proxy.address, auth=proxy.auth, ssl_context=context if secure else None)
        self._pool = httpcore.AsyncConnectionPool(
            context,
            pool_proxy,
            max_connections=1,
            keepalive_expiry=MAX_IDLE_TIME,
            network_backend=self._backend,
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; return when the response headers arrive.

        Raises one of CONNECTION_ERRORS, NetworkError, MetadataError.
        """
        url = request.url
        host, port = url.raw_host.decode("ascii"), port_of(str(url))
        secure = self._context is not None
        if self._proxy is not None:
            self._policy.check_literal(host, port)  # a name is resolved by the proxy
        response = await self._exchange(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        if secure and self._backend.address is not None and self._policy.is_configured_server(host, port):
            self._policy.confirm_private(self._backend.address)
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions
        )

    async def _exchange(self, request: httpcore.Request) -> httpcore.Response:
        try:
            return await self._pool.handle_async_request(request)
        except Exception as error:
            if self._proxy is None or not _is_proxy_refusal(self._proxy, error):
                raise
            raise _proxy_refusal(self._proxy, request.url.host.decode("ascii"), error) from None

    async def aclose(self) -> None:
        """Close every connection, including those whose handshake is incomplete."""
        try:
            await self._pool.aclose()
        finally:
            await self._backend.close_all()


def _is_proxy_refusal(proxy: Proxy, error: Exception) -> bool:
    """Return whether the proxy refused; for SOCKS, also any error that its parser raises for an invalid response."""
    other_cause = isinstance(error, (*CONNECTION_ERRORS, NotionOAuthError))
    return isinstance(error, httpcore.ProxyError) or (proxy.is_socks and not other_cause)


def _proxy_refusal(proxy: Proxy, host: str, error: Exception) -> NetworkError:
    """Why a proxy made no connection. Of an HTTP proxy's response, only the status is repeated."""
    reason = "its response is not SOCKS 5"
    if isinstance(error, httpcore.ProxyError):
        reason = str(error).rstrip(".") if proxy.is_socks else f"HTTP {str(error)[:3]}"
    hint = f"Check {proxy.variable}, or list {host} in NO_PROXY."
    if reason == "HTTP 407" or "username" in reason.lower():
        hint = f"Put a valid user name and password into {proxy.variable}, before the host: USER:PASSWORD@"
    return NetworkError(f"The proxy {proxy} refused the connection to {host} ({reason}).", hint=hint)


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._response.aiter_stream():
            yield part

    async def aclose(self) -> None:
        await self._response.aclose()


class _TrackingBackend(httpcore.AsyncNetworkBackend):
    """Opens connections and tracks them: httpcore leaks one if it is cancelled during a handshake."""

    def __init__(self) -> None:
        self.address: Address | None = None  # the checked address of the last connection
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
        """Called by httpcore. The caller of the transport limits the time."""
        await self.close_all()  # those before: httpcore uses one connection at a time
        return await self.connect(host, port)

    async def connect(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        """Open a connection for this host and port."""
        raise NotImplementedError

    async def _open(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        stream = await self._tcp.connect_tcp(host, port)
        self._opened.append(stream)
        return stream

    async def close_all(self) -> None:
        """Close all connections at once, without a TLS close that could block."""
        with anyio.CancelScope(shield=True):
            while self._opened:
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await self._opened.pop().aclose()


class _ProxyBackend(_TrackingBackend):
    """Connects only to the proxy."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__()
        self._proxy = proxy

    async def connect(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        try:
            return await self._open(host, port)
        except CONNECTION_ERRORS:
            message = f"The proxy {self._proxy} could not be reached."
            raise NetworkError(message, hint=f"Check {self._proxy.variable}, and that the proxy runs.") from None


class _DirectBackend(_TrackingBackend):
    """Resolves names, and connects to allowed addresses."""

    def __init__(self, policy: AddressPolicy, resolve: Resolver, context: ssl.SSLContext | None) -> None:
        super().__init__()
        self._policy, self._resolve, self._context = policy, resolve, context

    async def connect(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        configured = self._policy.is_configured_server(host, port)
        addresses = await self._resolve(host, port)
        allowed = [each for each in addresses if self._policy.allows(each, configured=configured)]
        if not allowed and any(map(self._policy.could_be_confirmed, addresses)) and await self._confirm_server():
            allowed = [each for each in addresses if self._policy.allows(each, configured=configured)]
        if not allowed:
            raise self._policy.refusal(host, addresses[0]) if addresses else httpcore.ConnectError("no address")
        return await self._connect_first(allowed, port)

    async def _confirm_server(self) -> bool:
        """Verify the certificate of the configured server, which shows where it is; send no request."""
        url = self._policy.server_url
        if url is None or self._context is None or proxy_for(url) is not None:
            return False
        host, port = urlsplit(url).hostname or "", port_of(url)
        try:
            addresses = [each for each in await self._resolve(host, port) if self._policy.allows(each, configured=True)]
            stream = await self._connect_first(addresses, port)
            await stream.start_tls(self._context, server_hostname=host)
        except CONNECTION_ERRORS:
            return False
        if self.address is not None:
            self._policy.confirm_private(self.address)
        return True

    async def _connect_first(self, addresses: Sequence[Address], port: int) -> httpcore.AsyncNetworkStream:
        """The first connection that succeeds; attempts start STAGGER seconds apart (Happy Eyeballs, RFC 8305 §5)."""
        connected: dict[Address, httpcore.AsyncNetworkStream] = {}
        failed: list[httpcore.ConnectError] = []

        async def attempt(address: Address, done: anyio.Event) -> None:
            try:
                connected[address] = await self._open(str(address), port)
                attempts.cancel_scope.cancel()
            except httpcore.ConnectError as error:
                failed.append(error)
            finally:
                done.set()

        async with anyio.create_task_group() as attempts:
            for address in _alternating(addresses):
                done = anyio.Event()
                attempts.start_soon(attempt, address, done)
                with anyio.move_on_after(STAGGER):
                    await done.wait()
        if not connected:
            raise failed[0] if failed else httpcore.ConnectError("no address")
        self.address, stream = next(iter(connected.items()))
        return stream


def _alternating(addresses: Sequence[Address]) -> list[Address]:
    """Return the preferred address first, then alternating IP versions, as often only one works (RFC 8305 §4)."""
    first = [address for address in addresses if address.version == addresses[0].version]
    other = [address for address in addresses if address.version != addresses[0].version]
    turns = chain.from_iterable(zip_longest(first, other))
    return [address for address in turns if address is not None]
