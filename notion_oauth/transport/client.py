"""All outgoing requests: https (http only on loopback), one time-out for all of it, a size limit, no redirects."""

from __future__ import annotations

import socket
import ssl
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import httpcore

from notion_oauth import __version__
from notion_oauth.concurrency import run_within, shared_resources
from notion_oauth.errors import UNCHANGED, Hint, MetadataError, NetworkError, ServerUnavailable, TransientError
from notion_oauth.protocol.messages import Request, Response, host_of
from notion_oauth.protocol.urls import is_loopback, origin, url_problem
from notion_oauth.settings import Settings
from notion_oauth.transport.address_policy import AddressPolicy
from notion_oauth.transport.certificates import CA_FILE, find_trusted_authorities, ssl_context
from notion_oauth.transport.connections import CONNECTION_ERRORS, MAX_IDLE_TIME, ConnectionPool, http_request
from notion_oauth.transport.proxies import Resolver, proxy_for, resolve_host

if TYPE_CHECKING:
    import httpx

MAX_IDLE = 256  # connections to one origin that wait for the next request of a SharedLoop
ROUTE_LIFETIME = 1.0  # seconds
MAX_SHARED = 4  # origins to which the requests of a SharedLoop share connections
MAX_BODY = 1024 * 1024  # bytes, before and after decompression
USER_AGENT = f"notion-oauth/{__version__}"
_START_SERVER = Hint(
    f"{UNCHANGED} For Notion itself, do not set NOTION_OAUTH_SERVER_URL. To practise, start the practice server",
    "sandbox",
    {"port": "9000"},
)

Sender = Callable[[httpcore.Request], Awaitable[httpcore.Response]]


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
        send = self._sender(request.url)
        try:
            return await run_within(self._timeout.total_seconds(), partial(self._send, send, request))
        except TimeoutError:
            seconds = f"{self._timeout.total_seconds():g}"
            failure: TransientError = NetworkError(f"{host} sent no complete response within {seconds} seconds.")
        except CONNECTION_ERRORS as error:
            failure = _unreachable(request.url, error)
        except TransientError as error:
            failure = error.with_traceback(None)
        raise failure  # outside the except blocks: errors of httpx hold the request, and must not be its context

    def pool(self, url: str, *, max_idle: int = 0, idle_time: float = MAX_IDLE_TIME) -> ConnectionPool:
        """Return connections to the origin of a URL, for a caller that keeps them and reads responses in parts.

        Raises ConfigurationError if the configured proxy or certificates are unusable.
        """
        secure = urlsplit(url).scheme == "https"
        context = ssl_context(find_trusted_authorities(self._ca_file)) if secure else None
        return ConnectionPool(
            url,
            self._policy,
            proxy=proxy_for(url),
            resolve=self._resolve,
            context=context,
            max_idle=max_idle,
            idle_time=idle_time,
        )

    def _sender(self, url: str) -> Sender:
        """Return what sends a request to the URL."""
        if self._httpx_transport is not None:
            from notion_oauth.transport.httpx_sender import HttpxSender  # noqa: PLC0415 - httpx is slow to import

            return HttpxSender(self._httpx_transport).send
        shared = shared_resources()
        pool = self.pool(url) if shared is None else self._shared_pool(url, shared)
        return pool.send

    def _shared_pool(self, url: str, shared: dict[object, Any]) -> ConnectionPool:
        """Return connections to the origin of the URL that are kept, or new ones if too many are kept already.

        Whether proxy and certificates have changed is checked once in ROUTE_LIFETIME: it takes long.
        """
        key = self, origin(urlsplit(url))
        kept: ConnectionPool | None = shared.get(key)
        if kept is not None and time.monotonic() < kept.route_known_until:
            return kept
        pool = self.pool(url, max_idle=MAX_IDLE)
        if kept is not None and kept.route == pool.route:
            pool = kept
        elif kept is not None or len(shared) >= MAX_SHARED:
            pool.max_idle = 0
            return pool
        pool.route_known_until = time.monotonic() + ROUTE_LIFETIME
        shared[key] = pool
        return pool

    async def _send(self, send: Sender, request: Request) -> Response:
        headers = {**request.all_headers(), "User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        answer = await send(http_request(request.method, request.url, headers, request.content()))
        host = host_of(request.url)
        async with aclosing(answer):
            names, challenges = _decoded(answer.headers)
            if request.only_headers:
                return Response(answer.status, request.url, names, challenges=challenges)
            body = bytearray()
            async for chunk in answer.aiter_stream():  # not decompressed by then, to stop at the limit
                body += chunk
                _check_size(len(body), host)
        return Response(answer.status, request.url, names, _decompressed(bytes(body), names, host), challenges)


def _decoded(headers: Sequence[tuple[bytes, bytes]]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the headers by their names in lower case, and the WWW-Authenticate field values, one per field line."""
    decoded: dict[str, list[str]] = {}
    for name, value in headers:
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = value.decode("iso-8859-1")
        decoded.setdefault(name.decode("ascii").lower(), []).append(text)
    joined = {name: ", ".join(values) for name, values in decoded.items()}
    return joined, tuple(decoded.get("www-authenticate", ()))


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


def _unreachable(url: str, error: Exception) -> NetworkError:
    """Why there was no response, from the most specific cause in the chain."""
    host, cause = host_of(url), cast("BaseException | None", error)
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            hint = f"Check the clock. If a private certificate authority signed it, set {CA_FILE} to its certificate."
            return NetworkError(f"The certificate of {host} is not trusted: {cause.verify_message}.", hint=hint)
        if isinstance(cause, ssl.SSLError):
            return NetworkError(f"The TLS handshake with {host} failed ({cause.reason or 'TLS'}).")
        if isinstance(cause, socket.gaierror):
            return NetworkError(f"{host} could not be reached: its name does not resolve.")
        if isinstance(cause, ConnectionRefusedError) and is_loopback(urlsplit(url).hostname):
            return NetworkError(f"Nothing listens on {host}.", hint=_START_SERVER)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpcore.ConnectError | OSError | UnicodeError):
        return NetworkError(f"{host} could not be reached.")
    return NetworkError(f"The connection to {host} broke before the response was complete.")
