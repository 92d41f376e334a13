"""Which login a request uses: the local user's, a browser session's, an application user's, or the operator's."""

from __future__ import annotations

import gc
import html
import logging
import re
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import pytest
from cryptography.fernet import Fernet
from fastapi import Depends, FastAPI, Request
from filelock import FileLock
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware

from notion_oauth import ValidToken, create_router
from notion_oauth.app import create_app
from notion_oauth.clock import utc_now
from notion_oauth.errors import ConfigurationError
from notion_oauth.files.documents import FileDocuments
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore, TokenStore
from notion_oauth.web.profiles.logins import Logins
from notion_oauth.web.profiles.resolver import ProfileFromRequest
from notion_oauth.web.profiles.visitors import Visitors
from tests.conftest import Posted
from tests.support.log_lines import AuditEvents
from tests.support.signing_in import age, sign_in
from tests.support.stores import HookedDocuments
from tests.support.visiting import PUBLIC, Visitor

JSON = {"Accept": "application/json"}
SECRET = "correct-horse-battery"
COOKIE = "__Host-notion_oauth_session"


@pytest.fixture
def public(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PUBLIC, "secret_key": SecretStr("k" * 40)})


@pytest.fixture
def operated(public: Settings) -> Settings:
    return public.model_copy(update={"operator_secret": SecretStr(SECRET)})


def files_of(settings: Settings) -> list[str]:
    return sorted(file.name for file in settings.token_file.parent.iterdir())


SHARED = [  # by all pending sign-ins
    f".notion-tokens.json.{name}"
    for name in ("web-.profile.clients", "web-.profile.lock", "web-registering.profile.lock")
]


def visitor_files(settings: Settings) -> list[str]:
    """The files of browser sessions, without the shared ones."""
    return [name for name in files_of(settings) if "web-" in name and name not in SHARED]


class TestBrowserSessions:
    """On a public URL each browser session has its own login."""

    def test_browser_sessions_have_separate_logins(self, public: Settings, sandbox: Sandbox) -> None:
        app = create_app(public)
        alice, bob, robot = Visitor(app), Visitor(app), Visitor(app)
        alice.sign_in()
        assert alice.status()["status"] == "authenticated"
        assert bob.status() == robot.status() == {"status": "unauthenticated"}
        bob.sign_in()
        assert sandbox.live_grants == 2
        bob.post("/auth/logout", data={"csrf_token": bob.csrf_token()})
        assert sandbox.live_grants == 1
        assert alice.status()["status"] == "authenticated"

    def test_hints_for_visitors_contain_no_command(self, public: Settings, sandbox: Sandbox) -> None:
        """And no profile name."""
        app = create_app(public)
        visitor = Visitor(app)
        back = visitor.consent()
        sandbox.fail_next("/token", status=400, error="invalid_grant", times=2)
        refused = visitor.get(back, headers=JSON)
        visitor.sign_in()
        data = {"csrf_token": visitor.csrf_token()}
        sandbox.revoke_grants()
        ended = visitor.post("/auth/refresh", data=data, headers=JSON)
        known = visitor.post("/auth/refresh", data=data, headers=JSON)
        for answer in (refused, ended, known):
            assert answer.json()["next"] == "Sign in again at /auth/login"
            assert "web-" not in answer.text
        visitor.sign_in()

    @pytest.mark.anyio
    async def test_visitor_does_not_get_default_profile(self, public: Settings, oauth: NotionOAuth) -> None:
        await sign_in(oauth)
        assert Visitor(create_app(public)).status() == {"status": "unauthenticated"}

    def test_profile_cannot_be_guessed_or_requested(self, public: Settings) -> None:
        app = create_app(public)
        alice, bob = Visitor(app), Visitor(app)
        alice.sign_in()
        (file,) = [name for name in files_of(public) if name.endswith(".profile")]
        found = re.fullmatch(r"\.notion-tokens\.json\.(web-[0-9a-f]{32})\.profile", file)
        assert found
        for query in ({"profile": found[1]}, {"session": found[1]}):
            assert (
                bob.get("/auth/status", params=query, headers={"Accept": "*/*"}).json()["status"] == "unauthenticated"
            )
        assert found[1] not in alice.get("/").text

    def test_pending_sign_in_stores_no_file_for_the_visitor(self, public: Settings) -> None:
        visitor = Visitor(create_app(public))
        before = files_of(public)
        visitor.consent()
        visitor.get(visitor.consent() + "-and-a-wrong-code")
        Visitor(create_app(public)).consent()
        assert files_of(public) == [*before, *SHARED], "only the shared files"

    def test_failed_sign_in_leaves_no_file(self, public: Settings, sandbox: Sandbox) -> None:
        visitor = Visitor(create_app(public))
        sandbox.fail_next("/token", error="invalid_grant", times=2)
        assert visitor.get(visitor.consent()).status_code == 502
        assert visitor_files(public) == []

    @pytest.mark.anyio
    async def test_issuer_of_preregistered_client_is_stored(self, public: Settings, sandbox: Sandbox) -> None:
        """The client is used with one issuer only, in all browser sessions."""
        preregistered = public.model_copy(update={"client_id": "by-hand", "client_secret": SecretStr("canary-secret")})
        started = Visitor(create_app(preregistered)).get("/auth/login")
        assert "client_id=by-hand" in started.headers["location"]
        (stored,) = await NotionOAuth(preregistered).store.load_registrations("default")
        assert (stored.issuer, stored.preregistered) == (sandbox.issuer, True)
        public.token_file.with_name(".notion-tokens.json.clients").write_text(
            public.token_file.with_name(".notion-tokens.json.clients").read_text().replace(sandbox.issuer, PUBLIC)
        )
        refused = Visitor(create_app(preregistered)).get("/auth/login")
        assert refused.status_code == 500
        assert "was not sent there" in html.unescape(refused.text)

    def test_sign_out_leaves_no_file(self, public: Settings) -> None:
        visitor = Visitor(create_app(public))
        visitor.sign_in()
        assert visitor_files(public)
        visitor.post("/auth/logout", data={"csrf_token": visitor.csrf_token()})
        assert visitor_files(public) == []
        assert visitor.status() == {"status": "unauthenticated"}

    @pytest.mark.slow
    def test_sign_out_leaves_no_login_in_memory(self, public: Settings) -> None:
        oauth = NotionOAuth(public)
        visitor = Visitor(create_app(oauth=oauth))
        for _ in range(3):
            visitor.sign_in()
            visitor.get("/")
            assert visitor.status()["status"] == "authenticated"
            visitor.post("/auth/logout", data={"csrf_token": visitor.csrf_token()})
        gc.collect()
        made = [found for found in gc.get_objects() if type(found) is NotionOAuth and found.settings is public]
        assert sorted(found.profile for found in made) == ["default", "web-"], "the latter starts all sign-ins"

    def test_new_sign_in_ends_previous_login(self, public: Settings, sandbox: Sandbox) -> None:
        visitor = Visitor(create_app(public))
        visitor.sign_in()
        visitor.sign_in()
        assert sandbox.live_grants == 1
        assert len([name for name in files_of(public) if name.endswith(".profile")]) == 1

    @pytest.mark.parametrize("preregistered", [True, False], ids=["preregistered", "two sign-ins at a time"])
    def test_new_sign_in_with_same_client_does_not_revoke(
        self, public: Settings, sandbox: Sandbox, audit_events: AuditEvents, preregistered: bool
    ) -> None:
        """Notion ends the previous login itself. Other servers end all logins of a user and a client on revocation."""
        client = {"client_id": registered(sandbox)} if preregistered else {}
        visitor = Visitor(create_app(public.model_copy(update={"refresh_floor": 0, **client})))
        for back in [visitor.consent(), visitor.consent()]:
            assert visitor.get(back).status_code == 303
        assert [request for request in sandbox.requests if "token" in request.form] == [], (
            "no revocation (RFC 7009 §2.1)"
        )
        assert sandbox.live_grants == 1
        assert visitor.status()["status"] == "authenticated"
        assert can_refresh(visitor)
        assert len([name for name in files_of(public) if name.endswith(".profile")]) == 1
        assert [facts["revocation"] for event, facts in audit_events() if event == "sign_out"] == ["superseded"]

    def test_lost_cookie_loses_login(self, public: Settings) -> None:
        visitor = Visitor(create_app(public))
        visitor.sign_in()
        assert "if you delete its cookies, you cannot reach the login any more" in visitor.get("/").text
        visitor.cookies.clear()
        assert visitor.status() == {"status": "unauthenticated"}

    def test_session_is_extended_once_a_day(self, public: Settings) -> None:
        late = [timedelta()]
        visitor = Visitor(create_app(oauth=NotionOAuth(public, clock=lambda: utc_now() + late[0])))
        visitor.sign_in()
        visitor.status()
        for _ in range(2):
            late[0] += timedelta(days=1)
            assert "set-cookie" in visitor.get("/auth/status", headers={"Accept": "*/*"}).headers
            assert "set-cookie" not in visitor.get("/auth/status", headers={"Accept": "*/*"}).headers

    @pytest.mark.anyio
    async def test_login_is_refreshed_for_a_day_after_the_last_visit(self, public: Settings) -> None:
        loaded: list[str] = []

        def record(operation: str, profile: str, content: bytes | None) -> None:
            if operation == "read":
                loaded.append(profile)

        files = FileDocuments(public.token_file, lock_wait=timedelta(seconds=60))
        late = [timedelta()]
        oauth = NotionOAuth(public, store=TokenStore(HookedDocuments(record, files)), clock=lambda: utc_now() + late[0])
        logins = Visitors(oauth, refresh_interval=timedelta(seconds=0.01))
        alice, bob = "web-" + "a" * 32, "web-" + "b" * 32

        def request(name: str) -> Request:
            return Request({"type": "http", "headers": [], "session": {"notion_oauth.profile": name}})

        async def refreshed() -> set[str]:
            """The profiles that the background refresh checks, after a visit of Bob."""
            await logins.for_request(request(bob))
            loaded.clear()
            with anyio.fail_after(10):
                async with logins.background_tasks():
                    while loaded.count(bob) < 3:  # more than one whole round
                        await anyio.sleep(0.01)
            return set(loaded)

        assert await logins.for_request(request(alice)) is not None
        assert await refreshed() == {alice, bob}
        late[0] = timedelta(days=1, seconds=1)
        assert await refreshed() == {bob}
        await logins.for_request(request(alice))
        assert await refreshed() == {alice, bob}
        await logins.sign_out(request(alice))
        assert await refreshed() == {bob}

    def test_refresh_without_login_is_refused(self, public: Settings) -> None:
        visitor = Visitor(create_app(public))
        visitor.sign_in()
        token = visitor.csrf_token()
        visitor.post("/auth/logout", data={"csrf_token": token})
        assert visitor.post("/auth/refresh", data={"csrf_token": token}).status_code == 401
        assert (
            "You were not signed in"
            in visitor.get(visitor.post("/auth/logout", data={"csrf_token": token}).headers["location"]).text
        )


def registered(sandbox: Sandbox) -> str:
    """The id of a client that was registered manually for this service."""
    metadata = {"redirect_uris": [f"{PUBLIC}/auth/callback"], "token_endpoint_auth_method": "none"}
    answer = httpx.post(f"{sandbox.base_url}/register", json=metadata, trust_env=False)
    client_id: str = answer.json()["client_id"]
    return client_id


def can_refresh(visitor: Visitor) -> bool:
    """Whether a refresh succeeds."""
    return visitor.post("/auth/refresh", data={"csrf_token": visitor.csrf_token()}).status_code == 303


class TestUnusableLogin:
    """A visitor whose login cannot be used can sign in again, and sign out."""

    @pytest.fixture
    def without_floor(self, public: Settings) -> Settings:
        return public.model_copy(update={"refresh_floor": 0})

    @pytest.fixture(params=["damaged", "encrypted with a lost key", "for another server"])
    def visitor(self, request: pytest.FixtureRequest, without_floor: Settings, sandbox: Sandbox) -> Visitor:
        """A browser with an unusable login."""
        kinds = {"encrypted with a lost key": {"encryption_key": SecretStr(Fernet.generate_key().decode())}}
        before = Visitor(create_app(without_floor.model_copy(update=kinds.get(request.param, {}))))
        before.sign_in()
        file = visitor_file(without_floor)
        if request.param == "damaged":
            file.write_text("{}")
        elif request.param == "for another server":
            file.write_text(file.read_text().replace(sandbox.mcp_url, "https://elsewhere.example/mcp"))
        elif request.param == "encrypted with a lost key":
            for name in SHARED:  # test the visitor's own file, not the shared ones
                file.with_name(name).unlink()
        after = Visitor(create_app(without_floor))
        after.cookies = before.cookies
        return after

    def test_page_offers_sign_in_and_sign_out(
        self, visitor: Visitor, caplog: pytest.LogCaptureFixture, without_floor: Settings
    ) -> None:
        page = visitor.get("/")
        assert page.status_code in (500, 409)
        assert "login cannot be used" in page.text
        assert 'href="/auth/login"' in page.text
        assert 'action="/auth/logout"' in page.text
        assert str(without_floor.token_file) not in page.text
        assert "elsewhere.example" not in page.text
        assert "The login of a browser session cannot be used" in caplog.text
        data = visitor.get("/", headers={"Accept": "application/json"})
        assert data.status_code == page.status_code
        assert data.json()["next"].startswith("Sign in again")

    def test_visitor_can_sign_in_again(
        self, visitor: Visitor, without_floor: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = visitor_file(without_floor)
        content = file.read_text()
        visitor.sign_in()
        assert "Starting a sign-in although the previous login cannot be read" in caplog.text
        assert visitor.status()["status"] == "authenticated"
        assert can_refresh(visitor)
        if "elsewhere" not in content:  # only that one can be ended
            assert file.read_text() == content, "the file is unchanged"
            assert "The login that a sign-in has replaced could not be ended" in caplog.text

    def test_visitor_can_sign_out(
        self, visitor: Visitor, without_floor: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = visitor_file(without_floor)
        content = file.read_text()
        done = visitor.post("/auth/logout", data={"csrf_token": visitor.csrf_token()})
        assert done.status_code == 303
        page = visitor.get("/")
        assert page.status_code == 200
        assert visitor.status() == {"status": "unauthenticated"}
        if "elsewhere" not in content:
            assert file.read_text() == content, "the file is unchanged"
            assert "could not delete the stored tokens" in page.text
            assert "could not be ended" in caplog.text

    def test_held_lock_is_a_temporary_error(self, without_floor: Settings) -> None:
        """The next try can revoke the grant too."""
        oauth = NotionOAuth(
            without_floor, store=JsonFileStore(without_floor.token_file, lock_wait=timedelta(seconds=0.1))
        )
        visitor = Visitor(create_app(oauth=oauth))
        visitor.sign_in()
        token = visitor.csrf_token()
        with FileLock(visitor_file(without_floor).with_name(visitor_file(without_floor).name + ".lock")):
            assert visitor.post("/auth/logout", data={"csrf_token": token}).status_code == 503
        assert visitor.status()["status"] == "authenticated"

    def test_local_login_is_left_to_its_user(self, settings: Settings) -> None:
        app = create_app(settings)
        local = Visitor(app, "http://127.0.0.1:8000", client="127.0.0.1")
        local.sign_in()
        token = local.csrf_token()
        settings.token_file.write_text("{}")
        shown = local.get("/")
        assert shown.status_code == 500
        assert "login cannot be used" not in shown.text
        assert local.get("/auth/login").status_code == 500
        assert local.post("/auth/logout", data={"csrf_token": token}).status_code == 500
        assert settings.token_file.read_text() == "{}"


def visitor_file(settings: Settings) -> Path:
    """The token file of the only visitor with a login."""
    [file] = settings.token_file.parent.glob(".*.web-?*.profile")
    return file


def by_header(request: Request) -> str | None:
    return request.headers.get("x-user")


async def by_header_async(request: Request) -> str | None:
    return request.headers.get("x-user")


def application(settings: Settings, profile: ProfileFromRequest) -> FastAPI:
    app = FastAPI()
    oauth = NotionOAuth(settings)
    app.add_middleware(SessionMiddleware, secret_key="k" * 32)
    app.include_router(create_router(oauth, profile=profile))
    valid = Depends(ValidToken(oauth, profile=profile))

    @app.get("/token-of")
    async def token_of(token: SecretStr = valid) -> str:
        return token.get_secret_value()

    return app


def visiting(app: FastAPI, user: str | None) -> Visitor:
    visitor = Visitor(app)
    if user is not None:
        visitor.headers["X-User"] = user
    return visitor


class TestApplicationUsers:
    """The application names the profile of each request."""

    @pytest.mark.parametrize("profile", [by_header, by_header_async])
    def test_users_have_separate_logins(self, public: Settings, profile: ProfileFromRequest) -> None:
        app = application(public, profile)
        alice, bob = visiting(app, "user-1"), visiting(app, "user-2")
        alice.sign_in()
        assert bob.status() == {"status": "unauthenticated"}
        assert bob.get("/token-of").status_code == 401
        bob.sign_in()
        tokens = {visitor.get("/token-of").json() for visitor in (alice, bob)}
        assert len(tokens) == 2
        assert [name for name in files_of(public) if name.endswith(".profile")] == [
            f".notion-tokens.json.user-{number}.profile" for number in (1, 2)
        ]
        bob.post("/auth/logout", data={"csrf_token": bob.csrf_token("/auth/status")})
        assert alice.status()["status"] == "authenticated"

    @pytest.mark.parametrize("path", ["/auth/status", "/auth/login", "/auth/callback?state=x"])
    def test_unknown_user_is_refused(self, public: Settings, sandbox: Sandbox, path: str) -> None:
        answer = visiting(application(public, by_header), None).get(path)
        assert answer.status_code == (400 if "callback" in path else 401)
        assert sandbox.requests == []

    def test_endpoint_refuses_unknown_user(self, public: Settings) -> None:
        app = application(public, by_header)
        visiting(app, "user-1").sign_in()
        refused = visiting(app, None).get("/token-of")
        assert refused.status_code == 401
        assert refused.json()["detail"]["error"] == "NotIdentified"
        assert "login" not in refused.json()["detail"]
        assert refused.headers["www-authenticate"]

    def test_another_user_cannot_complete_the_sign_in(self, public: Settings, grants_asked: Posted) -> None:
        visitor = visiting(application(public, by_header), "user-1")
        back = visitor.consent()
        visitor.headers["X-User"] = "user-2"
        answer = visitor.get(back)
        assert answer.status_code == 400
        assert "another user" in answer.text
        assert grants_asked() == []

    @pytest.mark.parametrize("name", ["", "../x", "a/b", "x" * 65, "-x", "a.b", "a\u00e9", 7])
    def test_invalid_profile_name_is_an_application_error(self, public: Settings, name: object) -> None:
        answer = Visitor(application(public, lambda request: name)).get("/auth/status")  # type: ignore[arg-type,return-value]
        assert answer.status_code == 500
        assert "invalid profile name" in answer.text

    @pytest.mark.anyio
    async def test_stored_logins_are_refreshed(self, public: Settings, sandbox: Sandbox, grants_asked: Posted) -> None:
        oauth = NotionOAuth(public)
        for number in (1, 2):
            await sign_in(oauth.for_profile(f"user-{number}"))
            age(public.token_file.with_name(f".notion-tokens.json.user-{number}.profile"), minutes=57)
        with Visitor(application(public, by_header)):
            with anyio.fail_after(10):
                while grants_asked().count("refresh_token") < 2:
                    await anyio.sleep(0.01)

    @pytest.mark.anyio
    async def test_failed_refresh_is_logged_and_does_not_block_others(
        self, public: Settings, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        oauth = NotionOAuth(public)
        await sign_in(oauth.for_profile("user-1"))
        (public.token_file.with_name(".notion-tokens.json.user-0.profile")).write_text("{}")
        age(public.token_file.with_name(".notion-tokens.json.user-1.profile"), hours=2)
        with caplog.at_level(logging.WARNING), Visitor(application(public, by_header)), anyio.fail_after(10):
            while (await oauth.for_profile("user-1").status()).status != "authenticated" or not caplog.records:
                await anyio.sleep(0.01)
        assert "has no access_token" in caplog.text

    def test_logins_in_memory_are_bounded(self, public: Settings) -> None:
        logins = Logins(NotionOAuth(public), max_logins=2)
        first, second = logins.for_profile("user-1"), logins.for_profile("user-2")
        assert logins.for_profile("user-1") is first
        logins.for_profile("user-3")
        assert logins.for_profile("user-1") is first
        assert logins.for_profile("user-2") is not second


class TestOperator:
    """If an operator's secret is set, a session that has sent it uses the service's one profile."""

    @pytest.fixture
    def app(self, operated: Settings) -> FastAPI:
        return create_app(operated)

    def unlock(self, visitor: Visitor, secret: str = SECRET) -> int:
        return visitor.post("/auth/operator", data={"csrf_token": visitor.csrf_token(), "secret": secret}).status_code

    def test_secret_is_required_once_for_each_session(self, app: FastAPI, operated: Settings) -> None:
        operator = Visitor(app)
        page = operator.get("/")
        assert page.status_code == 401
        assert "operator" in page.text
        assert self.unlock(operator) == 303
        assert operator.get("/").status_code == 200
        operator.sign_in()
        assert operated.token_file.exists(), "the one profile is used"
        assert operator.status()["status"] == "authenticated"

    @pytest.mark.anyio
    async def test_other_visitors_are_refused(self, app: FastAPI, oauth: NotionOAuth, sandbox: Sandbox) -> None:
        await sign_in(oauth)
        before = len(sandbox.requests)
        stranger = Visitor(app)
        token = stranger.csrf_token()
        for path in ("/", "/auth/status", "/auth/login"):
            assert stranger.get(path).status_code == 401
            answer = stranger.get(path, headers={"Accept": "*/*"})
            assert (answer.status_code, answer.json()["error"]) == (401, "OperatorRequired")
        for path in ("/auth/refresh", "/auth/logout"):
            assert stranger.post(path, data={"csrf_token": token}).status_code == 401
        assert len(sandbox.requests) == before
        assert (await oauth.status()).status == "authenticated"

    @pytest.mark.parametrize("secret", ["", "wrong", SECRET[:-1], SECRET + "x", SECRET.upper(), "\u00e9"])
    def test_wrong_secret_is_refused(self, app: FastAPI, secret: str) -> None:
        stranger = Visitor(app)
        assert self.unlock(stranger, secret) == 403
        assert stranger.get("/").status_code == 401

    def test_form_requires_csrf_token(self, app: FastAPI) -> None:
        stranger = Visitor(app)
        stranger.get("/")
        assert stranger.post("/auth/operator", data={"secret": SECRET}).status_code == 403
        data = {"csrf_token": stranger.csrf_token(), "secret": SECRET}
        assert stranger.post("/auth/operator", data=data, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert stranger.get("/").status_code == 401

    def test_secret_is_in_no_page_and_no_cookie(self, app: FastAPI) -> None:
        operator = Visitor(app)
        answers = [operator.get("/"), operator.post("/auth/operator", data={"secret": SECRET})]
        self.unlock(operator)
        answers.append(operator.get("/"))
        assert all(SECRET not in answer.text + str(answer.headers) for answer in answers)
        assert SECRET not in operator.cookies[COOKIE]

    def test_unlock_starts_a_new_session(self, app: FastAPI) -> None:
        """Session fixation: an attacker who planted the session gets no access."""
        operator, attacker = Visitor(app), Visitor(app)
        form = operator.csrf_token()
        attacker.cookies.update(operator.cookies)
        assert self.unlock(operator) == 303
        assert attacker.get("/").status_code == 401
        operator.sign_in()
        assert operator.post("/auth/logout", data={"csrf_token": form}).status_code == 403

    @pytest.mark.parametrize(
        "changed",
        [{"operator_secret": SecretStr("another-secret-of-some-length")}, {"secret_key": SecretStr("x" * 40)}],
        ids=["secret", "key"],
    )
    def test_new_secret_or_key_ends_all_sessions(
        self, app: FastAPI, operated: Settings, changed: dict[str, SecretStr]
    ) -> None:
        operator = Visitor(app)
        self.unlock(operator)
        later = Visitor(create_app(operated.model_copy(update=changed)))
        later.cookies.update(operator.cookies)
        assert later.get("/").status_code == 401

    def test_session_ends_after_eight_hours_of_use(self, operated: Settings) -> None:
        late = [timedelta()]
        operator = Visitor(create_app(oauth=NotionOAuth(operated, clock=lambda: utc_now() + late[0])))
        self.unlock(operator)
        late[0] = timedelta(hours=7, minutes=59)
        assert operator.get("/").status_code == 200
        late[0] = timedelta(hours=8, minutes=1)
        assert operator.get("/").status_code == 401

    def test_visitor_session_is_not_an_operator_session(self, public: Settings, operated: Settings) -> None:
        visitor = Visitor(create_app(public))
        visitor.sign_in()
        later = Visitor(create_app(operated))
        later.cookies.update(visitor.cookies)
        assert later.get("/").status_code == 401

    def test_lock_ends_the_session_but_not_the_login(self, app: FastAPI, sandbox: Sandbox) -> None:
        operator = Visitor(app)
        self.unlock(operator)
        operator.sign_in()
        page = operator.get("/").text
        assert 'action="/auth/lock"' in page
        pending = operator.consent()
        locked = operator.post("/auth/lock", data={"csrf_token": operator.csrf_token()})
        assert (locked.status_code, locked.headers["location"]) == (303, "/auth/status")
        for path in ("/", "/auth/status", "/auth/login"):
            assert operator.get(path).status_code == 401
        assert COOKIE not in operator.cookies
        assert operator.get(pending).status_code == 400, "pending sign-ins are removed too"
        assert sandbox.live_grants == 1
        self.unlock(operator)
        assert operator.status()["status"] == "authenticated"

    @pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, None])
    def test_other_sites_cannot_lock(self, app: FastAPI, headers: dict[str, str] | None) -> None:
        operator = Visitor(app)
        self.unlock(operator)
        data = {"csrf_token": operator.csrf_token() if headers else "another"}
        assert operator.post("/auth/lock", data=data, headers=headers).status_code == 403
        assert operator.get("/auth/lock").status_code == 405
        assert operator.get("/").status_code == 200

    def test_no_lock_route_without_secret(self, public: Settings) -> None:
        visitor = Visitor(create_app(public))
        assert "/auth/lock" not in visitor.get("/").text
        assert visitor.post("/auth/lock").status_code == 404

    def test_secret_is_required_on_loopback(self, operated: Settings) -> None:
        local = operated.model_copy(update={"public_url": None})
        assert Visitor(create_app(local), "http://localhost", client="127.0.0.1").get("/").status_code == 401


def test_error_of_profile_function_is_shown(public: Settings) -> None:
    """If it is a NotionOAuthError."""

    def closed(request: Request) -> str:
        raise ConfigurationError("The directory of users is not set up.")

    answer = Visitor(application(public, closed)).get("/auth/status")
    assert (answer.status_code, "directory of users" in answer.text) == (500, True)
