"""All outgoing requests: https (http only on loopback), one time-out for all of it, a size limit, no redirects."""

from __future__ import annotations

import socket
import ssl
import zlib
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import httpcore
import httpx

from notion_oauth import __version__
from notion_oauth.concurrency import run_within, shared_resources
from notion_oauth.errors import MetadataError, NetworkError, ServerUnavailable, TransientError
from notion_oauth.protocol.messages import Request, Response, host_of
from notion_oauth.protocol.urls import origin, url_problem
from notion_oauth.settings import Settings
from notion_oauth.transport.address_policy import AddressPolicy
from notion_oauth.transport.certificates import CA_FILE, find_trusted_authorities, ssl_context
from notion_oauth.transport.connections import CONNECTION_ERRORS, CheckedTransport
from notion_oauth.transport.proxies import Resolver, proxy_for, resolve_host

MAX_IDLE = 32  # connections to one origin that wait for the next request of a SharedLoop
MAX_SHARED = 4  # origins to which the requests of a SharedLoop share connections
MAX_BODY = 1024 * 1024  # bytes, before and after decompression
USER_AGENT = f"notion-oauth/{__version__}"


class Transport:
    """Sends one request and reads the whole response, within `timeout` for all of it, DNS included.

    `server_url` is the configured server: it and `allow_private` decide which private addresses are allowed (see
    AddressPolicy). The authorities in `ca_file` are trusted in addition to the usual ones. In a SharedLoop, requests
    that follow each other within a second share connections; every other request has its own, because a pool would be
    bound to an event loop and a process. For tests and special networks, `httpx_transport` replaces the sockets and all
    address checks, and `resolve` replaces DNS.
    """

    def __init__(
        self,
        *,
        timeout: timedelta,
        server_url: str | None = None,
        allow_private: bool = False,
        ca_file: Path | None = None,
        httpx_transport: httpx.AsyncBaseTransport | None = None,
        resolve: Resolver = resolve_host,
    ) -> None:
        self._timeout = timeout
        self._policy = AddressPolicy(server_url, allow_private=allow_private)
        self._ca_file = ca_file
        self._httpx_transport = httpx_transport
        self._resolve = resolve

    @classmethod
    def from_settings(cls, settings: Settings) -> Transport:
        """Return a transport with the time-out, server, address policy and authorities of the settings."""
        return cls(
            timeout=settings.timeout_delta,
            server_url=settings.server_url,
            allow_private=settings.allow_private_addresses,
            ca_file=settings.ca_file,
        )

    async def send(self, request: Request) -> Response:
        """Return the response with any status; a redirect is not followed.

        Raises MetadataError if the URL is not allowed, NetworkError if no complete response arrives in time or the
        host resolves to an address that is not allowed, ServerUnavailable if the response is larger than 1 MiB or
        has an encoding that was not requested, ConfigurationError if the configured proxy or certificates are unusable.
        """
        if reason := url_problem(request.url):
            raise MetadataError(f"The URL of {host_of(request.url)} {reason}; nothing was sent.")
        host = host_of(request.url)
        transport = self._httpx_transport or self._checked(request)
        try:
            return await run_within(self._timeout.total_seconds(), partial(self._send, transport, request))
        except (TimeoutError, httpx.TimeoutException):
            seconds = f"{self._timeout.total_seconds():g}"
            failure: TransientError = NetworkError(f"{host} sent no complete response within {seconds} seconds.")
        except (*CONNECTION_ERRORS, httpx.HTTPError, httpx.InvalidURL) as error:
            failure = _unreachable(host, error)
        except TransientError as error:
            failure = error.with_traceback(None)
        raise failure  # outside the except blocks: httpx's errors hold the request, and must not become its context

    def _checked(self, request: Request) -> httpx.AsyncBaseTransport:
        secure = urlsplit(request.url).scheme == "https"
        proxy = proxy_for(request.url)
        context = ssl_context(find_trusted_authorities(self._ca_file)) if secure else None
        new = partial(CheckedTransport, self._policy, proxy=proxy, resolve=self._resolve, context=context)
        shared = shared_resources()
        # One for each origin: an address that was confirmed is that of its host
        key = (self, origin(urlsplit(request.url)), proxy, context)
        if shared is None or (key not in shared and len(shared) >= MAX_SHARED):
            return new()
        idle: _IdleTransports = shared.setdefault(key, _IdleTransports())
        return _ReusedTransport(idle.pop() or new(), idle)

    async def _send(self, transport: httpx.AsyncBaseTransport, request: Request) -> Response:
        """Send the request, without httpx's client: it would keep cookies, and takes time to make."""
        headers = {**request.all_headers(), "User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        sent = httpx.Request(request.method, request.url, headers=headers, content=request.content())
        host = host_of(request.url)
        async with transport, aclosing(await transport.handle_async_request(sent)) as answer:
            names = {name.lower(): value for name, value in answer.headers.items()}
            challenges = tuple(answer.headers.get_list("www-authenticate"))
            if request.only_headers:
                return Response(answer.status_code, request.url, names, challenges=challenges)
            body = bytearray()
            # Decompressed here, to stop at the limit; a response that httpx has already read has no raw form
            parts = answer.aiter_raw() if "content-encoding" in answer.headers else answer.aiter_bytes()
            async for chunk in parts:
                body += chunk
                _check_size(len(body), host)
        return Response(answer.status_code, request.url, names, _decompressed(bytes(body), names, host), challenges)


class _IdleTransports:
    """Transports to one origin that wait for their next request."""

    def __init__(self) -> None:
        self._transports: list[CheckedTransport] = []

    def pop(self) -> CheckedTransport | None:
        """Return the transport that was used last, if there is one."""
        return self._transports.pop() if self._transports else None

    async def put(self, transport: CheckedTransport) -> None:
        """Keep the transport for a later request, or close it if there are MAX_IDLE others."""
        if len(self._transports) < MAX_IDLE:
            self._transports.append(transport)
        else:
            await transport.aclose()

    async def aclose(self) -> None:
        while self._transports:
            await self._transports.pop().aclose()


class _ReusedTransport(httpx.AsyncBaseTransport):
    """A transport for one request, which stays open for the next one unless the request fails or is cancelled."""

    def __init__(self, transport: CheckedTransport, idle: _IdleTransports) -> None:
        self._transport, self._idle = transport, idle

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport.handle_async_request(request)

    async def __aexit__(
        self,
        error_type: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if error_type is None:
            await self._idle.put(self._transport)
        else:
            await self._transport.aclose()


def _decompressed(body: bytes, headers: dict[str, str], host: str) -> bytes:
    """Return the body, decompressed although no compression is requested; never more than MAX_BODY of it in memory."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise ServerUnavailable(f"{host} sent a response with a content encoding that was not requested.")
    try:
        decompressed = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MAX_BODY + 1)
    except zlib.error:
        raise NetworkError(f"The response from {host} is damaged.") from None
    _check_size(len(decompressed), host)
    return decompressed


def _check_size(size: int, host: str) -> None:
    if size > MAX_BODY:
        raise ServerUnavailable(f"{host} sent more than {MAX_BODY // 1024} KiB; the rest was not read.")


def _unreachable(host: str, error: Exception) -> NetworkError:
    """Why there was no response, from the most specific cause in the chain."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            hint = f"Check the clock. If a private certificate authority signed it, set {CA_FILE} to its certificate."
            return NetworkError(f"The certificate of {host} is not trusted: {cause.verify_message}.", hint=hint)
        if isinstance(cause, ssl.SSLError):
            return NetworkError(f"The TLS handshake with {host} failed ({cause.reason or 'TLS'}).")
        if isinstance(cause, socket.gaierror):
            return NetworkError(f"{host} could not be reached: its name does not resolve.")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpcore.ConnectError | httpx.ConnectError | OSError | UnicodeError):
        return NetworkError(f"{host} could not be reached.")
    return NetworkError(f"The connection to {host} broke before the response was complete.")
