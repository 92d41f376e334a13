"""`cli.py demo`: the whole path against the practice server, told in plain words, each step checked."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import typer
from pydantic import SecretStr

from notion_oauth.app import create_app
from notion_oauth.auth.httpx_auth import BearerAuth
from notion_oauth.cli.background_server import served
from notion_oauth.errors import NotionOAuthError
from notion_oauth.sandbox import Sandbox, SandboxOptions, serve_sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings

TOKEN_LIFETIME = 2.0  # seconds
PATIENCE = 10.0  # seconds in which a token of that lifetime must have expired
_SELF = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "notion-fetch", "arguments": {"id": "self"}},
}
_MCP_HEADERS = {"Accept": "application/json, text/event-stream"}


class DemoFailed(Exception):
    """A step did not do what it was to do."""


def run_demo() -> bool:
    """Whether all of it happened. Tells each step on stdout; leaves nothing behind."""
    began = time.monotonic()
    try:
        with _stage() as (sandbox, service_url, settings):
            _Demo(sandbox, service_url, settings).run()
    except (DemoFailed, NotionOAuthError, httpx.HTTPError, OSError) as error:
        typer.echo(f"  ✗ {error}\n\nThe demo failed.", err=True)
        return False
    typer.echo(f"\nAll of it worked, in {time.monotonic() - began:.1f} seconds. With Notion itself: notion-oauth login")
    return True


@contextmanager
def _stage() -> Generator[tuple[Sandbox, str, Settings]]:
    """A practice server, our service in front of it, and a folder for the tokens that is removed at the end."""
    options = SandboxOptions(access_token_lifetime=TOKEN_LIFETIME)
    with tempfile.TemporaryDirectory(prefix="notion-oauth-demo-") as folder, serve_sandbox(options) as sandbox:
        settings = Settings(
            server_url=sandbox.mcp_url,
            token_file=Path(folder) / ".notion-tokens.json",
            public_url=None,
            secret_key=None,
            _env_file=None,
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
            _say(f"A practice server that behaves as Notion's does: {self._sandbox.base_url}")
            _say(f"The sign-in service, as `uvicorn main:app` runs it:  {self._browser.base_url}")
            self._sign_in()
            first = self._use("A program calls the MCP server with the token")
            self._expire()
            second = self._use("The program calls again: the token is refreshed on the way, nobody is asked anything")
            _check(first != second and self._refreshes() == 1, "The token was refreshed exactly once.")
            self._sign_out(second)

    def _sign_in(self) -> None:
        _say("\nA browser signs in")
        _check("Not connected" in self._browser.get("/").text, "The service's page says: not connected.")
        page = self._browser.get("/auth/login")
        codes = [answer.status_code for answer in page.history]
        done = page.status_code == 200 and "You are signed in" in page.text
        _check(
            done, f"Discovery, registration, consent, code exchange: {len(codes)} redirects, then “You are signed in”."
        )
        status = self._status()
        seconds = status.get("expires_in_seconds")
        _check(
            status["status"] == "authenticated", f"GET /auth/status says: authenticated; expires_in_seconds: {seconds}."
        )
        mode = self._settings.token_file.stat().st_mode & 0o777
        _check(mode == 0o600, f"The tokens lie in {self._settings.token_file.name}, mode {mode:o}.")

    def _use(self, what: str) -> SecretStr:
        _say(f"\n{what}")
        answer = self._program.post(self._sandbox.mcp_url, json=_SELF, auth=BearerAuth(self._oauth))
        _check(answer.status_code == 200, f"POST /mcp answers {answer.status_code}.")
        workspace = json.loads(answer.json()["result"]["content"][0]["text"])["self"]["workspace"]["name"]
        _check(bool(workspace), f"The workspace is called “{workspace}”.")
        return SecretStr(answer.request.headers["Authorization"].removeprefix("Bearer "))

    def _expire(self) -> None:
        _say(f"\nThe token expires (here after {TOKEN_LIFETIME:g} seconds, with Notion after hours)")
        patience = time.monotonic() + PATIENCE
        while (status := self._status())["status"] == "authenticated" and time.monotonic() < patience:
            time.sleep(0.1)
        _check(status["status"] == "expired", "GET /auth/status says: expired, and can be refreshed.")

    def _sign_out(self, last: SecretStr) -> None:
        _say("\nThe browser signs out")
        found = re.search(r'name="csrf_token" value="([^"]+)"', self._browser.get("/").text)
        token = found.group(1) if found else ""
        page = self._browser.post("/auth/logout", data={"csrf_token": token})
        _check("Signed out" in page.text, "The service revokes the grant and forgets the tokens.")
        _check(self._status() == {"status": "unauthenticated"}, "GET /auth/status says: unauthenticated.")
        _check(not self._settings.token_file.exists(), "The token file is gone.")
        _check(self._sandbox.live_grants == 0, "The server knows no grant any more.")
        headers = {"Authorization": f"Bearer {last.get_secret_value()}"}
        refused = self._program.post(self._sandbox.mcp_url, json=_SELF, headers=headers)
        _check(refused.status_code == 401, f"The last token is refused: {refused.status_code}.")

    def _status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._browser.get("/auth/status", headers={"Accept": "*/*"}).json()
        return answer

    def _refreshes(self) -> int:
        asked = self._sandbox.requests_to("/token", "POST")
        return sum(request.form.get("grant_type") == "refresh_token" for request in asked)


def _say(text: str) -> None:
    typer.echo(text)


def _check(happened: bool, text: str) -> None:
    if not happened:
        raise DemoFailed(f"This did not happen: {text}")
    typer.echo(f"  ✓ {text}")
