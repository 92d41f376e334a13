"""A login at a real MCP server, and a client that speaks HTTP with the gateway in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.support.mcp_server import McpServer, serve_protected_mcp
from tests.support.signing_in import sign_in


@pytest.fixture(scope="module")
def protected() -> Iterator[tuple[McpServer, Sandbox]]:
    with serve_protected_mcp() as both:
        yield both


@pytest.fixture
def server(protected: tuple[McpServer, Sandbox]) -> McpServer:
    server = protected[0]
    server.requests.clear()
    return server


@pytest.fixture
def settings(server: McpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Settings(server_url=server.url, token_file=tmp_path / "tokens.json", timeout=5.0, retry_for=0)


@pytest.fixture
def signed_out(settings: Settings) -> NotionOAuth:
    return NotionOAuth(settings)


@pytest.fixture
async def oauth(signed_out: NotionOAuth) -> NotionOAuth:
    await sign_in(signed_out)
    return signed_out
