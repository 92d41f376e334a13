"""A record of the requests, for tests."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl


@dataclass(repr=False)
class RecordedRequest:
    """One request. `status` is None until the response starts; `repr` shows names, never values: they are secrets."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    form: dict[str, str]
    json: Any | None
    status: int | None = None

    def __repr__(self) -> str:
        names = ", ".join([*self.query, *self.form])
        return f"<{self.method} {self.path} [{names}] {self.status or 'unanswered'}>"


class Recorder:
    """Records requests in the order of their arrival."""

    def __init__(self) -> None:
        self.requests: list[RecordedRequest] = []
        self._lock = threading.Lock()

    def record(self, scope: Any, body: bytes) -> RecordedRequest:
        """Record the request of an ASGI scope with its whole body."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        kind = headers.get("content-type", "").partition(";")[0]
        request = RecordedRequest(
            method=scope["method"],
            path=scope["path"],
            query=dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)),
            headers=headers,
            form=dict(pairs_of(body)) if kind == "application/x-www-form-urlencoded" else {},
            json=json_of(body) if kind == "application/json" else None,
        )
        with self._lock:
            self.requests.append(request)
        return request


def pairs_of(body: bytes) -> list[tuple[str, str]]:
    """Return the fields of a form, including repeated ones."""
    return parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)


def json_of(body: bytes) -> Any | None:
    """Return the JSON value; None for anything else."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
