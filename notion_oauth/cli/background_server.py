"""Run an ASGI application in a thread of this process, on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp


@contextmanager
def served(app: ASGIApp, *, host: str = "127.0.0.1") -> Generator[str]:
    """The base URL of the running application; a free port is taken. Stopped when the block ends.

    Raises OSError where no port can be bound, RuntimeError where the application does not start.
    """
    with served_where(lambda _: app, host=host) as base_url:
        yield base_url


@contextmanager
def served_where(build: Callable[[str], ASGIApp], *, host: str = "127.0.0.1") -> Generator[str]:
    """As `served`, for an application that has to know its base URL: `build` makes it for that URL."""
    with socket.create_server((host, 0)) as listener:
        base_url = f"http://{host}:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            build(base_url),
            log_config=None,
            access_log=False,
            proxy_headers=False,  # whom to believe is the application's to say
            timeout_graceful_shutdown=1,
        )
        server = _Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), name="served", daemon=True)
        thread.start()
        server.began.wait()
        if not server.started:
            raise RuntimeError("The application did not start.")
        try:
            yield base_url
        finally:
            server.should_exit = True
            thread.join()


class _Server(uvicorn.Server):
    """Tells when it has started, or has given up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.began = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        finally:
            self.began.set()
