"""Durations and times as text for users."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> timedelta:
    """Parse a duration such as `90s`, `10m`, `2h` or `20d`; without a unit, in seconds. Raises ValueError."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text.strip().lower())
    if match is None:
        raise ValueError("use a whole number with s, m, h or d, such as 90s, 10m, 2h or 20d")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2] or "s"])


def format_duration(span: timedelta) -> str:
    """Format a duration: `54 minutes`, `3 hours`, `12 days`."""
    seconds = max(0, int(span.total_seconds()))
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * size or (seconds >= size and unit != "minute"):
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "a minute" if seconds >= 60 else f"{seconds} second{'' if seconds == 1 else 's'}"


def format_time(when: datetime) -> str:
    """Format a time, in UTC: the reader's time zone is unknown here."""
    return f"{when.day} {when:%B %Y, %H:%M} UTC"
