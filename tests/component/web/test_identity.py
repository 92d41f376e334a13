"""The page and /auth/status show who has signed in, without the e-mail address. The page waits a moment for it."""

from __future__ import annotations

import threading
import time

import anyio.to_thread
import pytest

from notion_oauth.models import Identity
from notion_oauth.sandbox import Sandbox
from notion_oauth.sandbox.mcp import PERSON, WORKSPACE
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.web import status_page
from tests.support.web_service import Browser

TIMEOUT = 10.0  # seconds after which a test has failed


def wait_until_identified(browser: Browser) -> dict[str, object]:
    deadline = time.monotonic() + TIMEOUT
    while (status := browser.status())["workspace"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return status


def test_page_and_json_show_the_workspace_and_the_user(browser: Browser, identified: None) -> None:
    page = browser.get("/auth/login").text
    assert "You are signed in" in page
    assert f"Connected to {WORKSPACE['name']}" in page
    status = browser.status()
    shown = (status["workspace"], status["workspace_id"], status["user"], status["user_id"])
    assert shown == (WORKSPACE["name"], WORKSPACE["id"], PERSON["name"], PERSON["id"])
    page = browser.get("/").text
    assert WORKSPACE["name"] in page
    assert PERSON["name"] in page
    assert PERSON["email"] not in f"{status}{page}"


def test_names_are_escaped(browser: Browser, sandbox: Sandbox) -> None:
    sandbox.options.token_response_overrides = {"workspace_name": "<b>Engines</b>"}
    assert "&lt;b&gt;Engines&lt;/b&gt;" in browser.get("/auth/login").text


def test_sign_in_does_not_wait_for_the_answer(
    browser: Browser, identified: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    async def identify(*_: object) -> Identity:
        await anyio.to_thread.run_sync(answered.wait, TIMEOUT)
        return Identity(workspace="Engines")

    monkeypatch.setattr(OAuthClient, "identify", identify)
    monkeypatch.setattr(status_page, "NAMES_WITHIN", 0.1)
    assert "You are signed in" in browser.get("/auth/login").text
    assert browser.status()["workspace"] is None
    answered.set()
    assert wait_until_identified(browser)["workspace"] == "Engines"
