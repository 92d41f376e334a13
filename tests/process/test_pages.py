"""Every page in a browser: axe finds nothing, and nothing is cut off: narrow or wide, light or dark, any text size."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest
from filelock import FileLock
from pydantic import SecretStr
from selenium.webdriver import Chrome

from notion_oauth import pages
from notion_oauth.app import create_app
from notion_oauth.errors import AuthorizationExpired
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.support.chromium import CHROMIUM_MARKS, start_chromium
from tests.support.signing_in import age, sign_in
from tests.support.visiting import PUBLIC, Visitor

pytestmark = CHROMIUM_MARKS
AXE = "4.11.1"
WIDTHS = (320, 360, 1280)
WITH_AXE = (360, 1280)
LONG = {"workspace_name": "The Worshipful Company of Bookbinders and Papermakers", "owner": {"user": {"name": "Ada"}}}


def make_pages(settings: Settings, sandbox: Sandbox) -> dict[str, str]:
    """The HTML of every page that a person can see, by name."""
    sandbox.options.token_response_overrides = LONG
    local = _local(settings)
    found = {"not-connected": local.get("/").text}
    found["sent-here"] = local.get("/auth/login", headers={"Sec-Fetch-Site": "cross-site"}).text
    found["signed-in"] = local.get(local.consent(), follow_redirects=True).text
    found["renewed"] = _press(local, "refresh")
    anyio.run(sign_in, NotionOAuth(settings, profile="books"))
    found["several"] = local.get("/").text
    anyio.run(NotionOAuth(settings, profile="books").sign_out)
    sandbox.fail_next("/token", status=503)
    age(settings.token_file, hours=2)
    found["expired"] = local.get("/").text
    found["unreachable"] = _press(local, "refresh")
    found["signed-out"] = _press(local, "logout")
    anyio.run(sign_in, NotionOAuth(settings))
    found["ends-soon"] = _local(settings.model_copy(update={"grant_days": 3})).get("/").text
    age(settings.token_file, hours=2)
    sandbox.revoke_grants()
    _press(local, "refresh")
    found["ended"] = local.get("/").text
    found["not-here"] = local.get("/auth/callback?code=a&state=b").text
    found["not-found"] = local.get("/nowhere").text
    found["not-a-page"] = local.get("/auth/logout").text
    found["forbidden"] = local.post("/auth/logout", data={"csrf_token": "old"}).text
    found["wrong-host"] = local.get("/", headers={"Host": "elsewhere.example"}).text
    state = httpx.URL(local.get("/auth/login").headers["location"]).params["state"]
    refused = {"state": state, "iss": sandbox.issuer, "error": "access_denied"}
    found["declined"] = local.get("/auth/callback", params=refused).text
    late = AuthorizationExpired("This sign-in was started more than ten minutes ago.")
    shown = pages.explained_page(late, "Start again.", status=400, server="Notion", home="/", login="/auth/login")
    found["too-late"] = bytes(shown.body).decode()
    done = {"title": "You are signed in", "message": "You can close this page and return to the terminal."}
    found["terminal-signed-in"] = pages.render("done.html", done)
    return found | _operator_pages(settings) | _visitor_pages(settings) | _consent_pages(local, sandbox)


def _local(settings: Settings) -> Visitor:
    return Visitor(create_app(settings), "http://localhost", client="127.0.0.1")


def _press(visitor: Visitor, button: str, **fields: str) -> str:
    data = {"csrf_token": visitor.csrf_token(), **fields}
    return visitor.post(f"/auth/{button}", data=data, follow_redirects=True).text


def _operator_pages(settings: Settings) -> dict[str, str]:
    operator = _local(settings.model_copy(update={"operator_secret": SecretStr("correct-horse-battery")}))
    found = {"operator": operator.get("/").text, "operator-wrong": _press(operator, "operator", secret="no")}
    _press(operator, "operator", secret="correct-horse-battery")
    operator.sign_in()
    return found | {"operator-connected": operator.get("/").text}


def _visitor_pages(settings: Settings) -> dict[str, str]:
    public = settings.model_copy(
        update={"public_url": PUBLIC, "token_file": settings.token_file.with_name("visitors.json")}
    )
    visitor = Visitor(create_app(public))
    visitor.sign_in()
    found = {"visitor-connected": visitor.get("/").text}
    for file in settings.token_file.parent.glob("visitors.json.*.profile"):
        file.write_text("{}")
    return found | {"visitor-unusable": visitor.get("/").text}


def _consent_pages(local: Visitor, sandbox: Sandbox) -> dict[str, str]:
    sandbox.options.auto_consent = False
    location = local.get("/auth/login").headers["location"]
    expired = {"ticket": "old", "decision": "approve"}
    return {
        "consent": httpx.get(location, trust_env=False).text,
        "consent-expired": httpx.post(f"{sandbox.base_url}/authorize", data=expired, trust_env=False).text,
    }


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core from npm, installed once into the user's cache directory."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / f"notion-oauth-axe-{AXE}"
    cache.mkdir(parents=True, exist_ok=True)
    script = cache / "node_modules" / "axe-core" / "axe.min.js"
    with FileLock(cache / "lock"):  # of the workers of a run
        if not script.exists():
            npm = shutil.which("npm") or "npm"
            command = [npm, "install", "--no-audit", "--no-fund", "--loglevel=error", f"axe-core@{AXE}"]
            subprocess.run(command, cwd=cache, check=True)
    return script.read_text()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


def show(chromium: Chrome, file: Path, *, width: int = 360, dark: bool = False) -> None:
    """Open a page in a window of that width, with every disclosure open."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    chromium.get(file.as_uri())
    chromium.execute_script("document.querySelectorAll('details').forEach((each) => { each.open = true; })")


def overflow(chromium: Chrome) -> int:
    """The number of pixels by which the page is wider than the window."""
    found: int = chromium.execute_script(
        "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    return found


def violations(chromium: Chrome, axe: str) -> list[str]:
    chromium.execute_script(axe)
    found = chromium.execute_async_script(
        "const done = arguments[0]; axe.run({ resultTypes: ['violations'] }).then((result) => done(result.violations))"
    )
    return [f"{each['id']}: {json.dumps([node['html'] for node in each['nodes']])}" for each in found]


@pytest.fixture
def files(settings: Settings, sandbox: Sandbox, tmp_path: Path) -> dict[str, Path]:
    found = {}
    for name, page in make_pages(settings, sandbox).items():
        found[name] = tmp_path / f"{name}.html"
        found[name].write_text(page)
    return found


def test_every_page_is_accessible_and_fits(chromium: Chrome, axe: str, files: dict[str, Path]) -> None:
    wrong = []
    for name, file in files.items():
        for width in WIDTHS:
            for dark in (False, True) if width in WITH_AXE else (False,):
                show(chromium, file, width=width, dark=dark)
                shown = f"{name} {width} {'dark' if dark else 'light'}"
                wrong += [f"{shown}: {each}" for each in violations(chromium, axe)] if width in WITH_AXE else []
            for text in ("100%", "200%"):
                chromium.execute_script("document.documentElement.style.fontSize = arguments[0]", text)
                if overflow(chromium):
                    wrong.append(f"{name} is wider than {width} pixels with text at {text}")
    assert not wrong, "\n".join(wrong)
