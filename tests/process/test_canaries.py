"""Run every operation and failure with full logging, and find no secret in any output."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from pydantic import SecretStr

from notion_oauth import concurrency
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.support.canaries import Canaries, forms, settings_that_are_secret, written_beside
from tests.support.command_line import CommandLine
from tests.support.paths import ROOT
from tests.support.stores import load_login
from tests.support.web_service import Browser

CRASHES = """
from pathlib import Path
from notion_oauth.storage import Hold

save = Hold.save

async def crash(self, tokens, **options):
    if Path("crash").exists():
        raise RuntimeError("a mistake of ours")
    await save(self, tokens, **options)

Hold.save = crash
"""
OURS = """
import crashes
from main import app
"""
THEIRS = """
import crashes, logging
from fastapi import FastAPI
from notion_oauth import create_router
from starlette.middleware.sessions import SessionMiddleware

logging.basicConfig(level=1)
app = FastAPI()
app.include_router(create_router())
app.add_middleware(SessionMiddleware, secret_key="k" * 32, session_cookie="notion_oauth_session")
"""
PROGRAM_OUTPUT = frozenset({"access_token"})  # `token` prints it
PAGE = frozenset({"csrf_token"})


@pytest.fixture
def canaries(sandbox: Sandbox) -> Canaries:
    return Canaries(sandbox)


@dataclass
class Service:
    """`uvicorn` in a separate process, with full logging."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    readers: list[threading.Thread] = field(default_factory=list)

    def keep(self, answer: httpx.Response) -> None:
        """Record the pages and headers, without redirect targets and cookies, which may hold secrets."""
        for each in (*answer.history, answer):
            headers = {name: value for name, value in each.headers.items() if name not in ("location", "set-cookie")}
            self.pages.append(f"{each.text}\n{headers}")

    def output(self) -> str:
        self.process.terminate()
        self.process.wait(timeout=20)
        for thread in self.readers:
            thread.join(timeout=10)
        return "".join(self.lines)


@pytest.fixture
def start(tmp_path: Path, sandbox: Sandbox, canaries: Canaries) -> Iterator[Callable[[str], Service]]:
    directory = tmp_path / "service"
    directory.mkdir()
    (directory / "crashes.py").write_text(CRASHES)
    started: list[Service] = []

    def run(code: str) -> Service:
        (directory / "canary_app.py").write_text(code)
        hidden = settings_that_are_secret()
        canaries.add(**hidden)
        environment = {
            **{name: value for name, value in os.environ.items() if name in ("PATH", "HOME")},
            **hidden,
            "PYTHONPATH": f"{directory}:{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "NOTION_OAUTH_SERVER_URL": sandbox.mcp_url,
            "NOTION_OAUTH_TOKEN_FILE": ".notion-tokens.json",
            "NOTION_OAUTH_LOG_LEVEL": "debug",
            "NOTION_OAUTH_RETRY_FOR": "0",
            "NOTION_OAUTH_RATE_LIMIT": "0",  # all requests are sent within a minute
            "NOTION_OAUTH_REFRESH_FLOOR": "0",
        }
        command = [sys.executable, "-X", "dev", "-m", "uvicorn", "canary_app:app", "--port=0", "--log-level=trace"]
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        service = Service(process, "")
        started.append(service)
        assert process.stdout is not None
        for line in process.stdout:
            service.lines.append(line)
            if found := re.search(r"Uvicorn running on (http://127\.0\.0\.1:\d+)", line):
                service.url = found.group(1)
                break
        assert service.url, "".join(service.lines)
        reader = threading.Thread(target=lambda: service.lines.extend(process.stdout or ()), daemon=True)
        reader.start()
        service.readers.append(reader)
        return service

    yield run
    for service in started:
        if service.process.poll() is None:
            service.process.kill()
        service.process.wait()
        for reader in service.readers:
            reader.join(timeout=10)
        if service.process.stdout is not None:
            service.process.stdout.close()


def confidential_client(sandbox: Sandbox, redirect_uri: str) -> str:
    """A response of the registration endpoint with a client secret, which is then sent with HTTP Basic."""
    asked = {"redirect_uris": [redirect_uri], "token_endpoint_auth_method": "client_secret_basic", "client_name": "A"}
    return httpx.post(f"{sandbox.base_url}/register", json=asked, trust_env=False).text


def everything(service: Service, sandbox: Sandbox, canaries: Canaries, crash: Path) -> None:
    """All operations of a browser, and all failures of a server."""
    registered = confidential_client(sandbox, f"{service.url}/auth/callback")
    sandbox.fail_next("/register", status=201, body=registered, content_type="application/json")
    with Browser(service.url) as browser:
        browser.headers["Connection"] = "close"  # a server closes a connection after a crash

        def submit(action: str) -> None:
            found = re.search(r'name="csrf_token" value="([^"]+)"', browser.get("/auth/status").text)
            assert found
            canaries.add(csrf_token=found.group(1))
            keep_cookies(browser, canaries)
            service.keep(browser.post(f"/auth/{action}", data={"csrf_token": found.group(1)}))

        def current() -> str:
            """The refresh token that will be sent next: a server may repeat it."""
            [key] = [value for value, kind in canaries.known().items() if kind == "NOTION_OAUTH_ENCRYPTION_KEY"]
            settings = Settings(token_file=crash.with_name(".notion-tokens.json"), encryption_key=SecretStr(key))
            login = concurrency.run(partial(load_login, NotionOAuth(settings).store, "default"))
            assert login is not None
            assert login.refresh_token is not None
            return login.refresh_token.get_secret_value()

        def sign_in() -> None:
            service.keep(browser.get("/auth/login"))
            assert browser.status()["status"] == "authenticated"
            keep_cookies(browser, canaries)

        sign_in()
        submit("refresh")
        for kind in ("drop", "garble", "oversize", "redirect", "lose_response"):
            sandbox.misbehave_next("/token", kind)
            submit("refresh")
        refusals = ((400, "invalid_request", 1), (503, "temporarily_unavailable", 1), (401, "invalid_client", 2))
        for status, error, times in refusals:
            sandbox.fail_next("/token", status=status, error=error, times=times, description=f"What is {current()}?")
            submit("refresh")
        sign_in()
        refuse_callbacks(service, browser, sandbox, canaries)
        crash.touch()
        service.keep(browser.get("/auth/login"))
        submit("refresh")
        crash.unlink()
        sign_in()
        sandbox.fail_next("/token", status=400, error="invalid_request", description=f"What is {current()}?")
        submit("logout")
        sign_in()
        submit("logout")


def keep_cookies(browser: Browser, canaries: Canaries) -> None:
    for name, value in browser.cookies.items():
        canaries.add(**{re.sub("_[0-9a-f]{32}$", "", name): value})


def refuse_callbacks(service: Service, browser: Browser, sandbox: Sandbox, canaries: Canaries) -> None:
    """Redirects that are invalid, forged, used twice, or refused by the token endpoint."""
    for change in (
        "state=wrong-one-of-some-length",
        "state=",
        "iss=https%3A%2F%2Fother.example",
        "code=&error=access_denied",
    ):
        back = browser.consent()
        keep_cookies(browser, canaries)
        query = parse_qs(urlsplit(back).query)
        canaries.add(code=query["code"][0], state=query["state"][0])
        name = change.partition("=")[0]
        changed = re.sub(rf"([?&]){name}=[^&]*", rf"\g<1>{change}", back)
        service.keep(browser.get(changed))
        for path in ("/auth/callback/", "/auth/c%61llback", "/AUTH/callback", "/nowhere"):
            service.keep(browser.request("HEAD", changed.replace("/auth/callback", path)))
            service.keep(browser.get(changed.replace("/auth/callback", path)))
    secret = "canary-" + secrets.token_urlsafe(24)
    canaries.add(access_token=secret)
    for body in (
        json.dumps({"access_token": [secret], "token_type": "bearer"}),
        json.dumps({"access_token": secret, "token_type": "mac"}),
        json.dumps({"access_token": secret, "expires_in": {"x": secret}, "token_type": secret}),
        '{"error": "CODE", "error_description": "What is CODE?"}',
        f"access_token={secret}",
        f"<html>{secret}",
    ):
        back = browser.consent()  # which asks the token endpoint whether the client is known
        repeated = body.replace("CODE", parse_qs(urlsplit(back).query)["code"][0])
        status = 400 if "error" in body else 200
        sandbox.fail_next("/token", status=status, body=repeated, content_type="application/json")
        service.keep(browser.get(back))
    back = browser.consent()
    service.keep(browser.get(back))
    service.keep(browser.get(back))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "listens_to"),
    [
        (OURS, ("notion_oauth.audit refresh", "notion_oauth.request request", "DEBUG asyncio")),
        (
            THEIRS,
            ("INFO:notion_oauth.audit:refresh", "Started scope=", "DEBUG:asyncio", '"GET /auth/callback HTTP/1.1"'),
        ),
    ],
    ids=["our service", "an application of their own"],
)
def test_no_secret_leaves_the_service(
    start: Callable[[str], Service],
    sandbox: Sandbox,
    canaries: Canaries,
    tmp_path: Path,
    code: str,
    listens_to: tuple[str, ...],
) -> None:
    service = start(code)
    everything(service, sandbox, canaries, tmp_path / "service" / "crash")
    log = service.output()
    for text in (*listens_to, "RuntimeError: a mistake of ours", "Traceback"):
        assert text in log, "the log is recorded"
    kinds = set(canaries.known().values())
    assert kinds >= {"access_token", "refresh_token", "code", "code_verifier", "state", "client_secret", "csrf_token"}
    assert kinds >= {"authorization_Basic", *settings_that_are_secret()}
    assert kinds >= {f"notion_oauth_{name}" for name in ("pending", "completed", "csrf")}
    assert canaries.seen_in(log) == []
    assert canaries.seen_in("\n".join(service.pages), but=PAGE) == []
    for file, content in written_beside(tmp_path / "service" / ".notion-tokens.json"):
        assert canaries.seen_in(content) == [], file


@pytest.mark.slow
def test_no_secret_leaves_the_commands(cli: CommandLine, sandbox: Sandbox, canaries: Canaries) -> None:
    """With `-vv`; except that `token` prints the token, and `login` prints the address to open."""
    cli.environment |= {"PYTHONDEVMODE": "1", "NOTION_OAUTH_RETRY_FOR": "0"}
    shown: list[str] = []
    data: list[str] = []

    def run(*arguments: str) -> None:
        done = cli.process("-vv", *arguments)
        shown.append(done.stderr)
        (data if arguments[0] == "token" else shown).append(done.stdout)

    run("login")
    shown[0] = re.sub(r"(?m)^http://\S+/authorize\?\S+$", "", shown[0])
    sandbox.fail_next("/token", status=503)
    run("refresh")
    run("token", "--min-ttl", "61m")
    sandbox.revoke_grants()
    run("refresh")
    run("logout")
    log = "".join(shown)
    for text in (
        "notion_oauth.audit sign_in outcome=success",
        "refresh outcome=login_ended",
        "DEBUG asyncio",
        "revocation",
    ):
        assert text in log, "the log is recorded"
    assert set(canaries.known().values()) >= {"access_token", "refresh_token", "code", "code_verifier", "state"}
    assert canaries.seen_in(log) == []
    assert canaries.seen_in("".join(data), but=PROGRAM_OUTPUT) == []
    for file, content in written_beside(cli.directory / ".notion-tokens.json"):
        assert canaries.seen_in(content) == [], file


def test_every_form_of_a_secret_is_found(sandbox: Sandbox) -> None:
    canaries = Canaries(sandbox)
    secret = "canary/of+some?length=" + secrets.token_urlsafe(16)
    canaries.add(access_token=secret)
    for shown in (
        secret,
        quote(secret, safe=""),
        secret.encode().hex(),
        *(base64.b64encode(b"id:"[:before] + secret.encode() + b":x").decode() for before in range(3)),
        *(base64.urlsafe_b64encode(b"id:"[:before] + secret.encode() + b"yz").decode() for before in range(3)),
        json.dumps({"a": secret}),
    ):
        assert canaries.seen_in(f"before {shown} after")
    assert canaries.seen_in("nothing") == []
    assert canaries.seen_in(secret, but=frozenset({"access_token"})) == []
    assert len(forms(secret)) >= 8
