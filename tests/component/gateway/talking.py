"""Talk with a gateway over HTTP, in this process."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import ASGIApp

from notion_oauth.gateway.http import HttpGateway
from notion_oauth.gateway.local_secret import local_secret
from notion_oauth.settings import Settings

URL = "http://127.0.0.1:8765/mcp"
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "a client", "version": "1"},
    },
}
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def request(method: str, *, id: int | str = 1, **params: Any) -> dict[str, Any]:  # noqa: A002 - JSON-RPC's name
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return request("tools/call", name=tool, arguments=arguments)


def bearer(settings: Settings) -> dict[str, str]:
    return {"Authorization": f"Bearer {local_secret(settings).get_secret_value()}"}


class Client:
    """An MCP client of the revisions with sessions."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.session: str | None = None

    async def post(self, message: object, **headers: str) -> httpx.Response:
        session = {} if self.session is None else {"mcp-session-id": self.session}
        content = message if isinstance(message, bytes) else json.dumps(message).encode()
        accepted = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
        return await self.http.post(URL, content=content, headers={**accepted, **session, **headers})

    async def send(self, message: object) -> Any:
        """Send a request; returns the response's message, which is the last event of a stream."""
        response = await self.post(message)
        text = response.text
        if response.headers.get("content-type") == "text/event-stream":
            text = [line for line in text.splitlines() if line.startswith("data: ")][-1].removeprefix("data: ")
        return json.loads(text)

    async def begin(self) -> Any:
        """Begin a session; returns the result."""
        response = await self.post(INITIALIZE)
        self.session = response.headers.get("mcp-session-id")
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if not line.startswith("event")]
        await self.post(INITIALIZED)
        return json.loads(next(line for line in lines if line.startswith("{")))["result"]

    async def tools(self) -> set[str]:
        return {tool["name"] for tool in (await self.send(request("tools/list")))["result"]["tools"]}


@asynccontextmanager
async def client_of(app: ASGIApp, headers: dict[str, str] | None = None) -> AsyncGenerator[Client]:
    """A client of an application, whose lifespan it is."""
    transport = httpx.ASGITransport(app)
    async with _lifespan(app), httpx.AsyncClient(transport=transport, headers=headers, timeout=30) as http:
        yield Client(http)


@asynccontextmanager
async def _lifespan(app: ASGIApp) -> AsyncGenerator[None]:
    if isinstance(app, FastAPI):
        async with app.router.lifespan_context(app):
            yield
    else:
        assert isinstance(app, HttpGateway)
        try:
            yield
        finally:
            await app.aclose()
