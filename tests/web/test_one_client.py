"""The client that browser sessions begin with: one waits for all of them, and whoever finishes takes it along."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from urllib.parse import parse_qs, urlsplit

import anyio
import pytest
from pydantic import SecretStr

from notion_oauth.app import create_app
from notion_oauth.background import served
from notion_oauth.oauth_client import utc_now
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.web.conftest import Browser
from tests.web.visiting import PUBLIC, Visitor

JSON = {"Accept": "application/json"}


@pytest.fixture
def public(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PUBLIC, "secret_key": SecretStr("k" * 40), "rate_limit": "0"})


def client_of(visitor: Visitor, query: str = "") -> str:
    """The client that a sign-in is begun with."""
    begun = visitor.get(f"/auth/login?{query}")
    assert begun.is_redirect, begun.text
    return parse_qs(urlsplit(begun.headers["location"]).query)["client_id"][0]


def registrations(sandbox: Sandbox) -> int:
    return len(sandbox.requests_to("/register"))


def test_however_many_begin_one_client_is_registered(public: Settings, sandbox: Sandbox) -> None:
    """By whichever worker, before and after a restart."""
    apps = [create_app(public) for _ in range(3)]
    assert len({client_of(Visitor(app)) for app in apps * 4}) == 1
    assert registrations(sandbox) == 1


def test_many_at_once_register_once(public: Settings, sandbox: Sandbox) -> None:
    sandbox.misbehave_next("/register", "slow", seconds=0.3)
    named = public.model_copy(update={"trusted_proxies": "127.0.0.1"})

    def begun(url: str) -> str:
        with Browser(url) as browser:
            browser.headers.update({"Host": "notion.example", "X-Forwarded-Proto": "https"})
            return parse_qs(urlsplit(browser.step("/auth/login")).query)["client_id"][0]

    with served(create_app(named)) as one, served(create_app(named)) as other, ThreadPoolExecutor(12) as pool:
        assert len(set(pool.map(begun, [one, other] * 6))) == 1
    assert registrations(sandbox) == 1


def test_whoever_finishes_takes_it_along(public: Settings, sandbox: Sandbox) -> None:
    """A person's logins in two browsers have a client each: Notion has one grant for a person and a client."""
    workers = [create_app(public) for _ in range(2)]
    laptop, phone = Visitor(workers[0]), Visitor(workers[1])
    laptop.sign_in()
    phone.sign_in()
    assert registrations(sandbox) == 2
    assert sandbox.live_grants == 2
    assert client_of(Visitor(workers[0])) == client_of(Visitor(workers[1]))
    assert registrations(sandbox) == 3


def test_one_that_is_refused_takes_none(public: Settings, sandbox: Sandbox) -> None:
    visitor = Visitor(create_app(public))
    sandbox.fail_next("/token", status=400, error="invalid_grant")
    assert visitor.get(visitor.consent()).status_code == 502
    visitor.sign_in()
    assert registrations(sandbox) == 1


def test_one_that_the_server_has_forgotten_is_registered_anew_once(public: Settings, sandbox: Sandbox) -> None:
    app = create_app(public)
    before = client_of(Visitor(app))
    sandbox.forget_clients()
    after = {client_of(Visitor(app)) for _ in range(3)}
    assert len(after) == 1
    assert before not in after
    assert registrations(sandbox) == 2


def test_one_whose_secret_has_expired_is_registered_anew(public: Settings, sandbox: Sandbox) -> None:
    late = [timedelta()]
    app = create_app(oauth=NotionOAuth(public, clock=lambda: utc_now() + late[0]))
    expires = int((utc_now() + timedelta(days=1)).timestamp())
    made = f'{{"client_id": "short-lived", "client_secret": "s", "client_secret_expires_at": {expires}}}'
    sandbox.fail_next("/register", status=201, body=made, content_type="application/json")
    sandbox.fail_next("/token", status=503)  # whether it knows the client: it cannot tell now
    assert [client_of(Visitor(app)) for _ in range(2)] == ["short-lived"] * 2
    late[0] = timedelta(days=1, seconds=1)
    assert client_of(Visitor(app)) != "short-lived"


def test_scopes_that_anybody_invents_register_few(
    public: Settings, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notion_oauth.unfinished.MOST_EXTRA", 5)
    late = [timedelta()]
    app = create_app(oauth=NotionOAuth(public, clock=lambda: utc_now() + late[0]))
    answers = [Visitor(app).get(f"/auth/login?scope=invented-{number}", headers=JSON) for number in range(10)]
    assert [answer.status_code for answer in answers] == [303] * 6 + [429] * 4
    assert 0 < int(answers[-1].headers["retry-after"]) <= 3600
    assert registrations(sandbox) == 6
    visitor = Visitor(app)
    for _ in range(3):  # and nobody else is kept from signing in by that, as often as somebody does
        visitor.sign_in()
    client_of(Visitor(app))
    assert Visitor(app).get("/auth/login?scope=invented-again", headers=JSON).status_code == 429
    late[0] = timedelta(hours=1, seconds=1)
    assert Visitor(app).get("/auth/login?scope=invented-again", headers=JSON).status_code == 303


@pytest.mark.anyio
async def test_a_client_that_cannot_be_marked_as_taken_spoils_no_sign_in(
    public: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(public)
    visitor = Visitor(app)
    back = await anyio.to_thread.run_sync(visitor.consent)
    waiting = public.token_file.with_name(".notion-tokens.json.web-.profile.clients")
    waiting.unlink()
    waiting.mkdir()
    assert (await anyio.to_thread.run_sync(partial(visitor.get, back))).status_code == 303
    assert visitor.status()["status"] == "authenticated"
    assert "Others may begin with the client" in caplog.text
