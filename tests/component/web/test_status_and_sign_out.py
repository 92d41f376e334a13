"""The status for browsers and programs, and the forms for refresh and sign-out, with CSRF protection."""

from __future__ import annotations

import logging
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from notion_oauth.app import create_app
from notion_oauth.errors import SignInRequired
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.conftest import Posted
from tests.support.signing_in import age, sign_in
from tests.support.web_service import Browser


def test_status_of_a_login(signed_in: Browser, sandbox: Sandbox) -> None:
    status = signed_in.status()
    assert list(status)[:3] == ["status", "expires_in_seconds", "token_type"]
    assert status["status"] == "authenticated"
    assert status["token_type"] == "Bearer"
    assert isinstance(status["expires_in_seconds"], int)
    assert 3590 <= status["expires_in_seconds"] <= 3600
    assert status["resource"] == sandbox.mcp_url


def test_status_does_not_describe_the_storage(signed_in: Browser, settings: Settings) -> None:
    """The status is visible to every client of the service; paths and storage warnings are for its operator."""
    settings.token_file.parent.chmod(0o777)
    status = signed_in.status()
    assert not [name for name in status if "storage" in name]
    assert str(settings.token_file.parent) not in str(status)


def test_status_without_login(browser: Browser) -> None:
    assert browser.status() == {"status": "unauthenticated"}


def test_status_shows_expired_token_without_refreshing(
    sandbox: Sandbox, settings: Settings, browser: Browser, grants_asked: Posted
) -> None:
    browser.get("/auth/login")
    age(settings.token_file, hours=2)
    before = len(sandbox.requests)
    status = browser.status()
    assert (status["status"], status["expires_in_seconds"], status["refreshable"]) == ("expired", 0, True)
    page = browser.get("/auth/status").text
    assert "The token has expired" in page
    assert "Renew now" in page
    assert len(sandbox.requests) == before, "the status sends no request"


def test_expired_token_without_refresh_token_is_no_login(
    sandbox: Sandbox, settings: Settings, browser: Browser
) -> None:
    sandbox.options.token_response_overrides = {"refresh_token": None}
    browser.get("/auth/login")
    age(settings.token_file, hours=2)
    status = browser.status()
    assert (status["status"], status["ended_reason"]) == ("unauthenticated", "expired")


def test_token_without_expiry_that_cannot_be_refreshed_is_valid(sandbox: Sandbox, browser: Browser) -> None:
    sandbox.options.token_response_overrides = {"expires_in": None, "refresh_token": None}
    page = browser.get("/auth/login")
    assert "Valid" in page.text
    assert browser.status()["expires_in_seconds"] is None


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/json, text/html;q=0.5", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8"),
    ],
)
def test_accept_header_selects_json_or_page(browser: Browser, accept: str, kind: str) -> None:
    answer = browser.get("/auth/status", headers={"Accept": accept})
    assert answer.headers["content-type"] == kind
    assert "Accept" in answer.headers["vary"]


def test_sign_out_revokes_and_deletes(signed_in: Browser, sandbox: Sandbox, settings: Settings) -> None:
    assert sandbox.live_grants == 1
    page = signed_in.post("/auth/logout", data={"csrf_token": signed_in.csrf_token()})
    assert page.status_code == 200
    assert f"{urlsplit(sandbox.base_url).netloc} has ended the login, and its tokens are deleted here." in page.text
    assert sandbox.live_grants == 0
    assert not settings.token_file.exists()
    assert signed_in.status() == {"status": "unauthenticated"}


def test_sign_out_reports_failed_revocation(signed_in: Browser, sandbox: Sandbox) -> None:
    sandbox.fail_next("/token", status=503)
    page = signed_in.post("/auth/logout", data={"csrf_token": signed_in.csrf_token()})
    assert f"{urlsplit(sandbox.base_url).netloc} was not asked to end the grant, or did not answer" in page.text
    assert signed_in.status() == {"status": "unauthenticated"}


def test_sign_out_and_refresh_require_post(signed_in: Browser) -> None:
    assert signed_in.get("/auth/logout").status_code == 405
    assert signed_in.get("/auth/refresh").status_code == 405
    assert signed_in.status()["status"] == "authenticated"


@pytest.mark.parametrize("path", ["/auth/logout", "/auth/refresh"])
@pytest.mark.parametrize(
    ("token", "headers"),
    [
        (None, {}),
        ("", {}),
        ("wrong", {}),
        ("right", {"Origin": "https://evil.example"}),
        ("right", {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"}),
        ("right", {"Sec-Fetch-Site": "cross-site"}),
        ("right", {"Sec-Fetch-Site": "same-site"}),
        ("right", {"Sec-Fetch-Site": "none"}),
    ],
)
def test_forms_of_other_sites_are_refused(
    signed_in: Browser, sandbox: Sandbox, path: str, token: str | None, headers: dict[str, str]
) -> None:
    right = signed_in.csrf_token()
    before = len(sandbox.requests)
    data = {} if token is None else {"csrf_token": right if token == "right" else token}
    answer = signed_in.post(path, data=data, headers=headers)
    assert answer.status_code == 403
    assert "did not come from this service" in answer.text
    assert len(sandbox.requests) == before
    assert signed_in.status()["status"] == "authenticated"


@pytest.mark.parametrize("body", [b"zz\r\n", b"5\r\nhello\r\nzz\r\n", b"-1\r\n"])
def test_broken_chunked_body_is_a_bad_request(
    signed_in: Browser, caplog: pytest.LogCaptureFixture, service_url: str, body: bytes
) -> None:
    caplog.set_level(logging.INFO, "notion_oauth")
    signed_in.csrf_token()
    cookies = "; ".join(f"{name}={value}" for name, value in signed_in.cookies.items())
    head = (
        "POST /auth/logout HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        f"Cookie: {cookies}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    caplog.clear()
    with socket.create_connection((urlsplit(service_url).hostname, urlsplit(service_url).port), timeout=10) as sent:
        sent.sendall(head.encode())
        time.sleep(0.1)  # the route waits for the body
        sent.sendall(body)
        assert sent.recv(1000).startswith(b"HTTP/1.1 400 ")
    deadline = time.monotonic() + 10
    lines: list[str] = []
    while not lines and time.monotonic() < deadline:
        time.sleep(0.01)
        own = [each.getMessage() for each in caplog.records if each.name.startswith("notion_oauth")]
        lines = [text for text in own if "path=/ " not in text]  # the line of the request before may be late
    assert [text.partition(" milliseconds")[0] for text in lines] == [
        "request method=POST path=/auth/logout status=400"
    ]
    assert "Traceback" not in caplog.text
    assert signed_in.status()["status"] == "authenticated"


def test_csrf_token_of_another_browser_is_refused(signed_in: Browser, service_url: str) -> None:
    with Browser(service_url) as other:
        stolen = other.csrf_token() if "csrf_token" in other.get("/").text else ""
    assert stolen, "the other browser gets the form too"
    assert signed_in.post("/auth/logout", data={"csrf_token": stolen}).status_code == 403


def test_oversized_and_repeated_form_fields_are_refused(signed_in: Browser) -> None:
    token = signed_in.csrf_token()
    answer = signed_in.post("/auth/logout", data={"csrf_token": token, "padding": "x" * 10_000})
    assert answer.status_code == 403
    repeated = signed_in.post(
        "/auth/logout",
        content=f"csrf_token={token}&csrf_token={token}",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert repeated.status_code == 403


def test_own_page_can_refresh(signed_in: Browser, grants_asked: Posted, service_url: str) -> None:
    data = {"csrf_token": signed_in.csrf_token()}
    page = signed_in.post("/auth/refresh", data=data, headers={"Origin": service_url, "Sec-Fetch-Site": "same-origin"})
    assert "The token was refreshed." in page.text
    assert grants_asked() == ["authorization_code", "refresh_token"]


def test_refresh_without_login_has_a_hint(browser: Browser, sandbox: Sandbox) -> None:
    browser.get("/auth/login")
    token = browser.csrf_token()
    browser.post("/auth/logout", data={"csrf_token": token})
    answer = browser.post("/auth/refresh", data={"csrf_token": token})
    assert answer.status_code == 401
    assert "Not signed in." in answer.text


def test_damaged_file_is_reported_and_not_changed(browser: Browser, settings: Settings) -> None:
    settings.token_file.write_text('{"name": "not a token file"}')
    page = browser.get("/")
    assert page.status_code == 500
    assert "has no access_token" in page.text
    answer = browser.get("/auth/status", headers={"Accept": "*/*"})
    assert answer.status_code == 500
    assert answer.json()["error"] == "StoreDamaged"
    assert browser.get("/auth/login").status_code == 500
    assert Path(settings.token_file).read_text() == '{"name": "not a token file"}'


def test_retry_after_of_the_server_is_passed_on(signed_in: Browser, sandbox: Sandbox) -> None:
    sandbox.fail_next("/token", status=429, error="temporarily_unavailable", headers={"Retry-After": "30"})
    data = {"csrf_token": signed_in.csrf_token()}
    answer = signed_in.post("/auth/refresh", data=data, headers={"Accept": "application/json"})
    assert answer.status_code == 502
    assert answer.headers["retry-after"] == "30"
    assert signed_in.status()["status"] == "authenticated"


@pytest.mark.anyio
async def test_page_shows_when_login_ends_and_why_it_ended(
    oauth: NotionOAuth, settings: Settings, sandbox: Sandbox
) -> None:
    page = {"Accept": "text/html"}
    browser = TestClient(create_app(settings), base_url="http://localhost")
    await sign_in(oauth)
    fresh = browser.get("/", headers=page).text
    assert "renewals extend it" in fresh
    assert "unless it is refreshed" not in fresh
    age(settings.token_file, days=20)
    shown = browser.get("/", headers=page).text
    assert "unless it is refreshed" in shown
    assert "notion-oauth refresh" not in shown, "the button is on the page"
    warning = browser.get("/auth/status").json()["warning"]
    assert warning.endswith("without a refresh. Refresh it before that on the page of the service.")
    sandbox.revoke_grants()
    assert (await NotionOAuth(settings).status()).status == "expired"
    browser.get("/", headers=page)
    with pytest.raises(SignInRequired):
        await NotionOAuth(settings).tokens.token()
    assert "<strong>Why?</strong> The app was disconnected in the settings" in browser.get("/", headers=page).text
