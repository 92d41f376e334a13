"""Context managers that serve an ASGI application on a free loopback port."""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager

from starlette.types import ASGIApp

from notion_oauth.errors import NotionOAuthError
from notion_oauth.sandbox.serving import BackgroundServer


@contextmanager
def served(app: ASGIApp, *, host: str = "127.0.0.1") -> Generator[str]:
    """Serve the application on a free port while the block runs; yields its base URL.

    Raises OSError if no port can be bound, NotionOAuthError if the application does not start.
    """
    with served_by_factory(lambda _: app, host=host) as base_url:
        yield base_url


@contextmanager
def served_by_factory(build: Callable[[str], ASGIApp], *, host: str = "127.0.0.1") -> Generator[str]:
    """Like `served`, for an application that needs its own base URL: `build` receives the URL and returns it."""
    with socket.create_server((host, 0)) as listener:
        base_url = f"http://{host}:{listener.getsockname()[1]}"
        # The application decides which proxies to trust
        server = BackgroundServer(build(base_url), listener, proxy_headers=False)
        try:
            if not server.wait_until_started():
                raise NotionOAuthError("The application did not start.", hint="Its log has the reason.")
            yield base_url
        finally:
            server.stop()
