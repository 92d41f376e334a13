"""The one-shot receiver of the redirect on this machine (RFC 8252 §7.3)."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
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
from notion_oauth.errors import NotionOAuthError, StateMismatch
from notion_oauth.models import AuthorizationResponse
from notion_oauth.protocol.authorization import parse_authorization_response

HOST = "127.0.0.1"  # the address, not the name: it cannot be made to mean another machine (RFC 8252 §8.3)
PATH = "/callback"

T = TypeVar("T")
Complete = Callable[[AuthorizationResponse], Awaitable[T]]


@contextmanager
def bound(known_redirect_uris: Iterable[str]) -> Generator[tuple[socket.socket, str]]:
    """A bound socket and its redirect URI; one that is registered already if its port is free, else any free port."""
    with _bind(_ports(known_redirect_uris)) as listener:
        yield listener, f"http://{HOST}:{listener.getsockname()[1]}{PATH}"


def _ports(redirect_uris: Iterable[str]) -> list[int]:
    parts = [urlsplit(uri) for uri in redirect_uris]
    return [
        part.port for part in parts if (part.scheme, part.hostname, part.path) == ("http", HOST, PATH) and part.port
    ]


def _bind(ports: Iterable[int]) -> socket.socket:
    for port in (*ports, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # Lets a port be taken again right after the last sign-in; on Windows it would let two share it
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
            listener.listen()
        except OSError:
            listener.close()
            if port == 0:
                raise
        else:
            return listener
    raise AssertionError("port 0 is always tried")


class Receiver(Generic[T]):
    """Serves the redirect URI until one redirect has been acted on.

    `complete` is given each answer that arrives. A StateMismatch is shown to whoever sent it, and the wait goes
    on: another program on this machine cannot end the sign-in. The page says "signed in" only after `complete` has.
    """

    def __init__(self, complete: Complete[T]) -> None:
        self._complete = complete
        self._one_at_a_time = anyio.Lock()
        self._done = anyio.Event()
        self._result: T | None = None
        self._error: NotionOAuthError | None = None
        routes = [Route(PATH, self._callback, methods=["GET"])]
        self.app = Starlette(routes=routes)

    async def result(self) -> T:
        """What `complete` returned, or the error it raised, once the browser has been shown it."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._result is not None  # noqa: S101 - set together with _done
        return self._result

    async def _callback(self, request: Request) -> Response:
        async with self._one_at_a_time:
            if self._result is None and self._error is None:
                try:
                    response = parse_authorization_response(request.query_params.multi_items())
                    self._result = await self._complete(response)
                except StateMismatch as mismatch:
                    return _error_page(mismatch)
                except NotionOAuthError as error:
                    self._error = error
            shown = BackgroundTask(self._finish)
            page = _success_page() if self._error is None else _error_page(self._error)
            page.background = shown
            return page

    async def _finish(self) -> None:
        self._done.set()


def _success_page() -> Response:
    context = {"title": "You are signed in", "message": "You can close this page and go back to the terminal."}
    return pages.page("done.html", context)


def _error_page(error: NotionOAuthError) -> Response:
    context = {"title": "That did not work", "message": error.message, "cure": error.cure, "home": ""}
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
    failure: NotionOAuthError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        try:
            yield
        except NotionOAuthError as error:
            failure = error  # raised outside: a task group would wrap it
        finally:
            server.should_exit = True
    if failure is not None:
        raise failure


def open_browser(url: str, opener: Callable[[str], bool], failed: Callable[[], None]) -> None:
    """Open the URL once, without waiting: a browser in the terminal keeps its caller until it is closed."""

    def run() -> None:
        try:
            opened = opener(url)
        except Exception:  # whatever a browser's launcher does, the printed URL still works
            opened = False
        if not opened:
            failed()

    threading.Thread(target=run, name="browser", daemon=True).start()
