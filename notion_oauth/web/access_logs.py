"""What servers and frameworks tell of a request, without the query of a callback: it holds the code and the state.

The router may live in any application, under any server, with whatever logging and tracing that has; so this works
on the servers' own loggers, and on the span that is under way.
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
_URL_ATTRIBUTES = ("url.full", "http.url", "http.target")  # OpenTelemetry's, new and old
_QUERY_FIELDS = ("q", "query_string")  # of hypercorn and gunicorn, of ASGI


def protect_access_logs() -> None:
    """Cut the query from every line that tells of a callback, in the access logs of uvicorn, Hypercorn and Gunicorn."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(without_callback_query)


def without_callback_query(record: logging.LogRecord) -> bool:
    """A filter of logging that keeps every record, changed where it must be."""
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
    """The fields of a line, in a copy: a scope of ASGI is what the application works with."""
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
    """Whether a path is a callback's, however it is written, or a query is what an authorization server sends."""
    if _CALLBACK.search(unquote(path)):
        return True
    if not query:
        return False
    text = query.decode("latin-1") if isinstance(query, bytes) else query
    names = {name.lower() for name, _ in parse_qsl(text, keep_blank_values=True)}
    return "state" in names and bool(names & {"code", "error"})


def protect_span() -> None:
    """Cut the query from what the span under way tells of this request, if OpenTelemetry is in use: a callback's."""
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return
    span = trace.get_current_span()
    known = getattr(span, "attributes", None) or {}  # the API has no way to read them, its SDK has
    if "url.query" in known:
        span.set_attribute("url.query", "")
    for name in _URL_ATTRIBUTES:
        if name in known:
            span.set_attribute(name, str(known[name]).partition("?")[0])
