"""The same habits in a real browser, at two workers behind nginx with TLS: two tabs at a time, and double submits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import title_contains
from selenium.webdriver.support.ui import WebDriverWait

from notion_oauth.sandbox import Sandbox, SandboxOptions, serve_sandbox
from tests.process.browsers.front import HOST, NGINX, PUBLIC_URL, front_of
from tests.process.browsers.workers import Workers
from tests.support.chromium import CHROMIUM_MARKS, REQUIRED, start_chromium

pytestmark = [
    *CHROMIUM_MARKS,
    pytest.mark.skipif(NGINX is None and not REQUIRED, reason="needs nginx (Debian: nginx-light)"),
]
EXCHANGE = 1.0  # seconds, so that a second request for the callback arrives during the first one
TIME_LIMIT = 30  # seconds for a page


@dataclass(frozen=True)
class Site:
    """The service, and the practice server with its consent page."""

    chromium: Chrome
    sandbox: Sandbox

    def wait_for(self, element: str) -> None:
        WebDriverWait(self.chromium, TIME_LIMIT).until(lambda driver: driver.find_elements(By.ID, element))

    def press(self, element: str) -> None:
        """Click without waiting for the page that follows."""
        self.chromium.execute_script(
            "const it = document.getElementById(arguments[0]); setTimeout(() => it.click())", element
        )

    def check_signed_in(self) -> None:
        WebDriverWait(self.chromium, TIME_LIMIT).until(title_contains("Connected to "))
        self.chromium.get(PUBLIC_URL)
        assert "Connected to " in self.chromium.title


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    assert NGINX, "nginx is required and not installed"
    (tmp_path / "store").mkdir()
    with serve_sandbox(SandboxOptions(auto_consent=False)) as sandbox:
        workers = Workers("visitors", tmp_path, sandbox.mcp_url)
        try:
            workers.start()
            with front_of(workers.ports, tmp_path, nginx=True) as front:
                chromium = start_chromium(
                    tmp_path / "chromium",
                    f"--host-resolver-rules=MAP {HOST}:443 127.0.0.1:{front.patient}",
                    "--ignore-certificate-errors",
                )
                try:
                    yield Site(chromium, sandbox)
                finally:
                    chromium.quit()
        finally:
            workers.stop()


def test_two_tabs_sign_in_at_the_same_time(site: Site) -> None:
    tabs = [site.chromium.current_window_handle]
    site.chromium.get(PUBLIC_URL)
    site.chromium.switch_to.new_window("tab")
    tabs.append(site.chromium.current_window_handle)
    site.chromium.get(PUBLIC_URL)
    for tab in tabs:
        site.chromium.switch_to.window(tab)
        site.press("login")
    site.sandbox.misbehave_next("/token", "slow", seconds=EXCHANGE, times=2)
    for tab in tabs:
        site.chromium.switch_to.window(tab)
        site.wait_for("approve")
    for tab in tabs:
        site.chromium.switch_to.window(tab)
        site.press("approve")
    for tab in tabs:
        site.chromium.switch_to.window(tab)
        WebDriverWait(site.chromium, TIME_LIMIT).until(title_contains("Connected to "))
    for tab in tabs:
        site.chromium.switch_to.window(tab)
        site.check_signed_in()


def test_double_click_on_connect(site: Site) -> None:
    site.chromium.get(PUBLIC_URL)
    ActionChains(site.chromium).double_click(site.chromium.find_element(By.ID, "login")).perform()
    site.wait_for("approve")
    site.press("approve")
    site.check_signed_in()


def test_callback_is_sent_twice(site: Site) -> None:
    site.chromium.get(PUBLIC_URL)
    site.press("login")
    site.wait_for("approve")
    ticket = site.chromium.find_element(By.NAME, "ticket").get_attribute("value")
    form = {"ticket": ticket, "decision": "approve"}
    callback = httpx.post(f"{site.sandbox.base_url}/authorize", data=form, trust_env=False).headers["location"]
    site.sandbox.misbehave_next("/token", "slow", seconds=EXCHANGE)
    for delay in (0, EXCHANGE / 2 * 1000):
        site.chromium.execute_script(
            "setTimeout(url => { location.href = url }, arguments[1], arguments[0])", callback, delay
        )
    site.check_signed_in()
    assert [bool(request.form.get("code")) for request in site.sandbox.requests_to("/token", "POST")].count(True) == 1
