"""Sessions: key rotation, protection against planted cookies, and sign-ins that work once in one browser."""

from __future__ import annotations

import base64
import json
import os
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import anyio
import httpx
import pytest
from fastapi import FastAPI, Request
from itsdangerous import TimestampSigner
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware

from notion_oauth import create_router
from notion_oauth.app import create_app
from notion_oauth.errors import MetadataError, StateMismatch
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.web.sessions.browser_cookies import BrowserCookies
from notion_oauth.web.sessions.pending import SignInCookies
from tests.conftest import Posted
from tests.support.signing_in import sign_in
from tests.support.visiting import PUBLIC, Visitor

OLD, NEW = "old-key-" + "o" * 32, "new-key-" + "n" * 32
COOKIE = "__Host-notion_oauth_session"


@pytest.fixture
def public(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PUBLIC, "secret_key": SecretStr(OLD)})


def with_keys(settings: Settings, *keys: str) -> Settings:
    return settings.model_copy(update={"secret_key": SecretStr(",".join(keys))})


def restarted(settings: Settings, visitor: Visitor) -> Visitor:
    """The same browser, after a restart of the service with other settings."""
    other = Visitor(create_app(settings))
    other.cookies.update(visitor.cookies)
    return other


def test_cookies_are_bound_to_the_host_over_https(public: Settings) -> None:
    visitor = Visitor(create_app(public))
    back = visitor.consent()
    answers = [visitor.get("/auth/login"), visitor.get(back), visitor.get("/")]
    found = [header for answer in answers for header in answer.headers.get_list("set-cookie")]
    for header in found:
        name, _, rest = header.partition("=")
        assert name.startswith("__Host-notion_oauth_")
        attributes = {part.strip().lower() for part in rest.split(";")[1:]}
        assert {"httponly", "secure", "samesite=lax", "path=/"} <= attributes
        assert not [part for part in attributes if part.startswith("domain")]
    kinds = {header.partition("=")[0].removeprefix("__Host-notion_oauth_").partition("_")[0] for header in found}
    assert kinds == {"session", "pending", "completed", "csrf", "notice"}


def test_cookie_without_host_prefix_is_ignored(public: Settings) -> None:
    """Cookie tossing: a sibling host sets our cookie for the whole domain, with the attacker's sign-in."""
    app = create_app(public)
    attacker, victim = Visitor(app), Visitor(app)
    back = attacker.consent()
    for name, value in attacker.cookies.items():
        victim.cookies.set(name.removeprefix("__Host-"), value)
    assert victim.get(back).status_code == 400
    assert victim.status() == {"status": "unauthenticated"}


def test_rotated_key_decrypts_older_sign_ins(public: Settings) -> None:
    visitor = Visitor(create_app(public))
    back = visitor.consent()
    rotated = restarted(with_keys(public, NEW, OLD), visitor)
    assert rotated.get(back).status_code == 303
    assert rotated.status()["status"] == "authenticated"


def test_first_key_signs_and_encrypts(public: Settings) -> None:
    rotated = Visitor(create_app(with_keys(public, NEW, OLD)))
    rotated.sign_in()
    assert TimestampSigner(NEW).validate(rotated.cookies[COOKIE])
    back = rotated.consent()
    assert restarted(with_keys(public, OLD), rotated).get(back).status_code == 400
    assert restarted(with_keys(public, NEW), rotated).get(back).status_code == 303


def test_removed_key_is_no_longer_accepted(public: Settings) -> None:
    visitor = Visitor(create_app(public))
    visitor.sign_in()
    assert restarted(with_keys(public, NEW), visitor).status() == {"status": "unauthenticated"}


@pytest.mark.parametrize("change", [lambda value: value[:-2], lambda value: "x" + value, lambda value: "e30=.x.y"])
def test_changed_cookie_is_ignored(public: Settings, change: object) -> None:
    visitor = Visitor(create_app(public))
    visitor.sign_in()
    forged = change(visitor.cookies[COOKIE])  # type: ignore[operator]
    visitor.cookies.clear()
    visitor.cookies.set(COOKIE, forged)
    assert visitor.status() == {"status": "unauthenticated"}


def test_session_expires(public: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = Visitor(create_app(public))
    visitor.sign_in()
    for name in [name for name in visitor.cookies if "completed" in name]:  # the browser deletes it after ten minutes
        del visitor.cookies[name]
    at_sign_in = TimestampSigner.get_timestamp
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda self: at_sign_in(self) + 31 * 24 * 3600)
    assert visitor.status() == {"status": "unauthenticated"}


@pytest.mark.parametrize("instead", ["code=bogus", "error=access_denied"])
def test_replay_on_another_worker_does_not_end_the_login(public: Settings, instead: str) -> None:
    visitor = Visitor(create_app(public))
    back = visitor.consent()
    copied = restarted(public, visitor)
    assert visitor.get(back).status_code == 303
    path, _, query = back.partition("?")
    state, iss = (parse_qs(query)[name][0] for name in ("state", "iss"))
    assert copied.get(f"{path}?{urlencode({'state': state, 'iss': iss})}&{instead}").status_code >= 400
    assert copied.status() == {"status": "unauthenticated"}
    assert visitor.status()["status"] == "authenticated"
    assert restarted(public, visitor).status()["status"] == "authenticated"


def test_sign_in_completed_on_two_workers_creates_two_logins(public: Settings) -> None:
    """Session fixation across workers: attacker and victim complete the same sign-in."""
    attacker = Visitor(create_app(public))
    url = attacker.get("/auth/login").headers["location"]
    victim = restarted(public, attacker)

    def approve() -> str:
        redirect = urlsplit(httpx.get(url, trust_env=False).headers["location"])
        return redirect._replace(scheme="", netloc="").geturl()

    assert attacker.get(approve()).status_code == 303
    assert victim.get(approve()).status_code == 303
    assert len(list(public.token_file.parent.glob("*.profile"))) == 2
    attacker.post("/auth/logout", data={"csrf_token": attacker.csrf_token()})
    assert victim.status()["status"] == "authenticated"


def signed_session(visitor: Visitor) -> dict[str, Any]:
    """The session of an application with Starlette's SessionMiddleware."""
    found: dict[str, Any] = json.loads(base64.b64decode(visitor.cookies[COOKIE].partition(".")[0]))
    return found


def test_session_values_of_the_application_are_unchanged(settings: Settings, public: Settings) -> None:
    """Its values may be named `profile`, `pending` or `csrf`: they stay, and do not select a login."""
    anyio.run(sign_in, NotionOAuth(settings))  # in the default profile
    app = FastAPI()
    app.include_router(create_router(NotionOAuth(public)))
    app.add_middleware(SessionMiddleware, secret_key="k" * 40, session_cookie=COOKIE, https_only=True)
    own = {"profile": "default", "pending": ["a", "list"], "csrf": 7, "notice": {}, "seen": "x"}

    @app.get("/own")
    async def put(request: Request) -> dict[str, Any]:
        request.session.update(own)
        request.session["notion_oauth.profile"] = "default"  # not a visitor's profile
        return {}

    visitor = Visitor(app)
    visitor.get("/own")
    assert visitor.status() == {"status": "unauthenticated"}
    visitor.sign_in()
    assert visitor.status()["status"] == "authenticated"
    assert {name: signed_session(visitor)[name] for name in own} == own


def test_injected_code_is_refused(public: Settings, grants_asked: Posted) -> None:
    """Code injection: the attacker's code in the victim's redirect fails at PKCE."""
    app = create_app(public)
    victim, attacker = Visitor(app), Visitor(app)
    own, stolen = parse_qs(urlsplit(victim.consent()).query), parse_qs(urlsplit(attacker.consent()).query)
    mixed = {name: values[0] for name, values in {**own, "code": stolen["code"]}.items()}
    refused = victim.get(f"/auth/callback?{urlencode(mixed)}")
    assert refused.status_code == 502
    assert victim.status() == {"status": "unauthenticated"}
    assert grants_asked() == ["authorization_code"]


def test_planted_session_does_not_share_the_login(public: Settings) -> None:
    """Session fixation: the attacker has a copy of the session that the victim signs in with."""
    app = create_app(public)
    attacker = Visitor(app)
    attacker.sign_in()
    form = attacker.csrf_token()
    victim = restarted(public, attacker)
    victim.sign_in()
    assert victim.status()["status"] == "authenticated"
    assert attacker.status() == {"status": "unauthenticated"}, "the previous login has ended"
    assert victim.post("/auth/logout", data={"csrf_token": form}).status_code == 403, "older forms are invalid"
    assert victim.status()["status"] == "authenticated"


def test_callback_of_another_browser_is_refused(public: Settings) -> None:
    """Login CSRF: the redirect of the attacker's sign-in, followed by the victim's browser."""
    app = create_app(public)
    victim, attacker = Visitor(app), Visitor(app)
    victim.get("/")
    assert victim.get(attacker.consent()).status_code == 400
    victim.consent()
    assert victim.get(attacker.consent()).status_code == 400, "also while the victim has a pending sign-in"
    assert victim.status() == {"status": "unauthenticated"}


@pytest.mark.anyio
async def test_sign_in_too_large_for_a_cookie_is_refused(oauth: NotionOAuth) -> None:
    pending = (await oauth.begin_authorization(f"{PUBLIC}/auth/callback")).pending
    random = base64.b64encode(os.urandom(3000)).decode()  # cannot be compressed
    sign_ins = SignInCookies([SecretStr(OLD)], BrowserCookies(public=True))
    request = Request({"type": "http", "headers": [], "session": {}})
    with pytest.raises(MetadataError, match="too long for a cookie"):
        sign_ins.save(request, pending, random)
    with pytest.raises(StateMismatch):
        sign_ins.find(request, pending.state)


def test_session_cannot_be_read(public: Settings) -> None:
    visitor = Visitor(create_app(public))
    visitor.sign_in()
    [file] = public.token_file.parent.glob("*.profile")
    profile = file.name.split(".")[-2].encode()
    assert profile.startswith(b"web-")
    for value in (visitor.cookies[name] for name in visitor.cookies if "notice" not in name):
        content = value.partition(".")[0].encode()
        readable = content + base64.urlsafe_b64decode(content + b"=" * (-len(content) % 4))
        assert profile not in readable
        assert b"notion_oauth" not in readable


def test_signed_session_of_an_earlier_version_is_read_and_then_encrypted(public: Settings) -> None:
    visitor = Visitor(create_app(public))
    visitor.sign_in()
    [file] = public.token_file.parent.glob("*.profile")
    session = {"notion_oauth.profile": file.name.split(".")[-2], "notion_oauth.csrf": "made-up"}
    signed = TimestampSigner(OLD).sign(base64.b64encode(json.dumps(session).encode())).decode()
    visitor.cookies.clear()
    visitor.cookies.set(COOKIE, signed, domain="notion.example")
    assert visitor.status()["status"] == "authenticated"
    assert visitor.cookies[COOKIE] != signed
    assert visitor.status()["status"] == "authenticated"


def test_request_without_cookie_gets_no_cookie(public: Settings) -> None:
    visitor = Visitor(create_app(public))
    answer = visitor.get("/auth/status", headers={"Accept": "application/json"})
    assert "set-cookie" not in answer.headers
