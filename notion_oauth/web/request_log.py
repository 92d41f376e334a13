"""A request id and a log line for each request; pure ASGI, the outermost middleware."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from notion_oauth.observability.audit import LogFields
from notion_oauth.observability.context import REQUEST_ID, new_request_id
from notion_oauth.web.trusted_hosts import TrustedHosts

HEADER = "X-Request-ID"
MAX_PATH = 200  # characters; the rest of a path is not logged
_NAME = HEADER.lower().encode()
_VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}\Z")
_LOG = logging.getLogger("notion_oauth.request")
_INTERNAL_ERROR = b'{"error": "Internal Server Error"}'


class RequestLog:
    """Takes the request id from a trusted proxy if it is valid, otherwise creates one, and returns it in the response.

    The log line has the path but never the query: a callback's query holds the code and the state. `hosts` gives the
    client's address, and which proxies are trusted: a client's own id could mix its requests with another client's.
    """

    def __init__(self, app: ASGIApp, *, hosts: TrustedHosts, uptime: Callable[[], float] = time.perf_counter) -> None:
        self._app, self._hosts, self._uptime = app, hosts, uptime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = self._request_id(scope)
        # Never reset: if the request fails, the server logs that later in the same task
        REQUEST_ID.set(request_id)
        started, status, logged = self._uptime(), 0, False

        def log() -> None:
            nonlocal logged
            if not logged:
                _log(scope, self._hosts.client(scope), status, self._uptime() - started)
            logged = True

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                others = [header for header in message.get("headers", ()) if header[0] != _NAME]
                message = {**message, "headers": [*others, (_NAME, request_id.encode())]}
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                log()  # what the application does in the background takes no time of the request

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            if not status:
                await _send_internal_error(send_with_id)
            raise
        finally:
            log()

    def _request_id(self, scope: Scope) -> str:
        sent: list[bytes] = [value for name, value in scope["headers"] if name == _NAME]
        if len(sent) != 1 or not _VALID_ID.match(sent[0]) or not self._hosts.peer_is_trusted(scope):
            return new_request_id()
        return sent[0].decode()


async def _send_internal_error(send: Send) -> None:
    """Starlette's own response is sent outside of this middleware, without the request id."""
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": _INTERNAL_ERROR})


def _log(scope: Scope, client: str, status: int, duration: float) -> None:
    if not _LOG.isEnabledFor(logging.INFO):
        return
    fields = LogFields(
        method=scope["method"],
        path=scope["path"][:MAX_PATH],
        status=str(status or "none"),
        milliseconds=f"{duration * 1000:.0f}",
        client=client or "unknown",
    )
    about = {"event": "request", "facts": fields}
    # Not `_LOG.info`: it searches the stack for the caller at each request
    _LOG.handle(_LOG.makeRecord(_LOG.name, logging.INFO, __file__, 0, "%s %s", ("request", fields), None, extra=about))
