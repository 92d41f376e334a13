"""Connections: directly, only to addresses that were checked, or through a proxy."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, zip_longest
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

import anyio
import h11
import httpcore

from notion_oauth.errors import NetworkError, NotionOAuthError
from notion_oauth.protocol.urls import DEFAULT_PORTS
from notion_oauth.transport.address_policy import AddressPolicy
from notion_oauth.transport.addresses import Address
from notion_oauth.transport.proxies import Proxy, Resolver, port_of, proxy_for

MAX_IDLE_TIME = 1.0  # seconds; servers close an idle connection later, so that it is not closed during a request
# A connection whose other end has vanished, as after a change of network, breaks within about a minute
_KEEP_ALIVE: list[tuple[int, int, int]] = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]
MAX_HEADERS = 100 * 1024  # bytes of the headers of a response
READ_SIZE = 64 * 1024  # bytes
STAGGER = 0.25  # seconds after which the next address is tried too (RFC 8305 §8)
# UnicodeError: an invalid host name
CONNECTION_ERRORS = (httpcore.NetworkError, httpcore.ProtocolError, OSError, UnicodeError)


def http_request(method: str, url: str, headers: Mapping[str, str], content: bytes | None = None) -> httpcore.Request:
    """Return a request to an http or https URL without fragment, with Host and Content-Length (RFC 9110 §7.2, §8.6).

    Raises UnicodeError for a header that is not ASCII.
    """
    length = {} if content is None else {"Content-Length": str(len(content))}
    encoded = [
        (name.encode("ascii"), value.encode("ascii"))
        for name, value in {"Host": _host(urlsplit(url)), **length, **headers}.items()
    ]
    return httpcore.Request(method, _parsed(url), headers=encoded, content=content)


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port in (None, DEFAULT_PORTS[parts.scheme]) else f"{host}:{parts.port}"


def _parsed(url: str) -> httpcore.URL:
    """Parse the URL: httpcore itself would lose what follows a semicolon in the path."""
    parts = urlsplit(url)
    target = url.partition("://")[2].removeprefix(parts.netloc)
    target = target if target.startswith("/") else f"/{target}"
    return httpcore.URL(scheme=parts.scheme, host=parts.hostname or "", port=parts.port, target=target)


class ConnectionPool:
    """Connections to one origin, for any number of requests at the same time, whose responses are read in parts.

        response = await pool.send(http_request("POST", url, headers, content))
        async with aclosing(response):
            async for part in response.aiter_stream(): ...

    A connection is used again when its response was read and closed; `max_idle` of them wait for a request, for
    `idle_time` seconds at most. The number in use is not limited: a response that lasts keeps its connection.

    Without a proxy, a name is resolved once, its addresses are checked, and one of these is connected to; TLS and the
    Host header use the name. A proxy resolves names itself, and its operator decides where it may connect to:
    only addresses in URLs are checked. The address of the proxy is not checked.

    `context` is None for plain http.
    """

    def __init__(
        self,
        url: str,
        policy: AddressPolicy,
        *,
        proxy: Proxy | None,
        resolve: Resolver,
        context: ssl.SSLContext | None,
        max_idle: int = 0,
        idle_time: float = MAX_IDLE_TIME,
    ) -> None:
        self._origin = _parsed(url).origin
        self._host, self._port = urlsplit(url).hostname or "", port_of(url)
        self._policy, self._proxy, self._resolve, self._context = policy, proxy, resolve, context
        self.max_idle, self._idle_time = max_idle, idle_time
        self.route_known_until = 0.0  # for users that keep it: until then, its route counts as unchanged
        self._idle: list[_DirectConnection | _ProxyConnection] = []  # the one that was used last is the last
        self._closed = False

    @property
    def route(self) -> tuple[str, int, Proxy | None, ssl.SSLContext | None]:
        """What the connections lead to, and how: equal for pools that could share them."""
        return self._host, self._port, self._proxy, self._context

    async def send(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request; return when the response headers arrive. The caller closes the response.

        Raises one of CONNECTION_ERRORS, NetworkError, MetadataError.
        """
        if request.url.origin != self._origin:
            raise ValueError("the request is to another origin")
        if self._proxy is not None:
            self._policy.check_literal(self._host, self._port)  # a name is resolved by the proxy
        connection = await self._take()
        try:
            response = await connection.send(request)
        except BaseException as error:
            await connection.aclose()
            if self._proxy is None or not isinstance(error, Exception) or not _is_proxy_refusal(self._proxy, error):
                raise
            raise _proxy_refusal(self._proxy, self._host, error) from None
        address = connection.address
        if self._context and address is not None and self._policy.is_configured_server(self._host, self._port):
            self._policy.confirm_private(address)

        async def close() -> None:
            try:
                await response.aclose()
            finally:
                await self._keep_or_close(connection)

        return httpcore.Response(
            response.status,
            headers=response.headers,
            content=Body(response.aiter_stream, close),
            extensions=response.extensions,
        )

    async def _take(self) -> _DirectConnection | _ProxyConnection:
        """Return the connection that was used last, or a new one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
            await connection.aclose()
        if self._proxy is not None:
            return _ProxyConnection(self._proxy, self._context, self._idle_time)
        backend = _DirectBackend(self._policy, self._resolve, self._context)
        return _DirectConnection(backend, self._host, self._port, self._context, self._idle_time)

    async def _keep_or_close(self, connection: _DirectConnection | _ProxyConnection) -> None:
        while self._idle and not self._idle[0].is_idle:
            await self._idle.pop(0).aclose()
        if connection.is_idle and len(self._idle) < self.max_idle and not self._closed:
            self._idle.append(connection)
        else:
            await connection.aclose()

    async def aclose(self) -> None:
        """Close the connections that wait, and each of the others with its response."""
        self._closed = True
        while self._idle:
            await self._idle.pop().aclose()


class Body:
    """The body of a response: the parts that `parts` gives, and what `close` closes, once."""

    def __init__(self, parts: Callable[[], AsyncIterator[bytes]], close: Callable[[], Awaitable[None]]) -> None:
        self._parts, self._close = parts, close
        self._closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._parts()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._close()


class _DirectConnection:
    """HTTP/1.1 (RFC 9112) over a connection to the server, for one request at a time.

    httpcore's own connections take three times the processor time. It is closed completely, also if a request is
    cancelled.
    """

    def __init__(
        self, backend: _TrackingBackend, host: str, port: int, context: ssl.SSLContext | None, idle_time: float
    ) -> None:
        self._backend, self._host, self._port, self._context = backend, host, port, context
        self._idle_time = idle_time
        self._idle_until = 0.0
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADERS)
        self._stream: httpcore.AsyncNetworkStream | None = None

    async def send(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request; return when the response headers arrive."""
        self._idle_until = 0.0
        stream = self._stream = self._stream or await self._connect(request)
        with _errors_of_httpcore():
            head = h11.Request(method=request.method, target=request.url.target, headers=request.headers)
            events = [head, *[h11.Data(part) async for part in _body(request)], h11.EndOfMessage()]
            content = b"".join([self._http.send(event) or b"" for event in events])
        with suppress(httpcore.WriteError):  # a server may respond, and close, before it has read all
            await stream.write(content)
        event = await self._receive(stream)
        while isinstance(event, h11.InformationalResponse):
            event = await self._receive(stream)
        assert isinstance(event, h11.Response)  # noqa: S101 - nothing else comes first
        return httpcore.Response(
            event.status_code,
            headers=event.headers.raw_items(),
            content=Body(partial(self._parts, stream), self._end),
            extensions={"network_stream": stream},
        )

    async def _connect(self, request: httpcore.Request) -> httpcore.AsyncNetworkStream:
        timeout = request.extensions.get("timeout", {}).get("connect")
        stream = await self._backend.connect_tcp(self._host, self._port, timeout)
        if self._context is None:
            return stream
        self._context.set_alpn_protocols(["http/1.1"])
        return await stream.start_tls(self._context, self._host, timeout)

    async def _receive(self, stream: httpcore.AsyncNetworkStream) -> Any:
        with _errors_of_httpcore():
            while (event := self._http.next_event()) is h11.NEED_DATA:
                received = await stream.read(READ_SIZE)
                if not received and self._http.their_state is h11.SEND_RESPONSE:
                    raise httpcore.RemoteProtocolError("The connection was closed without a response.")
                self._http.receive_data(received)
        return event

    async def _parts(self, stream: httpcore.AsyncNetworkStream) -> AsyncIterator[bytes]:
        while isinstance(event := await self._receive(stream), h11.Data):
            yield bytes(event.data)

    async def _end(self) -> None:
        complete = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        if complete and not self._http.trailing_data[0]:
            self._http.start_next_cycle()
            self._idle_until = time.monotonic() + self._idle_time
        else:
            await self.aclose()

    @property
    def address(self) -> Address | None:
        """The address, which was checked."""
        return self._backend.address

    @property
    def is_idle(self) -> bool:
        """Whether it may be used for a further request."""
        return time.monotonic() < self._idle_until

    @property
    def is_reusable(self) -> bool:
        """Whether it is open for a further request. If something can be read, the server has closed it, or has sent
        more than one response."""
        if not self.is_idle or self._stream is None or self._stream.get_extra_info("is_readable"):
            return False
        secure: ssl.SSLObject | None = self._stream.get_extra_info("ssl_object")
        return secure is None or not _has_more(secure)

    async def aclose(self) -> None:
        """Close the connection, also if its handshake is incomplete."""
        self._idle_until = 0.0
        await self._backend.close_all()


async def _body(request: httpcore.Request) -> AsyncIterator[bytes]:
    async for part in cast("AsyncIterable[bytes]", request.stream):
        yield part


@contextmanager
def _errors_of_httpcore() -> Iterator[None]:
    try:
        yield
    except h11.RemoteProtocolError as error:
        raise httpcore.RemoteProtocolError(str(error)) from error
    except h11.LocalProtocolError as error:
        raise httpcore.LocalProtocolError(str(error)) from error


def _has_more(secure: ssl.SSLObject) -> bool:
    """Whether more data, or the end of it, has been received already."""
    try:
        secure.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        pass
    return True


class _ProxyConnection:
    """The same through a proxy."""

    address = None  # the proxy resolves the name

    def __init__(self, proxy: Proxy, context: ssl.SSLContext | None, idle_time: float) -> None:
        self._backend = _ProxyBackend(proxy)
        secure = proxy.address.startswith("https:")
        self._pool = httpcore.AsyncConnectionPool(
            context,
            httpcore.Proxy(proxy.address, auth=proxy.auth, ssl_context=context if secure else None),
            max_connections=1,
            keepalive_expiry=idle_time,
            network_backend=self._backend,
        )
        self.send = self._pool.handle_async_request

    @property
    def is_reusable(self) -> bool:
        """Whether it is open for a further request."""
        return any(each.is_idle() and not each.has_expired() for each in self._pool.connections)

    is_idle = is_reusable

    async def aclose(self) -> None:
        """Close the connection, also if its handshake is incomplete."""
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
        """Called by httpcore, with the time-out of the request, if it has one."""
        await self.close_all()  # those before: httpcore uses one connection at a time
        with anyio.move_on_after(timeout):
            return await self.connect(host, port)
        raise httpcore.ConnectTimeout("no connection")

    async def connect(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        """Open a connection for this host and port."""
        raise NotImplementedError

    async def _open(self, host: str, port: int) -> httpcore.AsyncNetworkStream:
        stream = await self._tcp.connect_tcp(host, port, socket_options=_KEEP_ALIVE)
        self._opened.append(stream)
        return stream

    async def close_all(self) -> None:
        """Close all connections at once, without a TLS close that could block."""
        if not self._opened:
            return
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
        if len(addresses) == 1:
            stream = await self._open(str(addresses[0]), port)
            self.address = addresses[0]
            return stream
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
