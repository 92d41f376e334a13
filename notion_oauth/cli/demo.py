"""The command `demo`: a sign-in, its use and its end against a practice server. Each step is printed and checked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import typer
from pydantic import SecretStr

from notion_oauth import __version__
from notion_oauth.app import create_app
from notion_oauth.auth.httpx_auth import BearerAuth
from notion_oauth.cli.background_server import served
from notion_oauth.cli.mcp_config import program_command
from notion_oauth.cli.options import program_name
from notion_oauth.errors import NotionOAuthError
from notion_oauth.sandbox import Sandbox, SandboxOptions, serve_sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings

TOKEN_LIFETIME = 2.0  # seconds
TIMEOUT = 10.0  # seconds within which such a token must expire
_SELF = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "notion-fetch", "arguments": {"id": "self"}},
}
_INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "notion-oauth demo", "version": __version__},
    },
}
_MCP_HEADERS = {"Accept": "application/json, text/event-stream"}


class DemoFailed(Exception):
    """A step did not have the expected result."""


def run_demo() -> bool:
    """Run all steps and print each on stdout; returns whether all succeeded. Leaves no files."""
    started = time.monotonic()
    try:
        with _environment() as (sandbox, service_url, settings):
            _Demo(sandbox, service_url, settings).run()
    except (DemoFailed, NotionOAuthError, httpx.HTTPError, OSError) as error:
        typer.echo(f"  ✗ {error}\n\nThe demo failed. Please report this output.", err=True)
        return False
    seconds = time.monotonic() - started
    typer.echo(f"\nAll steps succeeded in {seconds:.1f} seconds. To sign in to Notion itself: {program_name()} login")
    return True


@contextmanager
def _environment() -> Generator[tuple[Sandbox, str, Settings]]:
    """A practice server, a service that signs in to it, and a temporary directory for the tokens."""
    options = SandboxOptions(access_token_lifetime=TOKEN_LIFETIME)
    with tempfile.TemporaryDirectory(prefix="notion-oauth-demo-") as directory, serve_sandbox(options) as sandbox:
        settings = Settings(
            server_url=sandbox.mcp_url,
            token_file=Path(directory) / ".notion-tokens.json",
            public_url=None,
            secret_key=None,
            env_file=None,
        )
        with served(create_app(settings)) as service_url:
            yield sandbox, service_url, settings


class _Demo:
    def __init__(self, sandbox: Sandbox, service_url: str, settings: Settings) -> None:
        self._sandbox = sandbox
        self._settings = settings
        self._oauth = NotionOAuth(settings)
        self._browser = httpx.Client(
            base_url=service_url, headers={"Accept": "text/html"}, follow_redirects=True, trust_env=False
        )
        self._program = httpx.Client(headers=_MCP_HEADERS, trust_env=False)

    def run(self) -> None:
        with self._browser, self._program:
            _print(f"The practice server, which behaves like Notion's: {self._sandbox.base_url}")
            _print(f"The service, as started by `uvicorn main:app`: {self._browser.base_url}")
            self._sign_in()
            first = self._use("A program calls the MCP server with the token")
            self._expire()
            second = self._use("The program calls again, and the token is refreshed without any interaction")
            _check(first != second and self._refreshes() == 1, "The token was refreshed exactly once.")
            self._use_gateway()
            self._sign_out(second)

    def _sign_in(self) -> None:
        _print("\nA browser signs in")
        _check("Not connected" in self._browser.get("/").text, "The page of the service says “Not connected”.")
        page = self._browser.get("/auth/login")
        codes = [response.status_code for response in page.history]
        done = page.status_code == 200 and "You are signed in" in page.text
        _check(
            done, f"Discovery, registration, consent, code exchange: {len(codes)} redirects, then “You are signed in”."
        )
        status = self._status()
        seconds = status.get("expires_in_seconds")
        text = f"GET /auth/status returns: authenticated; expires_in_seconds: {seconds}."
        _check(status["status"] == "authenticated", text)
        mode = self._settings.token_file.stat().st_mode & 0o777
        _check(mode == 0o600, f"The tokens are stored in a temporary {self._settings.token_file.name}, mode {mode:o}.")

    def _use(self, what: str) -> SecretStr:
        _print(f"\n{what}")
        response = self._program.post(self._sandbox.mcp_url, json=_SELF, auth=BearerAuth(self._oauth))
        _check(response.status_code == 200, f"POST /mcp returns {response.status_code}.")
        workspace = json.loads(response.json()["result"]["content"][0]["text"])["self"]["workspace"]["name"]
        _check(bool(workspace), f"The name of the workspace is “{workspace}”.")
        return SecretStr(response.request.headers["Authorization"].removeprefix("Bearer "))

    def _use_gateway(self) -> None:
        _print("\nAn MCP client starts `notion-oauth mcp`, which has the same login")
        directory = self._settings.token_file.parent
        options = {
            "--server-url": self._settings.server_url,
            "--token-file": str(self._settings.token_file),
            "--env-file": str(directory / "empty.env"),  # not that of a clone
        }
        (directory / "empty.env").touch()
        with subprocess.Popen(  # noqa: S603 - this program
            [*program_command(), "mcp", *(word for option in options.items() for word in option)],
            cwd=directory,
            env={**os.environ, "XDG_CACHE_HOME": str(directory)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            server = _ask(process, _INITIALIZE)["serverInfo"]["name"]
            _check(bool(server), f"The client's session is with the {server}.")
            tools = [tool["name"] for tool in _ask(process, {**_SELF, "method": "tools/list", "params": {}})["tools"]]
            _check(bool(tools), f"It lists the server's tools: {', '.join(tools)}.")
            workspace = json.loads(_ask(process, _SELF)["content"][0]["text"])["self"]["workspace"]["name"]
            _check(bool(workspace), f"It calls {tools[0]}: the name of the workspace is “{workspace}”.")

    def _expire(self) -> None:
        _print(f"\nThe token expires (here after {TOKEN_LIFETIME:g} seconds, at Notion after hours)")
        deadline = time.monotonic() + TIMEOUT
        while (status := self._status())["status"] == "authenticated" and time.monotonic() < deadline:
            time.sleep(0.1)
        _check(status["status"] == "expired", "GET /auth/status returns: expired.")

    def _sign_out(self, last: SecretStr) -> None:
        _print("\nThe browser signs out")
        found = re.search(r'name="csrf_token" value="([^"]+)"', self._browser.get("/").text)
        token = found.group(1) if found else ""
        page = self._browser.post("/auth/logout", data={"csrf_token": token})
        _check("You are signed out" in page.text, "The service revokes the grant and deletes the tokens.")
        _check(self._status() == {"status": "unauthenticated"}, "GET /auth/status returns: unauthenticated.")
        _check(not self._settings.token_file.exists(), "The token file is deleted.")
        _check(self._sandbox.live_grants == 0, "The server has no active grant left.")
        headers = {"Authorization": f"Bearer {last.get_secret_value()}"}
        refused = self._program.post(self._sandbox.mcp_url, json=_SELF, headers=headers)
        _check(refused.status_code == 401, f"The last token is refused with {refused.status_code}.")

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = self._browser.get("/auth/status", headers={"Accept": "*/*"}).json()
        return status

    def _refreshes(self) -> int:
        requests = self._sandbox.requests_to("/token", "POST")
        return sum(request.form.get("grant_type") == "refresh_token" for request in requests)


def _ask(process: subprocess.Popen[str], message: dict[str, Any]) -> dict[str, Any]:
    """Send a request to the gateway; returns its result."""
    if process.stdin is not None and process.stdout is not None:
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            answer = json.loads(line)
            if "id" in answer and isinstance(answer.get("result"), dict):
                result: dict[str, Any] = answer["result"]
                return result
    raise DemoFailed("The gateway ended without an answer.")


def _print(text: str) -> None:
    typer.echo(text)


def _check(succeeded: bool, text: str) -> None:
    if not succeeded:
        raise DemoFailed(f"Expected, but did not happen: {text}")
    typer.echo(f"  ✓ {text}")
