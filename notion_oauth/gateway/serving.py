"""The command `mcp serve`: the gateway over HTTP for the clients of this machine."""

from __future__ import annotations

import errno
import signal
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial

import anyio
import uvicorn
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from notion_oauth.errors import ConfigurationError, Hint
from notion_oauth.gateway.gateway import PATIENCE, Gateway
from notion_oauth.gateway.http import HttpGateway
from notion_oauth.gateway.local_secret import local_secret
from notion_oauth.gateway.port_holder import find_port_holder
from notion_oauth.gateway.sign_in import LoopbackSignIn
from notion_oauth.gateway.tools import ToolFilter
from notion_oauth.protocol.urls import is_loopback
from notion_oauth.service import NotionOAuth
from notion_oauth.web.sessions.keys import session_keys

PATH = "/mcp"
KEEP_ALIVE = 75  # seconds without a request; longer than clients keep a connection, so that they close it


def serve(
    oauth: NotionOAuth,
    *,
    host: str = "127.0.0.1",
    port: int,
    needs_secret: bool = True,
    allow_origins: Sequence[str] = (),
    allow_hosts: Sequence[str] = (),
    tool_filter: ToolFilter | None = None,
    patience: float = PATIENCE,
    render_hint: Callable[[Hint], str] = str,
    on_started: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve the gateway until the process is told to end. `on_started` gets its URL.

    Raises ConfigurationError if the port is taken, or without a secret beyond loopback; StorageError for the secret.
    """
    if not needs_secret and not is_loopback(host):
        raise ConfigurationError(
            "Without the secret, the gateway can be reached from this machine only.",
            hint="Omit --no-local-secret, or --host.",
        )
    bearer = local_secret(oauth.settings) if needs_secret else None
    with _listen(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}{PATH}"

        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                sign_in = LoopbackSignIn(oauth, tasks, render_hint=render_hint)

                def build(login: NotionOAuth, _: Request) -> Gateway:
                    return Gateway(
                        login, sign_in=sign_in, tool_filter=tool_filter, patience=patience, render_hint=render_hint
                    )

                async def find_login(_: Request) -> NotionOAuth:
                    return oauth

                gateway = HttpGateway(
                    find_login,
                    build,
                    bearer=bearer,
                    keys=session_keys(oauth.settings),
                    allow_origins=allow_origins,
                    allow_hosts=(host, *allow_hosts),
                    strict=tool_filter is not None and tool_filter.is_set,
                )
                server = _Server(_at_path(gateway), listener, partial(on_started, url))
                tasks.start_soon(_stop_on_signal, server, gateway)
                try:
                    await server.serve([listener])
                finally:
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await gateway.aclose()

        anyio.run(main)


class _Server(uvicorn.Server):
    """Ends when it is told to, and calls `on_started` when it accepts requests."""

    def __init__(self, app: ASGIApp, listener: socket.socket, on_started: Callable[[], None]) -> None:
        # asyncio does not set it on the connections of a socket that was made elsewhere
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                proxy_headers=False,
                timeout_graceful_shutdown=1,
                timeout_keep_alive=KEEP_ALIVE,
            )
        )
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def _stop_on_signal(server: uvicorn.Server, gateway: HttpGateway) -> None:
    if sys.platform == "win32":  # pragma: no cover - its event loop has no handlers of signals
        return
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            gateway.end_streams()
            server.should_exit = True


def _at_path(app: ASGIApp) -> ASGIApp:
    """Return an application that has nothing but `app`, at PATH."""

    async def at_path(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].rstrip("/") == PATH:
            return await app(scope, receive, send)
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        return await send({"type": "http.response.body", "body": b""})

    return at_path


@contextmanager
def _listen(host: str, port: int) -> Generator[socket.socket]:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigurationError(f"Cannot listen on port {port} of {host}: {error.strerror or error}.") from None
        holder = find_port_holder(port)
        raise ConfigurationError(
            f"Port {port} is in use{f' by {holder}' if holder else ''}.",
            hint="Stop that program, or choose another port with --port.",
        ) from None
    with listener:
        yield listener
