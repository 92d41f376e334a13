"""notion-oauth itself: `BearerAuth` on `httpx.AsyncClient`, the login in its token file."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx

from benchmarks.subjects.harness import Login, main, url_of, write_whole
from notion_oauth.auth.httpx_auth import BearerAuth
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings

STATE_FILE = "tokens.json"


class Ours:
    http: ModuleType = httpx

    async def store(self, state: Path, login: Login) -> None:
        write_whole(state / STATE_FILE, json.dumps(login))

    @asynccontextmanager
    async def open(
        self, state: Path, login: Login, *, transport: Any, running: bool
    ) -> AsyncGenerator[httpx.AsyncClient]:
        del running  # the file holds the expiry
        settings = Settings(server_url=url_of(login), token_file=state / STATE_FILE)
        auth = BearerAuth(NotionOAuth(settings))
        async with httpx.AsyncClient(auth=auth, transport=transport, trust_env=False) as client:
            yield client


if __name__ == "__main__":
    main(Ours())
