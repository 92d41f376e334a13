"""Receive the redirect of one sign-in on a loopback port (RFC 8252 §7.3)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from notion_oauth import pages
from notion_oauth.errors import (
    AuthorizationExpired,
    AuthorizationResponseError,
    ConfigurationError,
    IssuerMismatch,
    NotionOAuthError,
    StateMismatch,
)
from notion_oauth.interactive.peers import own_user_only
from notion_oauth.models import AuthorizationResponse
from notion_oauth.protocol.authorization import parse_authorization_response

HOST = "127.0.0.1"  # not "localhost", which may resolve to another address (RFC 8252 §8.3)
LOCALHOST = "localhost"  # for servers that accept nothing else; both loopback addresses are listened on then
HOSTS = (HOST, LOCALHOST)
PATH = "/callback"
_ATTEMPTS = 5  # a free port of 127.0.0.1 may be in use at ::1

T = TypeVar("T")
Complete = Callable[[AuthorizationResponse], Awaitable[T]]


@contextmanager
def bind_redirect_uri(
    registered_redirect_uris: Iterable[str], port: int | None = None, host: str = HOST
) -> Generator[tuple[Sequence[socket.socket], str]]:
    """Bound sockets and their redirect URI: on `port` if set, else on the free port of a registered URI, else on any.

    `host` is that of the redirect URI; for localhost, there are sockets on 127.0.0.1 and, if possible, ::1. Raises
    ConfigurationError if `port` cannot be bound.
    """
    listeners = _bind_one(port, host) if port else _bind_first(_ports(registered_redirect_uris, host), host)
    with ExitStack() as bound:
        for listener in listeners:
            bound.enter_context(listener)
        yield listeners, f"http://{host}:{listeners[0].getsockname()[1]}{PATH}"


def registered_host(redirect_uris: Iterable[str]) -> str:
    """The host of the first of these redirect URIs that can be listened on; 127.0.0.1 without one."""
    hosts = (host for uri in redirect_uris for host in HOSTS if _ports([uri], host))
    return next(hosts, HOST)


def _ports(redirect_uris: Iterable[str], host: str) -> list[int]:
    parts = [urlsplit(uri) for uri in redirect_uris]
    return [
        part.port for part in parts if (part.scheme, part.hostname, part.path) == ("http", host, PATH) and part.port
    ]


def _bind_first(ports: Iterable[int], host: str) -> Sequence[socket.socket]:
    for port in (*ports, *([0] * _ATTEMPTS if host == LOCALHOST else [])):
        with suppress(OSError):
            return _listen(port, host)
    return _listen(0, host)


def _bind_one(port: int, host: str) -> Sequence[socket.socket]:
    try:
        return _listen(port, host)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on port {port} of {host}: {error.strerror or error}.",
            hint="Choose another port with --port, or omit --port to use any free port.",
        ) from None


def _listen(port: int, host: str) -> Sequence[socket.socket]:
    """Listen on a port. Raises OSError, also if another program has it at the other address of localhost."""
    first = _listen_at((HOST, port), socket.AF_INET)
    if host != LOCALHOST:
        return (first,)
    try:
        return first, _listen_at(("::1", first.getsockname()[1]), socket.AF_INET6)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            first.close()
            raise
        return (first,)  # this system has no IPv6


def _listen_at(address: tuple[str, int], family: socket.AddressFamily) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # allows the same port in the next sign-in; on Windows two programs could share it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


class Receiver(Generic[T]):
    """Accepts redirects, from the browser or pasted by the user, until one of them completes or fails the sign-in.

    `complete` is called with one response at a time. A response with another `state` is rejected and the wait
    continues, so that another program on this machine cannot end the sign-in. The page says "signed in" only after
    `complete` has returned.
    """

    def __init__(self, complete: Complete[T]) -> None:
        self._complete = complete
        self._lock = anyio.Lock()
        self._done = anyio.Event()
        self._result: T | None = None
        self._error: NotionOAuthError | None = None
        routes = [Route(PATH, self._callback, methods=["GET"])]
        self.app = Starlette(routes=routes)

    async def wait_until_done(self) -> None:
        """Wait until a redirect has completed or failed the sign-in, and the browser has received its page."""
        await self._done.wait()

    def result(self) -> T:
        """Return what `complete` returned. Raises what it raised, and AuthorizationExpired if no redirect arrived."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise AuthorizationExpired("No redirect arrived within ten minutes, so the sign-in is not complete.")
        return self._result

    async def receive_pasted(self, parameters: Sequence[tuple[str, str]]) -> None:
        """Complete the sign-in with a redirect that the user pasted.

        Raises AuthorizationResponseError if it is incomplete or not of this sign-in; the wait then continues.
        """
        await self._receive(parameters, rejected=(StateMismatch, IssuerMismatch))
        self._done.set()

    async def _callback(self, request: Request) -> Response:
        try:
            await self._receive(request.query_params.multi_items(), rejected=(StateMismatch,))
        except AuthorizationResponseError as error:
            return _error_page(error)
        page = _success_page() if self._error is None else _error_page(self._error)
        page.background = BackgroundTask(self._set_done)
        return page

    async def _receive(
        self, parameters: Sequence[tuple[str, str]], *, rejected: tuple[type[AuthorizationResponseError], ...]
    ) -> None:
        response = parse_authorization_response(parameters)
        async with self._lock:
            if self._result is None and self._error is None:
                try:
                    self._result = await self._complete(response)
                except rejected:
                    raise
                except NotionOAuthError as error:
                    self._error = error

    async def _set_done(self) -> None:
        self._done.set()


def _success_page() -> Response:
    context = {"title": "You are signed in", "message": "You can close this page and return to the terminal."}
    return pages.page("done.html", context)


def _error_page(error: NotionOAuthError) -> Response:
    return pages.explained_page(error, error.hint.instead_of_command("in the terminal."), status=400)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield  # the command handles Ctrl-C


@asynccontextmanager
async def serve(receiver: Receiver[T], listeners: Sequence[socket.socket], *, own_user: bool) -> AsyncIterator[None]:
    """Serve the receiver on the bound sockets while the block runs. Logs nothing: the URL holds the code.

    With `own_user`, requests of other users of this machine are refused, and have no effect.
    """
    config = uvicorn.Config(
        own_user_only(receiver.app) if own_user else receiver.app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
        proxy_headers=False,  # a header must not say who the client is
    )
    server = _Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, list(listeners))
        try:
            yield
        finally:
            server.should_exit = True
