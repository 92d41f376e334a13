"""Durations and times as text for users."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Literal

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> timedelta:
    """Parse a duration such as `90s`, `10m`, `2h` or `20d`; without a unit, in seconds. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text.strip().lower())
    if match is None:
        raise ValueError("use a whole number with s, m, h or d, such as 90s, 10m, 2h or 20d")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2] or "s"])


def format_duration(span: timedelta) -> str:
    """Format a duration, rounded to its unit: `54 minutes`, `3 hours`, `12 days`."""
    count, unit = max(0, round(span.total_seconds())), "second"
    for size, limit, larger in ((60, 60, "minute"), (60, 60, "hour"), (24, 24, "day")):
        if count < limit:
            break
        count, unit = (count + size // 2) // size, larger
    return f"{count} {unit}{'' if count == 1 else 's'}"


def format_relative(when: datetime, now: datetime) -> str:
    """Format a time: `in 54 minutes`, `3 hours ago`, `now`."""
    span = when - now
    if abs(span) < timedelta(seconds=1):
        return "now"
    return f"in {format_duration(span)}" if span > timedelta() else f"{format_duration(-span)} ago"


def format_local(when: datetime, now: datetime) -> str:
    """Format a time in the local time zone, and from now: `14:05 (in 54 minutes)`; with its date on another day."""
    local, today = when.astimezone(), now.astimezone().date()
    clock = f"{local:%H:%M}" if local.date() == today else f"{local:%Y-%m-%d %H:%M}"
    return f"{clock} ({format_relative(when, now)})"


def format_short_time(when: datetime, show: Literal["clock", "day", "full"] = "full") -> str:
    """Format a time, or a part of it, in UTC: the reader's time zone is unknown here. Lines break at a comma only."""
    day, clock = f"{when.day} {when:%b %Y}", f"{when:%H:%M} UTC"
    parts = {"clock": (clock,), "day": (day,), "full": (day, clock)}[show]
    return ", ".join(part.replace(" ", "\N{NO-BREAK SPACE}") for part in parts)


def format_time(when: datetime) -> str:
    """Format a time, in UTC: the reader's time zone is unknown here."""
    return f"{when.day} {when:%B %Y, %H:%M} UTC"
