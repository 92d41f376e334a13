"""A browser that calls the application in process, from any address, with any scheme and peer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.middleware.sessions import SessionMiddleware

from notion_oauth.router import build_router
from notion_oauth.web.checked_route import auth_route_class
from notion_oauth.web.profiles.resolver import ProfileResolver
from notion_oauth.web.rate_limits import RateLimits
from notion_oauth.web.status_page import StatusPage
from notion_oauth.web.trusted_hosts import TrustedHosts

PUBLIC = "https://notion.example"
SOMEWHERE = "203.0.113.9"


class Visitor(TestClient):
    """Requests pages from an address on the internet, and stores cookies. Does not follow redirects."""

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
        """Start a sign-in and approve it. The path and query that the server redirects the browser to."""
        started = self.get(f"/auth/login{query}")
        assert started.is_redirect, started.text
        redirect = httpx.get(started.headers["location"], trust_env=False).headers["location"]
        assert redirect.startswith(str(self.base_url).rstrip("/")), redirect
        return urlsplit(redirect)._replace(scheme="", netloc="").geturl()

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


def application(logins: ProfileResolver) -> FastAPI:
    """An application with the sign-in routes, for a resolver whose limits the test has chosen."""
    settings = logins.oauth.settings
    hosts = TrustedHosts(settings)
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key="k" * 40, https_only=True)
    route_class = auth_route_class(logins, hosts, RateLimits(settings))
    app.include_router(build_router(logins, hosts, route_class, StatusPage(logins)))
    return app


Visit = Callable[[], Visitor]
