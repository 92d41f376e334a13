"""A worker of the service is killed while it exchanges a code, and the browser repeats its redirect."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from notion_oauth.sandbox import Sandbox
from tests.conftest import Posted
from tests.support.paths import ROOT
from tests.support.web_service import Browser


@contextmanager
def worker(directory: Path, sandbox: Sandbox) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves the files of the directory, and its URL."""
    command = [sys.executable, "-m", "uvicorn", "main:app", "--port", "0", "--app-dir", str(ROOT), "--no-access-log"]
    settings = {"SERVER_URL": sandbox.mcp_url, "TOKEN_FILE": str(directory / "tokens.json"), "TIMEOUT": "1"}
    environment = {**os.environ, **{f"NOTION_OAUTH_{name}": value for name, value in settings.items()}}
    with subprocess.Popen(command, env=environment, cwd=directory, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = (re.search(r"running on (http://\S+)", line) for line in iter(process.stderr.readline, ""))
        url = next(match[1] for match in found if match)
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            yield process, url
        finally:
            process.kill()


@pytest.mark.slow
def test_redirect_is_repeated_at_another_worker(tmp_path: Path, sandbox: Sandbox, grants_asked: Posted) -> None:
    arrived = threading.Event()
    with worker(tmp_path, sandbox) as (first, url), worker(tmp_path, sandbox) as (_, other), Browser(url) as browser:
        back = urlsplit(browser.consent())
        sandbox.misbehave_next("/token", "hang")
        sandbox.observe(on_arrival=lambda request: arrived.set() if request.path == "/token" else None)
        cookies = dict(browser.cookies)

        def come_back() -> None:
            with suppress(httpx.HTTPError):
                httpx.get(f"{url}{back.path}?{back.query}", cookies=cookies, trust_env=False)

        thread = threading.Thread(target=come_back)
        thread.start()
        assert arrived.wait(10)
        first.kill()
        thread.join()
        page = browser.get(f"{other}{back.path}?{back.query}")
        assert page.status_code == 400
        assert "This sign-in was interrupted" in page.text
        assert '<a class="btn go" id="login" href="/auth/login">' in page.text
        assert grants_asked() == ["authorization_code"]
        assert "You are signed in" in browser.get(f"{other}/auth/login").text
