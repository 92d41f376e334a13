"""Logins for the subjects: made at the practice server without a browser, then aged as a case requires."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import anyio
import httpx

from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings

REDIRECT_URI = "http://127.0.0.1:4321/callback"
LIFETIME = 3600  # seconds, as the practice server issues them
FRESH, IN_WINDOW, EXPIRED = 3600, 120, -60  # seconds until the expiry

_REQUIRED = ("access_token", "refresh_token", "client_id", "resource", "token_endpoint", "expires_at")


def sign_in(sandbox: Sandbox, path: Path, *, left: int, server_url: str | None = None) -> Path:
    """A new login with a new client, in a token file at `path`, `left` seconds before its expiry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = Settings(server_url=server_url or sandbox.mcp_url, token_file=path, env_file=None)
    anyio.run(_sign_in, NotionOAuth(settings))
    document: dict[str, Any] = json.loads(path.read_text())
    if missing := [name for name in _REQUIRED if not document.get(name)]:
        raise RuntimeError(f"the token file lacks {', '.join(missing)}")
    expire_in(path, left)
    return path


def expire_in(path: Path, left: int) -> None:
    """Change the login in a token file, so that it expires in `left` seconds."""
    now = time.time()
    times = {"expires_at": round((now + left) * 1000), "updated_at": round((now + left - LIFETIME) * 1000)}
    path.write_text(json.dumps({**json.loads(path.read_text()), **times}))


async def _sign_in(oauth: NotionOAuth) -> None:
    request = await oauth.begin_authorization(REDIRECT_URI)
    async with httpx.AsyncClient(trust_env=False) as browser:
        answer = await browser.get(request.url.get_secret_value())
    query = httpx.URL(answer.headers["location"]).params
    await oauth.complete_authorization(request.pending, parse_authorization_response(query.multi_items()))
