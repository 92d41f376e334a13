"""The context of log lines: the request and the profile that a line is about."""

from __future__ import annotations

import secrets
from contextvars import ContextVar

REQUEST_ID: ContextVar[str | None] = ContextVar("notion_oauth_request_id", default=None)
PROFILE: ContextVar[str | None] = ContextVar("notion_oauth_profile", default=None)


def new_request_id() -> str:
    return secrets.token_hex(8)
