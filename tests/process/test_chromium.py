"""A real headless browser, from the first click to the sign-out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from pydantic import SecretStr
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.expected_conditions import title_contains
from selenium.webdriver.support.ui import WebDriverWait

from notion_oauth.app import create_app
from notion_oauth.cli.background_server import served
from notion_oauth.gateway.usages import service_usages
from notion_oauth.interactive.loopback import Receiver, bind_redirect_uri, serve
from notion_oauth.models import AuthorizationResponse
from notion_oauth.sandbox import Sandbox
from notion_oauth.settings import Settings
from tests.support.chromium import CHROMIUM_MARKS, start_chromium

pytestmark = CHROMIUM_MARKS


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


def click(chromium: Chrome, element: str, then: str) -> None:
    """Click, and wait for a page with this title."""
    chromium.find_element(By.ID, element).click()
    WebDriverWait(chromium, 10).until(title_contains(then))


def text(chromium: Chrome) -> str:
    return chromium.find_element(By.TAG_NAME, "main").text


def test_user_signs_in_refreshes_and_signs_out(
    chromium: Chrome, sandbox: Sandbox, service_url: str, settings: Settings
) -> None:
    sandbox.options.auto_consent = False
    chromium.get(service_url)
    assert "Not connected" in text(chromium)

    chromium.find_element(By.ID, "login").click()
    WebDriverWait(chromium, 10).until(lambda driver: driver.find_elements(By.ID, "approve"))
    assert chromium.current_url.startswith(f"{sandbox.base_url}/authorize")
    assert "notion-oauth" in chromium.page_source, "the consent page names the client"
    click(chromium, "approve", then="Connected to ")
    assert "You are signed in." in text(chromium)
    assert "code=" not in chromium.current_url
    assert settings.token_file.exists()

    chromium.find_element(By.CSS_SELECTOR, ".more > summary").click()
    click(chromium, "refresh", then="Connected to ")
    refreshed = WebDriverWait(chromium, 10, ignored_exceptions=[StaleElementReferenceException])  # of the previous page
    refreshed.until(lambda driver: "The token was refreshed." in text(driver))
    assert [request.form["grant_type"] for request in sandbox.requests_to("/token")][-1] == "refresh_token"

    click(chromium, "logout", then="You are signed out")
    assert "has ended the login" in text(chromium)
    assert not settings.token_file.exists()
    assert sandbox.live_grants == 0


def test_declined_sign_in_is_shown(chromium: Chrome, sandbox: Sandbox, service_url: str) -> None:
    sandbox.options.auto_consent = False
    chromium.get(f"{service_url}/auth/login")
    click(chromium, "deny", then="The sign-in was declined")
    assert "Perhaps you did not agree" in text(chromium)
    click(chromium, "home", then="Not connected")


def test_two_tabs_sign_in(chromium: Chrome, sandbox: Sandbox, service_url: str) -> None:
    sandbox.options.auto_consent = False
    first = chromium.current_window_handle
    chromium.get(f"{service_url}/auth/login")
    chromium.switch_to.new_window("tab")
    chromium.get(f"{service_url}/auth/login")
    click(chromium, "approve", then="Connected to ")
    chromium.close()
    chromium.switch_to.window(first)
    click(chromium, "approve", then="Connected to ")
    assert "You are signed in." in text(chromium)


def test_link_from_another_site_requires_a_click(chromium: Chrome, sandbox: Sandbox, service_url: str) -> None:
    """With the Sec-Fetch headers of a real browser."""
    chromium.get(f"data:text/html,<a id='lure' href='{service_url}/auth/login'>x</a>")
    chromium.find_element(By.ID, "lure").click()
    WebDriverWait(chromium, 10).until(title_contains("Not connected"))
    assert "Another site sent you here." in text(chromium)
    assert sandbox.requests == []
    click(chromium, "login", then="Connected to ")
    assert "You are signed in." in text(chromium)


def test_operator_enters_the_secret(chromium: Chrome, settings: Settings) -> None:
    guarded = settings.model_copy(update={"operator_secret": SecretStr("correct-horse-battery")})
    with served(create_app(guarded)) as url:
        chromium.get(url)
        chromium.find_element(By.ID, "secret").send_keys("wrong")
        click(chromium, "enter", then="Wrong secret")
        assert "The operator's secret is wrong." in text(chromium)
        chromium.find_element(By.ID, "secret").send_keys("correct-horse-battery")
        click(chromium, "enter", then="Not connected")
        click(chromium, "login", then="Connected to ")
        click(chromium, "logout", then="You are signed out")
        click(chromium, "lock", then="Operator sign-in")


def test_person_chooses_a_program_and_copies_its_lines_with_the_keyboard(
    chromium: Chrome, service_url: str, settings: Settings
) -> None:
    allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    chromium.execute_cdp_cmd("Browser.grantPermissions", {"permissions": allowed})
    chromium.get(f"{service_url}/auth/login")
    WebDriverWait(chromium, 10).until(title_contains("Connected to "))
    chromium.find_element(By.ID, "u1").send_keys(Keys.ARROW_LEFT)  # from the first to the last: Python
    chromium.switch_to.active_element.send_keys(Keys.TAB)
    focused = chromium.switch_to.active_element
    assert focused.text.startswith("Copy")
    focused.send_keys(Keys.ENTER)
    WebDriverWait(chromium, 10).until(lambda _: focused.text.startswith("Copied"))
    copied = chromium.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert copied == service_usages(settings, None)[-1].snippets[0].text


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells users apart")
def test_redirect_of_a_browser_of_the_same_user_is_taken(chromium: Chrome) -> None:
    async def complete(response: AuthorizationResponse) -> AuthorizationResponse:
        return response

    receiver = Receiver(complete)
    with (
        bind_redirect_uri(()) as (listener, redirect_uri),
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(receiver, listener, own_user=True)),
    ):
        chromium.get(f"{redirect_uri}?code=c&state=s")
        WebDriverWait(chromium, 10).until(title_contains("You are signed in"))
    assert receiver.result().code == SecretStr("c")


@pytest.mark.parametrize("width", [320, 1280])
def test_page_fits_the_window(chromium: Chrome, service_url: str, width: int, tmp_path: Path) -> None:
    chromium.set_window_size(width, 800)
    chromium.get(f"{service_url}/auth/login")
    WebDriverWait(chromium, 10).until(title_contains("Connected to "))
    overflow = chromium.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    assert overflow == 0
    log = chromium.get_log("browser")  # type: ignore[no-untyped-call]
    assert not [entry for entry in log if "Content Security Policy" in str(entry["message"])]
