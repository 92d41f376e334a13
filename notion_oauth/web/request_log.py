"""A request id and a line in the log for each request to the service; pure ASGI, around all else."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from notion_oauth.observability.audit import Facts
from notion_oauth.observability.context import REQUEST_ID, new_request_id
from notion_oauth.web.trusted_hosts import TrustedHosts

HEADER = "X-Request-ID"
MAX_PATH = 200  # characters of a path that are logged
_NAME = HEADER.lower().encode()
_SANE = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")
_LOG = logging.getLogger("notion_oauth.request")
_CRASHED = b'{"error": "Internal Server Error"}'


class RequestLog:
    """Takes the request id of a proxy in front of us where it is a plain word, else makes one; answers with it.

    The line tells the path and never the query, which at a callback holds the code and the state. `hosts` knows who
    is asking, and which proxies are believed: an id that a client chose would put its requests among another's.
    """

    def __init__(self, app: ASGIApp, *, hosts: TrustedHosts, uptime: Callable[[], float] = time.perf_counter) -> None:
        self._app, self._hosts, self._uptime = app, hosts, uptime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = self._request_id(scope)
        # Never set back: a server logs a crash of this request after us, in the same task
        REQUEST_ID.set(request_id)
        began, status = self._uptime(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                others = [header for header in message.get("headers", ()) if header[0] != _NAME]
                message = {**message, "headers": [*others, (_NAME, request_id.encode())]}
            await send(message)

        try:
            await self._app(scope, receive, answer)
        except Exception:
            if not status:
                await _say_it_crashed(answer)
            raise
        finally:
            _log(scope, self._hosts.client(scope), status, self._uptime() - began)

    def _request_id(self, scope: Scope) -> str:
        given: list[bytes] = [value for name, value in scope["headers"] if name == _NAME]
        if len(given) != 1 or not _SANE.match(given[0]) or not self._hosts.peer_is_trusted(scope):
            return new_request_id()
        return given[0].decode()


async def _say_it_crashed(send: Send) -> None:
    """Starlette would say it too, outside of us and so without the request id."""
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": _CRASHED})


def _log(scope: Scope, client: str, status: int, took: float) -> None:
    if not _LOG.isEnabledFor(logging.INFO):
        return
    facts = Facts(
        method=scope["method"],
        path=scope["path"][:MAX_PATH],
        status=str(status or "none"),
        milliseconds=f"{took * 1000:.0f}",
        client=client or "unknown",
    )
    about = {"event": "request", "facts": facts}
    # Not by `info`, which looks for the line that calls it, at each request
    _LOG.handle(_LOG.makeRecord(_LOG.name, logging.INFO, __file__, 0, "%s %s", ("request", facts), None, extra=about))
