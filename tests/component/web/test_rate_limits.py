"""Rate limits: what is counted, for which clients, and where the counters are stored."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

import anyio
import pytest
from limits.storage import MemoryStorage
from pydantic import SecretStr

from notion_oauth.app import create_app
from notion_oauth.errors import ConfigurationError, TooManyRequests
from notion_oauth.sandbox import Sandbox
from notion_oauth.settings import Settings
from notion_oauth.web.rate_limits import STORAGE_RETRY_AFTER, RateLimits
from tests.conftest import Posted
from tests.support.databases import Redis
from tests.support.signing_in import age
from tests.support.visiting import PUBLIC, Visitor

JSON = {"Accept": "application/json"}
CLIENT = "198.51.100.7"


@pytest.fixture
def local(settings: Settings) -> Settings:
    return settings.model_copy(update={"rate_limit": "3/minute", "secret_key": SecretStr("k" * 40)})


@pytest.fixture
def public(local: Settings) -> Settings:
    return local.model_copy(update={"public_url": PUBLIC})


def statuses(visitor: Visitor, times: int, path: str = "/auth/callback", **headers: str) -> list[int]:
    return [visitor.get(path, headers=headers).status_code for _ in range(times)]


def local_browser(settings: Settings) -> Visitor:
    return Visitor(create_app(settings), "http://localhost", client="127.0.0.1")


def test_too_many_requests_get_retry_after(local: Settings, sandbox: Sandbox) -> None:
    visitor = local_browser(local)
    for _ in range(3):
        assert visitor.get("/auth/login").status_code == 303
    before = len(sandbox.requests)
    page, answer = visitor.get("/auth/login"), visitor.get("/auth/login", headers=JSON)
    for refused in (page, answer):
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-frame-options"] == "DENY"
    assert "Too many requests" in page.text
    assert answer.json()["error"] == "TooManyRequests"
    assert len(sandbox.requests) == before, "no request to the server"


@pytest.mark.parametrize("method", ["GET /auth/login", "GET /auth/callback", "POST /auth/refresh", "POST /auth/logout"])
def test_routes_share_one_limit(public: Settings, method: str) -> None:
    visitor = Visitor(create_app(public))
    assert statuses(visitor, 3) == [400] * 3
    verb, path = method.split()
    assert visitor.request(verb, path).status_code == 429


def test_addresses_have_separate_limits(public: Settings) -> None:
    app = create_app(public)
    assert statuses(Visitor(app), 4)[-1] == 429
    assert statuses(Visitor(app, client="198.51.100.7"), 1) == [400]


def test_forwarded_address_of_untrusted_sender_is_ignored(public: Settings) -> None:
    visitor = Visitor(create_app(public))
    found = [statuses(visitor, 1, **{"X-Forwarded-For": f"198.51.100.{number}"})[0] for number in range(4)]
    assert found == [400, 400, 400, 429]


def test_clients_of_a_trusted_proxy_have_separate_limits(public: Settings) -> None:
    named = public.model_copy(update={"trusted_proxies": "10.0.0.1"})
    visitor = Visitor(create_app(named), "http://notion.example", client="10.0.0.1")
    passed_on = {"X-Forwarded-Proto": "https"}
    forged = [f"192.0.2.{number}, 198.51.100.7" for number in range(4)]
    found = [statuses(visitor, 1, **passed_on, **{"X-Forwarded-For": hops})[0] for hops in forged]
    assert found[-1] == 429, "hops before the client's address are ignored"
    assert statuses(visitor, 1, **passed_on, **{"X-Forwarded-For": "198.51.100.8"}) == [400]


def test_ipv6_network_is_one_client(public: Settings) -> None:
    app = create_app(public)
    found = [statuses(Visitor(app, client=f"2001:db8:1:2::{number}"), 1)[0] for number in range(4)]
    assert found[-1] == 429
    assert statuses(Visitor(app, client="2001:db8:1:3::1"), 1) == [400]


@pytest.mark.parametrize("off", ["0", "off", ""])
def test_limit_can_be_disabled(public: Settings, off: str) -> None:
    assert 429 not in statuses(Visitor(create_app(public.model_copy(update={"rate_limit": off}))), 40)


def test_default_limit(settings: Settings) -> None:
    assert statuses(local_browser(settings), 31) == [400] * 30 + [429]


@pytest.mark.slow
def test_status_has_a_separate_limit_on_a_public_url(public: Settings) -> None:
    visitor = Visitor(create_app(public.model_copy(update={"status_rate_limit": "5/minute"})))
    assert statuses(visitor, 6, "/auth/status", **JSON) == [200] * 5 + [429]
    assert statuses(visitor, 3) == [400] * 3
    assert 429 not in statuses(
        local_browser(public.model_copy(update={"public_url": None})), 400, "/auth/status", **JSON
    )


def test_operator_secret_allows_five_tries_a_minute(public: Settings) -> None:
    app = create_app(public.model_copy(update={"rate_limit": "0", "operator_secret": SecretStr("s" * 20)}))
    stranger = Visitor(app)
    data = {"csrf_token": stranger.csrf_token(), "secret": "wrong"}
    assert [stranger.post("/auth/operator", data=data).status_code for _ in range(6)] == [403] * 5 + [429]
    assert stranger.post("/auth/operator", data={**data, "secret": "s" * 20}).status_code == 429
    operator = Visitor(app, client="198.51.100.7")
    data = {"csrf_token": operator.csrf_token(), "secret": "s" * 20}
    assert operator.post("/auth/operator", data=data).status_code == 303


def test_requests_of_other_sites_do_not_count(local: Settings) -> None:
    visitor = local_browser(local)
    part = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "empty"}
    assert statuses(visitor, 10, "/auth/login", **part) == [403] * 10
    assert {visitor.post("/auth/logout", headers=part).status_code for _ in range(10)} == {403}
    assert visitor.get("/auth/login").status_code == 303


@pytest.mark.slow
@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}])
def test_forms_of_other_sites_do_not_count(public: Settings, headers: dict[str, str]) -> None:
    """Also those that the browser sends as a visit to the page."""
    operator = Visitor(create_app(public.model_copy(update={"operator_secret": SecretStr("s" * 20)})))
    data = {"csrf_token": operator.csrf_token(), "secret": "s" * 20}
    visit = {"Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate", **headers}
    for path in ("/auth/operator", "/auth/lock", "/auth/refresh", "/auth/logout"):
        assert {operator.post(path, data=data, headers=visit).status_code for _ in range(10)} == {403}
    assert operator.post("/auth/operator", data=data).status_code == 303
    assert operator.get("/auth/login").status_code == 303


def test_refresh_floor_limits_refreshes(settings: Settings, grants_asked: Posted) -> None:
    visitor = local_browser(settings)
    visitor.sign_in()
    data = {"csrf_token": visitor.csrf_token()}
    answers = [visitor.post("/auth/refresh", data=data, headers=JSON) for _ in range(10)]
    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].json()["message"] == "The token was refreshed."
    assert answers[1].json()["message"] == "The token was not refreshed again: the last refresh was a moment ago."
    assert grants_asked() == ["authorization_code", "refresh_token"]
    age(settings.token_file, seconds=31)
    assert visitor.post("/auth/refresh", data=data, headers=JSON).json()["message"] == "The token was refreshed."


def test_expired_token_is_refreshed_at_once(settings: Settings, sandbox: Sandbox, grants_asked: Posted) -> None:
    sandbox.options.access_token_lifetime = 1
    visitor = local_browser(settings)
    visitor.sign_in()
    data = {"csrf_token": visitor.csrf_token()}
    for _ in range(2):
        age(settings.token_file, seconds=2)
        visitor.post("/auth/refresh", data=data)
    assert grants_asked() == ["authorization_code", "refresh_token", "refresh_token"]


class TestRedis:
    """With Redis, all workers and instances share the counters."""

    @pytest.fixture
    def shared(self, public: Settings, redis: Redis) -> Settings:
        return public.model_copy(update={"rate_limit_storage": SecretStr(redis.url)})

    def test_workers_share_counters(self, public: Settings, shared: Settings) -> None:
        assert statuses(Visitor(create_app(shared)), 3) == [400] * 3
        assert statuses(Visitor(create_app(shared)), 1) == [429]
        assert statuses(Visitor(create_app(public)), 1) == [400]

    def test_services_with_different_addresses_share_no_counters(self, shared: Settings) -> None:
        assert statuses(Visitor(create_app(shared)), 4) == [400] * 3 + [429]
        other = shared.model_copy(update={"public_url": "https://other.example"})
        assert statuses(Visitor(create_app(other), "https://other.example"), 1) == [400]

    def test_workers_count_separately_while_redis_is_down(
        self, public: Settings, caplog: pytest.LogCaptureFixture
    ) -> None:
        down = public.model_copy(update={"rate_limit_storage": SecretStr("redis://:canary-password@127.0.0.1:9/0")})
        with caplog.at_level(logging.WARNING):
            assert statuses(Visitor(create_app(down)), 5) == [400, 400, 400, 429, 429]
        messages = [record.getMessage() for record in caplog.records if record.name == "notion_oauth.web.rate_limits"]
        assert messages == ["The rate limit storage cannot be used (ConnectionError). Each worker counts for itself."]
        assert "canary" not in caplog.text

    @pytest.mark.anyio
    async def test_ipv6_network_is_counted_across_workers(self, shared: Settings) -> None:
        """The /48 has ten times the limit of a client, and refused clients do not count towards it."""
        one, other = limits_of(shared), limits_of(shared)
        assert (await allowed(one, *["2001:db8:1:2::1"] * 40)).count(True) == 3
        found = await allowed(other, *(f"2001:db8:1:{number:x}::1" for number in range(100, 130)))
        assert found == [True] * 27 + [False] * 3
        assert await allowed(one, "2001:db8:1:3::1") == [False]
        assert await allowed(one, "::ffff:198.51.100.7") == [True]

    @pytest.mark.anyio
    async def test_counters_survive_a_restart_of_redis(
        self, shared: Settings, redis: Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        """And no worker notices it, if it had no request meanwhile."""
        one, other = limits_of(shared), limits_of(shared)
        assert await allowed(one, CLIENT, CLIENT) == [True, True]
        redis.stop()
        redis.start()
        assert await allowed(other, CLIENT, CLIENT) == [True, False]
        assert await allowed(one, CLIENT) == [False]
        assert not caplog.records

    @pytest.mark.anyio
    async def test_requests_stay_limited_while_redis_is_away_and_are_counted_together_again(
        self, shared: Settings, redis: Redis, caplog: pytest.LogCaptureFixture
    ) -> None:
        now = [0.0]
        one, other = (limits_of(shared, uptime=lambda: now[0]) for _ in range(2))
        assert await allowed(one, CLIENT) == [True]
        redis.stop()
        for each in (one, other):  # the counters of each in memory
            assert await allowed(each, *[CLIENT] * 4) == [True] * 3 + [False]
        assert len(caplog.records) == 2
        redis.start()
        now[0] = STORAGE_RETRY_AFTER - 0.1
        assert await allowed(one, CLIENT) == [False], "in memory, without a look at Redis"
        now[0] = STORAGE_RETRY_AFTER + 0.1
        assert await allowed(one, CLIENT) == [True]
        assert await allowed(other, CLIENT, CLIENT) == [True, False]
        assert "can be used again" in caplog.text

    @pytest.mark.anyio
    async def test_redis_that_does_not_answer_delays_one_request(self, shared: Settings, redis: Redis) -> None:
        """By STORAGE_TIMEOUT. The next ones are counted in memory at once."""
        now = [0.0]
        limits = limits_of(shared, uptime=lambda: now[0])
        redis.signal(signal.SIGSTOP)
        try:
            with anyio.fail_after(30):
                assert await allowed(limits, *[CLIENT] * 4) == [True] * 3 + [False]
        finally:
            redis.signal(signal.SIGCONT)
        now[0] = STORAGE_RETRY_AFTER + 0.1
        assert await allowed(limits, CLIENT) == [True]

    @pytest.mark.parametrize("url", ["memcached://canary:11211", "canary", "redis://canary:not-a-port/"])
    def test_invalid_storage_url_is_refused_and_not_shown(self, public: Settings, url: str) -> None:
        with pytest.raises(ConfigurationError, match="RATE_LIMIT_STORAGE") as caught:
            create_app(public.model_copy(update={"rate_limit_storage": SecretStr(url)}))
        assert "canary" not in str(caught.value)

    def test_missing_redis_library_has_a_hint(self, public: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "redis.backoff", None)
        with pytest.raises(ConfigurationError, match="uv sync --extra redis"):
            create_app(public.model_copy(update={"rate_limit_storage": SecretStr("redis://localhost")}))


@pytest.mark.parametrize("limit", ["canary", "5/canary", "-1/minute", "5"])
def test_invalid_limit_is_refused_and_not_shown(public: Settings, limit: str) -> None:
    with pytest.raises(ConfigurationError, match="NOTION_OAUTH_RATE_LIMIT: it is not a rate limit") as caught:
        create_app(public.model_copy(update={"rate_limit": limit}))
    assert "canary" not in str(caught.value)


class Counters:
    """The counters that RateLimits has in memory: of each budget, in the order that RateLimits creates them."""

    def __init__(self) -> None:
        self.storages: list[MemoryStorage] = []

    def new_storage(self) -> MemoryStorage:
        self.storages.append(MemoryStorage())
        return self.storages[-1]

    def __len__(self) -> int:
        return sum(len(storage.storage) for storage in self.storages)

    def remove_oldest(self) -> None:
        """As when its time window has passed."""
        storage = next(storage for storage in self.storages if storage.storage)
        storage.clear(next(iter(storage.storage)))


@pytest.fixture
def counters() -> Counters:
    return Counters()


def limits_of(settings: Settings, counters: Counters | None = None, **bounds: Any) -> RateLimits:
    new_storage = None if counters is None else counters.new_storage
    return RateLimits(settings.model_copy(update={"rate_limit": "3/minute"}), memory_storage=new_storage, **bounds)


async def allowed(limits: RateLimits, *clients: str, budget: str = "auth") -> list[bool]:
    """Whether each of these requests is allowed."""
    found = []
    for client in clients:
        try:
            await limits.count(budget, client)
            found.append(True)
        except TooManyRequests as refused:
            found.append(not 1 <= (refused.retry_after or 0) <= 60)
    return found


@pytest.mark.anyio
async def test_ipv6_48_has_ten_times_the_limit_of_a_client(public: Settings) -> None:
    """The owner of an IPv6 /48 has 65536 /64 networks."""
    limits = limits_of(public)
    assert await allowed(limits, *(f"2001:db8:1:{number:x}::1" for number in range(31))) == [True] * 30 + [False]
    assert await allowed(limits, "2001:db8:1:ffff::1") == [False]
    assert await allowed(limits, "2001:db8:2::1") == [True], "another /48 has its own limit"


@pytest.mark.anyio
async def test_refused_network_uses_no_memory(public: Settings, counters: Counters) -> None:
    limits = limits_of(public, counters)
    await allowed(limits, *(f"2001:db8:1:{number:x}::1" for number in range(30)))
    before = len(counters)
    await allowed(limits, *(f"2001:db8:1:{number:x}::1" for number in range(100, 400)))
    assert len(counters) == before == 31


@pytest.mark.anyio
async def test_refused_client_does_not_count_towards_its_network(public: Settings) -> None:
    limits = limits_of(public)
    assert (await allowed(limits, *["2001:db8:1:2::1"] * 100)).count(True) == 3
    assert await allowed(limits, "2001:db8:1:3::1") == [True]


@pytest.mark.anyio
@pytest.mark.parametrize("clothed", ["::ffff:198.51.100.7", "::ffff:c633:6407", "0:0:0:0:0:ffff:c633:6407"])
async def test_ipv4_mapped_address_counts_as_ipv4(public: Settings, clothed: str) -> None:
    limits = limits_of(public)
    assert await allowed(limits, "198.51.100.7", clothed, "198.51.100.7", clothed) == [True] * 3 + [False]
    assert await allowed(limits, "::ffff:198.51.100.8", "::ffff:c633:6409") == [True] * 2, "they are not one network"


class TestCountersUsedUp:
    """The counters in memory are bounded: new clients share counters, and stay limited without locking out others."""

    @pytest.fixture
    def limits(self, public: Settings, counters: Counters, request: pytest.FixtureRequest) -> RateLimits:
        """With 4 counters, and so many shared ones that no two addresses share one, unless a test says otherwise."""
        bounds = {"overflow_counters": 2**40, **getattr(request, "param", {})}
        return limits_of(public, counters, max_counters=4, **bounds)

    @pytest.mark.anyio
    @pytest.mark.parametrize(("budget", "times"), [("auth", 3), ("operator", 5)])
    @pytest.mark.parametrize("late", ["198.51.100.9", "2001:db8:9:9::1", "no address"])
    async def test_new_client_has_the_usual_limit(self, limits: RateLimits, budget: str, times: int, late: str) -> None:
        await allowed(limits, *(f"198.51.100.{number}" for number in range(1, 5)), budget=budget)
        assert await allowed(limits, *[late] * 60, budget=budget) == [True] * times + [False] * (60 - times)
        others = "198.51.200.9", "2001:db8:9:a::1", "another"
        assert await allowed(limits, *others, budget=budget) == [True] * 3, (
            "other clients of its address block are allowed"
        )

    @pytest.mark.anyio
    async def test_removed_counters_do_not_reset_a_shared_one(self, limits: RateLimits, counters: Counters) -> None:
        await allowed(limits, *(f"198.51.100.{number}" for number in range(1, 5)))
        assert await allowed(limits, *["203.0.113.1"] * 4) == [True] * 3 + [False]
        counters.remove_oldest()
        counters.remove_oldest()
        assert await allowed(limits, "203.0.113.1") == [False]

    @pytest.mark.anyio
    @pytest.mark.parametrize("limits", [{"overflow_counters": 1}], indirect=True)
    async def test_earlier_clients_have_their_own_counter(self, limits: RateLimits) -> None:
        await allowed(limits, *(f"198.51.100.{number}" for number in range(1, 5)))
        late = await allowed(limits, *(f"198.51.{number}.9" for number in range(1, 10)))
        assert late == [True] * 3 + [False] * 6
        assert await allowed(limits, "198.51.100.1", "192.0.2.1") == [True] * 2, "another address block is allowed"

    @pytest.mark.anyio
    async def test_ipv6_48_still_has_ten_times_the_limit(self, limits: RateLimits) -> None:
        await allowed(limits, *(f"198.51.100.{number}" for number in range(1, 5)))
        assert await allowed(limits, *(f"2001:db8:1:{number:x}::1" for number in range(31))) == [True] * 30 + [False]
        assert await allowed(limits, "2001:db8:2::1") == [True]

    @pytest.mark.anyio
    @pytest.mark.parametrize("limits", [{"overflow_counters": 1}], indirect=True)
    async def test_budgets_have_separate_memory(self, limits: RateLimits) -> None:
        """Status requests are cheap and frequent."""
        await allowed(limits, *(f"198.51.{number}.1" for number in range(20)), budget="status")
        for budget in ("auth", "operator"):
            assert await allowed(limits, *(f"198.51.100.{number}" for number in range(4)), budget=budget) == [True] * 4
            assert await allowed(limits, *["198.51.100.0"] * 2, budget=budget) == [True] * 2

    @pytest.mark.anyio
    @pytest.mark.parametrize("limits", [{"overflow_counters": 2}], indirect=True)
    async def test_client_that_fills_the_memory_locks_out_no_other_block(self, limits: RateLimits) -> None:
        """The owner of an IPv6 /32 has 65536 /48 networks."""
        await allowed(limits, *(f"2001:db8:{number:x}::1" for number in range(200)))
        assert await allowed(limits, "198.51.100.7", "192.0.2.1", "2a00:1450::1", "no address") == [True] * 4

    @pytest.mark.anyio
    @pytest.mark.parametrize("limits", [{"ipv6_blocks": 8, "overflow_counters": 2}], indirect=True)
    async def test_number_of_counters_is_bounded(self, limits: RateLimits, counters: Counters) -> None:
        await allowed(limits, *(f"{number % 256}.1.2.{number % 7}" for number in range(600)))
        await allowed(limits, *(f"2a{number:02x}:{number:x}::1" for number in range(256)))
        assert len(counters) <= 4 + 2 * 256 + 2 * 2 * 8  # /64 and /48 networks


def test_home_page_and_status_share_a_limit(public: Settings) -> None:
    visitor = Visitor(create_app(public.model_copy(update={"status_rate_limit": "4/minute"})))
    found = [visitor.get(path).status_code for path in ("/", "/auth/status") * 3]
    assert found == [200] * 4 + [429] * 2
