"""The service on a real port, and a browser without JavaScript."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest

from notion_oauth.app import create_app
from notion_oauth.cli.background_server import served
from notion_oauth.settings import Settings


class Browser(httpx.Client):
    """Stores cookies, follows redirects, requests pages."""

    def __init__(self, base_url: str) -> None:
        super().__init__(
            base_url=base_url, headers={"Accept": "text/html"}, follow_redirects=True, trust_env=False, timeout=20
        )

    def step(self, url: str) -> str:
        """The target of a redirect, which is not followed."""
        answer = self.get(url, follow_redirects=False)
        assert answer.is_redirect, answer.text
        return answer.headers["location"]

    def consent(self) -> str:
        """Start a sign-in and approve it. The URL that the server redirects the browser to."""
        return self.step(self.step("/auth/login"))

    def csrf_token(self) -> str:
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.get("/").text)
        assert found, "the page has no form"
        return found.group(1)

    def status(self) -> dict[str, object]:
        answer: dict[str, object] = self.get("/auth/status", headers={"Accept": "*/*"}).json()
        return answer


@pytest.fixture
def service_url(settings: Settings) -> Iterator[str]:
    with served(create_app(settings)) as url:
        yield url


@pytest.fixture
def browser(service_url: str) -> Iterator[Browser]:
    with Browser(service_url) as client:
        yield client


@pytest.fixture
def signed_in(browser: Browser) -> Browser:
    assert "You are signed in" in browser.get("/auth/login").text
    return browser
