"""A real MCP server with its authorization server, and the home of a user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from notion_oauth.sandbox import Sandbox
from tests.process.gateway.connecting import Home
from tests.support.mcp_server import McpServer, serve_protected_mcp


@pytest.fixture
def protected() -> Iterator[tuple[McpServer, Sandbox]]:
    with serve_protected_mcp() as both:
        yield both


@pytest.fixture
def server(protected: tuple[McpServer, Sandbox]) -> McpServer:
    return protected[0]


@pytest.fixture
def sandbox(protected: tuple[McpServer, Sandbox]) -> Sandbox:
    return protected[1]


@pytest.fixture
def home(server: McpServer, tmp_path: Path) -> Home:
    return Home(tmp_path, server.url)
