"""The audit log: one line for what happened to a login, and none for what did not."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
from datetime import timedelta
from functools import partial

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
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.tokens.revocation import SignOut
from notion_oauth.transport.client import Transport
from tests.component.service.test_cancellation import Held, task_cancelled
from tests.support.log_lines import Told
from tests.support.signing_in import age, begin, sign_in
from tests.support.visiting import PUBLIC, SOMEWHERE, Visitor
from tests.support.web_service import Browser

pytestmark = pytest.mark.anyio


def sha256(token: SecretStr | None) -> str:
    """As `printf %s "$TOKEN" | sha256sum | cut -c1-8` says it."""
    assert token is not None
    return hashlib.sha256(token.get_secret_value().encode()).hexdigest()[:8]


async def test_a_rotation_can_be_followed_from_line_to_line(oauth: NotionOAuth, sandbox: Sandbox, told: Told) -> None:
    first = await sign_in(oauth)
    second = await oauth.refresh()
    await oauth.sign_out()
    assert [event for event, _ in told()] == ["registration", "sign_in", "refresh", "revocation", "sign_out"]
    facts = dict(told())
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


async def test_a_token_that_another_process_has_fetched_is_no_refresh_of_ours(settings: Settings, told: Told) -> None:
    one, other = NotionOAuth(settings), NotionOAuth(settings)
    old = await sign_in(one)
    new = await other.refresh()
    assert await one.tokens.token(rejected=old.access_token) == new.access_token
    assert [event for event, _ in told()] == ["registration", "sign_in", "refresh"]


async def test_each_try_that_fails_is_told_with_its_reason(
    settings: Settings, sandbox: Sandbox, told: Told, written: io.StringIO
) -> None:
    oauth = NotionOAuth(settings)
    login = await sign_in(oauth)
    sandbox.fail_next("/token", status=503)
    with pytest.raises(TransientError):
        await oauth.refresh()
    event, facts = told()[-1]
    assert (event, facts["outcome"], facts["reason"]) == ("refresh", "failure", "ServerUnavailable")
    assert "HTTP 503" in facts["detail"]
    assert facts["refresh_sha256"] == sha256(login.refresh_token)
    assert len(told()) == 3
    assert written.getvalue().count("HTTP 503") == 1, "once, by whoever knows it"


async def test_a_refresh_ahead_that_fails_is_told_once(
    settings: Settings, sandbox: Sandbox, told: Told, written: io.StringIO
) -> None:
    oauth = NotionOAuth(settings)
    await sign_in(oauth)
    age(settings.token_file, minutes=57)
    sandbox.fail_next("/token", status=503)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(oauth.tokens.keep_fresh)
        with anyio.fail_after(30):
            while len(told()) < 3:
                await anyio.sleep(0.01)
        await oauth.tokens.wait_until_idle()
        tasks.cancel_scope.cancel()
    assert written.getvalue().count("HTTP 503") == 1


async def test_the_end_of_a_login_is_told_once(oauth: NotionOAuth, sandbox: Sandbox, told: Told) -> None:
    await sign_in(oauth)
    sandbox.revoke_grants()
    for _ in range(2):
        with pytest.raises(SignInRequired):
            await oauth.refresh()
    event, facts = told()[-1]
    assert (event, facts["outcome"], facts["reason"]) == ("refresh", "login_ended", "revoked")
    assert facts["error"] == "invalid_grant"
    assert len(told()) == 3


@pytest.mark.parametrize(
    ("change", "reason", "error"),
    [
        ({"state": SecretStr("another")}, "StateMismatch", None),
        ({"iss": "https://other.example"}, "IssuerMismatch", None),
        ({"code": None, "error": "access_denied"}, "AuthorizationRefused", "access_denied"),
        ({"code": SecretStr("not-the-one")}, "TokenRefused", "invalid_grant"),
    ],
)
async def test_a_sign_in_that_fails_is_told_once(
    oauth: NotionOAuth, told: Told, change: dict[str, object], reason: str, error: str | None
) -> None:
    pending, query = await begin(oauth)
    answer = parse_authorization_response(query.multi_items()).model_copy(update=change)
    with pytest.raises(NotionOAuthError):
        await oauth.complete_authorization(pending, answer)
    assert [event for event, _ in told()] == ["registration", "sign_in"]
    facts = told()[-1][1]
    assert (facts["outcome"], facts["reason"], facts.get("error")) == ("failure", reason, error)


async def test_no_error_of_a_callback_leaves_out_what_else_is_told(oauth: NotionOAuth, written: io.StringIO) -> None:
    """A visitor can send whatever a server might, a word that looks like a header among it."""
    pending, query = await begin(oauth)
    answer = parse_authorization_response(query.multi_items()).model_copy(update={"code": None, "error": "cookie:x"})
    with pytest.raises(NotionOAuthError):
        await oauth.complete_authorization(pending, answer)
    [line] = [line for line in written.getvalue().splitlines() if " sign_in " in line]
    assert " reason=AuthorizationRefused error=cookie:[redacted] detail=" in line
    assert "refused the sign-in" in line


async def test_a_sign_in_that_cannot_begin_is_told(settings: Settings, told: Told) -> None:
    oauth = NotionOAuth(settings.model_copy(update={"server_url": "http://127.0.0.1:9/mcp"}))
    with pytest.raises(NotionOAuthError):
        await oauth.begin_authorization("http://127.0.0.1:4321/callback")
    [(event, facts)] = told()
    assert (event, facts["outcome"], facts["reason"]) == ("sign_in", "failure", "NetworkError")


async def test_a_token_that_another_has_fetched_while_we_waited_is_none_either(settings: Settings, told: Told) -> None:
    one, other = NotionOAuth(settings), NotionOAuth(settings)
    login = await sign_in(one)
    async with anyio.create_task_group() as tasks, other.store.exclusive("default"):
        tasks.start_soon(one.refresh)
        with anyio.fail_after(30):
            while one.tokens._single_flight.current() is None:
                await anyio.sleep(0.01)
        await other.store.save("default", await other.client.refresh(login))
    assert [event for event, _ in told()] == ["registration", "sign_in"]


@pytest.mark.parametrize("refused", [False, True])
async def test_what_is_finished_for_a_caller_who_has_gone_is_told(
    settings: Settings, sandbox: Sandbox, told: Told, refused: bool
) -> None:
    network = Held()
    client = OAuthClient(Transport(timeout=timedelta(seconds=10), network=network))
    oauth = NotionOAuth(settings, client=client)
    pending, query = await begin(oauth)
    answer: AuthorizationResponse = parse_authorization_response(query.multi_items())
    if refused:
        sandbox.fail_next("/token", status=400, error="invalid_request")
    await task_cancelled(network, partial(oauth.complete_authorization, pending, answer))
    assert [(event, facts["outcome"]) for event, facts in told()][1:] == [
        ("sign_in", "failure" if refused else "success")
    ]


async def test_a_sign_out_that_the_server_does_not_hear_of_says_so(
    oauth: NotionOAuth, sandbox: Sandbox, told: Told
) -> None:
    await sign_in(oauth)
    sandbox.fail_next("/token", status=503)
    assert await oauth.sign_out() is SignOut.NOT_REACHED
    (revocation, why), (sign_out, facts) = told()[-2:]
    assert (revocation, why["outcome"], why["reason"]) == ("revocation", "failure", "ServerUnavailable")
    assert (sign_out, facts["outcome"], facts["revocation"]) == ("sign_out", "success", "not_reached")


async def test_a_callback_of_no_sign_in_is_told(settings: Settings, told: Told) -> None:
    with served(create_app(settings)) as url, Browser(url) as browser:
        browser.get("/auth/callback?state=wrong&code=x")
    [(event, facts)] = told()
    assert (event, facts["outcome"], facts["reason"]) == ("sign_in", "failure", "StateMismatch")


@pytest.mark.parametrize("query", ["state=wrong&code=x", "code=x", "state=a&state=b"])
async def test_a_callback_of_no_sign_in_concerns_no_visitors_profile(
    settings: Settings, told: Told, query: str
) -> None:
    """Least of all the default one, which is the commands' own."""
    visitor = Visitor(create_app(settings.model_copy(update={"public_url": PUBLIC})))
    assert visitor.get(f"/auth/callback?{query}").status_code == 400
    [(event, facts)] = told()
    assert (event, facts["outcome"]) == ("sign_in", "failure")
    assert "profile" not in facts


async def test_what_a_visitor_begins_is_told_of_no_profile_and_what_they_finish_of_theirs(
    settings: Settings, told: Told
) -> None:
    visitor = Visitor(create_app(settings.model_copy(update={"public_url": PUBLIC})))
    visitor.sign_in()
    (registration, begun), (sign_in, done) = told()
    assert (registration, sign_in) == ("registration", "sign_in")
    assert "profile" not in begun
    assert re.fullmatch(r"web-[0-9a-f]{32}", done["profile"])


async def test_a_sign_in_that_somebody_else_would_finish_is_told(settings: Settings, told: Told) -> None:
    """Of an application's users: who has begun it is not who asks now."""
    asking = ["user-1"]
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key="k" * 32)
    app.include_router(create_router(NotionOAuth(settings), profile=lambda _: asking[0]))
    visitor = Visitor(app, "http://localhost", client="127.0.0.1")
    back = visitor.consent()
    asking[0] = "user-2"
    assert visitor.get(back).status_code == 400
    event, facts = told()[-1]
    assert (event, facts["outcome"], facts["reason"]) == ("sign_in", "failure", "StateMismatch")


class TestAtTheGate:
    """Who has given the operator's secret, who has tried, and who has left."""

    @pytest.fixture
    def operator(self, settings: Settings) -> Visitor:
        keys = {"operator_secret": SecretStr("canary-of-the-operator"), "secret_key": SecretStr("k" * 40)}
        return Visitor(create_app(settings.model_copy(update={"public_url": PUBLIC, **keys})))

    async def test_each_step_is_told_with_the_address(
        self, operator: Visitor, told: Told, caplog: pytest.LogCaptureFixture
    ) -> None:
        for secret in ("canary-that-is-wrong", "canary-of-the-operator"):
            operator.post("/auth/operator", data={"csrf_token": operator.csrf_token(), "secret": secret})
        operator.post("/auth/lock", data={"csrf_token": operator.csrf_token()})
        common = {"profile": "default", "client": SOMEWHERE}
        failed, entered, left = told()
        assert failed[0] == "operator_unlock"
        assert failed[1].items() >= {**common, "outcome": "failure", "reason": "RequestForbidden"}.items()
        assert entered == ("operator_unlock", {"outcome": "success", **common})
        assert left == ("operator_lock", {"outcome": "success", **common})
        assert "canary" not in caplog.text

    async def test_a_form_that_is_not_ours_and_a_stranger_who_leaves_are_none(
        self, operator: Visitor, told: Told
    ) -> None:
        operator.post("/auth/operator", data={"secret": "canary-of-the-operator"})
        operator.post("/auth/lock", data={"csrf_token": operator.csrf_token()})
        assert told() == []


async def test_the_request_and_the_profile_go_along_into_the_refresh(settings: Settings, written: io.StringIO) -> None:
    """Which runs in a thread and an event loop of its own."""
    oauth = NotionOAuth(settings, profile="work")
    await sign_in(oauth)

    async def answer(request_id: str) -> None:
        REQUEST_ID.set(request_id)
        await oauth.refresh()

    for request_id in ("first", "second"):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer, request_id)
    first, second = [line for line in written.getvalue().splitlines() if "audit refresh outcome=success" in line]
    assert "request_id=first" in first
    assert "request_id=second" in second
    assert "profile=work" in first


async def test_they_go_along_from_code_that_cannot_wait(settings: Settings, written: io.StringIO) -> None:
    oauth = NotionOAuth(settings)
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    REQUEST_ID.set("blocking")
    with httpx.Client(auth=BearerAuth(NotionOAuth(settings)), trust_env=False) as client:
        client.post(settings.server_url, json={})
    [line] = [line for line in written.getvalue().splitlines() if "audit refresh" in line]
    assert "request_id=blocking" in line


def test_a_library_writes_nothing_by_itself(settings: Settings) -> None:
    """Where nobody has configured logging, Python would print warnings to standard error."""
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
