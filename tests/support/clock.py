"""A wall clock that tests move."""

from __future__ import annotations

from datetime import datetime, timedelta

from notion_oauth.clock import utc_now


class Clock:
    """The time, `ahead` of this machine's."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead
