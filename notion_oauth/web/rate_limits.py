"""How often one client may ask: counted by the limits library, in this worker or in Redis for all of them."""

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
from notion_oauth.settings import PREFIX, Settings

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.strategies import FixedWindowRateLimiter

    Count: TypeAlias = tuple[RateLimitItem, tuple[str, ...]]  # a limit, and what is counted for whom

OPERATOR_TRIES = "5/minute"  # at the operator's secret; whatever else is set
MAX_COUNTS = 10_000  # kept apart in memory, of each budget; who comes when there are so many shares a count
OF_A_NETWORK = 10  # times what one client may, for all whose addresses one network has
SHARED_COUNTS = 1024  # in each part of the internet; with whom one is shared nobody can choose
PARTS_OF_IPV6 = 256  # as many as IPv4 has
STORAGE_TIMEOUT = 0.5  # seconds
STORAGE_REST = 5.0  # seconds without a try at a storage that has failed
_OFF = ("", "0", "off")
_SCHEMES = ("redis://", "rediss://", "redis+unix://")
_LOG = logging.getLogger(__name__)


class RateLimits:
    """Counts what clients ask for. A limit is written as `30/minute` or `5/second;200/hour`.

    A client has an address of IPv4, or 64 bits of IPv6. Whoever has one network of IPv6 has very many of those: its 48
    bits are counted too, and may ten times as much.
    No budget takes room in memory from another. Who finds none shares the count of a few others of its part of the
    internet, and may with them what one client may.
    Where a storage cannot be reached, each worker counts its own until it can: the service goes on, and stays limited.
    Raises ConfigurationError for a limit or a storage that is none, or whose library is missing.
    """

    def __init__(self, settings: Settings, *, uptime: Callable[[], float] = uptime) -> None:
        from limits.storage import MemoryStorage  # noqa: PLC0415 - as slow to load as the rest of the service
        from limits.strategies import FixedWindowRateLimiter  # noqa: PLC0415

        self._limits = {
            "auth": _parsed("rate_limit", settings.rate_limit),
            "status": _parsed("status_rate_limit", settings.status_rate_limit) if settings.is_public else (),
            "operator": _parsed("", OPERATOR_TRIES),
        }
        self._cache = {budget: MemoryStorage() for budget in self._limits}
        self._own = {budget: FixedWindowRateLimiter(memory) for budget, memory in self._cache.items()}
        self._shared = _shared(settings.rate_limit_storage)
        self._service = settings.public_url or "local"
        self._uptime = uptime
        self._rests_until = 0.0
        self._down = False

    def on(self, budget: str) -> bool:
        """Whether there is any limit to count for."""
        return bool(self._limits[budget])

    async def count(self, budget: str, client: str) -> None:
        """Count a request of this client. Raises TooManyRequests once it has used up its budget."""
        for limit in self._limits[budget]:
            left = await self._left(limit, budget, client)
            if left is not None:
                raise TooManyRequests(
                    "This address has asked too often.",
                    hint=f"Wait {left} second{'' if left == 1 else 's'}, and try again.",
                    retry_after=left,
                )

    async def _left(self, limit: RateLimitItem, budget: str, client: str) -> int | None:
        """Seconds until it may ask again; None where it may now."""
        shared = self._shared
        if shared is None or self._uptime() < self._rests_until:
            return self._count_here(limit, budget, client)
        try:
            counts = _counts(limit, ("notion-oauth", self._service, budget), client)
            left = await anyio.to_thread.run_sync(_count, shared, counts)
        except Exception as error:
            self._rests_until = self._uptime() + STORAGE_REST
            if not self._down:
                _LOG.warning(
                    "The storage of rate limits cannot be used (%s): each worker counts for itself.",
                    type(error).__name__,
                )
            self._down = True
            return self._count_here(limit, budget, client)
        if self._down:
            _LOG.warning("The storage of rate limits can be used again.")
        self._down = False
        return left

    def _count_here(self, limit: RateLimitItem, budget: str, client: str) -> int | None:
        kept, part = self._cache[budget].storage, _part(client)
        counts: list[Count] = []
        for item, who in _counts(limit, (budget,), client):
            shared = (budget, part, str(hash(who[-1]) % SHARED_COUNTS))  # salted by Python, for each process anew
            full = len(kept) >= MAX_COUNTS or item.key_for(*shared) in kept  # it may have been counted there before
            counts.append((item, shared if full and item.key_for(*who) not in kept else who))
        return _count(self._own[budget], counts)


def _count(limiter: FixedWindowRateLimiter, counts: Sequence[Count]) -> int | None:
    """Count a request in all of them, the widest first, unless that or the client's own is used up.

    So a client that is refused uses nothing up that others share, and a network that is adds no count of its parts.
    """
    item, own = counts[-1]
    if len(counts) > 1 and not limiter.test(item, *own):
        return _wait(limiter, item, own)
    for item, who in counts:
        if not limiter.hit(item, *who):
            return _wait(limiter, item, who)
    return None


def _wait(limiter: FixedWindowRateLimiter, item: RateLimitItem, who: tuple[str, ...]) -> int:
    """Seconds until it is counted anew."""
    return max(1, math.ceil(limiter.get_window_stats(item, *who).reset_time - time.time()))


def _counts(limit: RateLimitItem, before: tuple[str, ...], client: str) -> list[Count]:
    """What a client is counted in, the widest first."""
    address = _address(client)
    if address is None:
        return [(limit, (*before, client[:64]))]
    if address.version == 4:
        return [(limit, (*before, str(address)))]
    own, network = (str(ipaddress.ip_network((address, bits), strict=False)) for bits in (64, 48))
    return [(_tenfold(limit), (*before, network)), (limit, (*before, own))]


def _part(client: str) -> str:
    """The part of the internet that it comes from, a provider's or a country's: there are few of them."""
    address = _address(client)
    if address is None:
        return "others"
    if address.version == 4:
        return f"others of {address.packed[0]}.0.0.0/8"
    return f"others of IPv6, part {zlib.crc32(address.packed[:4]) % PARTS_OF_IPV6}"  # which of them has its /32


def _address(client: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """None for what is none. One of IPv4 in the clothes of IPv6 (RFC 4291 §2.5.5.2) is one of IPv4."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _tenfold(limit: RateLimitItem) -> RateLimitItem:
    return type(limit)(limit.amount * OF_A_NETWORK, limit.multiples, limit.namespace)


def _parsed(setting: str, limit: str) -> tuple[RateLimitItem, ...]:
    from limits import parse_many  # noqa: PLC0415 - see above

    if limit.strip() in _OFF:
        return ()
    try:
        return tuple(parse_many(limit))
    except ValueError:
        raise ConfigurationError(
            f"Wrong setting: {PREFIX}{setting.upper()}: it is no limit.", hint="Write it as 30/minute, or 0 for none."
        ) from None


def _shared(storage: SecretStr | None) -> FixedWindowRateLimiter | None:
    if storage is None:
        return None
    url, setting = storage.get_secret_value(), f"{PREFIX}RATE_LIMIT_STORAGE"
    if not url.startswith(_SCHEMES):
        raise ConfigurationError(
            f"Wrong setting: {setting}: it is no URL of a Redis.", hint="Write it as redis://HOST:PORT/0."
        )
    from limits.storage import RedisStorage  # noqa: PLC0415 - see above
    from limits.strategies import FixedWindowRateLimiter  # noqa: PLC0415

    try:
        from redis.backoff import NoBackoff  # noqa: PLC0415 - an extra
        from redis.retry import Retry  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            f"{setting} needs the library redis.", hint="Install it with: uv pip install 'notion-oauth[redis]'"
        ) from None
    options = {
        "socket_timeout": STORAGE_TIMEOUT,
        "socket_connect_timeout": STORAGE_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        return FixedWindowRateLimiter(RedisStorage(url, **options))  # type: ignore[arg-type]
    except ValueError:
        raise ConfigurationError(f"Wrong setting: {setting}: it is no URL of a Redis.", hint="Mend it.") from None
