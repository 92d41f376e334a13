"""The pages, the router in other applications, and the session key."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware

from notion_oauth.app import create_app
from notion_oauth.cli.background_server import served
from notion_oauth.errors import StorageError, StoreDamaged
from notion_oauth.gateway.usages import service_usages
from notion_oauth.router import create_router
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.web.sessions.keys import session_keys
from tests.support.paths import ROOT
from tests.support.visiting import PUBLIC, Visitor
from tests.support.web_service import Browser


class _Resources(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset", "data")]


@pytest.mark.parametrize("path", ["/", "/auth/status", "/auth/callback?state=wrong", "/nowhere"])
def test_page_has_one_constant_script_at_most_and_no_external_resource(signed_in: Browser, path: str) -> None:
    page = signed_in.get(path)
    resources = _Resources()
    resources.feed(page.text)
    assert all(url.startswith(("/", "data:image/svg+xml,")) for url in resources.found), resources.found
    assert "@import" not in page.text
    assert "url(" not in page.text
    assert 'name="viewport"' in page.text
    assert "prefers-color-scheme: dark" in page.text
    policy = page.headers["content-security-policy"]
    scripts = re.findall("<script>(.*?)</script>", page.text, re.DOTALL)
    assert len(scripts) == page.text.count("<script") <= 1
    allowed = re.findall("script-src ([^;]*)", policy)
    assert [f"'sha256-{b64encode(sha256(each.encode()).digest()).decode()}'" for each in scripts] in ([], allowed)
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self'" in policy
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "DENY"


class _Code(HTMLParser):
    """The lines to copy of a page, by the element's id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._current: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "code":
            self._current = dict(attrs).get("id")

    def handle_endtag(self, tag: str) -> None:
        if tag == "code":
            self._current = None

    def handle_data(self, data: str) -> None:
        if self._current is not None:
            self.found[self._current] = self.found.get(self._current, "") + data


def test_page_shows_how_programs_on_this_machine_use_the_login(signed_in: Browser, settings: Settings) -> None:
    page = signed_in.get("/").text
    usages = service_usages(settings, None)
    assert [*_Code(page).found.values()] == [snippet.text for usage in usages for snippet in usage.snippets]
    assert re.findall(r"<label for=[^>]*>([^<]+)</label>", page) == [usage.title for usage in usages]
    assert {"Claude Desktop", "Claude Code", "Cursor", "Shell", "Python"} <= {usage.title for usage in usages}
    visitor = Visitor(create_app(settings.model_copy(update={"public_url": PUBLIC})))
    visitor.sign_in()
    assert not _Code(visitor.get("/").text).found, "the visitor's programs are on another machine"


def test_python_lines_of_the_page_send_a_request(
    signed_in: Browser, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    python = service_usages(settings, None)[-1].snippets[0].text
    exec(compile(python, "example.py", "exec"), {})  # noqa: S102
    assert capsys.readouterr().out.strip() == '{"jsonrpc":"2.0","id":1,"result":{}}'


@pytest.mark.slow
@pytest.mark.parametrize("clone", [None, ROOT], ids=["installed", "clone"])
def test_commands_of_the_page_run(
    signed_in: Browser, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clone: Path | None
) -> None:
    """Those of a shell, and one for a client's configuration, as the client's file then has it.

    The directory of Python is first in PATH, as in `uv run`.
    """
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    usages = {usage.title: usage.snippets for usage in service_usages(settings, clone)}

    def run(command: str) -> str:
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, env=home, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    token, curl = usages["Shell"]
    assert run(token.text).strip() in settings.token_file.read_text()
    if shutil.which("curl"):
        assert json.loads(run(curl.text)) == {"jsonrpc": "2.0", "id": 1, "result": {}}
    write, entry = usages["Cursor"]
    assert entry.place == "~/.cursor/mcp.json"
    run(write.text)
    assert json.loads((tmp_path / ".cursor" / "mcp.json").read_text()) == json.loads(entry.text)


def test_tokens_never_reach_the_browser(signed_in: Browser, sandbox: Sandbox, settings: Settings) -> None:
    signed_in.post("/auth/refresh", data={"csrf_token": signed_in.csrf_token()})
    content = settings.token_file.read_text()
    tokens = re.findall(r'"(?:access|refresh)_token": "([^"]+)"', content)
    assert len(tokens) == 2
    seen = [signed_in.get("/"), signed_in.get("/auth/status"), signed_in.get("/auth/status", headers={"Accept": "*/*"})]
    for answer in seen:
        for token in tokens:
            assert token not in answer.text
            assert token not in str(answer.headers)


def test_error_description_is_escaped(browser: Browser, sandbox: Sandbox) -> None:
    state = parse_qs(urlsplit(browser.step("/auth/login")).query)["state"][0]
    answer = browser.get(
        "/auth/callback",
        params={
            "state": state,
            "iss": sandbox.issuer,
            "error": "server_error",
            "error_description": "<script>alert(1)</script>\x1b[31m",
        },
    )
    assert "<script" not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "\x1b" not in answer.text


def test_not_found_is_html_or_json(browser: Browser) -> None:
    page = browser.get("/nowhere")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    answer = browser.get("/nowhere", headers={"Accept": "*/*"})
    assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"})


def test_session_cookie_is_http_only(browser: Browser) -> None:
    cookie = browser.get("/auth/login", follow_redirects=False).headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "secure" not in cookie


def test_public_url_with_path(sandbox: Sandbox, settings: Settings) -> None:
    public = settings.model_copy(update={"public_url": "https://notion.example/tokens", "trusted_proxies": "127.0.0.1"})
    with served(create_app(public)) as url, Browser(url) as browser:
        browser.headers.update({"Host": "notion.example", "X-Forwarded-Proto": "https"})  # as a proxy in front does
        started = browser.get("/auth/login", follow_redirects=False)
        page = browser.get("/tokens/")
    query = parse_qs(urlsplit(started.headers["location"]).query)
    assert query["redirect_uri"] == ["https://notion.example/tokens/auth/callback"]
    assert "; secure" in started.headers["set-cookie"].lower()
    assert 'href="/tokens/auth/login"' in page.text
    registration = sandbox.requests_to("/register")[0].json
    assert registration is not None
    assert registration["application_type"] == "web"


@pytest.mark.spec("MCP §Communication Security", "Use only redirect URIs with https or on loopback")
def test_host_of_request_is_not_used_as_redirect_uri(browser: Browser, sandbox: Sandbox) -> None:
    answer = browser.get("/auth/login", headers={"Host": "evil.example"})
    assert answer.status_code == 421
    assert "NOTION_OAUTH_PUBLIC_URL" in answer.text
    assert sandbox.requests == []


def test_router_in_mounted_application(settings: Settings) -> None:
    inner, outer = FastAPI(), FastAPI()
    inner.include_router(create_router(NotionOAuth(settings), prefix="/notion"))
    outer.add_middleware(SessionMiddleware, secret_key="k" * 32)
    outer.mount("/apps", inner)
    with served(outer) as url, Browser(url) as browser:
        page = browser.get("/apps/notion/login")
        assert "You are signed in" in page.text
        assert page.url.path == "/apps/notion/status"
        assert 'action="/apps/notion/logout"' in page.text
        refused = browser.get("/apps/notion/callback?state=wrong")
        assert refused.status_code == 400


def test_application_without_sessions_gets_hint(settings: Settings) -> None:
    app = FastAPI()
    app.include_router(create_router(NotionOAuth(settings)))
    with served(app) as url, Browser(url) as browser:
        answer = browser.get("/auth/login", headers={"Accept": "*/*"})
    assert answer.status_code == 500
    assert "SessionMiddleware" in answer.json()["next"]


def test_main_reads_settings_from_environment(
    monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTION_OAUTH_SERVER_URL", sandbox.mcp_url)
    monkeypatch.setenv("NOTION_OAUTH_TOKEN_FILE", str(tmp_path / "data" / "tokens.json"))
    with served(create_app()) as url, Browser(url) as browser:
        assert "You are signed in" in browser.get("/auth/login").text
    assert (tmp_path / "data" / "tokens.json").exists()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    monkeypatch.syspath_prepend(str(ROOT))
    assert isinstance(importlib.import_module("main").app, FastAPI)


class TestSessionKey:
    """The key that signs and encrypts sessions."""

    def test_comes_from_setting(self, settings: Settings) -> None:
        configured = settings.model_copy(update={"secret_key": SecretStr("s" * 40)})
        assert [key.get_secret_value() for key in session_keys(configured)] == ["s" * 40]
        assert list(settings.token_file.parent.iterdir()) == []

    def test_is_created_once_next_to_token_file(self, settings: Settings) -> None:
        key = session_keys(settings)[0].get_secret_value()
        file = settings.token_file.with_name(".notion-tokens.json.session-key")
        assert file.stat().st_mode & 0o777 == 0o600
        assert len(key) == 64
        assert session_keys(settings)[0].get_secret_value() == key

    def test_concurrent_workers_use_the_same_key(self, settings: Settings) -> None:
        with ThreadPoolExecutor(16) as pool:
            keys = {keys[0].get_secret_value() for keys in pool.map(session_keys, [settings] * 64)}
        assert len(keys) == 1

    def test_damaged_file_is_not_replaced(self, settings: Settings) -> None:
        settings.token_file.with_name(".notion-tokens.json.session-key").write_text("short")
        with pytest.raises(StoreDamaged, match="has no valid session key"):
            session_keys(settings)

    def test_unwritable_directory_is_an_error(self, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        elsewhere = settings.model_copy(update={"token_file": tmp_path / "file" / "tokens.json"})
        with pytest.raises(StorageError):
            session_keys(elsewhere)


@pytest.mark.slow
def test_uvicorn_main_app_starts_and_stops_cleanly(tmp_path: Path) -> None:
    """A process with `uvicorn main:app` listens, logs no code, and exits cleanly on SIGTERM."""
    (tmp_path / "clone").mkdir()
    shutil.copy(ROOT / "main.py", tmp_path / "clone")
    command = [sys.executable, "-m", "uvicorn", "main:app", "--port", "0", "--app-dir", str(tmp_path / "clone")]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        running = next((line for line in lines if "Uvicorn running on" in line), "")
        found = re.search(r"http://127\.0\.0\.1:\d+", running)
        try:
            assert found, running
            with Browser(found.group()) as browser:
                assert browser.status() == {"status": "unauthenticated"}
                assert browser.get("/auth/callback?code=canary-code&state=canary-state").status_code == 400
        finally:
            process.terminate()
            out, log = process.communicate(timeout=10)
    assert re.search(r"notion_oauth.request request method=GET path=/auth/callback status=400 .* request_id=\w+", log)
    assert out == ""
    assert "canary" not in log
    assert "Traceback" not in log


WARNING = "may go over plain http"


@pytest.mark.parametrize(
    ("options", "warned"),
    [({}, True), ({"https_only": False}, True), ({"https_only": True}, False)],
)
def test_cookie_over_http_is_warned_about_once(
    settings: Settings, caplog: pytest.LogCaptureFixture, options: dict[str, Any], warned: bool
) -> None:
    for public_url, expected in ((PUBLIC, warned), (None, False)):
        caplog.clear()
        app = FastAPI()
        app.add_middleware(SessionMiddleware, secret_key="k" * 32, **options)
        app.include_router(create_router(NotionOAuth(settings.model_copy(update={"public_url": public_url}))))
        with Visitor(app) as visitor:
            visitor.get("/auth/status")
            visitor.get("/auth/status")
        assert caplog.text.count(WARNING) == expected


def test_other_session_middleware_is_not_warned_about(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    class Theirs(SessionMiddleware):
        """Its settings are unknown."""

    theirs = FastAPI()
    theirs.add_middleware(Theirs, secret_key="k" * 32)
    public = settings.model_copy(update={"public_url": PUBLIC})
    theirs.include_router(create_router(NotionOAuth(public)))
    for app in (theirs, create_app(public)):
        with Visitor(app):
            pass
    assert WARNING not in caplog.text
