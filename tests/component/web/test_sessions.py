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
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.web.sessions.pending import PendingAuthorizations
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


def test_cookie_is_bound_to_the_host_over_https(public: Settings) -> None:
    set_cookie = Visitor(create_app(public)).get("/auth/login").headers["set-cookie"]
    name, _, rest = set_cookie.partition("=")
    assert name == COOKIE
    attributes = {part.strip().lower() for part in rest.split(";")[1:]}
    assert {"httponly", "secure", "samesite=lax", "path=/"} <= attributes
    assert not [part for part in attributes if part.startswith("domain")]
    assert [part for part in attributes if part.startswith("max-age=")]


def test_cookie_without_host_prefix_is_ignored(public: Settings) -> None:
    """Cookie tossing: a sibling host sets our cookie for the whole domain, with the attacker's sign-in."""
    app = create_app(public)
    attacker, victim = Visitor(app), Visitor(app)
    back = attacker.consent()
    victim.cookies.set("notion_oauth_session", attacker.cookies[COOKIE])
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
    back = rotated.consent()
    assert TimestampSigner(NEW).validate(rotated.cookies[COOKIE])
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
    at_sign_in = TimestampSigner.get_timestamp
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda self: at_sign_in(self) + 31 * 24 * 3600)
    assert visitor.status() == {"status": "unauthenticated"}


def test_sign_in_cannot_be_replayed_with_a_copied_cookie(public: Settings, sandbox: Sandbox) -> None:
    """Replay of the cookie from before the callback, with the same redirect."""
    visitor = Visitor(create_app(public))
    back = visitor.consent()
    before = visitor.cookies[COOKIE]
    assert visitor.get(back).status_code == 303
    before_replay = len(sandbox.requests)
    visitor.cookies.clear()
    visitor.cookies.set(COOKIE, before)
    replayed = visitor.get(back)
    assert replayed.status_code == 400
    assert "has completed it already" in replayed.text
    assert len(sandbox.requests) == before_replay, "no request to the server"


def test_replay_on_another_worker_is_refused_by_the_server(public: Settings) -> None:
    """Across workers: the server accepts a code once, and the replay signs no browser in."""
    visitor = Visitor(create_app(public))
    back = visitor.consent()
    elsewhere = restarted(public, visitor)
    assert visitor.get(back).status_code == 303
    assert elsewhere.get(back).status_code == 502
    assert elsewhere.status() == {"status": "unauthenticated"}


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
    victim_s, attacker_s = (signed_session(visitor)["notion_oauth.profile"] for visitor in (victim, attacker))
    assert victim_s != attacker_s


def signed_session(visitor: Visitor) -> dict[str, Any]:
    value = visitor.cookies[COOKIE].partition(".")[0]
    found: dict[str, Any] = json.loads(base64.b64decode(value + "=" * (-len(value) % 4)))
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
async def test_memory_of_completed_sign_ins_is_bounded(oauth: NotionOAuth) -> None:
    sign_ins = PendingAuthorizations([SecretStr(OLD)], max_completed=1)
    session: dict[str, Any] = {}
    first, second = [(await oauth.begin_authorization(f"{PUBLIC}/auth/callback")).pending for _ in range(2)]
    for pending in (first, second):
        sign_ins.save(session, pending, "default")
    copy = dict(session)
    for pending in (first, second):
        assert sign_ins.pop(session, pending.state) == (pending, "default")
    with pytest.raises(StateMismatch, match="completed it already"):
        sign_ins.pop(dict(copy), second.state)
    assert sign_ins.pop(dict(copy), first.state), "only the last one is remembered"


@pytest.mark.anyio
async def test_sign_in_too_large_for_a_cookie_is_refused(oauth: NotionOAuth) -> None:
    pending = (await oauth.begin_authorization(f"{PUBLIC}/auth/callback")).pending
    random = base64.b64encode(os.urandom(3000)).decode()  # cannot be compressed
    session: dict[str, Any] = {}
    with pytest.raises(MetadataError, match="too long for a cookie"):
        PendingAuthorizations([SecretStr(OLD)]).save(session, pending, random)
    assert session == {}


def test_request_without_cookie_gets_no_cookie(public: Settings) -> None:
    visitor = Visitor(create_app(public))
    answer = visitor.get("/auth/status", headers={"Accept": "application/json"})
    assert "set-cookie" not in answer.headers
