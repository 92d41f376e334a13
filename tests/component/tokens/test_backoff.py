"""Passing failures: tried again, later and later, as the server asks, and never for longer than a caller will wait."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import anyio
import anyio.to_thread
import pytest

from notion_oauth.errors import NetworkError, ServerUnavailable, TokenRefused, TransientError
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.tokens.backoff import Backoff
from notion_oauth.tokens.source import TokenSource
from tests.conftest import Posted
from tests.support.signing_in import age, sign_in

pytestmark = pytest.mark.anyio


class Time:
    """A clock that only sleepers move."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if seconds:
            self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


def patient(
    oauth: NotionOAuth, time: Time, retry_for: float = 20, sleep: Callable[[float], Awaitable[None]] | None = None
) -> TokenSource:
    return TokenSource(
        oauth.store,
        oauth.client,
        server_url=oauth.settings.server_url,
        profile="default",
        retry_for=timedelta(seconds=retry_for),
        uptime=time,
        sleep=sleep or time.sleep,
    )


FAILURES: list[dict[str, Any]] = [
    {"status": 429, "error": "temporarily_unavailable"},
    {"status": 500},
    {"status": 502, "error": "invalid_grant"},
    {"status": 503, "body": "<html>"},
    {"status": 403, "body": "<html>blocked by a proxy</html>"},
    {"status": 200, "body": "<html>"},
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: str(failure["status"]))
async def test_transient_failures_are_retried(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time, failure: dict[str, Any]
) -> None:
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", times=3, **failure)
    token = await patient(oauth, time).token()
    assert sandbox.is_access_token_live(token.get_secret_value())
    assert len(time.slept) == 3
    assert 0.5 <= time.slept[0] <= 1 <= time.slept[1] <= 2 <= time.slept[2] <= 4, "longer each time, with jitter"


@pytest.mark.parametrize("kind", ["drop", "lose_response", "garble", "oversize", "redirect"])
async def test_lost_and_garbled_responses_are_retried(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time, kind: Any
) -> None:
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.misbehave_next("/token", kind, times=2)
    token = await patient(oauth, time).token()
    assert sandbox.is_access_token_live(token.get_secret_value())
    assert sandbox.live_grants == 1


async def test_retries_end_after_retry_for(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time
) -> None:
    login = await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", times=100, status=503)
    before = time.now
    with pytest.raises(ServerUnavailable):
        await patient(oauth, time).token()
    assert time.now - before == pytest.approx(20)
    assert 4 <= len(time.slept) <= 8
    kept = await oauth.store.load("default")
    assert kept is not None
    assert kept.refresh_token == login.refresh_token


@pytest.mark.spec("RFC 9110 §10.2.3", "Wait as long as Retry-After says")
async def test_retry_after_is_honoured(oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time) -> None:
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", status=429, headers={"Retry-After": "15"})
    await patient(oauth, time).token()
    assert time.slept == [15]


async def test_no_request_is_sent_before_a_long_retry_after(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time, grants_asked: Posted
) -> None:
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", status=429, headers={"Retry-After": "30"})
    source = patient(oauth, time)
    for _ in range(3):
        with pytest.raises(ServerUnavailable) as caught:
            await source.token()
        assert caught.value.retry_after == 30
    assert time.slept == []
    assert grants_asked() == ["authorization_code", "refresh_token"]
    time.now += 11
    await source.token()
    assert time.slept == [pytest.approx(19)]


async def test_permanent_failure_is_not_retried(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time, grants_asked: Posted
) -> None:
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", error="invalid_target")
    with pytest.raises(TokenRefused):
        await patient(oauth, time).token()
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_valid_token_is_served_during_an_outage_with_few_requests(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time, grants_asked: Posted
) -> None:
    login = await sign_in(oauth)
    age(settings.token_file, minutes=57)
    sandbox.fail_next("/token", times=100, status=503)
    source = patient(oauth, time)
    for second in range(60):
        time.now = 1000.0 + second
        assert await source.token() == login.access_token
        await source.wait_until_idle()
    tries = grants_asked().count("refresh_token")
    assert 4 <= tries <= 7, "backing off doubles: it is not tried at every request"
    assert time.slept == [], "and nobody waits"


async def test_all_waiting_callers_get_the_error_after_one_wait(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time, grants_asked: Posted
) -> None:
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", times=1000, status=503)
    all_wait = threading.Event()

    async def sleep(seconds: float) -> None:
        assert await anyio.to_thread.run_sync(all_wait.wait, 30)
        await time.sleep(seconds)

    source = patient(oauth, time, retry_for=3, sleep=sleep)
    failed: list[TransientError] = []

    async def ask() -> None:
        try:
            await source.token()
        except TransientError as error:
            failed.append(error)

    began = time.now
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        all_wait.set()
    assert len(failed) == 50
    assert len({id(error) for error in failed}) == 50, "each has a traceback of its own"
    assert time.now - began == pytest.approx(3), "whoever waited a second time would have waited for longer"
    assert grants_asked().count("refresh_token") == len(time.slept) + 1, "one who tries, for all"


async def test_retries_stop_when_the_last_caller_is_cancelled(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time, grants_asked: Posted
) -> None:
    """Backing off is for those who wait: it ends with the last of them, and the program with it."""
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", times=1000, status=503)
    backing_off, over = threading.Event(), threading.Event()

    async def sleep(seconds: float) -> None:
        if seconds:
            backing_off.set()
            await anyio.to_thread.run_sync(over.wait, abandon_on_cancel=True)

    source = patient(oauth, time, retry_for=300, sleep=sleep)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.token)
            assert await anyio.to_thread.run_sync(backing_off.wait, 30)
            tasks.cancel_scope.cancel()
        with anyio.fail_after(10):
            await source.wait_until_idle()
            for thread in threading.enumerate():
                if thread.name == "notion-oauth refresh":
                    await anyio.to_thread.run_sync(thread.join)
    finally:
        over.set()
    assert grants_asked() == ["authorization_code", "refresh_token"]


def test_delay_grows_to_a_limit_and_resets_after_success() -> None:
    time = Time()
    backoff = Backoff(timedelta(seconds=20), uptime=time, random=lambda: 1.0)
    pauses = []
    for _ in range(8):
        backoff.record_failure(NetworkError("down"))
        pauses.append(backoff.next_delay(time.now + 1000))
    assert pauses == [1, 2, 4, 8, 8, 8, 8, 8]
    time.now += 59
    in_cooldown = [backoff.in_cooldown]
    time.now += 1
    in_cooldown.append(backoff.in_cooldown)
    assert in_cooldown == [True, False], "who is not waited for is tried once a minute"
    backoff.record_success()
    backoff.record_failure(NetworkError("down"))
    assert backoff.next_delay(time.now + 1000) == 1


def test_retry_after_is_limited_to_ten_minutes() -> None:
    time = Time()
    backoff = Backoff(timedelta(), uptime=time)
    backoff.record_failure(ServerUnavailable("later", retry_after=10.0**9))
    time.now += 601
    assert not backoff.in_cooldown
