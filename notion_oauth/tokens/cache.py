"""A login in memory: at hand in microseconds, and not trusted once the store or a clock says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from notion_oauth.clock import Clock
from notion_oauth.models import TokenSet
from notion_oauth.protocol import lifetime
from notion_oauth.protocol.lifetime import Phase
from notion_oauth.storage import TokenStore

RECHECK_INTERVAL = 0.01  # seconds within which the store is not looked at again
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Copy:
    """A login, and the moments from which the store or the rules have to be asked again."""

    tokens: TokenSet
    version: object | None
    good_from: datetime  # an earlier wall clock has been put back
    good_until: datetime
    expires_at: datetime
    uptime_good_until: float
    uptime_expired: float


class TokenCache:
    """The last login that was seen. The wall clock may be set and may jump; `uptime` only goes on."""

    def __init__(
        self, store: TokenStore, profile: str, *, window: timedelta, clock: Clock, uptime: Callable[[], float]
    ) -> None:
        self._store = store
        self._profile = profile
        self._window = window
        self._clock = clock
        self._uptime = uptime
        self._copy: _Copy | None = None
        self._unchanged_until = 0.0

    def get_fresh(self, *, due: bool = False) -> TokenSet | None:
        """The login where its token is good without a doubt, and nobody has changed the store.

        One that is due to be refreshed is only given where that is said to be cared for. The store is looked at every
        few milliseconds at most: a look takes longer than all the rest.
        """
        copy, uptime = self._copy, self._uptime()
        if (
            copy is None
            or copy.version is None
            or uptime >= (copy.uptime_expired if due else copy.uptime_good_until)
            or not copy.good_from <= self._clock() < (copy.expires_at if due else copy.good_until)
        ):
            return None
        if uptime >= self._unchanged_until:
            if self._store.version(self._profile) != copy.version:
                return None
            self._unchanged_until = uptime + RECHECK_INTERVAL
        return copy.tokens

    def if_unchanged(self) -> TokenSet | None:
        """The login that was seen last, whatever its age, where the store says that it is still the same."""
        copy = self._copy
        if copy is None or copy.version is None or self._store.version(self._profile) != copy.version:
            return None
        return copy.tokens

    async def load(self, *, again: bool = False) -> TokenSet | None:
        """The stored login, read only where it may have changed; `again` trusts no stamp.

        A network's file system may tell of a change seconds later, and others count their time in seconds.
        """
        copy, version = self._copy, self._store.version(self._profile)
        if not again and copy is not None and version is not None and copy.version == version:
            return copy.tokens
        return await self._store.load(self._profile)

    def remember(self, tokens: TokenSet, *, version: object | None) -> None:
        """Keep a copy; `version` was taken before the login was read, or after it was saved under the lock."""
        now, uptime = self._clock(), self._uptime()
        left = lifetime.remaining(tokens, now)
        expired = float("inf") if left is None else uptime + left.total_seconds()
        if self._copy is not None and self._copy.tokens.access_token == tokens.access_token:
            expired = min(expired, self._copy.uptime_expired)
        good = lifetime.phase(tokens, now, self._window) is Phase.GOOD
        leeway = timedelta() if tokens.refresh_token is None else lifetime.leeway(tokens, self._window)
        expires_at = tokens.expires_at or _NEVER
        good_until = expires_at - leeway if good else now
        self._copy = _Copy(tokens, version, now, good_until, expires_at, expired - leeway.total_seconds(), expired)

    @property
    def last(self) -> TokenSet | None:
        """The last login that was seen, whatever has become of it since."""
        return None if self._copy is None else self._copy.tokens

    def forget(self) -> None:
        self._copy = None

    def expired_by_uptime(self, tokens: TokenSet) -> bool:
        """Whether a token that was seen before has had its time, whatever the wall clock says now."""
        copy = self._copy
        same = copy is not None and copy.tokens.access_token == tokens.access_token
        return copy is not None and same and self._uptime() >= copy.uptime_expired

    def until_due(self) -> timedelta | None:
        """How long until the login is to be refreshed; None where none is known."""
        return None if self._copy is None else self._copy.good_until - self._clock()
