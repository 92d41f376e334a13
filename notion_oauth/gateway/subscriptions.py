"""A stream of subscriptions (`subscriptions/listen`, 2026-07-28), as the client sees it over several at the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from notion_oauth.gateway import jsonrpc
from notion_oauth.gateway.jsonrpc import Message
from notion_oauth.gateway.server_sent_events import Event

_LISTS = ("tools", "prompts", "resources")


class Subscription:
    """Delivers one acknowledgement to the client. After each further one of the server, every list may have changed."""

    def __init__(self, message: Message, deliver: Callable[[Event], Awaitable[None]]) -> None:
        self._message, self._deliver = message, deliver
        wanted = message.params.get("notifications")
        self._wanted: dict[str, Any] = wanted if isinstance(wanted, dict) else {}
        self._acknowledged = False
        self._progress = False
        self.ended = False

    async def deliver(self, event: Event) -> None:
        """Deliver an event of the server."""
        self._progress = True
        self.ended = self.ended or event.final
        if jsonrpc.read_object(event.data).get("method") != jsonrpc.ACKNOWLEDGED:
            await self._deliver(event)
        elif self._acknowledged:
            for name in _LISTS:
                await self._tell_changed(name)
        else:
            self._acknowledged = True
            await self._deliver(event)

    def take_progress(self) -> bool:
        """Return whether the server has sent anything since the last call."""
        progress, self._progress = self._progress, False
        return progress

    async def acknowledge(self) -> None:
        """Acknowledge in the place of the server, unless it has."""
        if not self._acknowledged:
            self._acknowledged = True
            await self._notify(jsonrpc.ACKNOWLEDGED, {"notifications": self._wanted})

    async def tell_tools_changed(self, _: Event) -> None:
        await self._tell_changed("tools")

    async def _tell_changed(self, name: str) -> None:
        if self._acknowledged and self._wanted.get(f"{name}ListChanged") is True:
            await self._notify(f"notifications/{name}/list_changed", {})

    async def _notify(self, method: str, params: dict[str, Any]) -> None:
        meta = {"_meta": {jsonrpc.SUBSCRIPTION: self._message.id}}
        await self._deliver(Event(jsonrpc.notification(method, {**params, **meta}), local=True))
