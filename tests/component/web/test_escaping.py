"""Values from browsers and servers are shown as text only: no HTML injection."""

from __future__ import annotations

from html.parser import HTMLParser
from importlib.resources import files
from urllib.parse import parse_qs, urlsplit

import pytest

from notion_oauth.app import create_app
from notion_oauth.sandbox import Sandbox
from notion_oauth.settings import Settings
from tests.support.visiting import PUBLIC, Visitor

ATTACKS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    "javascript:alert(1)",
    "</title><svg onload=alert(1)>",
    "{{7919*7907}}",
)


SCRIPT = files("notion_oauth").joinpath("templates", "page.js").read_text()
ICON = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32' fill='none'%3E%3Crect"


class _Tags(HTMLParser):
    """The tags and attributes of a page, and the scripts in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.scripts: list[str] = []
        self.foreign_images = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.foreign_images += tag == "svg" and ("focusable", "false") not in attrs
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data


def harmless(page: str) -> bool:
    """Whether the page has at most the one constant script, this package's own pictures, and links to itself."""
    found = _Tags(page)
    bad_names = [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "srcdoc", "style")]
    links = [value for name, value in found.attributes if name in ("href", "action", "formaction")]
    local = all(link.startswith("/") and not link.startswith("//") for link in links if not link.startswith(ICON))
    own = found.scripts in ([], [SCRIPT]) and not found.foreign_images
    return own and local and not bad_names and not found.tags & {"img", "iframe", "object", "base"}


@pytest.fixture
def visitor(settings: Settings) -> Visitor:
    unlimited = {"rate_limit": "0", "status_rate_limit": "0"}
    return Visitor(create_app(settings.model_copy(update={"public_url": PUBLIC, **unlimited})))


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_parameters_paths_and_headers_are_escaped(visitor: Visitor, attack: str) -> None:
    names = ("code", "state", "iss", "error", "error_description", "error_uri", "scope", "next", "profile")
    for path in ("/", "/auth/status", "/auth/login", "/auth/callback", "/auth/nowhere"):
        for name in names:
            page = visitor.get(path, params={name: attack})
            assert harmless(page.text), (path, name)
            assert "62615533" not in page.text or attack != "{{7919*7907}}"
        headers = {"Referer": attack, "User-Agent": attack, "X-Forwarded-Host": attack, "Origin": attack}
        assert harmless(visitor.get(path, headers=headers).text)
    assert harmless(visitor.get(f"/{attack}").text)
    assert harmless(visitor.post("/auth/logout", data={"csrf_token": attack}).text)


@pytest.mark.parametrize("attack", ATTACKS)
def test_authorization_error_is_escaped(visitor: Visitor, sandbox: Sandbox, attack: str) -> None:
    for error, description in (("server_error", attack), (attack, "a description"), (attack, attack)):
        state = parse_qs(urlsplit(visitor.get("/auth/login").headers["location"]).query)["state"][0]
        answered = {"state": state, "iss": sandbox.issuer, "error": error, "error_description": description}
        page = visitor.get("/auth/callback", params=answered)
        assert page.status_code == 403
        assert harmless(page.text)
        assert "<script" not in page.text


@pytest.mark.parametrize("attack", ATTACKS)
def test_token_endpoint_error_is_escaped(visitor: Visitor, sandbox: Sandbox, attack: str) -> None:
    back = visitor.consent()
    sandbox.fail_next("/token", error="invalid_grant", times=2, description=attack)
    page = visitor.get(back)
    assert page.status_code == 502
    assert harmless(page.text)


@pytest.mark.parametrize("attack", ATTACKS[:3])
@pytest.mark.parametrize("field", ["scope", "token_type", "resource"])
def test_token_response_is_escaped(visitor: Visitor, sandbox: Sandbox, field: str, attack: str) -> None:
    sandbox.options.token_response_overrides = {field: attack}
    visitor.get(visitor.consent())
    page = visitor.get("/")
    assert harmless(page.text)
    assert attack not in page.text


@pytest.mark.parametrize("attack", ATTACKS[:3])
def test_registration_error_is_escaped(visitor: Visitor, sandbox: Sandbox, attack: str) -> None:
    sandbox.fail_next("/register", error="invalid_client_metadata", description=attack)
    page = visitor.get("/auth/login")
    assert page.status_code == 502
    assert harmless(page.text)


def test_harmless_detects_scripts() -> None:
    """The check itself detects each kind of attack."""
    assert harmless(f"<p>text</p><a href='/'>x</a><svg focusable='false'></svg><script>{SCRIPT}</script>")
    assert not harmless(f"<script>{SCRIPT}</script><script>{SCRIPT}</script>")
    assert not harmless(f"<script>{SCRIPT};x</script>")
    for page in ("<script>", "<img src=x>", "<p onclick=x>", "<a href='javascript:x'>", "<a href='//evil'>", "<svg>"):
        assert not harmless(page)
