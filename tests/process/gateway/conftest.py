"""A real MCP server with its authorization server, and the home of a user."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from notion_oauth.sandbox import Sandbox
from tests.process.gateway.connecting import Home
from tests.support.mcp_server import McpServer, serve_protected_mcp

LIMIT = 90  # seconds for one test


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


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    """A gateway that does not answer or end fails its test, and does not stop the run."""

    def expire(*_: object) -> None:
        raise TimeoutError(f"this test has not ended after {LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, expire)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
