"""What all sessions of one login share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from notion_oauth import __version__
from notion_oauth.errors import Hint, NotionOAuthError, escape
from notion_oauth.gateway import jsonrpc
from notion_oauth.gateway.jsonrpc import Message
from notion_oauth.gateway.sign_in import SignInOffer
from notion_oauth.gateway.tools import KnownTools, ToolFilter, cache_file, is_read_only
from notion_oauth.gateway.upstream import Failure, Upstream
from notion_oauth.gateway.waiting_room import SIGN_IN_TOOL, WaitingRoom
from notion_oauth.service import NotionOAuth
from notion_oauth.transport.client import Transport

PATIENCE = 20.0  # seconds
MAX_IDLE = 50  # connections to the server that wait for a request
IDLE_TIME = 4.0  # seconds; servers close an idle connection after five or more
# Requests whose result the gateway must know: those of the server's tools, and those that a new session repeats
_NOTED = (
    *(jsonrpc.INITIALIZE, jsonrpc.DISCOVER, jsonrpc.LIST_TOOLS),
    *("logging/setLevel", "resources/subscribe", "resources/unsubscribe"),
)
_LOG = logging.getLogger(__name__)


class SignIn(Protocol):
    """Starts a sign-in when a client asks for it."""

    async def offer(self) -> SignInOffer:
        """Return how to sign in. Opens nothing itself."""


class Gateway:
    """Relays the messages of any number of clients to the MCP server of one login.

    `patience` is how many seconds a message is repeated, as far as that is safe. `render_hint` returns a hint with the
    command as the user can run it.
    """

    def __init__(
        self,
        oauth: NotionOAuth,
        *,
        sign_in: SignIn,
        tool_filter: ToolFilter | None = None,
        patience: float = PATIENCE,
        render_hint: Callable[[Hint], str] = str,
    ) -> None:
        self.oauth = oauth
        self.patience = patience
        self.filter = tool_filter or ToolFilter()
        self._render_hint = render_hint
        self._sign_in = sign_in
        transport = Transport.from_settings(oauth.settings)
        self._pool = transport.pool(oauth.settings.server_url, max_idle=MAX_IDLE, idle_time=IDLE_TIME)
        self.upstream = Upstream(oauth, self._pool)
        settings = oauth.settings
        self.tools = KnownTools(cache_file(settings.server_url, settings.token_file, oauth.profile))
        self.waiting_room = WaitingRoom(
            self.upstream, self.tools, self.filter, version=__version__, render_hint=render_hint
        )

    async def aclose(self) -> None:
        """Close the connections to the server, and wait for a refresh that was sent, so that it is stored."""
        await self.oauth.tokens.wait_until_idle()
        await self._pool.aclose()

    def explain(self, error: NotionOAuthError) -> str:
        """The error with what to do next."""
        return f"{error.message} {self._render_hint(error.hint)}".rstrip()

    def is_read(self, message: Message) -> bool:
        """Whether the message may be sent twice."""
        tool = self.tools.find(message.tool) if message.tool is not None else None
        return message.method in jsonrpc.READS or (tool is not None and is_read_only(tool))

    # The filter

    def refusal(self, message: Message, *, tools_listed: bool = False) -> bytes | None:
        """The response to a message that the filter does not allow; None if it is allowed.

        Before the tools are listed, also None if only that will decide.
        """
        if not self.filter.is_set or message.is_response:
            return None
        if message.is_batch:
            return jsonrpc.failure(message, "A tool filter is set, so batches are refused: send each message alone.")
        if message.method not in (jsonrpc.METHODS if message.is_request else jsonrpc.NOTIFICATIONS):
            text = f"A tool filter is set, so the unknown method {_shown(message.method)} is refused."
            return jsonrpc.error(message.id, jsonrpc.METHOD_NOT_FOUND, text)
        if message.method != jsonrpc.CALL_TOOL or message.tool == SIGN_IN_TOOL:
            return None
        name = message.tool or "(none)"
        undecided = not tools_listed and self.filter.read_only and not self.tools.is_current
        allowed = self.filter.allows_name(name) and self.filter.allows(self.tools.find(name))
        if message.tool is not None and (allowed or (undecided and self.filter.allows_name(name))):
            return None
        return jsonrpc.failure(message, f"The tool {_shown(name)} is not allowed by the options of this gateway.")

    def needs_tools(self, message: Message) -> bool:
        """Whether the tools must be listed before the message is sent: for the filter, or for its headers."""
        if message.tool is None or self.tools.is_current:
            return False
        return self.filter.read_only or (message.revision is not None and self.tools.find(message.tool) is None)

    # Results of the server

    def reads_result(self, message: Message) -> bool:
        """Whether the gateway reads the result of this request."""
        return message.method in _NOTED

    def read_result(self, message: Message, result: dict[str, Any]) -> dict[str, Any] | None:
        """Note what the server says of itself. Returns the result for the client, if it is another."""
        if message.method in (jsonrpc.INITIALIZE, jsonrpc.DISCOVER):
            self.tools.record_answer(message.method, result)
        elif message.method == jsonrpc.LIST_TOOLS:
            self.tools.record_page(message.params.get("cursor"), result)
            if self.filter.is_set:
                return self.filtered(result)
        return None

    def filtered(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return a list of tools as the client gets it."""
        tools = result.get("tools")
        listed = tools if isinstance(tools, list) else []
        return {**result, "tools": [tool for tool in listed if isinstance(tool, dict) and self.filter.allows(tool)]}

    # Signing in

    async def offer_sign_in(self) -> SignInOffer:
        """How to sign in now."""
        try:
            await self.upstream.check_login()
        except NotionOAuthError as error:
            _LOG.debug("A sign-in is needed: %s", error.code)
        except Failure as failure:
            return SignInOffer(failure.text, failed=True)
        else:
            return SignInOffer("You are signed in. The tools of the server can be used.")
        try:
            return await self._sign_in.offer()
        except NotionOAuthError as error:
            return SignInOffer(self.explain(error), failed=True)

    def log(self, message: Message, outcome: str, seconds: float, session: str | None) -> None:
        """Write one line about a message of a client, without its arguments and its result."""
        method = "batch" if message.is_batch else (message.method or "response")
        self.oauth.audit.relayed(method[:100], outcome, seconds, session)


def _shown(name: object) -> str:
    return escape(str(name))[:100]
