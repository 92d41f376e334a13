"""Fixtures for tests of the logs: the events of the audit log, and the text of all log lines."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator

import pytest

from notion_oauth.observability.log_format import TextLines

AuditEvents = Callable[[], list[tuple[str, dict[str, str]]]]


@pytest.fixture
def audit_events(caplog: pytest.LogCaptureFixture) -> AuditEvents:
    """The events of the audit log and their facts, in order."""
    caplog.set_level(logging.INFO, "notion_oauth.audit")
    return lambda: [
        (record.__dict__["event"], record.__dict__["facts"])
        for record in caplog.records
        if record.name == "notion_oauth.audit"
    ]


@pytest.fixture
def log_output() -> Iterator[io.StringIO]:
    """All log lines of the package, in text format."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextLines())
    package = logging.getLogger("notion_oauth")
    package.addHandler(handler)
    package.setLevel(logging.DEBUG)
    yield stream
    package.setLevel(logging.NOTSET)
    package.removeHandler(handler)
