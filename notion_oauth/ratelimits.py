"""How often one client may ask: counted by the limits library, in this worker or in Redis for all of them."""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio.to_thread
from pydantic import SecretStr

from notion_oauth.errors import ConfigurationError, TooManyRequests
from notion_oauth.patience import uptime
from notion_oauth.settings import PREFIX, Settings

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.strategies import FixedWindowRateLimiter

OPERATOR_TRIES = "5/minute"  # at the operator's secret; whatever else is set
MAX_CLIENTS = 10_000  # counted apart in memory; who comes when there are so many shares one count with the others
STORAGE_TIMEOUT = 0.5  # seconds
STORAGE_REST = 5.0  # seconds without a try at a storage that has failed
_OFF = ("", "0", "off")
_SCHEMES = ("redis://", "rediss://", "redis+unix://")
_OTHERS = "others"
_LOG = logging.getLogger(__name__)


class RateLimits:
    """Counts what clients ask for. A limit is written as `30/minute` or `5/second;200/hour`.

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
        self._memory = MemoryStorage()
        self._own = FixedWindowRateLimiter(self._memory)
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
            who = budget, _network(client)
            left = await self._left(limit, who)
            if left is not None:
                raise TooManyRequests(
                    "This address has asked too often.",
                    cure=f"Wait {left} second{'' if left == 1 else 's'}, and try again.",
                    retry_after=left,
                )

    async def _left(self, limit: RateLimitItem, who: tuple[str, str]) -> int | None:
        """Seconds until it may ask again; None where it may now."""
        shared = self._shared
        if shared is None or self._uptime() < self._rests_until:
            return self._count_here(limit, who)
        try:
            left = await anyio.to_thread.run_sync(_count, shared, limit, ("notion-oauth", self._service, *who))
        except Exception as error:
            self._rests_until = self._uptime() + STORAGE_REST
            if not self._down:
                _LOG.warning(
                    "The storage of rate limits cannot be used (%s): each worker counts for itself.",
                    type(error).__name__,
                )
            self._down = True
            return self._count_here(limit, who)
        if self._down:
            _LOG.warning("The storage of rate limits can be used again.")
        self._down = False
        return left

    def _count_here(self, limit: RateLimitItem, who: tuple[str, str]) -> int | None:
        counted = self._memory.storage
        if len(counted) >= MAX_CLIENTS and limit.key_for(*who) not in counted:
            who = who[0], _OTHERS
        return _count(self._own, limit, who)


def _count(limiter: FixedWindowRateLimiter, limit: RateLimitItem, who: tuple[str, ...]) -> int | None:
    if limiter.hit(limit, *who):
        return None
    return max(1, math.ceil(limiter.get_window_stats(limit, *who).reset_time - time.time()))


def _parsed(setting: str, limit: str) -> tuple[RateLimitItem, ...]:
    from limits import parse_many  # noqa: PLC0415 - see above

    if limit.strip() in _OFF:
        return ()
    try:
        return tuple(parse_many(limit))
    except ValueError:
        raise ConfigurationError(
            f"Wrong setting: {PREFIX}{setting.upper()}: it is no limit.", cure="Write it as 30/minute, or 0 for none."
        ) from None


def _shared(storage: SecretStr | None) -> FixedWindowRateLimiter | None:
    if storage is None:
        return None
    url, setting = storage.get_secret_value(), f"{PREFIX}RATE_LIMIT_STORAGE"
    if not url.startswith(_SCHEMES):
        raise ConfigurationError(
            f"Wrong setting: {setting}: it is no URL of a Redis.", cure="Write it as redis://HOST:PORT/0."
        )
    from limits.storage import RedisStorage  # noqa: PLC0415 - see above
    from limits.strategies import FixedWindowRateLimiter  # noqa: PLC0415

    try:
        from redis.backoff import NoBackoff  # noqa: PLC0415 - an extra
        from redis.retry import Retry  # noqa: PLC0415
    except ImportError:
        raise ConfigurationError(
            f"{setting} needs the library redis.", cure="Install it with: uv pip install 'notion-oauth[redis]'"
        ) from None
    options = {
        "socket_timeout": STORAGE_TIMEOUT,
        "socket_connect_timeout": STORAGE_TIMEOUT,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        return FixedWindowRateLimiter(RedisStorage(url, **options))  # type: ignore[arg-type]
    except ValueError:
        raise ConfigurationError(f"Wrong setting: {setting}: it is no URL of a Redis.", cure="Mend it.") from None


def _network(client: str) -> str:
    """What one client can call its own: an IPv4 address, or 64 bits of IPv6."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client[:64]
    return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
