"""The log of our own programs: one line for each event, for people or as JSON, on standard error, without secrets.

Only our service and our commands configure it. Those who import the library configure logging themselves.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from notion_oauth.observability.audit import Facts
from notion_oauth.observability.context import PROFILE, REQUEST_ID
from notion_oauth.observability.redaction import may_hold_a_secret, redact

_SERVER_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.asgi", "uvicorn.access")
_CHATTY = ("httpx", "httpcore")  # a line for each request of ours, which the audit log has already


def configure(level: str, style: str) -> None:
    """Write the log of this process to standard error, in `style` text or json, from `level` on.

    Where the root logger has a handler, somebody else has decided already, and nothing is changed.
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
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line of ours tells them
    for name in _SERVER_LOGGERS:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"  # RequestLog has the same, with the request id
    if threshold > logging.DEBUG:
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)


class _Handler(logging.StreamHandler[Any]):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say that a line is missing. logging's own way prints its arguments, which nobody has looked through."""
        try:
            self.stream.write(f"A log line of {record.name} could not be written.\n")
        except (OSError, ValueError):
            return  # nobody listens any more


def _facts(record: logging.LogRecord) -> Facts:
    """What is known of a line besides its message: its own facts, and what it belongs to."""
    facts = Facts(getattr(record, "facts", ()))
    for name, value in (("request_id", REQUEST_ID.get()), ("profile", PROFILE.get())):
        if value is not None:
            facts.setdefault(name, value)
    return facts


def _redacted(facts: Facts) -> Facts:
    """Each fact by itself, so that what looks like a header in one takes no other along; with its name, which tells."""
    return Facts({name: redact(f"{name}={value}")[len(name) + 1 :] for name, value in facts.items()})


def _moment(record: logging.LogRecord) -> str:
    seconds, rest = divmod(record.created, 1)
    return f"{_second(int(seconds))}.{int(rest * 1000):03}Z"


@lru_cache(maxsize=1)
def _second(since_epoch: int) -> str:
    return datetime.fromtimestamp(since_epoch, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _one_line(text: str) -> str:
    """What was sent to us must not be able to begin a line, or to steer a terminal."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


class TextLines(logging.Formatter):
    """`time LEVEL logger message name=value …`; a traceback follows, indented: no line of it can pass for an event."""

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", None)
        message = record.getMessage() if event is None else event
        facts = _facts(record)
        if may_hold_a_secret(said := f"{message} {facts}") or "\\" in said:  # it quotes what the patterns should see
            said = f"{redact(message)} {_redacted(facts)}"
        shown = _one_line(f"{_moment(record)} {record.levelname} {record.name} {said}".rstrip())
        if record.exc_info:
            trace = redact(self.formatException(record.exc_info)).splitlines()
            shown += "".join(f"\n    {_one_line(line)}" for line in trace)
        return shown


class JsonLines(logging.Formatter):
    """One JSON object on each line: time, level, logger, message, the facts beside them, a traceback as one value."""

    def format(self, record: logging.LogRecord) -> str:
        event = getattr(record, "event", None)
        content = {
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage() if event is None else event),
            **_redacted(_facts(record)),
        }
        if record.exc_info:
            content["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(content)
