"""Rate limits for each client, counted by the `limits` library in this worker's memory, or in Redis for all workers."""

from __future__ import annotations

import ipaddress
import logging
import math
import time
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import anyio.to_thread
from pydantic import SecretStr

from notion_oauth.clock import uptime
from notion_oauth.errors import ConfigurationError, TooManyRequests
from notion_oauth.files.installation import install_hint
from notion_oauth.settings import PREFIX, Settings

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.storage import MemoryStorage
    from limits.strategies import FixedWindowRateLimiter

    Counter: TypeAlias = tuple[RateLimitItem, tuple[str, ...]]  # a limit, and the key that it is counted under

OPERATOR_LIMIT = "5/minute"  # tries of the operator's secret; not configurable
MAX_COUNTERS = 10_000  # in memory, for each budget; further clients share counters
NETWORK_FACTOR = 10  # an IPv6 /48 may make this many times the requests of one client
OVERFLOW_COUNTERS = 1024  # for each address block; a client cannot choose whose counter it shares
IPV6_BLOCKS = 256  # as many as the /8 blocks of IPv4
STORAGE_TIMEOUT = 0.5  # seconds
STORAGE_RETRY_AFTER = 5.0  # seconds; no tries in between when a storage has failed
_OFF = ("", "0", "off")
_SCHEMES = ("redis://", "rediss://", "redis+unix://")
_LOG = logging.getLogger(__name__)


class RateLimits:
    """Counts requests for each client and budget: a budget is a limit that several routes share.

    A limit is written as `30/minute` or `5/second;200/hour`.

    A client is an IPv4 address or an IPv6 /64. The owner of an IPv6 network has very many /64s, so its /48 is counted
    too, with ten times the limit.
    The counters in memory are bounded, separately for each budget. Once they are used up, a new client shares a
    counter with some others of its address block, and together they may make as many requests as one client.
    While a shared storage cannot be reached, each worker counts for itself, so requests stay limited.
    Raises ConfigurationError for an invalid limit or storage, or if a required library is missing.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        uptime: Callable[[], float] = uptime,
        memory_storage: Callable[[], MemoryStorage] | None = None,
        max_counters: int = MAX_COUNTERS,
        overflow_counters: int = OVERFLOW_COUNTERS,
        ipv6_blocks: int = IPV6_BLOCKS,
    ) -> None:
        from limits.storage import MemoryStorage  # noqa: PLC0415 - as slow to load as the rest of the service
        from limits.strategies import FixedWindowRateLimiter  # noqa: PLC0415

        self._limits = {
            "auth": _parse("rate_limit", settings.rate_limit),
            "status": _parse("status_rate_limit", settings.status_rate_limit) if settings.is_public else (),
            "operator": _parse("", OPERATOR_LIMIT),
        }
        self._memory = {budget: (memory_storage or MemoryStorage)() for budget in self._limits}
        self._local = {budget: FixedWindowRateLimiter(memory) for budget, memory in self._memory.items()}
        self._redis = _redis_limiter(settings.rate_limit_storage)
        self._service = settings.public_url or "local"
        self._uptime = uptime
        self._max_counters = max_counters
        self._overflow_counters = overflow_counters
        self._ipv6_blocks = ipv6_blocks
        self._retry_at = 0.0
        self._storage_failed = False

    def is_limited(self, budget: str) -> bool:
        """Return whether this budget is limited."""
        return bool(self._limits[budget])

    async def count(self, budget: str, client: str) -> None:
        """Count a request of this client. Raises TooManyRequests if the budget is used up."""
        for limit in self._limits[budget]:
            wait = await self._count_request(limit, budget, client)
            if wait is not None:
                raise TooManyRequests(
                    "Too many requests from this address.",
                    hint=f"Wait {wait} second{'' if wait == 1 else 's'}, and try again.",
                    retry_after=wait,
                )

    async def _count_request(self, limit: RateLimitItem, budget: str, client: str) -> int | None:
        """Count a request. Return None if it is allowed, otherwise the seconds to wait."""
        redis = self._redis
        if redis is None or self._uptime() < self._retry_at:
            return self._count_locally(limit, budget, client)
        try:
            counters = _counters(limit, ("notion-oauth", self._service, budget), client)
            wait = await anyio.to_thread.run_sync(_count, redis, counters)
        except Exception as error:
            self._retry_at = self._uptime() + STORAGE_RETRY_AFTER
            if not self._storage_failed:
                _LOG.warning(
                    "The rate limit storage cannot be used (%s). Each worker counts for itself.",
                    type(error).__name__,
                )
            self._storage_failed = True
            return self._count_locally(limit, budget, client)
        if self._storage_failed:
            _LOG.warning("The rate limit storage can be used again.")
        self._storage_failed = False
        return wait

    def _count_locally(self, limit: RateLimitItem, budget: str, client: str) -> int | None:
        stored, block = self._memory[budget].storage, _address_block(client, self._ipv6_blocks)
        counters: list[Counter] = []
        for item, own in _counters(limit, (budget,), client):
            overflow = (
                budget,
                block,
                str(hash(own[-1]) % self._overflow_counters),
            )  # Python salts hash() in each process
            # A client that may have been counted in the shared counter stays there
            full = len(stored) >= self._max_counters or item.key_for(*overflow) in stored
            counters.append((item, overflow if full and item.key_for(*own) not in stored else own))
        return _count(self._local[budget], counters)


def _count(limiter: FixedWindowRateLimiter, counters: Sequence[Counter]) -> int | None:
    """Count a request in all counters, the widest network first. Return the seconds to wait if one is used up.

    A client whose own counter is used up does not count towards its network. A network whose counter is used up
    creates no counters for its clients.
    """
    item, own = counters[-1]
    if len(counters) > 1 and not limiter.test(item, *own):
        return _seconds_to_reset(limiter, item, own)
    for item, key in counters:
        if not limiter.hit(item, *key):
            return _seconds_to_reset(limiter, item, key)
    return None


def _seconds_to_reset(limiter: FixedWindowRateLimiter, item: RateLimitItem, key: tuple[str, ...]) -> int:
    return max(1, math.ceil(limiter.get_window_stats(item, *key).reset_time - time.time()))


def _counters(limit: RateLimitItem, prefix: tuple[str, ...], client: str) -> list[Counter]:
    """Return the counters of a client, the widest network first."""
    address = _parse_address(client)
    if address is None:
        return [(limit, (*prefix, client[:64]))]
    if address.version == 4:
        return [(limit, (*prefix, str(address)))]
    own, network = (str(ipaddress.ip_network((address, bits), strict=False)) for bits in (64, 48))
    return [(_network_limit(limit), (*prefix, network)), (limit, (*prefix, own))]


def _address_block(client: str, ipv6_blocks: int) -> str:
    """Return the block of addresses of a client, such as a provider's or a country's. There are few blocks."""
    address = _parse_address(client)
    if address is None:
        return "no address"
    if address.version == 4:
        return f"{address.packed[0]}.0.0.0/8"
    return f"IPv6 block {zlib.crc32(address.packed[:4]) % ipv6_blocks}"  # by the /32


def _parse_address(client: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return None if it is no IP address. An IPv4-mapped IPv6 address (RFC 4291 §2.5.5.2) becomes the IPv4 address."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _network_limit(limit: RateLimitItem) -> RateLimitItem:
    return type(limit)(limit.amount * NETWORK_FACTOR, limit.multiples, limit.namespace)


def _parse(setting: str, limit: str) -> tuple[RateLimitItem, ...]:
    from limits import parse_many  # noqa: PLC0415 - see above

    if limit.strip() in _OFF:
        return ()
    try:
        return tuple(parse_many(limit))
    except ValueError:
        raise ConfigurationError(
            f"Wrong setting {PREFIX}{setting.upper()}: it is not a rate limit.",
            hint="Write it as 30/minute, or 0 for no limit.",
        ) from None


def _redis_limiter(storage: SecretStr | None) -> FixedWindowRateLimiter | None:
    if storage is None:
        return None
    url, setting = storage.get_secret_value(), f"{PREFIX}RATE_LIMIT_STORAGE"
    not_a_url = ConfigurationError(
        f"Wrong setting {setting}: it is not a Redis URL.", hint="Write it as redis://HOST:PORT/0."
    )
    if not url.startswith(_SCHEMES):
        raise not_a_url
    from limits.storage import RedisStorage  # noqa: PLC0415 - see above
    from limits.strategies import FixedWindowRateLimiter  # noqa: PLC0415

    try:
        from redis.backoff import NoBackoff  # noqa: PLC0415 - an extra
        from redis.retry import Retry  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            f"{setting} requires the redis library.",
            hint=install_hint("redis", "redis"),
        ) from None
    options = {
        "socket_timeout": STORAGE_TIMEOUT,
        "socket_connect_timeout": STORAGE_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        return FixedWindowRateLimiter(RedisStorage(url, **options))  # type: ignore[arg-type]
    except ValueError:
        raise not_a_url from None
