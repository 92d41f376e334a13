"""Times for people: local, and from now."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from notion_oauth.humanize import format_local, format_relative

NOW = datetime(2026, 1, 2, 23, 30, tzinfo=UTC)


@pytest.fixture
def _in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where it is 08:30 of the next day."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (timedelta(minutes=59), "in 59 minutes"),
        (timedelta(seconds=3599), "in 1 hour"),
        (timedelta(days=-3), "3 days ago"),
        (timedelta(milliseconds=-400), "now"),
    ],
)
def test_relative_time(span: timedelta, words: str) -> None:
    assert format_relative(NOW + span, NOW) == words


@pytest.mark.usefixtures("_in_tokyo")
def test_local_time_has_its_date_on_another_day() -> None:
    assert format_local(NOW + timedelta(hours=1), NOW) == "09:30 (in 1 hour)"
    assert format_local(NOW - timedelta(days=1), NOW) == "2026-01-02 08:30 (1 day ago)"
