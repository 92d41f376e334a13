"""Run uvicorn in a thread of this process, without its delays at startup and shutdown."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp


class BackgroundServer:
    """Serves an application with uvicorn in a daemon thread, until `stop` is called."""

    def __init__(self, app: ASGIApp, listener: socket.socket, **config: Any) -> None:
        # asyncio does not set it on connections of a socket that was made elsewhere: responses on connections that are
        # used again would be 40 ms late
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server = _Server(uvicorn.Config(app, log_config=None, access_log=False, **config))
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="served", daemon=True)
        self._thread.start()

    def wait_until_started(self) -> bool:
        """Wait for the application's startup. False if it failed."""
        self._server.startup_done.wait()
        return self._server.started

    def stop(self) -> None:
        """End the server. Requests that are still being answered have one second."""
        self._server.end()
        self._thread.join()


class _Server(uvicorn.Server):
    """Ends at once. uvicorn looks every 0.1 seconds whether to end and then sleeps for 0.1 seconds; tests stop
    thousands of servers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.startup_done = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            await super().startup(sockets)
        finally:
            self.startup_done.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # sets the Date header
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), 1)

    def end(self) -> None:
        self.should_exit = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ended.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        if tasks := set(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=1)  # the event loop cancels the others when it ends
        await self.lifespan.shutdown()
