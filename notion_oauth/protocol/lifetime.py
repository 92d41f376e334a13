"""When tokens and logins end. Needs the standard library alone: a command that only looks loads nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import Protocol

    class Login(Protocol):
        """What the rules of time ask of a login; TokenSet has it."""

        @property
        def refresh_token(self) -> object | None: ...
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
_MAX_MILLISECONDS = 4_102_444_800_000  # the year 2100; a later time is a mistake
LEEWAY_SHARE = 3  # never more than a third of the lifetime: short-lived tokens would be refreshed at every use
CLOCK_SKEW = timedelta(minutes=5)  # more than clocks of machines that share a store are apart
WARNING = timedelta(days=14)


@dataclass(frozen=True)
class Lifetimes:
    """How long things live. The server enforces the last two and tells nobody."""

    window: timedelta = timedelta(minutes=5)  # before its expiry a token is refreshed; Notion asks for five to ten
    grant: timedelta = timedelta(days=180)  # from the sign-in, however often it is refreshed
    idle: timedelta = timedelta(days=30)  # without a refresh


class Phase(Enum):
    """Where an access token stands."""

    GOOD = "good"
    DUE = "due"  # still good, and time to refresh it
    EXPIRED = "expired"


def parse_lifetime(value: Any) -> int | None:
    """A lifetime in whole seconds, from whatever a server may send; None where it says nothing usable.

    Nothing and less than nothing say nothing: nobody issues a token that is over, and one that is believed to be
    would be refreshed at every use.
    """
    try:
        given = float(value)
    except OverflowError:  # a whole number with more than 308 digits
        given = math.inf if value > 0 else 0
    except (TypeError, ValueError):
        return None
    if isinstance(value, bool) or math.isnan(given) or given <= 0:
        return None
    return max(1, int(min(given, MAX_LIFETIME.total_seconds())))


def from_milliseconds(value: object) -> datetime | None:
    """A time in milliseconds since 1970; None for anything that is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return datetime.fromtimestamp(value / 1000, UTC) if 0 < value < _MAX_MILLISECONDS else None


def expires_at(expires_in: int | None, *, requested_at: datetime) -> datetime | None:
    """When a token expires, absolutely: made once, on receipt, and kept.

    Counted from before it was asked for: the server's own count began later, and so ends later than ours.
    """
    return None if expires_in is None else requested_at + timedelta(seconds=expires_in)


def remaining(login: Login, now: datetime) -> timedelta | None:
    """How long the access token is still good, negative where it is over; None where the server did not say.

    Never more than its whole lifetime: that can only be a wall clock that was put back.
    """
    if login.expires_at is None:
        return None
    left = login.expires_at - now  # now + something could overflow
    return left if login.expires_in is None else min(left, timedelta(seconds=login.expires_in))


def leeway(login: Login, window: timedelta) -> timedelta:
    """How long before its expiry the access token is refreshed."""
    if login.expires_in is not None:
        return min(window, timedelta(seconds=login.expires_in) / LEEWAY_SHARE)
    if login.expires_at is None:
        return timedelta()
    return max(timedelta(), min(window, (login.expires_at - login.updated_at) / LEEWAY_SHARE))


def phase(login: Login, now: datetime, window: timedelta) -> Phase:
    """Where the access token stands. One that cannot be refreshed is good to its end.

    A login from the future was stored by a clock that was wrong, or ours is: it is due, and a refresh sets it right.
    """
    left = remaining(login, now)
    if left is not None and left <= timedelta():
        return Phase.EXPIRED
    if login.refresh_token is None:
        return Phase.GOOD
    due = login.updated_at - now > CLOCK_SKEW or (left is not None and left <= leeway(login, window))
    return Phase.DUE if due else Phase.GOOD


def grant_end(login: Login, lifetimes: Lifetimes) -> datetime | None:
    """Until when the login can live if nothing refreshes it; None where it is not known when it began."""
    used = login.refreshed_at or login.updated_at
    ends = [used + lifetimes.idle] if used.timestamp() > 0 else []
    if login.authorized_at is not None:
        ends.append(login.authorized_at + lifetimes.grant)
    return min(ends, default=None)
