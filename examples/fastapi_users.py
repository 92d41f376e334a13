"""An application with accounts of its own, each of which has its own login at Notion.

    uv run uvicorn --app-dir examples fastapi_users:app --port 8001

Open http://localhost:8001/. Accounts are stored in `accounts.db` in the working directory. Before others can reach it,
read "What your application must add" in docs/fastapi.md, and limit how often passwords can be tried.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sqlite3
from contextlib import closing
from typing import Annotated

import httpx2
from fastapi import Depends, FastAPI, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware

from notion_oauth import Settings, ValidToken, create_router

ACCOUNT = """<form method="post" action="/account">
<p><input name="name" placeholder="name" required>
<p><input name="password" type="password" placeholder="password" required>
<p><button>Sign in</button> <button name="new" value="1">New account</button></form>"""
NOTION = """<p><a href="/auth/status">Your login at Notion</a> <a href="/pages/self">What Notion says of you</a>
<form method="post" action="/leave"><button>Sign out</button></form>"""


def accounts() -> sqlite3.Connection:
    database = sqlite3.connect("accounts.db")
    database.execute(
        "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY AUTOINCREMENT, name UNIQUE, salt, hash)"
    )
    return database


def hashed(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def profile(request: Request) -> str | None:
    """The login of the user who sends the request. IDs are never used again: a new account cannot get an old login."""
    user = request.session.get("user_id")
    return f"user-{user}" if user else None


app = FastAPI()
app.include_router(create_router(profile=profile))
app.add_middleware(SessionMiddleware, secret_key=os.environ.get("SESSION_KEY") or secrets.token_hex(32))


@app.get("/", response_class=HTMLResponse)
def page(request: Request) -> str:
    return NOTION if profile(request) else ACCOUNT


@app.post("/account")
def account(
    request: Request,
    name: Annotated[str, Form()],
    password: Annotated[str, Form()],
    new: Annotated[bool, Form()] = False,
) -> RedirectResponse:
    with closing(accounts()) as database, database:
        if new:
            salt = secrets.token_bytes(16)
            database.execute(
                "INSERT OR IGNORE INTO account (name, salt, hash) VALUES (?, ?, ?)",
                (name, salt, hashed(password, salt)),
            )
        found = database.execute("SELECT id, salt, hash FROM account WHERE name = ?", (name,)).fetchone()
    if not found or not hmac.compare_digest(hashed(password, found[1]), found[2]):
        raise HTTPException(401, "The name or the password is wrong, or the name is taken.")
    request.session["user_id"] = found[0]
    return RedirectResponse("/", 303)


@app.post("/leave")
def leave(request: Request) -> RedirectResponse:
    request.session.clear()
    return RedirectResponse("/", 303)


@app.get("/pages/{page_id}")
async def fetch(page_id: str, token: Annotated[SecretStr, Depends(ValidToken(profile=profile))]) -> list[str]:
    """What Notion shows this user. Without a login at Notion, the answer is 401 with the path of the sign-in."""
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(Settings().server_url, http_client=http)) as notion,
    ):
        found = await notion.call_tool("notion-fetch", {"id": page_id})
    return [part.text for part in found.content if isinstance(part, TextContent)]
