"""FastMCP's `OAuth`, with the file store that its documentation recommends for persistent logins."""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.subjects.harness import Login, main, url_of
from benchmarks.subjects.mcp_sdk import ask_for_browser, client_document, no_callback, token_document


class FastMcp:
    def __init__(self) -> None:
        self.http = importlib.import_module("httpx2")
        self._auth: Any = importlib.import_module("fastmcp.client.auth")
        self._models: Any = importlib.import_module("mcp.shared.auth")
        self._stores: Any = importlib.import_module("key_value.aio.stores.filetree")

    async def store(self, state: Path, login: Login) -> None:
        files = self._files(state)
        storage = self._provider(files, login).token_storage_adapter
        await storage.set_client_info(self._models.OAuthClientInformationFull(**client_document(login)))
        await storage.set_tokens(self._models.OAuthToken(**token_document(login)))
        await files.put(  # FastMCP stores the expiry here
            f"{url_of(login)}/token_expiry",
            {"expires_at": login["expires_at"] / 1000},
            collection="mcp-oauth-token-expiry",
        )
        if await storage.get_token_expiry() != login["expires_at"] / 1000:
            raise RuntimeError("FastMCP reads the expiry from another place than this program writes it")

    @asynccontextmanager
    async def open(self, state: Path, login: Login, *, transport: Any, running: bool) -> AsyncGenerator[Any]:
        del running  # the store holds the expiry
        provider = self._provider(self._files(state), login)
        async with self.http.AsyncClient(auth=provider, transport=transport, trust_env=False) as client:
            yield client

    def _files(self, state: Path) -> Any:
        state.mkdir(parents=True, exist_ok=True)
        return self._stores.FileTreeStore(
            data_directory=state,
            key_sanitization_strategy=self._stores.FileTreeV1KeySanitizationStrategy(state),
            collection_sanitization_strategy=self._stores.FileTreeV1CollectionSanitizationStrategy(state),
        )

    def _provider(self, files: Any, login: Login) -> Any:
        provider = self._auth.OAuth(mcp_url=url_of(login), token_storage=files)
        provider.context.redirect_handler = ask_for_browser
        provider.context.callback_handler = no_callback
        return provider


if __name__ == "__main__":
    main(FastMcp())
