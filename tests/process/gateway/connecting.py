"""The official Python SDK as a client: directly at the server, and through the gateway on stdio and over HTTP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from notion_oauth.gateway.local_secret import local_secret
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.support import consenting_browser
from tests.support.mcp_server import FIXED_TOKEN, McpServer
from tests.support.signing_in import sign_in

PROGRAM = Path(sys.executable).parent / "notion-oauth"
WIRES = ("legacy", "2026-07-28")  # the SDK's names: sessions with `initialize`, and without
START_TIMEOUT = 20.0  # seconds; a machine that runs the whole suite is slow


@dataclass
class Home:
    """A user's data directory and environment for the gateway's processes."""

    directory: Path
    server_url: str
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name.startswith(("COV", "PATH", "HOME"))}
        return {
            **kept,
            "XDG_DATA_HOME": str(self.directory / "data"),
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            "NOTION_OAUTH_SERVER_URL": self.server_url,
            "BROWSER": f"{sys.executable} -I {consenting_browser.__file__} %s {self.browser_log}",
            **self.variables,
        }

    @property
    def browser_log(self) -> Path:
        return self.directory / "browser.log"

    @property
    def tabs(self) -> list[str]:
        """The addresses that the browser has opened."""
        lines = self.browser_log.read_text().splitlines() if self.browser_log.exists() else []
        return [line for line in lines if line.startswith("http")]

    @property
    def oauth(self) -> NotionOAuth:
        """The login that the gateway's processes use. Its process must have the same XDG_DATA_HOME."""
        return NotionOAuth(Settings(server_url=self.server_url, timeout=5.0, retry_for=0))

    async def sign_in(self) -> None:
        await sign_in(self.oauth)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *arguments],
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([PROGRAM, *arguments], env=self.environment, cwd=self.directory, text=True, **options)

    def stdio(self, *options: str) -> StdioServerParameters:
        return StdioServerParameters(
            command=str(PROGRAM), args=["mcp", *options], env=self.environment, cwd=self.directory
        )


def wait_until(condition: Callable[[], Any], timeout: float = START_TIMEOUT) -> Any:
    """Return the condition's first true value."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, "this has not happened in time"
        time.sleep(0.02)
    return value


@dataclass(repr=False)
class HttpGateway:
    """A running `notion-oauth mcp serve`."""

    process: subprocess.Popen[str]
    url: str
    secret: str
    log: Path


@contextmanager
def http_gateway(home: Home, *options: str) -> Generator[HttpGateway]:
    """Run `notion-oauth mcp serve` on a free port."""
    log = home.directory / "serve.log"
    with log.open("w") as output:
        process = home.start("mcp", "serve", "--port", "0", *options, stdout=output, stderr=output)
    try:
        url = wait_until(lambda: re.search(r"http://127\.0\.0\.1:\d+/mcp", log.read_text()) or process.poll())
        assert isinstance(url, re.Match), log.read_text()
        secret = local_secret(home.oauth.settings).get_secret_value()
        yield HttpGateway(process, url[0], secret, log)
    finally:
        process.terminate()
        process.wait(10)


@asynccontextmanager
async def over_http(url: str, token: str, wire: str, **callbacks: Any) -> AsyncGenerator[Client]:
    """Connect to a Streamable HTTP server with a fixed bearer token."""
    headers = {"Authorization": f"Bearer {token}"}
    timeout = httpx2.Timeout(30, read=300)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout, trust_env=False) as http,
        Client(
            streamable_http_client(url, http_client=http, max_sse_event_size=None), mode=wire, **callbacks
        ) as client,
    ):
        yield client


@asynccontextmanager
async def connect(route: str, wire: str, server: McpServer, home: Home, **callbacks: Any) -> AsyncGenerator[Client]:
    """Connect a client on a route: `direct`, or through the gateway on `stdio` or `http`."""
    if route == "direct":
        async with over_http(server.url, FIXED_TOKEN, wire, **callbacks) as client:
            yield client
    elif route == "stdio":
        async with Client(home.stdio(), mode=wire, **callbacks) as client:
            yield client
    else:
        with http_gateway(home) as gateway:
            async with over_http(gateway.url, gateway.secret, wire, **callbacks) as client:
                yield client
