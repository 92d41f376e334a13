"""Requests of one browser that overlap: tabs, double clicks and reloads, at several workers, with late responses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import httpx
import pytest
from fastapi import FastAPI, Request
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware

from notion_oauth import create_router
from notion_oauth.app import create_app
from notion_oauth.clock import utc_now
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.tokens.code_claims import CodeClaim
from tests.conftest import Posted
from tests.support.log_lines import AuditEvents
from tests.support.visiting import PUBLIC, Visitor

SESSION = "__Host-notion_oauth_session"
SECRET = "correct-horse-battery"


@pytest.fixture
def public(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PUBLIC, "secret_key": SecretStr("k" * 40)})


def tab(visitor: Visitor, app: FastAPI | None = None) -> Visitor:
    """The same browser, which sends its present cookies and stores the cookies of the response later."""
    other = Visitor(app or visitor.app)  # type: ignore[arg-type]
    other.cookies.update(visitor.cookies)
    return other


def receive(visitor: Visitor, *answers: Any) -> None:
    """Let the responses arrive in this order."""
    for answer in answers:
        visitor.cookies.extract_cookies(answer)


def consent(login: Any) -> str:
    """Approve the sign-in that the response has started. The path and query that the browser comes back with."""
    redirect: str = httpx.get(login.headers["location"], trust_env=False).headers["location"]
    return urlsplit(redirect)._replace(scheme="", netloc="").geturl()


def shown(page: str) -> str:
    """The page without what differs between requests."""
    return re.sub(r"<code>[0-9a-f]{16}</code>", "", page)


def works(visitor: Visitor) -> bool:
    """Whether the browser has a login that the server knows."""
    if visitor.status()["status"] != "authenticated":
        return False
    return visitor.post("/auth/refresh", data={"csrf_token": visitor.csrf_token()}).status_code == 303


@pytest.fixture
def browser(public: Settings) -> Visitor:
    return Visitor(create_app(public.model_copy(update={"refresh_floor": 0})))


class TestTabs:
    """Several sign-ins and pages of a browser at a time."""

    def test_late_response_of_a_login_restores_no_session(self, browser: Visitor) -> None:
        back = browser.consent()
        late = tab(browser).get("/auth/login")
        receive(browser, tab(browser).get(back), late)
        assert works(browser)
        assert browser.get(consent(late)).status_code == 303
        assert works(browser)

    def test_sign_ins_that_start_at_once_are_both_completed(self, browser: Visitor) -> None:
        first, second = (tab(browser).get("/auth/login") for _ in range(2))
        receive(browser, first, second)
        for started in (first, second):
            assert browser.get(consent(started)).status_code == 303
            assert works(browser)

    @pytest.mark.parametrize("path", ["/", "/auth/status"])
    def test_page_that_was_requested_before_the_sign_in_changes_no_session(self, browser: Visitor, path: str) -> None:
        back = browser.consent()
        page = tab(browser).get(path)
        receive(browser, tab(browser).get(back), page)
        assert works(browser)

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    def test_of_parallel_sign_ins_the_newest_is_used(self, browser: Visitor, order: Sequence[int]) -> None:
        """The server ends the earlier login of the same user and client."""
        redirects = [browser.consent(), browser.consent()]
        done = [(tab(browser), back) for back in redirects]
        answers = [each.get(back) for each, back in done]
        receive(browser, *(answers[index] for index in order))
        assert works(browser)

    def test_sign_out_ends_the_logins_of_all_parallel_sign_ins(
        self, browser: Visitor, public: Settings, sandbox: Sandbox
    ) -> None:
        redirects = [browser.consent(), browser.consent()]
        receive(browser, *[tab(browser).get(back) for back in redirects])
        assert len(list(public.token_file.parent.glob("*.web-?*.profile"))) == 2
        browser.post("/auth/logout", data={"csrf_token": browser.csrf_token()})
        assert list(public.token_file.parent.glob("*.web-?*.profile")) == []
        assert sandbox.live_grants == 0
        assert browser.status() == {"status": "unauthenticated"}

    def test_response_from_before_the_sign_in_that_restores_the_session_is_corrected(self, browser: Visitor) -> None:
        browser.sign_in()
        before = browser.cookies[SESSION]
        browser.sign_in()
        browser.cookies.set(SESSION, before, domain="notion.example", path="/")
        assert works(browser)

    def test_operator_stays_unlocked(self, public: Settings) -> None:
        operator = Visitor(create_app(public.model_copy(update={"operator_secret": SecretStr(SECRET)})))
        operator.get("/")
        page = tab(operator).get("/")
        operator.post("/auth/operator", data={"csrf_token": operator.csrf_token(), "secret": SECRET})
        receive(operator, page)
        assert operator.get("/").status_code == 200

    def test_session_is_written_only_where_it_changes(self, browser: Visitor) -> None:
        answers = [browser.get("/"), browser.get("/auth/login")]
        answers += [done := browser.get(consent(answers[-1])), browser.get("/"), browser.get("/auth/login")]
        written = [answer for answer in answers if SESSION in str(answer.headers.get_list("set-cookie"))]
        assert written == [done]


def application(settings: Settings, *, users: bool) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key="k" * 40, https_only=True)
    profile = (lambda request: request.session.get("user")) if users else None
    app.include_router(create_router(NotionOAuth(settings), profile=profile))

    @app.get("/log-in")
    async def log_in(request: Request) -> None:
        request.session["user"] = "user-1"

    return app


@pytest.mark.parametrize("users", [True, False])
def test_session_of_an_application_changes_only_where_it_must(public: Settings, users: bool) -> None:
    """A login that belongs to a browser session is stored in it; otherwise the session does not change."""
    visitor = Visitor(application(public, users=users))
    visitor.get("/log-in")
    changed = []
    started = visitor.get("/auth/login")
    answers = [visitor.get("/auth/status"), started, visitor.get(consent(started)), visitor.get("/auth/status")]
    form = {"csrf_token": visitor.csrf_token("/auth/status")}
    answers += [visitor.post("/auth/refresh", data=form), visitor.post("/auth/logout", data=form)]
    for name, answer in zip(("status", "login", "callback", "status", "refresh", "logout"), answers, strict=True):
        assert answer.status_code in (200, 303), answer.text
        if [header for header in answer.headers.get_list("set-cookie") if header.startswith("session=")]:
            changed.append(name)
    assert changed == ([] if users else ["callback", "logout"])


class TestRepeatedCallback:
    """A reload or a double click: the same browser sends the same redirect again."""

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)])
    @pytest.mark.parametrize("elsewhere", [False, True], ids=["same worker", "another worker"])
    def test_both_requests_sign_in(
        self, public: Settings, grants_asked: Posted, order: Sequence[int], elsewhere: bool
    ) -> None:
        browser = Visitor(create_app(public.model_copy(update={"refresh_floor": 0})))
        back = browser.consent()
        tabs = [tab(browser), tab(browser, create_app(public) if elsewhere else None)]
        answers = [each.get(back) for each in tabs]
        assert [(each.status_code, each.headers["location"]) for each in answers] == [(303, "/auth/status")] * 2
        assert grants_asked() == ["authorization_code"], "the code is sent once"
        receive(browser, *(answers[index] for index in order))
        assert works(browser)
        assert "pending" not in str(browser.cookies)

    @pytest.mark.slow
    def test_second_request_waits_for_the_first(
        self, public: Settings, sandbox: Sandbox, grants_asked: Posted, audit_events: AuditEvents
    ) -> None:
        sandbox.misbehave_next("/token", "slow", seconds=0.4)
        browser = Visitor(create_app(public))
        back = browser.consent()
        tabs = [tab(browser, create_app(public)) for _ in range(4)]
        with ThreadPoolExecutor(4) as threads:
            answers = list(threads.map(lambda each: each.get(back), tabs))
        assert [answer.status_code for answer in answers] == [303] * 4
        assert grants_asked() == ["authorization_code"]
        for each in tabs:
            assert each.status()["status"] == "authenticated"
        assert [event for event, _ in audit_events()].count("sign_in") == 1

    def test_reload_after_the_response_is_answered_in_the_same_way(
        self, browser: Visitor, grants_asked: Posted
    ) -> None:
        back = browser.consent()
        assert browser.get(back).status_code == 303
        for _ in range(2):
            again = browser.get(back)
            assert again.status_code == 303
            assert "completed" not in str(again.headers.get_list("set-cookie")), "its ten minutes do not begin again"
            assert "You are signed in" in browser.get("/auth/status").text
        assert grants_asked() == ["authorization_code"]

    def test_other_code_is_not_sent_after_the_sign_in(self, browser: Visitor, grants_asked: Posted) -> None:
        started = browser.get("/auth/login")
        first, second = consent(started), consent(started)
        assert browser.get(first).status_code == 303
        answer = browser.get(second)
        assert answer.status_code == 400
        assert "completed this sign-in already" in answer.text
        assert grants_asked() == ["authorization_code"]
        assert works(browser)

    def test_both_codes_of_one_sign_in_work_at_once(self, browser: Visitor) -> None:
        """A double click on the consent page: the browser receives only the second response."""
        started = browser.get("/auth/login")
        first, second = consent(started), consent(started)
        tab(browser).get(first)
        assert browser.get(second).status_code == 303
        assert works(browser)

    @pytest.mark.parametrize("elsewhere", [False, True], ids=["same worker", "another worker"])
    def test_failure_is_repeated(
        self, browser: Visitor, public: Settings, sandbox: Sandbox, grants_asked: Posted, elsewhere: bool
    ) -> None:
        sandbox.fail_next("/token", error="invalid_grant", description="Authorization code expired")
        back = browser.consent()
        before = tab(browser, create_app(public) if elsewhere else None)
        first = browser.get(back)
        assert first.status_code == 502
        for each in (before, browser, browser):
            again = each.get(back)
            assert (again.status_code, shown(again.text)) == (502, shown(first.text))
        assert "Authorization code expired" in first.text
        assert grants_asked() == ["authorization_code"]
        assert "pending" not in str(browser.cookies)

    @pytest.mark.slow
    def test_busy_server_is_asked_again_by_the_first_request_only(
        self, public: Settings, sandbox: Sandbox, grants_asked: Posted
    ) -> None:
        retrying = public.model_copy(update={"retry_for": 5.0, "timeout": 0.7})  # shorter than the retries
        sandbox.fail_next("/token", status=429, times=2)
        browser = Visitor(create_app(retrying))
        back = browser.consent()
        tabs = [tab(browser, create_app(retrying)) for _ in range(2)]
        with ThreadPoolExecutor(2) as threads:
            assert [each.status_code for each in threads.map(lambda each: each.get(back), tabs)] == [303, 303]
        assert grants_asked() == ["authorization_code"] * 3

    def test_nobody_is_signed_in_after_a_sign_out(self, browser: Visitor, grants_asked: Posted) -> None:
        back = browser.consent()
        before = tab(browser)
        browser.get(back)
        after = tab(browser)
        browser.post("/auth/logout", data={"csrf_token": browser.csrf_token()})
        for each in (before, after, browser):
            answer = each.get(back)
            assert answer.status_code == 400
            assert 'href="/auth/login"' in answer.text
            assert each.status() == {"status": "unauthenticated"}
        assert grants_asked().count("authorization_code") == 1

    def test_nobody_is_told_of_another_login_after_a_sign_out(self, settings: Settings) -> None:
        """One login for all browsers: another one signs in after the sign-out."""
        app = create_app(settings)
        local, other = (Visitor(app, "http://127.0.0.1:8000", client="127.0.0.1") for _ in range(2))
        back = local.consent()
        assert local.get(back).status_code == 303
        local.post("/auth/logout", data={"csrf_token": local.csrf_token()})
        other.sign_in()
        assert local.get(back).status_code == 400

    def test_later_login_of_the_browser_stays(self, browser: Visitor) -> None:
        back = browser.consent()
        before = tab(browser)
        browser.get(back)
        browser.sign_in()
        receive(browser, before.get(back), browser.get(back))
        assert works(browser)

    @pytest.mark.parametrize("behind", [timedelta(minutes=-1), timedelta()])
    def test_later_login_stays_although_its_clock_is_behind(self, public: Settings, behind: timedelta) -> None:
        """Two machines; the second sign-in is at the one whose clock is behind."""
        settings = public.model_copy(update={"refresh_floor": 0})
        late = create_app(oauth=NotionOAuth(settings, clock=lambda: utc_now() + behind))
        browser = Visitor(create_app(settings))
        first = browser.consent()
        browser.get(first)
        second = browser.consent()
        before = tab(browser, late)
        receive(browser, tab(browser, late).get(second))
        assert works(browser)
        receive(browser, before.get(second))
        assert works(browser)
        assert browser.get(first).status_code == 303
        assert works(browser)

    def test_another_browser_is_refused(self, public: Settings, browser: Visitor) -> None:
        back = browser.consent()
        browser.get(back)
        stranger = Visitor(create_app(public))
        stranger.sign_in()
        assert stranger.get(back).status_code == 400

    def test_another_user_is_refused(self, public: Settings) -> None:
        app = FastAPI()
        app.add_middleware(SessionMiddleware, secret_key="k" * 40, https_only=True)
        app.include_router(create_router(NotionOAuth(public), profile=lambda request: request.headers.get("x-user")))
        visitor = Visitor(app)
        visitor.headers["X-User"] = "user-1"
        back = visitor.consent()
        assert visitor.get(back).status_code == 303
        assert visitor.get(back).status_code == 303
        visitor.headers["X-User"] = "user-2"
        assert visitor.get(back).status_code == 400

    def test_storage_error_before_the_code_is_sent_can_be_repeated(
        self, settings: Settings, grants_asked: Posted
    ) -> None:
        local = Visitor(create_app(settings), "http://127.0.0.1:8000", client="127.0.0.1")
        back = local.consent()
        settings.token_file.mkdir()
        assert local.get(back).status_code == 500
        assert grants_asked() == []
        settings.token_file.rmdir()
        assert local.get(back).status_code == 303

    def test_declined_sign_in_ends(self, browser: Visitor, sandbox: Sandbox) -> None:
        started = browser.get("/auth/login")
        state = dict(parse_qsl(urlsplit(started.headers["location"]).query))["state"]
        query = {"error": "access_denied", "state": state, "iss": sandbox.issuer}
        assert browser.get("/auth/callback", params=query).status_code == 403
        assert "pending" not in str(browser.cookies)
        browser.sign_in()

    @pytest.mark.slow
    def test_claimed_code_without_an_outcome_is_not_sent(
        self, public: Settings, sandbox: Sandbox, grants_asked: Posted
    ) -> None:
        """The worker that had claimed it has died."""
        oauth = NotionOAuth(public.model_copy(update={"timeout": 0.2}))
        browser = Visitor(create_app(public))
        back = browser.consent()
        response = parse_authorization_response(parse_qsl(urlsplit(back).query))
        anyio.run(CodeClaim(oauth.store, response, request_timeout=timedelta(seconds=1)).take)
        answer = tab(browser, create_app(oauth=oauth)).get(back)
        assert answer.status_code == 400
        assert "Sign in again" in answer.text
        assert re.search('<a class="btn go" id="login" href="/auth/login">', answer.text)
        assert grants_asked() == []
        browser.sign_in()
