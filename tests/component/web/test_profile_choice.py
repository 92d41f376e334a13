"""The page of the service lets its person choose between the stored profiles; no other request can choose."""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from pydantic import SecretStr

from notion_oauth.app import create_app
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.web.dependency import ValidToken
from tests.support.signing_in import sign_in
from tests.support.visiting import PUBLIC, Visitor

JSON = {"Accept": "application/json"}
SECRET = "correct-horse-battery"
pytestmark = pytest.mark.anyio


@pytest.fixture
async def two(settings: Settings, sandbox: Sandbox) -> Settings:
    """The default profile, and one named books, each with a login."""
    for profile, workspace in (("default", "Engines"), ("books", "Books & more")):
        sandbox.options.token_response_overrides = {"workspace_name": workspace}
        await sign_in(NotionOAuth(settings, profile=profile))
    return settings


@pytest.fixture
def browser(two: Settings) -> Visitor:
    return Visitor(create_app(two), "http://localhost", client="127.0.0.1")


async def saved(settings: Settings, profile: str) -> Any:
    return (await NotionOAuth(settings, profile=profile).store.load(profile)).login


def press(browser: Visitor, button: str, page: str) -> str:
    """Press a button of the page, and return the page after it."""
    shown = browser.get(page).text
    action = re.search(f'action="(/auth/{button}[^"]*)"', shown)
    token = re.search(r'name="csrf_token" value="([^"]+)"', shown)
    assert action
    assert token
    return browser.post(action[1], data={"csrf_token": token[1]}, follow_redirects=True).text


async def test_page_shows_the_chosen_profile_and_links_to_the_others(browser: Visitor) -> None:
    page = browser.get("/").text
    assert "<h1>Connected to Engines</h1>" in page
    links = re.findall(r'<a href="(/auth/status[^"]*)"( aria-current="true")?><span class="tile', page)
    assert links == [("/auth/status?profile=books", ""), ("/auth/status", ' aria-current="true"')]
    chosen = browser.get("/auth/status?profile=books").text
    assert "<h1>Connected to Books &amp; more</h1>" in chosen
    assert "--profile" in chosen
    assert "--profile" not in page


async def test_buttons_are_for_the_chosen_profile(browser: Visitor, two: Settings) -> None:
    before = [await saved(two, profile) for profile in ("default", "books")]
    page = press(browser, "refresh", "/auth/status?profile=books")
    assert "The token was" in page
    assert "Connected to Books" in page
    assert await saved(two, "default") == before[0]
    again = browser.get(browser.consent("?profile=books"))
    assert (again.status_code, again.headers["location"]) == (303, "/auth/status?profile=books")
    assert await saved(two, "books") != before[1]
    page = press(browser, "logout", "/auth/status?profile=books")
    assert "Connected to Engines" in page
    assert "Signed out." in page
    assert await saved(two, "books") is None
    assert await saved(two, "default") == before[0]


@pytest.mark.parametrize("name", ["other", "../x", "<script>", "x" * 100])
async def test_profile_without_a_login_cannot_be_chosen(browser: Visitor, sandbox: Sandbox, name: str) -> None:
    before = len(sandbox.requests)
    for path in ("/auth/status", "/auth/login"):
        answer = browser.get(path, params={"profile": name})
        assert answer.status_code == 400
        assert "There is no login of that profile." in answer.text
        assert "<script>" not in answer.text.partition("<main")[2]
    assert len(sandbox.requests) == before


async def test_operator_chooses_after_the_secret_only(two: Settings) -> None:
    app = create_app(two.model_copy(update={"operator_secret": SecretStr(SECRET)}))
    browser = Visitor(app, "http://localhost", client="127.0.0.1")
    for name in ("books", "other"):
        refused = browser.get(f"/auth/status?profile={name}")
        assert (refused.status_code, "Books" in refused.text) == (401, False)
    browser.post("/auth/operator", data={"csrf_token": browser.csrf_token(), "secret": SECRET})
    assert "<h1>Connected to Books" in browser.get("/auth/status?profile=books").text


async def test_visitor_cannot_choose(two: Settings) -> None:
    visitor = Visitor(create_app(two.model_copy(update={"public_url": PUBLIC})))
    answer = visitor.get("/auth/status?profile=books", headers=JSON)
    assert answer.json() == {"status": "unauthenticated"}
    assert "Books" not in visitor.get("/?profile=books").text


async def test_query_of_an_application_chooses_no_login(two: Settings) -> None:
    app = FastAPI()
    valid_token = Depends(ValidToken(NotionOAuth(two)))

    @app.get("/token")
    async def token(token: SecretStr = valid_token) -> str:
        return token.get_secret_value()

    given = Visitor(app, "http://localhost", client="127.0.0.1").get("/token?profile=books").json()
    assert given == (await saved(two, "default")).access_token.get_secret_value()
