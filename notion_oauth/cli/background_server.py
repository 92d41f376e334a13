"""Run an ASGI application in a thread of this process, on loopback."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

from starlette.types import ASGIApp

from notion_oauth.sandbox.serving import BackgroundServer


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
        # Which proxies are trusted is the application's decision
        server = BackgroundServer(build(base_url), listener, proxy_headers=False)
        try:
            if not server.wait_until_started():
                raise RuntimeError("The application did not start.")
            yield base_url
        finally:
            server.stop()
