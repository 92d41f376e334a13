"""When tokens and logins end. Imports only the standard library, so that the fast path of commands stays fast."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Protocol

    class Login(Protocol):
        """The attributes of a login that these functions need; TokenSet has them."""

        @property
        def refresh_token(self) -> object | None: ...
        @property
        def client(self) -> object | None: ...
        @property
        def expires_in(self) -> int | None: ...
        @property
        def expires_at(self) -> datetime | None: ...
        @property
        def authorized_at(self) -> datetime | None: ...
        @property
        def refreshed_at(self) -> datetime | None: ...
        @property
        def updated_at(self) -> datetime: ...


MAX_LIFETIME = timedelta(days=3650)  # a longer one is a mistake, and would overflow dates
_MAX_SECONDS = 4_102_444_800  # the year 2100; a later time is a mistake
_MIN_MILLISECONDS = 100_000_000_000  # the year 1973, or in seconds the year 5138
LEEWAY_DIVISOR = 3  # at most a third of the lifetime: short-lived tokens would be refreshed at every use otherwise
UNKNOWN_LIFETIME = timedelta(hours=1)  # of a token that can be refreshed and whose lifetime the server did not send
CLOCK_SKEW = timedelta(minutes=5)  # more than the clocks of machines that share a store usually differ
WARN_BEFORE_END = timedelta(days=14)  # of a login


@dataclass(frozen=True)
class Lifetimes:
    """Lifetimes of a login. The server enforces `grant` and `idle`, and does not publish them."""

    refresh_window: timedelta = timedelta(minutes=5)  # before the expiry; Notion recommends five to ten
    grant: timedelta = timedelta(days=180)  # from the sign-in, even if it is refreshed
    idle: timedelta = timedelta(days=30)  # without a refresh


class Phase(Enum):
    """The state of an access token."""

    VALID = "valid"
    DUE = "due"  # still valid, but should be refreshed
    EXPIRED = "expired"


def parse_lifetime(value: Any) -> int | None:
    """Return a lifetime in whole seconds, from any value that a server may send; None if it is not usable.

    Zero and negative values are not usable: no server issues an expired token, and a token that counts as expired
    would be refreshed at every use.
    """
    try:
        seconds = float(value)
    except OverflowError:  # a whole number with more than 308 digits
        seconds = math.inf if value > 0 else 0
    except (TypeError, ValueError):
        return None
    if isinstance(value, bool) or math.isnan(seconds) or seconds <= 0:
        return None
    return max(1, int(min(seconds, MAX_LIFETIME.total_seconds())))


def parse_time(value: object) -> datetime | None:
    """Return a time from milliseconds or seconds since 1970, or from ISO 8601 text; None for anything else."""
    if isinstance(value, str):
        return _parse_text(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value < _MAX_SECONDS * 1000:
        return None
    seconds = value / 1000 if value >= _MIN_MILLISECONDS else value
    return datetime.fromtimestamp(seconds, UTC) if 0 < seconds < _MAX_SECONDS else None


def _parse_text(text: str) -> datetime | None:
    with suppress(ValueError):
        return parse_time(float(text))
    with suppress(ValueError, OverflowError):
        found = datetime.fromisoformat(text.strip())
        return parse_time((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
    return None


def expires_at(expires_in: int | None, *, requested_at: datetime) -> datetime | None:
    """Return when a token expires, as an absolute time. Call it once, on receipt, and store the result.

    Counted from before the request: the server starts counting later, so the token expires there no earlier.
    """
    return None if expires_in is None else requested_at + timedelta(seconds=expires_in)


def remaining(login: Login, now: datetime) -> timedelta | None:
    """Return how long the access token is still valid, negative if it has expired; None if that is unknown.

    Never more than its lifetime: a longer time means that the wall clock was set back.
    """
    lifetime, end = _lifetime(login), expiry(login)
    if end is None:
        return None
    left = end - now  # now + something could overflow
    return left if lifetime is None else min(left, lifetime)


def expiry(login: Login) -> datetime | None:
    """Return when the access token expires: if the server did not say, an hour after a token that can be refreshed."""
    return login.updated_at + UNKNOWN_LIFETIME if _is_lifetime_assumed(login) else login.expires_at


def _is_lifetime_assumed(login: Login) -> bool:
    return login.expires_at is None and login.refresh_token is not None and login.client is not None


def _lifetime(login: Login) -> timedelta | None:
    if login.expires_in is not None:
        return timedelta(seconds=login.expires_in)
    return UNKNOWN_LIFETIME if _is_lifetime_assumed(login) else None


def leeway(login: Login, refresh_window: timedelta) -> timedelta:
    """Return how long before its expiry the access token is refreshed."""
    if (lifetime := _lifetime(login)) is not None:
        return min(refresh_window, lifetime / LEEWAY_DIVISOR)
    if login.expires_at is None:
        return timedelta()
    return max(timedelta(), min(refresh_window, (login.expires_at - login.updated_at) / LEEWAY_DIVISOR))


def phase(login: Login, now: datetime, refresh_window: timedelta) -> Phase:
    """Return the state of the access token. Without a refresh token it is valid until it expires.

    A login from the future means that a clock was or is wrong: it is due, and the refresh corrects it.
    """
    left = remaining(login, now)
    if left is not None and left <= timedelta():
        return Phase.EXPIRED
    if login.refresh_token is None:
        return Phase.VALID
    due = login.updated_at - now > CLOCK_SKEW or (left is not None and left <= leeway(login, refresh_window))
    return Phase.DUE if due else Phase.VALID


def login_end(login: Login, lifetimes: Lifetimes) -> datetime | None:
    """Return when the login ends if it is not refreshed; None if its start is unknown."""
    used = login.refreshed_at or login.updated_at
    ends = [used + lifetimes.idle] if used.timestamp() > 0 else []
    if login.authorized_at is not None:
        ends.append(login.authorized_at + lifetimes.grant)
    return min(ends, default=None)
