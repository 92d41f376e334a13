"""The audit log: one line for each event of a login, and no other lines."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware

from notion_oauth.app import create_app
from notion_oauth.auth.httpx_auth import BearerAuth
from notion_oauth.cli.background_server import served
from notion_oauth.errors import NotionOAuthError, SignInRequired, TransientError
from notion_oauth.models import AuthorizationResponse
from notion_oauth.observability.context import REQUEST_ID
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.router import create_router
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import Hold, JsonFileStore
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.tokens.revocation import SignOut
from notion_oauth.transport.client import Transport
from tests.component.service.test_cancellation import Held, task_cancelled
from tests.support.log_lines import AuditEvents
from tests.support.signing_in import age, begin, sign_in
from tests.support.visiting import PUBLIC, SOMEWHERE, Visitor
from tests.support.web_service import Browser

pytestmark = pytest.mark.anyio


def sha256(token: SecretStr | None) -> str:
    """As `printf %s "$TOKEN" | sha256sum | cut -c1-8` prints it."""
    assert token is not None
    return hashlib.sha256(token.get_secret_value().encode()).hexdigest()[:8]


async def test_a_rotation_can_be_followed_across_lines(
    oauth: NotionOAuth, sandbox: Sandbox, audit_events: AuditEvents
) -> None:
    first = await sign_in(oauth)
    second = await oauth.refresh()
    await oauth.sign_out()
    assert [event for event, _ in audit_events()] == ["registration", "sign_in", "refresh", "revocation", "sign_out"]
    facts = dict(audit_events())
    assert {each["outcome"] for each in facts.values()} == {"success"}
    assert {each["profile"] for each in facts.values()} == {"default"}
    assert {each["issuer"] for each in facts.values()} == {sandbox.issuer}
    assert first.client is not None
    assert {each["client_id"] for each in facts.values()} == {first.client.client_id}
    assert facts["sign_in"]["access_sha256"] == sha256(first.access_token)
    assert facts["refresh"]["access_sha256"] == sha256(second.access_token)
    assert facts["refresh"]["replaced_sha256"] == facts["sign_in"]["refresh_sha256"] == sha256(first.refresh_token)
    assert facts["sign_out"]["refresh_sha256"] == facts["refresh"]["refresh_sha256"] == sha256(second.refresh_token)
    assert facts["sign_out"]["revocation"] == "revoked"


async def test_adopting_a_token_writes_no_line(settings: Settings, audit_events: AuditEvents) -> None:
    one, other = NotionOAuth(settings), NotionOAuth(settings)
    old = await sign_in(one)
    new = await other.refresh()
    assert await one.tokens.token(rejected=old.access_token) == new.access_token
    assert [event for event, _ in audit_events()] == ["registration", "sign_in", "refresh"]


async def test_a_failed_refresh_is_logged_with_its_reason(
    settings: Settings, sandbox: Sandbox, audit_events: AuditEvents, log_output: io.StringIO
) -> None:
    oauth = NotionOAuth(settings)
    login = await sign_in(oauth)
    sandbox.fail_next("/token", status=503)
    with pytest.raises(TransientError):
        await oauth.refresh()
    event, facts = audit_events()[-1]
    assert (event, facts["outcome"], facts["reason"]) == ("refresh", "failure", "ServerUnavailable")
    assert "HTTP 503" in facts["detail"]
    assert facts["refresh_sha256"] == sha256(login.refresh_token)
    assert len(audit_events()) == 3
    assert log_output.getvalue().count("HTTP 503") == 1, "only the audit log reports it"


async def test_a_failed_background_refresh_is_logged_once(
    settings: Settings, sandbox: Sandbox, audit_events: AuditEvents, log_output: io.StringIO
) -> None:
    oauth = NotionOAuth(settings)
    await sign_in(oauth)
    age(settings.token_file, minutes=57)
    sandbox.fail_next("/token", status=503)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(oauth.tokens.keep_fresh)
        with anyio.fail_after(30):
            while len(audit_events()) < 3:
                await anyio.sleep(0.01)
        await oauth.tokens.wait_until_idle()
        tasks.cancel_scope.cancel()
    assert log_output.getvalue().count("HTTP 503") == 1


async def test_the_end_of_a_login_is_logged_once(
    oauth: NotionOAuth, sandbox: Sandbox, audit_events: AuditEvents
) -> None:
    await sign_in(oauth)
    sandbox.revoke_grants()
    for _ in range(2):
        with pytest.raises(SignInRequired):
            await oauth.refresh()
    event, facts = audit_events()[-1]
    assert (event, facts["outcome"], facts["reason"]) == ("refresh", "login_ended", "revoked")
    assert facts["error"] == "invalid_grant"
    assert len(audit_events()) == 3


@pytest.mark.parametrize(
    ("change", "reason", "error"),
    [
        ({"state": SecretStr("another")}, "StateMismatch", None),
        ({"iss": "https://other.example"}, "IssuerMismatch", None),
        ({"code": None, "error": "access_denied"}, "AuthorizationRefused", "access_denied"),
        ({"code": SecretStr("not-the-one")}, "TokenRefused", "invalid_grant"),
    ],
)
async def test_a_failed_sign_in_is_logged_once(
    oauth: NotionOAuth, audit_events: AuditEvents, change: dict[str, object], reason: str, error: str | None
) -> None:
    pending, query = await begin(oauth)
    answer = parse_authorization_response(query.multi_items()).model_copy(update=change)
    with pytest.raises(NotionOAuthError):
        await oauth.complete_authorization(pending, answer)
    assert [event for event, _ in audit_events()] == ["registration", "sign_in"]
    facts = audit_events()[-1][1]
    assert (facts["outcome"], facts["reason"], facts.get("error")) == ("failure", reason, error)


async def test_redaction_of_a_callback_error_keeps_the_other_facts(oauth: NotionOAuth, log_output: io.StringIO) -> None:
    """A visitor can send any `error`, for example one that looks like a header."""
    pending, query = await begin(oauth)
    answer = parse_authorization_response(query.multi_items()).model_copy(update={"code": None, "error": "cookie:x"})
    with pytest.raises(NotionOAuthError):
        await oauth.complete_authorization(pending, answer)
    [line] = [line for line in log_output.getvalue().splitlines() if " sign_in " in line]
    assert " reason=AuthorizationRefused error=cookie:[redacted] detail=" in line
    assert "refused the sign-in" in line


async def test_a_sign_in_that_cannot_start_is_logged(settings: Settings, audit_events: AuditEvents) -> None:
    oauth = NotionOAuth(settings.model_copy(update={"server_url": "http://127.0.0.1:9/mcp"}))
    with pytest.raises(NotionOAuthError):
        await oauth.begin_authorization("http://127.0.0.1:4321/callback")
    [(event, facts)] = audit_events()
    assert (event, facts["outcome"], facts["reason"]) == ("sign_in", "failure", "NetworkError")


async def test_adopting_a_token_after_waiting_for_the_lock_writes_no_line(
    settings: Settings, audit_events: AuditEvents
) -> None:
    store = SignallingStore(settings.token_file)
    one, other = NotionOAuth(settings, store=store), NotionOAuth(settings)
    login = await sign_in(one)
    store.waiting.clear()
    async with anyio.create_task_group() as tasks, other.store.exclusive("default") as hold:
        tasks.start_soon(one.refresh)
        assert await anyio.to_thread.run_sync(store.waiting.wait, 30)
        await hold.save(await other.client.refresh(login))
    assert [event for event, _ in audit_events()] == ["registration", "sign_in"]


class SignallingStore(JsonFileStore):
    """Sets `waiting` when a caller is about to wait for the lock."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.waiting = threading.Event()

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncGenerator[Hold]:
        self.waiting.set()
        async with super().exclusive(profile) as hold:
            yield hold


@pytest.mark.parametrize("refused", [False, True])
async def test_a_sign_in_completed_after_cancellation_is_logged(
    settings: Settings, sandbox: Sandbox, audit_events: AuditEvents, refused: bool
) -> None:
    network = Held()
    client = OAuthClient(Transport(timeout=timedelta(seconds=10), httpx_transport=network))
    oauth = NotionOAuth(settings, client=client)
    pending, query = await begin(oauth)
    answer: AuthorizationResponse = parse_authorization_response(query.multi_items())
    if refused:
        sandbox.fail_next("/token", status=400, error="invalid_request")
    await task_cancelled(network, partial(oauth.complete_authorization, pending, answer))
    assert [(event, facts["outcome"]) for event, facts in audit_events()][1:] == [
        ("sign_in", "failure" if refused else "success")
    ]


async def test_a_sign_out_logs_a_failed_revocation(
    oauth: NotionOAuth, sandbox: Sandbox, audit_events: AuditEvents
) -> None:
    await sign_in(oauth)
    sandbox.fail_next("/token", status=503)
    assert await oauth.sign_out() is SignOut.NOT_REACHED
    (revocation, why), (sign_out, facts) = audit_events()[-2:]
    assert (revocation, why["outcome"], why["reason"]) == ("revocation", "failure", "ServerUnavailable")
    assert (sign_out, facts["outcome"], facts["revocation"]) == ("sign_out", "success", "not_reached")


async def test_a_callback_without_a_sign_in_is_logged(settings: Settings, audit_events: AuditEvents) -> None:
    with served(create_app(settings)) as url, Browser(url) as browser:
        browser.get("/auth/callback?state=wrong&code=x")
    [(event, facts)] = audit_events()
    assert (event, facts["outcome"], facts["reason"]) == ("sign_in", "failure", "StateMismatch")


@pytest.mark.parametrize("query", ["state=wrong&code=x", "code=x", "state=a&state=b"])
async def test_a_visitors_callback_without_a_sign_in_is_logged_without_profile(
    settings: Settings, audit_events: AuditEvents, query: str
) -> None:
    """In particular not with the default profile, which is that of the commands."""
    visitor = Visitor(create_app(settings.model_copy(update={"public_url": PUBLIC})))
    assert visitor.get(f"/auth/callback?{query}").status_code == 400
    [(event, facts)] = audit_events()
    assert (event, facts["outcome"]) == ("sign_in", "failure")
    assert "profile" not in facts


async def test_a_visitors_sign_in_is_logged_with_the_new_profile(settings: Settings, audit_events: AuditEvents) -> None:
    visitor = Visitor(create_app(settings.model_copy(update={"public_url": PUBLIC})))
    visitor.sign_in()
    (registration, registered), (sign_in, completed) = audit_events()
    assert (registration, sign_in) == ("registration", "sign_in")
    assert "profile" not in registered
    assert re.fullmatch(r"web-[0-9a-f]{32}", completed["profile"])


async def test_completing_the_sign_in_of_another_user_is_logged(settings: Settings, audit_events: AuditEvents) -> None:
    """In an application with users: another user started the sign-in."""
    current = ["user-1"]
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key="k" * 32)
    app.include_router(create_router(NotionOAuth(settings), profile=lambda _: current[0]))
    visitor = Visitor(app, "http://localhost", client="127.0.0.1")
    back = visitor.consent()
    current[0] = "user-2"
    assert visitor.get(back).status_code == 400
    event, facts = audit_events()[-1]
    assert (event, facts["outcome"], facts["reason"]) == ("sign_in", "failure", "StateMismatch")


class TestOperator:
    """Unlocking with the operator's secret, failed attempts, and locking."""

    @pytest.fixture
    def operator(self, settings: Settings) -> Visitor:
        keys = {"operator_secret": SecretStr("canary-of-the-operator"), "secret_key": SecretStr("k" * 40)}
        return Visitor(create_app(settings.model_copy(update={"public_url": PUBLIC, **keys})))

    async def test_each_unlock_and_lock_is_logged_with_the_address(
        self, operator: Visitor, audit_events: AuditEvents, caplog: pytest.LogCaptureFixture
    ) -> None:
        for secret in ("canary-that-is-wrong", "canary-of-the-operator"):
            operator.post("/auth/operator", data={"csrf_token": operator.csrf_token(), "secret": secret})
        operator.post("/auth/lock", data={"csrf_token": operator.csrf_token()})
        common = {"profile": "default", "client": SOMEWHERE}
        failed, unlocked, locked = audit_events()
        assert failed[0] == "operator_unlock"
        assert failed[1].items() >= {**common, "outcome": "failure", "reason": "RequestForbidden"}.items()
        assert unlocked == ("operator_unlock", {"outcome": "success", **common})
        assert locked == ("operator_lock", {"outcome": "success", **common})
        assert "canary" not in caplog.text

    async def test_an_invalid_form_and_a_lock_without_unlock_write_no_line(
        self, operator: Visitor, audit_events: AuditEvents
    ) -> None:
        operator.post("/auth/operator", data={"secret": "canary-of-the-operator"})
        operator.post("/auth/lock", data={"csrf_token": operator.csrf_token()})
        assert audit_events() == []


async def test_the_request_id_and_profile_reach_the_refresh(settings: Settings, log_output: io.StringIO) -> None:
    """A refresh runs in another thread and event loop."""
    oauth = NotionOAuth(settings, profile="work")
    await sign_in(oauth)

    async def answer(request_id: str) -> None:
        REQUEST_ID.set(request_id)
        await oauth.refresh()

    for request_id in ("first", "second"):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer, request_id)
    first, second = [line for line in log_output.getvalue().splitlines() if "audit refresh outcome=success" in line]
    assert "request_id=first" in first
    assert "request_id=second" in second
    assert "profile=work" in first


async def test_the_request_id_reaches_a_blocking_refresh(settings: Settings, log_output: io.StringIO) -> None:
    oauth = NotionOAuth(settings)
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    REQUEST_ID.set("blocking")
    with httpx.Client(auth=BearerAuth(NotionOAuth(settings)), trust_env=False) as client:
        client.post(settings.server_url, json={})
    [line] = [line for line in log_output.getvalue().splitlines() if "audit refresh" in line]
    assert "request_id=blocking" in line


@pytest.mark.slow
def test_the_library_writes_nothing_without_logging_configuration(settings: Settings) -> None:
    """Without logging configuration, Python prints warnings to standard error."""
    code = f"""
import anyio
from notion_oauth import NotionOAuth, NotionOAuthError, Settings
oauth = NotionOAuth(Settings(server_url="http://127.0.0.1:9/mcp", token_file={str(settings.token_file)!r}))
try:
    anyio.run(oauth.begin_authorization, "http://127.0.0.1:4321/callback")
except NotionOAuthError as error:
    print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "NetworkError\n"
    assert done.stderr == ""
