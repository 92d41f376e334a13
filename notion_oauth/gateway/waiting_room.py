"""What clients get while there is no login, or the server cannot be reached: answers, and a tool that signs in."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import anyio

from notion_oauth.clock import uptime
from notion_oauth.errors import Hint, NotionOAuthError, NotSignedIn, SignInRequired, StepUpRequired
from notion_oauth.gateway import jsonrpc
from notion_oauth.gateway.jsonrpc import Message
from notion_oauth.gateway.tools import KnownTools, Tool, ToolFilter
from notion_oauth.gateway.upstream import Failure, Upstream
from notion_oauth.protocol.urls import server_name

SIGN_IN_TOOL = "notion-sign-in"
UNREACHABLE_AFTER = 5.0  # seconds without an answer of the server
LOOK_INTERVAL = 1.0  # seconds between two looks for a login, or for the server
SERVER_LOOK_INTERVAL = 5.0  # seconds between two requests to a server that did not answer
LOCAL_METHODS = frozenset((jsonrpc.INITIALIZE, jsonrpc.PING, jsonrpc.DISCOVER, jsonrpc.LIST_TOOLS))
REVISIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")  # those with sessions, the newest first


class WaitingRoom:
    """Answers clients itself while there is no login or the server is unreachable."""

    def __init__(
        self,
        upstream: Upstream,
        tools: KnownTools,
        tool_filter: ToolFilter,
        *,
        version: str,
        render_hint: Callable[[Hint], str],
    ) -> None:
        self._upstream, self._tools, self._filter = upstream, tools, tool_filter
        self._server = server_name(upstream.url)
        self._version = version
        self._render_hint = render_hint
        self._reason: NotionOAuthError | Failure | None = None
        self._entered = anyio.Event()
        self._looking = anyio.Lock()
        self._looked_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether clients are answered here."""
        return self._reason is not None

    @property
    def needs_sign_in(self) -> bool:
        return isinstance(self._reason, NotionOAuthError)

    def enter(self, reason: NotionOAuthError | Failure) -> bool:
        """Answer clients here until the login or the server is back. Returns false for an error of another kind."""
        ends_login = isinstance(reason, NotSignedIn | SignInRequired) and not isinstance(reason, StepUpRequired)
        if not (ends_login or isinstance(reason, Failure)):
            return False
        if self._reason is None:
            self._looked_at = uptime()
            self._entered.set()
            self._entered = anyio.Event()
        self._reason = reason
        return True

    def leave(self) -> None:
        """The server has answered a request with a token."""
        self._reason = None

    async def wait_for_change(self, *, was_open: bool) -> None:
        """Wait until clients are no longer, or only now, answered here."""
        while self.is_open == was_open:
            if was_open:
                await self.look()
                await anyio.sleep(LOOK_INTERVAL)
            else:
                await self._entered.wait()

    async def look(self) -> None:
        """See whether the login, or the server, is back: at most once in LOOK_INTERVAL, whoever asks."""
        async with self._looking:
            interval = LOOK_INTERVAL if self.needs_sign_in else SERVER_LOOK_INTERVAL
            if not self.is_open or uptime() - self._looked_at < interval:
                return
            with suppress(Failure, NotionOAuthError):
                await self._upstream.check_login()
                with anyio.move_on_after(UNREACHABLE_AFTER):
                    if not self.needs_sign_in:
                        response = await self._upstream.send("GET", {"accept": "text/event-stream"})
                        await response.aclose()
                    self.leave()
            self._looked_at = uptime()

    def answer(self, message: Message) -> bytes:
        """The response to a request of a client."""
        if message.method == jsonrpc.INITIALIZE:
            return jsonrpc.result(message, self._initialize_result(message))
        if message.method == jsonrpc.PING:
            return jsonrpc.result(message, {})
        if message.method == jsonrpc.LIST_TOOLS:
            content = {"tools": [*filter(self._filter.allows, self._tools.tools), self._sign_in_tool()]}
            return jsonrpc.result(message, content if message.revision is None else {**content, **_NOT_CACHED})
        if message.method == jsonrpc.DISCOVER:
            known = self._tools.answer(jsonrpc.DISCOVER)
            if known is None:  # the client then sends `initialize`, which every server understands
                return jsonrpc.error(message.id, jsonrpc.METHOD_NOT_FOUND, self.explanation)
            return jsonrpc.result(message, {**known, "instructions": self.explanation, **_NOT_CACHED})
        return jsonrpc.failure(message, self.explanation)

    @property
    def explanation(self) -> str:
        """What is wrong, and what to do."""
        if isinstance(self._reason, NotionOAuthError):
            hint = self._render_hint(self._reason.hint)
            return f"{self._reason.message} Call the tool {SIGN_IN_TOOL}, or {hint[:1].lower()}{hint[1:]}"
        return f"{self._reason.text if self._reason else ''} The gateway tries again by itself."

    def _initialize_result(self, message: Message) -> dict[str, object]:
        requested = message.params.get("protocolVersion")
        known = self._tools.answer(jsonrpc.INITIALIZE) or {}
        capabilities = known["capabilities"] if isinstance(known.get("capabilities"), dict) else {}
        return {
            "protocolVersion": requested if requested in REVISIONS else REVISIONS[0],
            "capabilities": {
                **(capabilities if isinstance(capabilities, dict) else {}),
                "tools": {"listChanged": True},
            },
            "serverInfo": {"name": "notion-oauth", "version": self._version},
            "instructions": self.explanation,
        }

    def _sign_in_tool(self) -> Tool:
        description = self.explanation
        if isinstance(self._reason, NotionOAuthError):
            description = f"{self._reason.message} This tool opens the page where the user signs in to {self._server}."
        return {
            "name": SIGN_IN_TOOL,
            "title": f"Sign in to {self._server}",
            "description": description,
            "inputSchema": {"type": "object", "properties": {}},
            "annotations": {"readOnlyHint": False, "destructiveHint": False, "openWorldHint": True},
        }


_NOT_CACHED = {"ttlMs": 0, "cacheScope": "private"}  # required without sessions
