"""Times as a person says them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> timedelta:
    """A span as a person types it: `90s`, `10m`, `2h`, `20d`; without a unit, seconds. Raises ValueError."""
    found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", text.strip().lower())
    if found is None:
        raise ValueError("use a whole number with s, m, h or d, such as 90s, 10m, 2h or 20d")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2] or "s"])


def format_duration(span: timedelta) -> str:
    """A span of time as a person says it: `54 minutes`, `3 hours`, `12 days`."""
    seconds = max(0, int(span.total_seconds()))
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * size or (seconds >= size and unit != "minute"):
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return "a minute" if seconds >= 60 else f"{seconds} second{'' if seconds == 1 else 's'}"


def format_time(when: datetime) -> str:
    """A time as a person reads it, with its zone: the reader's own is not known here."""
    return f"{when.day} {when:%B %Y, %H:%M} UTC"
