"""Errors as pages: what happened in words for people, one button to press, and a small code for support."""

from __future__ import annotations

import re

import pytest
from pydantic import SecretStr

from notion_oauth.app import create_app
from notion_oauth.sandbox import Sandbox
from notion_oauth.settings import Settings
from tests.support.visiting import Visitor

SECRET = "correct-horse-battery"


@pytest.fixture
def browser(settings: Settings, sandbox: Sandbox) -> Visitor:
    return Visitor(create_app(settings), "http://localhost", client="127.0.0.1")


def buttons(page: str) -> list[tuple[str, str]]:
    """The label and the path of each button, the filled one first."""
    found: list[tuple[str, str, str]] = re.findall(r'<a class="btn( go)?" id="\w+" href="([^"]*)">([^<]*)</a>', page)
    return [(label, path) for _, path, label in sorted(found, key=lambda each: not each[0])]


def test_server_that_does_not_answer_can_be_tried_again(browser: Visitor, sandbox: Sandbox) -> None:
    sandbox.fail_next("/register", status=503, times=9)
    page = browser.get("/auth/login").text
    assert " cannot answer now</h1>" in page
    assert "nothing was lost" in page
    assert buttons(page) == [("Try again", "/auth/login"), ("Back", "/auth/status")]


def test_sign_in_of_another_browser_can_be_started_again(browser: Visitor) -> None:
    page = browser.get("/auth/callback?code=c&state=s").text
    assert "This sign-in cannot be finished here</h1>" in page
    assert buttons(page) == [("Start again", "/auth/login"), ("Back", "/auth/status")]


def test_support_code_is_that_of_the_log(browser: Visitor) -> None:
    answer = browser.get("/auth/callback?code=c&state=s")
    assert f"<code>{answer.headers['x-request-id']}</code>" in answer.text
    assert "StateMismatch: " in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", "/nowhere", 404, "There is no page at this URL."),
        ("GET", "/auth/logout", 405, "This URL does not accept GET requests."),
        ("DELETE", "/", 405, "This URL does not accept DELETE requests."),
    ],
)
def test_page_says_what_is_wrong_with_the_url(browser: Visitor, method: str, path: str, status: int, said: str) -> None:
    answer = browser.request(method, path)
    assert (answer.status_code, said in answer.text) == (status, True)
    assert buttons(answer.text) == [("Open the status page", "/")]


def test_wrong_operator_secret_is_told_in_the_form(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"operator_secret": SecretStr(SECRET)}))
    browser = Visitor(app, "http://localhost", client="127.0.0.1")
    wrong = browser.post("/auth/operator", data={"csrf_token": browser.csrf_token(), "secret": "no"})
    assert wrong.status_code == 403
    assert 'aria-invalid="true"' in wrong.text
    assert "The operator&#39;s secret is wrong." in wrong.text
    token = re.search(r'name="csrf_token" value="([^"]+)"', wrong.text)
    assert token
    right = browser.post("/auth/operator", data={"csrf_token": token[1], "secret": SECRET})
    assert right.headers["location"] == "/auth/status"
