"""The sign-in through the service, from the first click to the page that shows success."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from pydantic import SecretStr

from notion_oauth.app import create_app
from notion_oauth.cli.background_server import served
from notion_oauth.clock import utc_now
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.conftest import Posted
from tests.support.web_service import Browser

PENDING = "notion_oauth_pending_"


def pending_cookies(browser: Browser) -> dict[str, str]:
    return {name: value for name, value in browser.cookies.items() if name.startswith(PENDING)}


def stored(settings: Settings) -> bytes | None:
    return settings.token_file.read_bytes() if settings.token_file.exists() else None


def test_browser_signs_in_and_tokens_are_stored(browser: Browser, settings: Settings) -> None:
    assert "Not connected" in browser.get("/").text
    page = browser.get("/auth/login")
    assert page.status_code == 200
    assert "You are signed in" in page.text
    assert f"Connected to {urlsplit(settings.server_url).netloc}" in page.text
    assert "Notion" not in page.text.partition("<footer")[0].replace("notion-oauth", "").replace("NotionOAuth", "")
    assert page.url.path == "/auth/status"
    assert settings.token_file.stat().st_mode & 0o777 == 0o600
    assert "You are signed in" not in browser.get("/").text, "the notice is shown once"


@pytest.mark.spec("MCP §Open Redirection", "Register the redirect URI that is used")
@pytest.mark.spec("MCP §Authorization Code Protection", "Use S256")
@pytest.mark.spec("RFC 7636 §4.3", "Send code_challenge and its method with the authorization request")
def test_authorization_request_is_complete(browser: Browser, sandbox: Sandbox, service_url: str) -> None:
    query = parse_qs(urlsplit(browser.step("/auth/login")).query)
    registration = sandbox.requests_to("/register", "POST")[0].json
    assert registration is not None
    assert registration["token_endpoint_auth_method"] == "none"
    assert registration["grant_types"] == ["authorization_code", "refresh_token"]
    assert registration["redirect_uris"] == query["redirect_uri"] == [f"{service_url}/auth/callback"]
    assert registration["application_type"] == "native"
    assert query["response_type"] == ["code"]
    assert query["code_challenge_method"] == ["S256"]
    assert len(query["code_challenge"][0]) == 43
    assert query["resource"] == [sandbox.mcp_url]
    assert query["scope"] == ["default"]
    assert len(query["state"][0]) >= 43


def test_registration_is_reused(signed_in: Browser, sandbox: Sandbox) -> None:
    signed_in.get("/auth/login")
    signed_in.post("/auth/logout", data={"csrf_token": signed_in.csrf_token()})
    signed_in.get("/auth/login")
    assert len(sandbox.requests_to("/register")) == 1


def test_verifier_cannot_be_read_from_the_cookie(browser: Browser, sandbox: Sandbox) -> None:
    back = browser.consent()
    [(name, value)] = pending_cookies(browser).items()
    readable = name + value + repr(urlsafe_b64decode(value))
    browser.get(back)
    verifier = sandbox.requests_to("/token", "POST")[0].form["code_verifier"]
    assert len(verifier) >= 43
    assert verifier not in readable
    assert parse_qs(urlsplit(back).query)["state"][0] not in readable


def test_two_tabs_can_sign_in(browser: Browser) -> None:
    first, second = browser.consent(), browser.consent()
    assert "You are signed in" in browser.get(first).text
    assert "You are signed in" in browser.get(second).text
    assert browser.status()["status"] == "authenticated"


@pytest.mark.slow
def test_pending_sign_ins_of_a_browser_are_limited(browser: Browser) -> None:
    """Eight, and 6 KiB together: the oldest ones are deleted."""
    redirects = [browser.consent() for _ in range(12)]
    kept = pending_cookies(browser)
    assert len(kept) == 8
    assert len("; ".join(f"{name}={value}" for name, value in kept.items())) <= 6 * 1024
    assert browser.get(redirects[3]).status_code == 400
    for back in redirects[4:]:
        assert "You are signed in" in browser.get(back).text
    assert pending_cookies(browser) == {}


@pytest.mark.spec("RFC 6749 §10.12", "Bind the response to the browser that started the sign-in")
def test_another_browser_cannot_complete_a_sign_in(browser: Browser, service_url: str, grants_asked: Posted) -> None:
    back = browser.consent()
    with Browser(service_url) as other:
        assert other.get(back).status_code == 400
    assert grants_asked() == []
    assert browser.get(back).status_code == 200


@pytest.mark.spec("MCP §Open Redirection", "Reject a response without the state of its sign-in, or with another")
@pytest.mark.parametrize("query", ["", "?code=x", "?code=x&state=", "?code=x&state=wrong", "?error=access_denied"])
def test_response_without_matching_state_is_ignored(browser: Browser, query: str, grants_asked: Posted) -> None:
    back = browser.consent()
    assert browser.get(f"/auth/callback{query}").status_code == 400
    assert grants_asked() == []
    assert "You are signed in" in browser.get(back).text, "the real response still works"


@pytest.mark.spec("RFC 6749 §3.1", "Accept no repeated parameter")
def test_repeated_parameter_is_refused(browser: Browser, grants_asked: Posted) -> None:
    back = browser.consent()
    answer = browser.get(f"{back}&code=another")
    assert answer.status_code == 400
    assert "contains code twice" in answer.text
    assert grants_asked() == []


@pytest.mark.spec("MCP §Authorization Response Validation", "Check iss before the code is sent to a token endpoint")
def test_response_of_another_issuer_is_refused(browser: Browser, grants_asked: Posted) -> None:
    back = httpx.URL(browser.consent())
    answer = browser.get(back.copy_set_param("iss", "https://evil.example"))
    assert answer.status_code == 400
    assert "another authorization server" in answer.text
    assert grants_asked() == []


def test_pending_sign_in_expires_after_ten_minutes(settings: Settings) -> None:
    late = [timedelta()]
    oauth = NotionOAuth(settings, clock=lambda: utc_now() + late[0])
    with served(create_app(oauth=oauth)) as url, Browser(url) as browser:
        in_time, too_late = browser.consent(), browser.consent()
        late[0] = timedelta(minutes=9, seconds=55)
        assert browser.get(in_time).status_code == 200
        late[0] = timedelta(minutes=10, seconds=5)
        answer = browser.get(too_late)
    assert answer.status_code == 400
    assert "more than ten minutes ago" in answer.text


def test_another_worker_can_complete_a_sign_in(browser: Browser, settings: Settings) -> None:
    """Another process with the same settings, or the same one after a restart."""
    back = urlsplit(browser.consent())
    with served(create_app(settings)) as other_url:
        page = browser.get(f"{other_url}{back.path}?{back.query}")
    assert page.status_code == 200
    assert "You are signed in" in page.text


def test_sign_in_encrypted_with_another_key_is_refused(browser: Browser, settings: Settings) -> None:
    back = urlsplit(browser.consent())
    changed = settings.model_copy(update={"secret_key": SecretStr("b" * 40)})
    with served(create_app(changed)) as other:
        answer = browser.get(f"{other}{back.path}?{back.query}")
    assert answer.status_code == 400
    assert "another session key" in answer.text


def test_declined_sign_in_changes_nothing(signed_in: Browser, sandbox: Sandbox, settings: Settings) -> None:
    before = stored(settings)
    state = parse_qs(urlsplit(signed_in.step("/auth/login")).query)["state"][0]
    denied = {"error": "access_denied", "state": state, "iss": sandbox.issuer}
    page = signed_in.get("/auth/callback", params=denied)
    assert page.status_code == 403
    assert "<title>The sign-in was declined" in page.text
    assert "The sign-in was declined." in page.text
    assert "You are signed in" not in page.text
    assert stored(settings) == before


def test_failed_exchange_changes_nothing(signed_in: Browser, sandbox: Sandbox, settings: Settings) -> None:
    before, back = stored(settings), signed_in.consent()
    sandbox.fail_next("/token", error="invalid_grant", description="Authorization code expired")
    page = signed_in.get(back)
    assert page.status_code == 502
    assert "Authorization code expired" in page.text
    assert "You are signed in" not in page.text
    assert stored(settings) == before
    assert signed_in.status()["status"] == "authenticated"


def test_code_is_not_exchanged_if_tokens_cannot_be_stored(
    browser: Browser, settings: Settings, grants_asked: Posted
) -> None:
    back = browser.consent()
    settings.token_file.mkdir()
    page = browser.get(back)
    assert page.status_code == 500
    assert "not a regular file" in page.text
    assert "You are signed in" not in page.text
    assert grants_asked() == [], "the code was not used"


def test_program_gets_json(browser: Browser) -> None:
    browser.headers["Accept"] = "*/*"
    done = browser.get("/auth/login").json()
    assert done["status"] == "authenticated"
    assert done["message"] == "You are signed in."
    refused = browser.get("/auth/callback?state=wrong")
    assert refused.status_code == 400
    assert refused.json()["error"] == "StateMismatch"
    assert "Start the sign-in again" in refused.json()["next"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hang", "drip", "drop", "redirect", "oversize", "garble"])
@pytest.mark.parametrize("path", ["/.well-known/oauth-authorization-server", "/register", "/token"])
def test_misbehaving_server_is_named(sandbox: Sandbox, tmp_path: Path, kind: str, path: str) -> None:
    settings = Settings(server_url=sandbox.mcp_url, token_file=tmp_path / "tokens.json", timeout=0.4)
    sandbox.misbehave_next(path, kind, location="http://127.0.0.1:9/")  # type: ignore[arg-type]
    with served(create_app(settings)) as url, Browser(url) as browser:
        page = browser.get("/auth/login")  # the browser's timeout is 20 seconds; the server would take longer
    assert page.status_code == 502
    assert urlsplit(sandbox.base_url).netloc in page.text
    assert not settings.token_file.exists()
