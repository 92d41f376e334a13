"""The log of the service and the commands: one line for each event, as text or JSON, on standard error, redacted.

Applications that import the library configure logging themselves.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from notion_oauth.errors import escape
from notion_oauth.observability.audit import LogFields
from notion_oauth.observability.context import PROFILE, REQUEST_ID
from notion_oauth.observability.redaction import may_contain_secret, redact

_SERVER_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.asgi", "uvicorn.access")
_REQUEST_LOGGERS = ("httpx", "httpcore")  # they log each request to the server, which the audit log already covers


def configure(level: str, style: str) -> None:
    """Write the log of this process to standard error, from `level` up; `style` is "text" or "json".

    If the root logger already has a handler, logging is configured, and nothing is changed.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    threshold = logging.getLevelNamesMapping()[level.upper()]
    handler = _Handler()
    handler.setFormatter(JsonLines() if style == "json" else TextLines())
    handler.setLevel(threshold)
    root.addHandler(handler)
    root.setLevel(threshold)
    logging.captureWarnings(True)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # not shown
    for name in _SERVER_LOGGERS:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"  # RequestLog writes the same, with the request id
    if threshold > logging.DEBUG:
        for name in _REQUEST_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)


class _Handler(logging.StreamHandler[Any]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Report that a line is missing. The default prints the arguments, which are not redacted."""
        try:
            self.stream.write(f"A log line of {record.name} could not be written.\n")
        except (OSError, ValueError):
            return  # standard error is closed


def _fields(record: logging.LogRecord) -> LogFields:
    """Return the fields of a line, with those of its context."""
    fields = LogFields(getattr(record, "facts", ()))
    for name, value in (("request_id", REQUEST_ID.get()), ("profile", PROFILE.get())):
        if value is not None:
            fields.setdefault(name, value)
    return fields


def _redacted(fields: LogFields) -> LogFields:
    """Redact each field separately, so that a match in one cannot extend into the next; the patterns need its name."""
    return LogFields({name: redact(f"{name}={value}")[len(name) + 1 :] for name, value in fields.items()})


def _timestamp(record: logging.LogRecord) -> str:
    seconds, rest = divmod(record.created, 1)
    return f"{_second(int(seconds))}.{int(rest * 1000):03}Z"


@lru_cache(maxsize=1)
def _second(since_epoch: int) -> str:
    return datetime.fromtimestamp(since_epoch, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class TextLines(logging.Formatter):
    """`time LEVEL logger message name=value …`; a traceback follows, indented so that it cannot look like an event."""

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", None)
        message = record.getMessage() if event is None else event
        fields = _fields(record)
        text = f"{message} {fields}"
        if may_contain_secret(text) or "\\" in text:  # a backslash: quoting may hide text from the patterns
            text = f"{redact(message)} {_redacted(fields)}"
        line = escape(f"{_timestamp(record)} {record.levelname} {record.name} {text}".rstrip())
        if record.exc_info:
            trace = redact(self.formatException(record.exc_info)).splitlines()
            line += "".join(f"\n    {escape(each)}" for each in trace)
        return line


class JsonLines(logging.Formatter):
    """One JSON object on each line: time, level, logger, message, the fields, and a traceback as one value."""

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", None)
        content = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage() if event is None else event),
            **_redacted(_fields(record)),
        }
        if record.exc_info:
            content["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(content)
