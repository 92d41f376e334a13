"""A clock that can be set while programs use it: a file says how many seconds it is ahead."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from notion_oauth.clock import Clock, utc_now


def read_clock(file: Path) -> float:
    """How many seconds the clock is ahead."""
    return float(file.read_text())


def machine_clock(file: Path) -> Clock:
    """The clock of a login's machine, which may be set at any time."""
    return lambda: utc_now() + timedelta(seconds=read_clock(file))
