"""The one door to the network: https (http on loopback alone), one time-out for all, a size cap, no redirects."""

from __future__ import annotations

import ssl
import zlib
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from typing import NoReturn
from urllib.parse import urlsplit

import anyio
import httpx

from notion_oauth.errors import ConfigurationError, MetadataError, NetworkError, ServerUnavailable
from notion_oauth.protocol.message import Request, Response, host_of
from notion_oauth.protocol.urls import is_loopback, why_unusable

MAX_BODY = 1024 * 1024  # bytes, before and after decompression
# httpx closes a connection whose handshake it has given up by itself; where fail_after stops it, it leaves it open
CONNECT_SHARE = 0.75
USER_AGENT = f"notion-oauth/{version('notion-oauth')}"


@cache
def _ssl_context() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        message = f"The certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be used: {error.strerror}."
        raise ConfigurationError(message, cure="Correct that variable, or unset it.") from None


class Transport:
    """Sends one request and reads its answer to the end, within `timeout` from first to last.

    A connection is opened for each request and closed after it: requests are rare, and nothing is then
    bound to an event loop or a process. `network` replaces the sockets, in tests and for special routes.
    """

    def __init__(self, *, timeout: timedelta, network: httpx.AsyncBaseTransport | None = None) -> None:
        self._timeout = timeout
        self._network = network

    async def send(self, request: Request) -> Response:
        """Return the answer, whatever its status, redirects apart.

        Raises MetadataError where the URL may not be talked to, NetworkError where no whole answer arrived in
        time, ServerUnavailable where it is a redirect, larger than 1 MiB or packed in a way that was not asked for,
        ConfigurationError where the environment names a proxy or certificates that cannot be used.
        """
        if reason := why_unusable(request.url):
            raise MetadataError(f"The URL of {host_of(request.url)} {reason}; nothing was sent.")
        host = host_of(request.url)
        client = self._client(request)
        try:
            with anyio.fail_after(self._timeout.total_seconds()):
                return await self._send(client, request)
        except (TimeoutError, httpx.TimeoutException):
            seconds = f"{self._timeout.total_seconds():g}"
            message = f"{host} gave no whole answer within {seconds} seconds."
            raise NetworkError(message) from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, OSError) as error:  # UnicodeError: a name that is none
            _unreachable(host, error)

    async def _send(self, client: httpx.AsyncClient, request: Request) -> Response:
        # Time is kept by fail_after: httpx's own time-outs start anew with every byte that drips in.
        headers = {**request.all_headers(), "User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        async with (
            client,
            client.stream(request.method, request.url, headers=headers, content=request.content()) as answer,
        ):
            host = host_of(request.url)
            if answer.is_redirect:
                raise ServerUnavailable(f"{host} answered with a redirect, and none is followed.")
            body = bytearray()
            # Packed answers are unpacked by us, who stop in time; answers that are whole already have no raw form
            parts = answer.aiter_raw() if "content-encoding" in answer.headers else answer.aiter_bytes()
            async for chunk in parts:
                body += chunk
                _check_size(len(body), host)
        names = {name.lower(): value for name, value in answer.headers.items()}
        return Response(answer.status_code, request.url, names, _unpacked(bytes(body), names, host))

    def _client(self, request: Request) -> httpx.AsyncClient:
        # No proxy for this machine itself: what goes to loopback in plain text must not leave it
        local = is_loopback(urlsplit(request.url).hostname)
        try:
            return httpx.AsyncClient(
                verify=_ssl_context(),
                transport=self._network,
                timeout=httpx.Timeout(None, connect=CONNECT_SHARE * self._timeout.total_seconds()),
                follow_redirects=False,
                trust_env=not local,
            )
        except (ImportError, ValueError, httpx.InvalidURL):
            message = "A proxy that the environment names cannot be used."
            cure = "Set HTTPS_PROXY to an http:// or https:// address; for socks5:// install httpx[socks]."
            raise ConfigurationError(message, cure=cure) from None


def _unpacked(body: bytes, headers: dict[str, str], host: str) -> bytes:
    """The body, however it was packed although that was not asked for; never more than MAX_BODY of it in memory."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise ServerUnavailable(f"{host} packed its answer in a way that was not asked for.")
    try:
        unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, MAX_BODY + 1)
    except zlib.error:
        raise NetworkError(f"The answer of {host} arrived broken.") from None
    _check_size(len(unpacked), host)
    return unpacked


def _check_size(size: int, host: str) -> None:
    if size > MAX_BODY:
        raise ServerUnavailable(f"{host} sent more than {MAX_BODY // 1024} KiB; the rest was not read.")


def _unreachable(host: str, error: Exception) -> NoReturn:
    """Say in one sentence why there was no answer, from the innermost cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            cure = "Check the clock, and whether a proxy on the way needs its certificate in SSL_CERT_FILE."
            raise NetworkError(
                f"The certificate of {host} is not trusted: {cause.verify_message}.", cure=cure
            ) from None
        if isinstance(cause, ssl.SSLError):
            raise NetworkError(f"No secure connection to {host} was possible ({cause.reason or 'TLS'}).") from None
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError | OSError):
        raise NetworkError(f"{host} could not be reached.") from None
    raise NetworkError(f"The connection to {host} broke before the answer was whole.") from None
