"""The client of the conformance scenarios: the official MCP Python SDK with our OAuth.

    uv run python -m tests.conformance.client URL

The suite starts an MCP server and an authorization server on loopback, names the scenario and the wire in the
environment, and checks the requests. No user is needed: the authorization server redirects at once.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import httpx
import httpx2
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from notion_oauth.auth.httpx2_auth import BearerAuth
from notion_oauth.errors import NotionOAuthError
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings

REDIRECT_URI = "http://localhost:3000/callback"  # no server listens there: the redirect is parsed, not followed
CLIENT_METADATA_URL = "https://conformance-test.local/client-metadata.json"  # fixed by the suite
STATELESS = "2026"  # protocol versions from here on have no handshake


class Person:
    """A user who agrees to everything; returns the query of the redirect."""

    def __init__(self, oauth: NotionOAuth) -> None:
        self._oauth = oauth

    async def sign_in(self, challenge: BearerChallenge | None) -> None:
        request = await self._oauth.begin_authorization(REDIRECT_URI, challenge=challenge)
        async with httpx.AsyncClient(trust_env=False) as browser:
            answer = await browser.get(request.url.get_secret_value(), follow_redirects=False)
        query = parse_qsl(urlsplit(answer.headers["location"]).query)
        await self._oauth.complete_authorization(request.pending, parse_authorization_response(query))


async def use(session: Any) -> None:
    """Do what a program does: list the tools, call the first."""
    tools = (await session.list_tools()).tools
    if tools:
        await session.call_tool(tools[0].name, {})


async def run(server_url: str, directory: Path) -> None:
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    oauth = NotionOAuth(
        Settings(
            server_url=server_url,
            token_file=directory / "tokens.json",
            client_id=context.get("client_id"),
            client_secret=context.get("client_secret"),
            client_metadata_url=CLIENT_METADATA_URL,
        )
    )
    auth = BearerAuth(oauth, authorize=Person(oauth).sign_in)
    wire = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "")
    http = httpx2.AsyncClient(auth=auth, timeout=20.0, trust_env=False)
    async with Client(
        streamable_http_client(server_url, http_client=http), mode="auto" if wire >= STATELESS else "legacy"
    ) as client:
        await use(client)


def main() -> None:
    try:
        with tempfile.TemporaryDirectory() as directory:
            anyio.run(run, sys.argv[-1], Path(directory))
    except* NotionOAuthError as failed:
        for error in failed.exceptions:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
