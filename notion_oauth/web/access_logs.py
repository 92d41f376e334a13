"""Remove the query of a callback from access logs and traces: it holds the code and the state.

The router may run in any application, server, logging and tracing setup, so this changes the servers' own loggers and
the current span.
"""

from __future__ import annotations

import copy
import logging
import re
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

LOGGERS = ("uvicorn.access", "uvicorn.asgi", "hypercorn.access", "gunicorn.access")
_WITH_QUERY = re.compile(r"([^\s?\"']*)\?([^\s\"']+)")
_CALLBACK = re.compile(r"/callback/*\Z", re.IGNORECASE)
_URL_ATTRIBUTES = ("url.full", "http.url", "http.target")  # of OpenTelemetry, new and old
_QUERY_FIELDS = ("q", "query_string")  # of hypercorn and gunicorn, of ASGI


def protect_access_logs() -> None:
    """Remove the query from every callback in the access logs of uvicorn, Hypercorn and Gunicorn."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(without_callback_query)


def without_callback_query(record: logging.LogRecord) -> bool:
    """A logging filter that changes records and drops none."""
    if isinstance(record.args, Mapping):
        record.args = _fields(record.args)
    elif isinstance(record.args, tuple):
        record.args = tuple(_value(value) for value in record.args)
    return True


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return _WITH_QUERY.sub(_cut, value)
    return _fields(value) if isinstance(value, dict) and "query_string" in value else value


def _fields(fields: Mapping[str, Any]) -> Any:
    """Return a copy of a line's fields: the original may be the ASGI scope that the application uses."""
    changed: Any = copy.copy(fields)
    for name, value in fields.items():
        if name not in _QUERY_FIELDS:
            changed[name] = _value(value) if isinstance(value, str) else value
        elif is_callback(str(fields.get("path") or fields.get("U") or ""), value):
            changed[name] = type(value)()
    return changed


def _cut(found: re.Match[str]) -> str:
    return found.group(1) if is_callback(found.group(1), found.group(2)) else found.group()


def is_callback(path: str, query: str | bytes) -> bool:
    """Whether the path is a callback's, in any spelling, or the query has an authorization response's parameters."""
    if _CALLBACK.search(unquote(path)):
        return True
    if not query:
        return False
    text = query.decode("latin-1") if isinstance(query, bytes) else query
    names = {name.lower() for name, _ in parse_qsl(text, keep_blank_values=True)}
    return "state" in names and bool(names & {"code", "error"})


def protect_span() -> None:
    """Remove a callback's query from the attributes of the current span, if OpenTelemetry is in use."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return
    span = trace.get_current_span()
    attributes = getattr(span, "attributes", None) or {}  # the SDK can read attributes, the API cannot
    if "url.query" in attributes:
        span.set_attribute("url.query", "")
    for name in _URL_ATTRIBUTES:
        if name in attributes:
            span.set_attribute(name, str(attributes[name]).partition("?")[0])
