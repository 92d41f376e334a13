"""The practice server as an object, and served on a port."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

from notion_oauth.sandbox.app import Routes
from notion_oauth.sandbox.faults import Fault, Faults, Kind, OnAnswer, OnArrival, error_response
from notion_oauth.sandbox.options import SandboxOptions
from notion_oauth.sandbox.recording import RecordedRequest, Recorder
from notion_oauth.sandbox.serving import BackgroundServer
from notion_oauth.sandbox.state import State


class Sandbox:
    """A practice authorization server with a protected `/mcp`. `app` is ASGI; everything is in memory."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:9000",
        options: SandboxOptions | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.base_url = self.issuer = base_url
        self.mcp_url = f"{base_url}/mcp"
        self.options = options or SandboxOptions()
        self._ahead = 0.0
        self._state = State(self.options, lambda: clock() + self._ahead)
        self._recorder = Recorder()
        routes = Routes(base_url, self._state)
        self.identity_provider = routes.identity_provider
        self._faults = Faults(routes.app(), self._recorder, lambda: clock() + self._ahead)
        self.app = self._faults

    @property
    def requests(self) -> list[RecordedRequest]:
        """All requests so far, in the order of their arrival."""
        return list(self._recorder.requests)

    def requests_to(self, path: str, method: str | None = None) -> list[RecordedRequest]:
        """Return the requests for one path, and for one method unless that is None."""
        return [found for found in self.requests if found.path == path and method in (None, found.method)]

    def advance(self, seconds: float) -> None:
        """Move the server's clock forward."""
        self._ahead += seconds

    def fail_next(
        self,
        path: str,
        *,
        status: int | None = None,
        error: str | None = None,
        description: str | None = None,
        body: bytes | str | None = None,
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
        times: int = 1,
        method: str | None = None,
    ) -> None:
        """Answer the next requests for this path like this, without processing them. `error` makes an OAuth error."""
        code, raw = error_response(status, error, description, body)
        kind = content_type or ("application/json" if body is None and error else "text/html")
        all_headers = {"Content-Type": kind, "Cache-Control": "no-store", **(headers or {})}
        self._faults.add(Fault(path, method, "answer", status=code, headers=all_headers, body=raw), times)

    def misbehave_next(
        self,
        path: str,
        kind: Kind,
        *,
        times: int = 1,
        method: str | None = None,
        seconds: float | None = None,
        size: int | None = None,
        location: str | None = None,
    ) -> None:
        """Inject a fault into the next responses for this path.

        hang: no response. drop: truncated, and the request is not processed. lose_response: truncated, and the request
        is processed. slow: processed, and sent `seconds` later. drip: a byte every `seconds`, without end. oversize:
        `size` bytes of JSON. redirect: to `location`. garble: HTML instead of JSON.
        """
        fault = Fault(path, method, kind, status=200, headers={"Content-Type": "application/json"})
        if kind == "redirect":
            fault.status, fault.headers = 302, {"Location": location or f"{self.base_url}/elsewhere"}
        elif kind == "garble":
            fault.headers, fault.body = {"Content-Type": "text/html"}, b"<html>a page of some proxy"
        fault.seconds = fault.seconds if seconds is None else seconds
        fault.size = fault.size if size is None else size
        self._faults.add(fault, times)

    def observe(self, *, on_arrival: OnArrival | None = None, on_answer: OnAnswer | None = None) -> None:
        """Set callbacks for each request: on its arrival, when a fault can still be set for it, and after processing.

        `on_arrival` may return an awaitable, which delays the request. `on_answer` gets the status and the body before
        they are sent, also if a fault loses them. Both are called in the event loop that serves the requests.
        """
        self._faults.on_arrival, self._faults.on_answer = on_arrival, on_answer

    def end_pending_responses(self) -> None:
        """End the responses that hang or drip, now and in future."""
        self._faults.stopping = True

    def forget_clients(self) -> None:
        """Delete all client registrations: requests then fail with `invalid_client`, "Client not found"."""
        with self._state.lock:
            self._state.clients.clear()

    def revoke_grants(self) -> None:
        """End all grants, as a user does in Notion's settings: "OAuth grant revoked"."""
        with self._state.lock:
            for grant in self._state.grants.values():
                self._state.end(grant, grant.ended or "OAuth grant revoked")

    def expire_access_tokens(self) -> None:
        """Expire all access tokens; the grants stay valid."""
        with self._state.lock:
            for grant in self._state.grants.values():
                grant.access_tokens.clear()

    def is_access_token_live(self, token: str) -> bool:
        """Return whether /mcp accepts this token."""
        with self._state.lock:
            return self._state.grant_of_access_token(token) is not None

    @property
    def live_grants(self) -> int:
        with self._state.lock:
            return sum(grant.ended is None for grant in self._state.grants.values())

    @property
    def registered_clients(self) -> int:
        with self._state.lock:
            return len(self._state.clients)


class RunningSandbox:
    """A sandbox served by uvicorn in a thread of this process. Raises OSError if the port is in use."""

    def __init__(
        self,
        options: SandboxOptions | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._listener = socket.create_server((host, port))
        self.sandbox = Sandbox(f"http://{host}:{self._listener.getsockname()[1]}", options, clock=clock)
        # The socket listens already: a client that connects before uvicorn has started waits in its queue.
        # The sandbox sends its own Date header, which follows its clock.
        self._server = BackgroundServer(self.sandbox.app, self._listener, lifespan="off", date_header=False)

    def stop(self) -> None:
        """Stop the server, without waiting for pending responses."""
        self.sandbox.end_pending_responses()
        self._server.stop()
        self._listener.close()


@contextmanager
def serve_sandbox(
    options: SandboxOptions | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    clock: Callable[[], float] = time.time,
) -> Generator[Sandbox]:
    """Serve a sandbox during the block; port 0 selects a free port. Raises OSError if the port is in use."""
    running = RunningSandbox(options, host=host, port=port, clock=clock)
    try:
        yield running.sandbox
    finally:
        running.stop()
