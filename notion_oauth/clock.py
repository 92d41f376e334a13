"""Clocks: the wall clock, and one that nobody can set."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

Clock = Callable[[], datetime]  # the current time, with its time zone

# Seconds since boot. It cannot be set, and where the system supports it, it counts while the machine is suspended.
uptime: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)


def utc_now() -> datetime:
    """The wall clock, in UTC."""
    return datetime.now(UTC)
