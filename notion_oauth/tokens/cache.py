"""A login in memory: read in microseconds, and used only while neither the store nor a clock contradicts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from notion_oauth.clock import Clock
from notion_oauth.models import TokenSet
from notion_oauth.protocol import lifetime
from notion_oauth.protocol.lifetime import Phase
from notion_oauth.storage import StoredLogin, TokenStore

RECHECK_INTERVAL = 0.01  # seconds between two checks of the version in the store
UNCHECKED_INTERVAL = 1.0  # seconds for which a login counts as unchanged if the store needs a request to tell
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A login, and the times between which its token can be used without any further check."""

    tokens: TokenSet
    version: object | None
    valid_from: datetime  # if the wall clock shows an earlier time, it was set back, and the entry is not used
    valid_until: datetime
    expires_at: datetime
    uptime_valid_until: float
    uptime_expired: float


class TokenCache:
    """The last login that was read or saved. The wall clock may be set and may jump; `uptime` only increases."""

    def __init__(
        self, store: TokenStore, profile: str, *, refresh_window: timedelta, clock: Clock, uptime: Callable[[], float]
    ) -> None:
        self._store = store
        self._profile = profile
        self._refresh_window = refresh_window
        self._clock = clock
        self._uptime = uptime
        self._entry: _Entry | None = None
        self._unchanged_until = 0.0  # in seconds of `uptime`

    def get_fresh(self, *, allow_due: bool = False) -> TokenSet | None:
        """Return the login if its token is certainly valid and the stored login has not changed, else None.

        A token that is due for a refresh is returned only with `allow_due`. The version in the store is read at most
        once in RECHECK_INTERVAL, because that takes longer than everything else here.
        """
        entry, uptime = self._entry, self._uptime()
        if (
            entry is None
            or uptime >= (entry.uptime_expired if allow_due else entry.uptime_valid_until)
            or not entry.valid_from <= self._clock() < (entry.expires_at if allow_due else entry.valid_until)
        ):
            return None
        if uptime >= self._unchanged_until:
            if not self._is_current(entry):
                return None
            self._unchanged_until = uptime + RECHECK_INTERVAL
        return entry.tokens

    def _is_current(self, entry: _Entry) -> bool:
        return entry.version is not None and self._store.version(self._profile) == entry.version

    def if_unchanged(self) -> TokenSet | None:
        """Return the cached login, valid or not, if the store reports the same version as when it was read."""
        entry = self._entry
        return entry.tokens if entry is not None and self._is_unchanged(entry) else None

    def _is_unchanged(self, entry: _Entry) -> bool:
        return self._uptime() < self._unchanged_until or self._is_current(entry)

    async def load(self) -> StoredLogin:
        """Return the stored login, read only if it may have changed."""
        entry = self._entry
        if entry is not None and self._is_current(entry):
            return StoredLogin(entry.tokens, entry.version)
        return await self._store.load(self._profile)

    def put(self, tokens: TokenSet, *, version: object | None) -> None:
        """Cache a login; `version` was read before the login was loaded, or after it was saved under the lock."""
        now, uptime = self._clock(), self._uptime()
        left = lifetime.remaining(tokens, now)
        expired = float("inf") if left is None else uptime + left.total_seconds()
        if self._entry is not None and self._entry.tokens.access_token == tokens.access_token:
            expired = min(expired, self._entry.uptime_expired)
        valid = lifetime.phase(tokens, now, self._refresh_window) is Phase.VALID
        leeway = timedelta() if tokens.refresh_token is None else lifetime.leeway(tokens, self._refresh_window)
        expires_at = lifetime.expiry(tokens) or _NEVER
        valid_until = expires_at - leeway if valid else now
        self._entry = _Entry(tokens, version, now, valid_until, expires_at, expired - leeway.total_seconds(), expired)
        self._unchanged_until = 0.0 if self._store.version(self._profile) is not None else uptime + UNCHECKED_INTERVAL

    def assume_unchanged(self) -> None:
        """Use the cached login for a while without asking the store."""
        self._unchanged_until = self._uptime() + UNCHECKED_INTERVAL

    @property
    def latest(self) -> TokenSet | None:
        """The last login that was read or saved, even if it has expired or changed since."""
        return None if self._entry is None else self._entry.tokens

    def clear(self) -> None:
        self._entry = None

    def expired_by_uptime(self, tokens: TokenSet) -> bool:
        """Return whether a cached token has expired by `uptime`, whatever the wall clock shows."""
        entry = self._entry
        same = entry is not None and entry.tokens.access_token == tokens.access_token
        return entry is not None and same and self._uptime() >= entry.uptime_expired

    def time_until_due(self) -> timedelta | None:
        """Return how long until the cached login is due for a refresh; None without a cached login."""
        return None if self._entry is None else self._entry.valid_until - self._clock()
