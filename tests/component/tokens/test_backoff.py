"""Retries after transient failures: with growing delays, Retry-After, and a limit on how long a caller waits."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import anyio
import anyio.to_thread
import pytest

from notion_oauth.errors import NetworkError, ServerUnavailable, TokenRefused, TransientError, UnexpectedRedirect
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.tokens.backoff import Backoff
from notion_oauth.tokens.source import TokenSource
from tests.conftest import Posted
from tests.support.signing_in import age, sign_in
from tests.support.stores import load_login

pytestmark = pytest.mark.anyio


class Time:
    """A clock that only `sleep` moves."""

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


def retrying_source(
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
    token = await retrying_source(oauth, time).token()
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
    token = await retrying_source(oauth, time).token()
    assert sandbox.is_access_token_live(token.get_secret_value())
    assert sandbox.live_grants == 1


async def test_redirect_that_stays_names_the_setting_and_ends_no_login(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings
) -> None:
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.misbehave_next("/token", "redirect")
    before = settings.token_file.read_bytes()
    with pytest.raises(UnexpectedRedirect) as caught:
        await oauth.tokens.token()
    assert "NOTION_OAUTH_SERVER_URL" in str(caught.value.hint)
    assert (settings.token_file.read_bytes(), sandbox.live_grants) == (before, 1)


async def test_retries_end_after_retry_for(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time
) -> None:
    login = await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", times=100, status=503)
    before = time.now
    with pytest.raises(ServerUnavailable):
        await retrying_source(oauth, time).token()
    assert time.now - before == pytest.approx(20)
    assert 4 <= len(time.slept) <= 8
    stored = await load_login(oauth.store, "default")
    assert stored is not None
    assert stored.refresh_token == login.refresh_token


@pytest.mark.spec("RFC 9110 §10.2.3", "Wait for the time of Retry-After")
async def test_retry_after_is_honoured(oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time) -> None:
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", status=429, headers={"Retry-After": "15"})
    await retrying_source(oauth, time).token()
    assert time.slept == [15]


async def test_no_request_is_sent_before_a_long_retry_after(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time, grants_asked: Posted
) -> None:
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", status=429, headers={"Retry-After": "30"})
    source = retrying_source(oauth, time)
    for _ in range(3):
        with pytest.raises(ServerUnavailable) as caught:
            await source.token()
        assert caught.value.retry_after == 30
    assert time.slept == []
    assert grants_asked() == ["authorization_code", "refresh_token"]
    time.now += 11
    await source.token()
    assert time.slept == [pytest.approx(19)]


async def test_callers_do_not_extend_the_time_of_retry_after(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time
) -> None:
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", status=429, headers={"Retry-After": "30"})
    source = retrying_source(oauth, time, retry_for=0)
    left = []
    for _ in range(3):
        with pytest.raises(ServerUnavailable) as caught:
            await source.token()
        left.append(caught.value.retry_after)
        time.now += 10
    assert left == [30, 20, 10]
    assert sandbox.is_access_token_live((await source.token()).get_secret_value())


async def test_permanent_failure_is_not_retried(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time, grants_asked: Posted
) -> None:
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", error="invalid_target")
    with pytest.raises(TokenRefused):
        await retrying_source(oauth, time).token()
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_valid_token_is_served_during_an_outage_with_few_requests(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time, grants_asked: Posted
) -> None:
    login = await sign_in(oauth)
    age(settings.token_file, minutes=57)
    sandbox.fail_next("/token", times=100, status=503)
    source = retrying_source(oauth, time)
    for second in range(60):
        time.now = 1000.0 + second
        assert await source.token() == login.access_token
        await source.wait_until_idle()
    attempts = grants_asked().count("refresh_token")
    assert 4 <= attempts <= 7, "the delay doubles"
    assert time.slept == [], "no caller waits"


async def test_all_waiting_callers_get_the_error_after_one_wait(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time, grants_asked: Posted
) -> None:
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", times=1000, status=503)
    all_waiting = threading.Event()

    async def sleep(seconds: float) -> None:
        assert await anyio.to_thread.run_sync(all_waiting.wait, 30)
        await time.sleep(seconds)

    source = retrying_source(oauth, time, retry_for=3, sleep=sleep)
    failed: list[TransientError] = []

    async def ask() -> None:
        try:
            await source.token()
        except TransientError as error:
            failed.append(error)

    started = time.now
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        all_waiting.set()
    assert len(failed) == 50
    assert len({id(error) for error in failed}) == 50, "each error has its own traceback"
    assert time.now - started == pytest.approx(3), "a caller that waited twice would wait longer"
    assert grants_asked().count("refresh_token") == len(time.slept) + 1, "one attempt serves all callers"


async def test_retries_stop_when_the_last_caller_is_cancelled(
    oauth: NotionOAuth, sandbox: Sandbox, settings: Settings, time: Time, grants_asked: Posted
) -> None:
    """Retries serve waiting callers: they end with the last one, and the program can exit."""
    await sign_in(oauth)
    age(settings.token_file, hours=2)
    sandbox.fail_next("/token", times=1000, status=503)
    backing_off, over = threading.Event(), threading.Event()

    async def sleep(seconds: float) -> None:
        if seconds:
            backing_off.set()
            await anyio.to_thread.run_sync(over.wait, abandon_on_cancel=True)

    source = retrying_source(oauth, time, retry_for=300, sleep=sleep)
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
    delays = []
    for _ in range(8):
        backoff.record_failure(NetworkError("down"))
        delays.append(backoff.next_delay(time.now + 1000))
    assert delays == [1, 2, 4, 8, 8, 8, 8, 8]
    time.now += 59
    in_cooldown = [backoff.in_cooldown]
    time.now += 1
    in_cooldown.append(backoff.in_cooldown)
    assert in_cooldown == [True, False], "background attempts happen once a minute"
    backoff.record_success()
    backoff.record_failure(NetworkError("down"))
    assert backoff.next_delay(time.now + 1000) == 1


def test_retry_after_is_limited_to_ten_minutes() -> None:
    time = Time()
    backoff = Backoff(timedelta(), uptime=time)
    backoff.record_failure(ServerUnavailable("later", retry_after=10.0**9))
    time.now += 601
    assert not backoff.in_cooldown
