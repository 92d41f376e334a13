"""Clocks: the wall clock, and the uptime, which cannot be set."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

Clock = Callable[[], datetime]  # the current time, with its time zone

# Seconds since boot. Cannot be set. Includes the time for which the machine is suspended, if the system supports that.
uptime: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)


def utc_now() -> datetime:
    """Return the wall clock, in UTC."""
    return datetime.now(UTC)
