"""The one door to the network: https (http on loopback alone), one time-out for all, a size cap, no redirects."""

from __future__ import annotations

import socket
import ssl
import zlib
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpcore
import httpx

from notion_oauth import __version__
from notion_oauth.errors import MetadataError, NetworkError, ServerUnavailable, TransientError
from notion_oauth.protocol.messages import Request, Response, host_of
from notion_oauth.protocol.urls import url_problem
from notion_oauth.settings import Settings
from notion_oauth.transport.address_policy import AddressPolicy
from notion_oauth.transport.certificates import CA_FILE, find_trusted_authorities, ssl_context
from notion_oauth.transport.connections import CONNECTION_ERRORS, CheckedTransport
from notion_oauth.transport.proxies import Resolver, proxy_for, resolve_host

MAX_BODY = 1024 * 1024  # bytes, before and after decompression
USER_AGENT = f"notion-oauth/{__version__}"


class Transport:
    """Sends one request and reads its answer to the end, within `timeout` from first to last, look-ups included.

    `server_url` is the server that the person has set: what may be connected to beside the public internet follows
    from where that is, or from `allow_private` (see Reach). `ca_file` holds certificate authorities to be trusted
    too. A connection is opened for each request and closed after it: requests are rare, and nothing is then
    bound to an event loop or a process. `network` replaces the sockets and all checks of where they lead, and
    `resolve` the look-ups, in tests and for special routes.
    """

    def __init__(
        self,
        *,
        timeout: timedelta,
        server_url: str | None = None,
        allow_private: bool = False,
        ca_file: Path | None = None,
        network: httpx.AsyncBaseTransport | None = None,
        resolve: Resolver = resolve_host,
    ) -> None:
        self._timeout = timeout
        self._reach = AddressPolicy(server_url, allow_private=allow_private)
        self._ca_file = ca_file
        self._network = network
        self._resolve = resolve

    @classmethod
    def from_settings(cls, settings: Settings) -> Transport:
        """The one that the settings describe."""
        return cls(
            timeout=settings.timeout_delta,
            server_url=settings.server_url,
            allow_private=settings.allow_private_addresses,
            ca_file=settings.ca_file,
        )

    async def send(self, request: Request) -> Response:
        """Return the answer, whatever its status; a redirect is not followed.

        Raises MetadataError where the URL may not be talked to, NetworkError where no whole answer arrived in
        time or the host leads where it may not, ServerUnavailable where it is larger than 1 MiB or packed in a way that
        was not asked for, ConfigurationError where the environment names a proxy or certificates that
        cannot be used.
        """
        if reason := url_problem(request.url):
            raise MetadataError(f"The URL of {host_of(request.url)} {reason}; nothing was sent.")
        host = host_of(request.url)
        client = httpx.AsyncClient(
            transport=self._network or self._checked(request),
            timeout=httpx.Timeout(None),
            follow_redirects=False,
            trust_env=False,
        )
        try:
            with anyio.fail_after(self._timeout.total_seconds()):
                return await self._send(client, request)
        except (TimeoutError, httpx.TimeoutException):
            seconds = f"{self._timeout.total_seconds():g}"
            failure: TransientError = NetworkError(f"{host} gave no whole answer within {seconds} seconds.")
        except (*CONNECTION_ERRORS, httpx.HTTPError, httpx.InvalidURL) as error:
            failure = _unreachable(host, error)
        except TransientError as error:
            failure = error.with_traceback(None)
        # Out here: neither httpx's own errors, which hold the request, nor its headers are then found behind this one
        raise failure

    def _checked(self, request: Request) -> httpx.AsyncBaseTransport:
        secure = urlsplit(request.url).scheme == "https"
        return CheckedTransport(
            self._reach,
            proxy=proxy_for(request.url),
            resolve=self._resolve,
            context=ssl_context(find_trusted_authorities(self._ca_file)) if secure else None,
        )

    async def _send(self, client: httpx.AsyncClient, request: Request) -> Response:
        # Time is kept by fail_after: httpx's own time-outs would start anew with every byte that drips in
        headers = {**request.all_headers(), "User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        async with (
            client,
            client.stream(request.method, request.url, headers=headers, content=request.content()) as answer,
        ):
            host = host_of(request.url)
            names = {name.lower(): value for name, value in answer.headers.items()}
            challenges = tuple(answer.headers.get_list("www-authenticate"))
            if request.only_headers:
                return Response(answer.status_code, request.url, names, challenges=challenges)
            body = bytearray()
            # Packed answers are unpacked by us, who stop in time; answers that are whole already have no raw form
            parts = answer.aiter_raw() if "content-encoding" in answer.headers else answer.aiter_bytes()
            async for chunk in parts:
                body += chunk
                _check_size(len(body), host)
        return Response(answer.status_code, request.url, names, _unpacked(bytes(body), names, host), challenges)


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


def _unreachable(host: str, error: Exception) -> NetworkError:
    """Say in one sentence why there was no answer, from the innermost cause."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            hint = f"Check the clock. Where an authority of your own signs, name its certificate in {CA_FILE}."
            return NetworkError(f"The certificate of {host} is not trusted: {cause.verify_message}.", hint=hint)
        if isinstance(cause, ssl.SSLError):
            return NetworkError(f"No secure connection to {host} was possible ({cause.reason or 'TLS'}).")
        if isinstance(cause, socket.gaierror):
            return NetworkError(f"{host} could not be reached: its name leads to no address.")
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpcore.ConnectError | httpx.ConnectError | OSError | UnicodeError):
        return NetworkError(f"{host} could not be reached.")
    return NetworkError(f"The connection to {host} broke before the answer was whole.")
