"""The one-shot receiver of the redirect on this machine (RFC 8252 §7.3)."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
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
from notion_oauth.models import AuthorizationResponse
from notion_oauth.protocol.authorization import parse_authorization_response

HOST = "127.0.0.1"  # the address, not the name: it cannot be made to mean another machine (RFC 8252 §8.3)
PATH = "/callback"

T = TypeVar("T")
Complete = Callable[[AuthorizationResponse], Awaitable[T]]


@contextmanager
def bound(known_redirect_uris: Iterable[str], port: int | None = None) -> Generator[tuple[socket.socket, str]]:
    """A bound socket and its redirect URI: with this `port`, else registered already if its port is free, else any.

    Raises ConfigurationError where `port` cannot be had.
    """
    with _bind_one(port) if port else _bind(_ports(known_redirect_uris)) as listener:
        yield listener, f"http://{HOST}:{listener.getsockname()[1]}{PATH}"


def _ports(redirect_uris: Iterable[str]) -> list[int]:
    parts = [urlsplit(uri) for uri in redirect_uris]
    return [
        part.port for part in parts if (part.scheme, part.hostname, part.path) == ("http", HOST, PATH) and part.port
    ]


def _bind(ports: Iterable[int]) -> socket.socket:
    for port in ports:
        with suppress(OSError):
            return _listen(port)
    return _listen(0)


def _bind_one(port: int) -> socket.socket:
    try:
        return _listen(port)
    except OSError as error:
        raise ConfigurationError(
            f"Port {port} of this machine cannot be used: {error.strerror or error}.",
            hint="Choose another with --port, or leave --port out: any free port will do.",
        ) from None


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # a port can be taken again right after a sign-in; on Windows two would share it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


class Receiver(Generic[T]):
    """Takes redirects, from the browser at the redirect URI or pasted, until one has been acted on.

    `complete` is given each answer that arrives, one at a time. Who sent one is not known before its state is: one
    without ours is refused, and the wait goes on, so that another program on this machine cannot end the sign-in.
    The page says "signed in" only after `complete` has.
    """

    def __init__(self, complete: Complete[T]) -> None:
        self._complete = complete
        self._one_at_a_time = anyio.Lock()
        self._over = anyio.Event()
        self._result: T | None = None
        self._error: NotionOAuthError | None = None
        routes = [Route(PATH, self._callback, methods=["GET"])]
        self.app = Starlette(routes=routes)

    async def over(self) -> None:
        """Returns once a redirect has been acted on and whoever brought it has been told."""
        await self._over.wait()

    def result(self) -> T:
        """What `complete` returned; raises what it raised, and PendingExpired where no redirect has come."""
        if self._error is not None:
            raise self._error
        if self._result is None:
            raise AuthorizationExpired("Nobody came back from the browser within ten minutes.")
        return self._result

    async def paste(self, parameters: Sequence[tuple[str, str]]) -> None:
        """Act on a redirect that a person has brought.

        Raises AuthorizationResponseError where it is not the one, or not whole: the wait goes on.
        """
        await self._receive(parameters, refused=(StateMismatch, IssuerMismatch))
        self._over.set()

    async def _callback(self, request: Request) -> Response:
        try:
            await self._receive(request.query_params.multi_items(), refused=(StateMismatch,))
        except AuthorizationResponseError as refused:
            return _error_page(refused)
        page = _success_page() if self._error is None else _error_page(self._error)
        page.background = BackgroundTask(self._finish)
        return page

    async def _receive(
        self, parameters: Sequence[tuple[str, str]], *, refused: tuple[type[AuthorizationResponseError], ...]
    ) -> None:
        response = parse_authorization_response(parameters)
        async with self._one_at_a_time:
            if self._result is None and self._error is None:
                try:
                    self._result = await self._complete(response)
                except refused:
                    raise
                except NotionOAuthError as error:
                    self._error = error

    async def _finish(self) -> None:
        self._over.set()


def _success_page() -> Response:
    context = {"title": "You are signed in", "message": "You can close this page and go back to the terminal."}
    return pages.page("done.html", context)


def _error_page(error: NotionOAuthError) -> Response:
    context = {"title": pages.ERROR_TITLE, "message": error.message, "hint": error.hint, "home": ""}
    return pages.page("error.html", context, status=400)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield  # Ctrl-C belongs to the command


@asynccontextmanager
async def serving(receiver: Receiver[T], listener: socket.socket) -> AsyncIterator[None]:
    """Serve the receiver on the bound socket while the block runs. Nothing is logged: the URL holds the code."""
    config = uvicorn.Config(
        receiver.app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = _Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        try:
            yield
        finally:
            server.should_exit = True
