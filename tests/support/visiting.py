"""A browser in front of the application itself: any address, scheme and peer, and no server between."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient

PUBLIC = "https://notion.example"
SOMEWHERE = "203.0.113.9"


class Visitor(TestClient):
    """Asks for pages from somewhere on the internet, and keeps cookies; follows no redirect by itself."""

    def __init__(self, app: FastAPI, base_url: str = PUBLIC, *, client: str = SOMEWHERE) -> None:
        super().__init__(
            app,
            base_url=base_url,
            client=(client, 50000),
            headers={"Accept": "text/html"},
            follow_redirects=False,
            raise_server_exceptions=False,
        )

    def consent(self, query: str = "") -> str:
        """Begin a sign-in and agree; the path and query that the server sends the browser back to."""
        begun = self.get(f"/auth/login{query}")
        assert begun.is_redirect, begun.text
        back = httpx.get(begun.headers["location"], trust_env=False).headers["location"]
        assert back.startswith(str(self.base_url).rstrip("/")), back
        return urlsplit(back)._replace(scheme="", netloc="").geturl()

    def sign_in(self, query: str = "") -> None:
        done = self.get(self.consent(query))
        assert (done.status_code, done.headers["location"]) == (303, "/auth/status"), done.text

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/auth/status", headers={"Accept": "application/json"}).json()
        return found

    def csrf_token(self, page: str = "/") -> str:
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.get(page).text)
        assert found, "the page has no form"
        return found.group(1)


Visit = Callable[[], Visitor]
