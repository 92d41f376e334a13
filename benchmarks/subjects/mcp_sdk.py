"""The MCP Python SDK's `OAuthClientProvider`, with a `TokenStorage` in one JSON file."""

from __future__ import annotations

import importlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.subjects.harness import BrowserNeeded, Login, main, url_of, write_whole

STATE_FILE = "oauth.json"
REDIRECT_URI = "http://127.0.0.1:4321/callback"


async def ask_for_browser(_: str) -> NoReturn:
    """Replaces the browser: there is no person to sign in."""
    raise BrowserNeeded


async def no_callback() -> NoReturn:
    raise BrowserNeeded


def client_document(login: Login) -> dict[str, Any]:
    """The registered client, as the SDK's model."""
    names = ("client_id", "client_secret", "client_secret_expires_at", "token_endpoint_auth_method", "issuer")
    return {**{name: login[name] for name in names}, "redirect_uris": [REDIRECT_URI]}


def token_document(login: Login) -> dict[str, Any]:
    """The token response, as the SDK's model."""
    names = ("access_token", "token_type", "expires_in", "refresh_token", "scope")
    return {name: login[name] for name in names}


class FileStorage:
    """`mcp.client.auth.TokenStorage` over one JSON file, replaced in one step."""

    def __init__(self, path: Path, models: Any) -> None:
        self._path, self._models = path, models

    async def get_tokens(self) -> Any:
        found = self._read().get("tokens")
        return found and self._models.OAuthToken.model_validate(found)

    async def set_tokens(self, tokens: Any) -> None:
        self._write(tokens=tokens.model_dump(mode="json"))

    async def get_client_info(self) -> Any:
        found = self._read().get("client")
        return found and self._models.OAuthClientInformationFull.model_validate(found)

    async def set_client_info(self, client_info: Any) -> None:
        self._write(client=client_info.model_dump(mode="json"))

    def _read(self) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads(self._path.read_text())
        except FileNotFoundError:
            return {}
        return document

    def _write(self, **changed: Any) -> None:
        write_whole(self._path, json.dumps({**self._read(), **changed}))


class McpSdk:
    def __init__(self) -> None:
        self.http = importlib.import_module("httpx2")
        self._auth: Any = importlib.import_module("mcp.client.auth")
        self._models: Any = importlib.import_module("mcp.shared.auth")

    async def store(self, state: Path, login: Login) -> None:
        storage = FileStorage(state / STATE_FILE, self._models)
        await storage.set_client_info(self._models.OAuthClientInformationFull(**client_document(login)))
        await storage.set_tokens(self._models.OAuthToken(**token_document(login)))

    @asynccontextmanager
    async def open(self, state: Path, login: Login, *, transport: Any, running: bool) -> AsyncGenerator[Any]:
        provider = self._auth.OAuthClientProvider(
            server_url=url_of(login),
            client_metadata=self._models.OAuthClientMetadata(redirect_uris=[REDIRECT_URI]),
            storage=FileStorage(state / STATE_FILE, self._models),
            redirect_handler=ask_for_browser,
            callback_handler=no_callback,
        )
        if running:  # it stores the expiry only in memory, so a restarted process does not know it
            provider.context.token_expiry_time = login["expires_at"] / 1000
        async with self.http.AsyncClient(auth=provider, transport=transport, trust_env=False) as client:
            yield client


if __name__ == "__main__":
    main(McpSdk())
