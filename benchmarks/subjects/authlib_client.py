"""Authlib's `AsyncOAuth2Client`: the token read from a JSON file at the start, written back by `update_token`."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.subjects.harness import Login, main, write_whole

STATE_FILE = "token.json"
FIELDS = ("access_token", "token_type", "refresh_token", "expires_in", "scope")


class Authlib:
    def __init__(self) -> None:
        with warnings.catch_warnings(action="ignore"):  # we use httpx, so both are measured on httpx
            self._library: Any = importlib.import_module("authlib.integrations.httpx_client")
        self.http = importlib.import_module("httpx")

    async def store(self, state: Path, login: Login) -> None:
        token = {name: login[name] for name in FIELDS}
        write_whole(state / STATE_FILE, json.dumps({**token, "expires_at": login["expires_at"] // 1000}))

    @asynccontextmanager
    async def open(self, state: Path, login: Login, *, transport: Any, running: bool) -> AsyncGenerator[Any]:
        del running  # the file holds the expiry

        async def update_token(token: dict[str, Any], **_: Any) -> None:
            write_whole(state / STATE_FILE, json.dumps(token))

        async with self._library.AsyncOAuth2Client(
            client_id=login["client_id"],
            client_secret=login["client_secret"],
            token_endpoint_auth_method=login["token_endpoint_auth_method"],
            token_endpoint=login["token_endpoint"],
            token=json.loads((state / STATE_FILE).read_text()),
            update_token=update_token,
            transport=transport,
            trust_env=False,
        ) as client:
            yield client


if __name__ == "__main__":
    main(Authlib())
