"""The client registrations of visitors: pending sign-ins share an unclaimed client, a completed one claims it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI
from pydantic import SecretStr

from notion_oauth.app import create_app
from notion_oauth.cli.background_server import served
from notion_oauth.clock import utc_now
from notion_oauth.sandbox import Sandbox
from notion_oauth.sandbox.recording import RecordedRequest
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.stores import schema
from notion_oauth.stores.sql_documents import DatabaseStore
from notion_oauth.web.profiles.visitor_registrations import REGISTERING
from notion_oauth.web.profiles.visitors import Visitors
from tests.support.databases import FailingDatabase
from tests.support.visiting import PUBLIC, Visitor, application
from tests.support.web_service import Browser

JSON = {"Accept": "application/json"}


@pytest.fixture
def public(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PUBLIC, "secret_key": SecretStr("k" * 40), "rate_limit": "0"})


def client_of(visitor: Visitor, query: str = "") -> str:
    """The client of a new sign-in."""
    started = visitor.get(f"/auth/login?{query}")
    assert started.is_redirect, started.text
    return parse_qs(urlsplit(started.headers["location"]).query)["client_id"][0]


def registrations(sandbox: Sandbox) -> int:
    return len(sandbox.requests_to("/register"))


def test_pending_sign_ins_share_one_client(public: Settings, sandbox: Sandbox) -> None:
    """In all workers, before and after a restart."""
    apps = [create_app(public) for _ in range(3)]
    assert len({client_of(Visitor(app)) for app in apps * 4}) == 1
    assert registrations(sandbox) == 1


@pytest.mark.slow
def test_concurrent_sign_ins_register_one_client(public: Settings, sandbox: Sandbox) -> None:
    sandbox.misbehave_next("/register", "slow", seconds=0.3)
    named = public.model_copy(update={"trusted_proxies": "127.0.0.1"})

    def client_at(url: str) -> str:
        with Browser(url) as browser:
            browser.headers.update({"Host": "notion.example", "X-Forwarded-Proto": "https"})
            return parse_qs(urlsplit(browser.step("/auth/login")).query)["client_id"][0]

    with served(create_app(named)) as one, served(create_app(named)) as other, ThreadPoolExecutor(12) as pool:
        assert len(set(pool.map(client_at, [one, other] * 6))) == 1
    assert registrations(sandbox) == 1


def test_completed_sign_in_claims_its_client(public: Settings, sandbox: Sandbox) -> None:
    """A user's logins in two browsers have a client each: Notion allows one grant for each user and client."""
    workers = [create_app(public) for _ in range(2)]
    laptop, phone = Visitor(workers[0]), Visitor(workers[1])
    laptop.sign_in()
    phone.sign_in()
    assert registrations(sandbox) == 2
    assert sandbox.live_grants == 2
    assert client_of(Visitor(workers[0])) == client_of(Visitor(workers[1]))
    assert registrations(sandbox) == 3


def test_failed_sign_in_does_not_claim_the_client(public: Settings, sandbox: Sandbox) -> None:
    visitor = Visitor(create_app(public))
    sandbox.fail_next("/token", status=400, error="invalid_grant")
    assert visitor.get(visitor.consent()).status_code == 502
    visitor.sign_in()
    assert registrations(sandbox) == 1


def test_forgotten_client_is_registered_again_once(public: Settings, sandbox: Sandbox) -> None:
    app = create_app(public)
    before = client_of(Visitor(app))
    sandbox.forget_clients()
    after = {client_of(Visitor(app)) for _ in range(3)}
    assert len(after) == 1
    assert before not in after
    assert registrations(sandbox) == 2


def test_completed_sign_in_drops_the_forgotten_client(public: Settings, sandbox: Sandbox) -> None:
    app = create_app(public)
    before = client_of(Visitor(app))
    sandbox.forget_clients()
    Visitor(app).sign_in()
    client_of(Visitor(app))
    asked = [sent.form["client_id"] for sent in sandbox.requests_to("/token")]
    assert asked.count(before) == 2, "the check and its repetition, but not in the second sign-in"
    assert registrations(sandbox) == 3


def test_client_with_expired_secret_is_registered_again(public: Settings, sandbox: Sandbox) -> None:
    late = [timedelta()]
    app = create_app(oauth=NotionOAuth(public, clock=lambda: utc_now() + late[0]))
    expires = int((utc_now() + timedelta(days=1)).timestamp())
    made = f'{{"client_id": "short-lived", "client_secret": "s", "client_secret_expires_at": {expires}}}'
    sandbox.fail_next("/register", status=201, body=made, content_type="application/json")
    sandbox.fail_next("/token", status=503)  # to the check whether the server recognises the client
    assert [client_of(Visitor(app)) for _ in range(2)] == ["short-lived"] * 2
    late[0] = timedelta(days=1, seconds=1)
    assert client_of(Visitor(app)) != "short-lived"


@contextmanager
def held(store: JsonFileStore, profile: str) -> Iterator[None]:
    """As another worker holds the lock."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(store.exclusive(profile)):
        yield


class Late:
    """Applications that share a store, whose clock is late by `by`."""

    def __init__(self, settings: Settings, database: FailingDatabase | None) -> None:
        self._settings, self.database = settings, database
        self.by = timedelta()

    def app(self, *, max_extended_scope: int = 100) -> FastAPI:
        store = None if self.database is None else DatabaseStore(self.database)
        oauth = NotionOAuth(self._settings, store=store, clock=lambda: utc_now() + self.by)
        return application(Visitors(oauth, max_extended_scope=max_extended_scope))

    def pass_time(self, span: timedelta) -> None:
        """Be late by that span, also in the store."""
        self.by = span
        if self.database is not None:
            change = f"UPDATE notion_oauth_claims SET ends_at = ends_at - {span.total_seconds()}"  # noqa: S608
            self.database.run(lambda connection: connection.execute(change, {}))
        file = self._settings.token_file
        for path in file.with_name(f"{file.name}.claims").glob("[!.]*"):
            claim = json.loads(path.read_text())
            path.write_text(json.dumps({**claim, "until": claim["until"] - span.total_seconds()}))


@pytest.fixture
def late(public: Settings, request: pytest.FixtureRequest, tmp_path: Path) -> Late:
    """With files, unless the test asks for a database."""
    if getattr(request, "param", "files") == "files":
        return Late(public, None)
    database = FailingDatabase(tmp_path / "tokens.db")
    schema.migrate(database)
    return Late(public, database)


def start(app: FastAPI, query: str = "") -> int:
    """The status code of a new sign-in."""
    return Visitor(app).get(f"/auth/login?{query}", headers=JSON).status_code


@pytest.mark.slow
def test_invented_scopes_register_a_limited_number_of_clients(late: Late, sandbox: Sandbox) -> None:
    app = late.app(max_extended_scope=5)
    assert [start(app, f"scope=invented-{number}") for number in range(10)] == [303] * 6 + [429] * 4
    answer = Visitor(app).get("/auth/login?scope=invented-again", headers=JSON)
    assert 0 < int(answer.headers["retry-after"]) <= 3600
    assert "without requesting a scope" in answer.json()["next"]
    assert registrations(sandbox) == 6
    visitor = Visitor(app)
    for _ in range(3):  # the hint works, any number of times
        visitor.sign_in()
    client_of(Visitor(app))
    assert start(app, "scope=invented-5") == 303, "the unclaimed client is reused for its scope"
    assert start(app, "scope=invented-again") == 429
    late.pass_time(timedelta(hours=1, seconds=1))
    assert start(app, "scope=invented-again") == 303


@pytest.mark.parametrize("late", ["files", "database"], indirect=True)
def test_instances_together_register_as_many_clients_as_one(late: Late, sandbox: Sandbox) -> None:
    instances = [late.app(max_extended_scope=4) for _ in range(3)]
    assert start(instances[0], "scope=first") == 303
    codes = [start(instances[number % 3], f"scope=invented-{number}") for number in range(12)]
    assert (codes.count(303), codes.count(429)) == (4, 8)
    assert registrations(sandbox) == 5
    late.pass_time(timedelta(hours=1, seconds=1))
    assert start(instances[1], "scope=invented-again") == 303


@pytest.mark.parametrize("late", ["database"], indirect=True)
def test_full_hour_is_noticed_once_a_minute(late: Late) -> None:
    """Each look at all registrations of the hour takes many statements."""
    database = late.database
    assert database is not None
    app = late.app(max_extended_scope=4)
    assert [start(app, f"scope=invented-{number}") for number in range(6)] == [303] * 5 + [429]
    database.statements.clear()
    assert [start(app, f"scope=again-{number}") for number in range(5)] == [429] * 5
    assert len([each for each in database.statements if "INSERT INTO notion_oauth_claims" in each]) < 10, (
        "one for each sign-in: can it be written?"
    )


def test_returning_visitor_can_sign_in_without_the_additional_scope(late: Late, sandbox: Sandbox) -> None:
    """A scope that is only requested because the previous login had it does not cause a refusal."""
    sandbox.options.resource_metadata_overrides = {"scopes_supported": ["default"]}
    sandbox.options.scopes = ("default", "write", "x0", "x1", "x2")
    app = late.app(max_extended_scope=1)
    visitor = Visitor(app)

    def requested() -> str:
        """The scope of a plain sign-in."""
        return parse_qs(urlsplit(visitor.get("/auth/login").headers["location"]).query)["scope"][0]

    visitor.sign_in("?scope=write")
    assert requested() == "write default"
    assert [start(app, f"scope=x{number}") for number in range(2)] == [303, 429]
    assert requested() == "default"
    assert visitor.get("/auth/login?scope=write").status_code == 429, "an explicit request is refused"


def test_failed_registrations_do_not_count(late: Late, sandbox: Sandbox) -> None:
    app = late.app(max_extended_scope=1)
    assert [start(app), start(app, "scope=some")] == [303, 303]
    sandbox.fail_next("/register", status=503, times=5)
    assert [start(app, "scope=other") for _ in range(5)] == [502] * 5
    assert [start(app, "scope=other"), start(app, "scope=another")] == [303, 429]


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["forgotten", "expired", "a day old"])
def test_expired_registration_is_replaced(late: Late, sandbox: Sandbox, reason: str) -> None:
    app = late.app(max_extended_scope=1)
    assert [start(app), *(start(app, f"scope=x{number}") for number in range(3))] == [303, 303, 303, 429]
    if reason == "forgotten":
        sandbox.forget_clients()
    else:
        sandbox.advance(90 * 86400 + 1 if reason == "expired" else 0)
        late.pass_time(timedelta(minutes=59) if reason == "expired" else timedelta(days=1))
    before = registrations(sandbox)
    assert [start(app), start(app), start(app, "scope=x1"), start(app, "scope=x1")] == [303] * 4
    assert registrations(sandbox) == before + 2, "one for each of the two unclaimed clients"
    assert start(app, "scope=x9") == (303 if reason == "a day old" else 429), (
        "replacements do not count towards the limit"
    )


def test_plain_sign_in_does_not_use_client_with_extended_scope(late: Late, sandbox: Sandbox) -> None:
    """Without a scope in the request, a server could grant all scopes that the client was registered with."""
    app = late.app()
    extended = client_of(Visitor(app), "scope=invented")
    plain = client_of(Visitor(app))
    assert plain != extended
    assert client_of(Visitor(app), "scope=invented") == extended
    Visitor(app).sign_in()
    assert client_of(Visitor(app)) not in (plain, extended)
    assert [sent.json["scope"] for sent in sandbox.requests_to("/register") if sent.json] == [
        *("invented default", "default", "default")
    ]


def test_scope_of_the_challenge_is_not_extended(late: Late, sandbox: Sandbox) -> None:
    """If only the challenge names a scope, requests for another scope register no clients for plain sign-ins."""
    sandbox.options.resource_metadata_overrides = sandbox.options.metadata_overrides = {"scopes_supported": None}
    where = f"{sandbox.base_url}/.well-known/oauth-protected-resource/mcp"
    asks = {"WWW-Authenticate": f'Bearer resource_metadata="{where}", scope="read"'}
    sandbox.fail_next("/mcp", status=401, headers=asks, body=b"", times=100)
    app = late.app()
    extended = client_of(Visitor(app), "scope=x")
    plain = client_of(Visitor(app))
    assert [client_of(Visitor(app), query) for query in ("", "scope=read", "scope=x", "scope=x+read")] == [
        *(plain, plain, extended, extended)
    ]
    assert [sent.json["scope"] for sent in sandbox.requests_to("/register") if sent.json] == ["x read", "read"]


def test_unclaimed_client_is_used_for_one_day(late: Late, sandbox: Sandbox) -> None:
    """Notion forgets a client ninety days after its registration, which ends the login."""
    app = late.app()
    old = client_of(Visitor(app))
    late.by = timedelta(hours=23, minutes=59)
    assert client_of(Visitor(app)) == old
    late.by = timedelta(days=1)
    assert client_of(Visitor(app)) != old
    assert client_of(Visitor(late.app())) == client_of(Visitor(app))
    assert registrations(sandbox) == 2


def test_client_without_registration_time_is_not_used(public: Settings, late: Late) -> None:
    app = late.app()
    old = client_of(Visitor(app))
    file = public.token_file.with_name(".notion-tokens.json.web-.profile.clients")
    content = json.loads(file.read_text())
    assert content["registrations"][0].pop("registered_at")
    file.write_text(json.dumps(content))
    assert client_of(Visitor(app)) != old


def test_completing_a_sign_in_does_not_wait_for_registrations(public: Settings, sandbox: Sandbox) -> None:
    """In this worker and in another. Registrations for additional scopes run one at a time."""
    named = public.model_copy(update={"trusted_proxies": "127.0.0.1"})
    passed_on = {"Host": "notion.example", "X-Forwarded-Proto": "https", "Accept": "application/json"}

    def approved(url: str) -> tuple[str, str]:
        """The redirect of an approved sign-in, and its cookies."""
        started = httpx.get(f"{url}/auth/login", headers=passed_on, trust_env=False)
        redirect = httpx.get(started.headers["location"], trust_env=False).headers["location"]
        return redirect.replace(PUBLIC, url), "; ".join(f"{name}={value}" for name, value in started.cookies.items())

    registering = threading.Semaphore(0)

    def arrived(request: RecordedRequest) -> None:
        if request.path == "/register":
            registering.release()

    with served(create_app(named)) as one, served(create_app(named)) as other, ThreadPoolExecutor(8) as pool:
        sign_ins = [approved(url) for url in (one, other)]
        public.token_file.with_name(".notion-tokens.json.web-.profile.clients").unlink()
        sandbox.misbehave_next("/register", "hang", times=2)
        sandbox.observe(on_arrival=arrived)
        begin = partial(httpx.get, headers=passed_on, trust_env=False, timeout=60)
        slow = []
        for query in ("", "scope=x"):
            slow.append(pool.submit(begin, f"{one}/auth/login?{query}"))
            assert registering.acquire(timeout=20)
        assert begin(f"{one}/auth/login?scope=y").status_code == 429, "without waiting"
        for url, cookie in sign_ins:
            assert begin(url, headers=passed_on | {"Cookie": cookie}).status_code == 200
        assert not any(answer.done() for answer in slow)
        sandbox.end_pending_responses()
        assert [answer.result().status_code for answer in slow] == [502, 502]
    assert client_of(Visitor(create_app(named))), "no lock is left"


def test_long_wait_for_registrations_is_an_error(public: Settings, sandbox: Sandbox) -> None:
    app = application(Visitors(NotionOAuth(public), registration_timeout=timedelta(seconds=0.05)))
    with held(JsonFileStore(public.token_file), REGISTERING):
        answer = Visitor(app).get("/auth/login", headers=JSON)
    assert (answer.status_code, answer.json()["error"]) == (502, "ServerUnavailable")
    assert start(app) == 303


@pytest.mark.anyio
async def test_sign_in_succeeds_if_the_client_cannot_be_claimed(
    public: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(public)
    visitor = Visitor(app)
    back = await anyio.to_thread.run_sync(visitor.consent)
    file = public.token_file.with_name(".notion-tokens.json.web-.profile.clients")
    file.unlink()
    file.mkdir()
    assert (await anyio.to_thread.run_sync(partial(visitor.get, back))).status_code == 303
    assert visitor.status()["status"] == "authenticated"
    assert "The client of a completed sign-in could not be claimed" in caplog.text
