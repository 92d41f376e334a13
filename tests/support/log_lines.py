"""What tests of the logs share: the lines of the audit log, and lines as our own programs write them."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator

import pytest

from notion_oauth.observability.log_format import TextLines

Told = Callable[[], list[tuple[str, dict[str, str]]]]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    """The events of the audit log and their facts, in order."""
    caplog.set_level(logging.INFO, "notion_oauth.audit")
    return lambda: [
        (record.__dict__["event"], record.__dict__["facts"])
        for record in caplog.records
        if record.name == "notion_oauth.audit"
    ]


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """All that the package logs, as lines for people."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextLines())
    package = logging.getLogger("notion_oauth")
    package.addHandler(handler)
    package.setLevel(logging.DEBUG)
    yield stream
    package.setLevel(logging.NOTSET)
    package.removeHandler(handler)
