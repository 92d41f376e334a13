"""The audit log: one line for each event of a login and each unlock or lock by the operator, also if it fails.

A token is shown as the first eight hexadecimal digits of its SHA-256, so that rotations can be followed across lines
and machines, and compared with `printf %s "$TOKEN" | sha256sum`. The hash needs no key: tokens are random
(RFC 6749 §10.10), so they cannot be guessed, nor recovered from 32 bits of a hash.
"""

from __future__ import annotations

import hashlib
import json
import logging
from types import TracebackType
from typing import Literal, Self

from pydantic import SecretStr

from notion_oauth.errors import NotionOAuthError
from notion_oauth.models import EndedLogin, TokenSet

Event = Literal[
    "registration", "sign_in", "refresh", "revocation", "sign_out", "operator_unlock", "operator_lock", "mcp_message"
]
FieldValue = str | None

FINGERPRINT = 8  # hexadecimal digits
LOGGER = logging.getLogger("notion_oauth.audit")
# The application decides whether and where the lines of a library are written
logging.getLogger("notion_oauth").addHandler(logging.NullHandler())


def fingerprint(token: SecretStr | None) -> str | None:
    """Return the token's identifier in the logs."""
    if token is None:
        return None
    return hashlib.sha256(token.get_secret_value().encode(errors="surrogatepass")).hexdigest()[:FINGERPRINT]


class LogFields(dict[str, str]):
    """Named values of a log line; `str` writes them as name=value, with quotes if the value needs them."""

    def __str__(self) -> str:
        return " ".join([f"{name}={value if value.isalnum() else _quoted(value)}" for name, value in self.items()])


def _quoted(value: str) -> str:
    plain = value and value.isprintable() and not (" " in value or '"' in value or "=" in value)
    return value if plain else json.dumps(value)


class Audit:
    """Writes the lines of one profile. Adopting a token that another process has refreshed writes no line.

    `profile` is None for events of no profile or an unknown one.
    """

    def __init__(self, profile: str | None) -> None:
        self.profile = profile

    def without_profile(self) -> Self:
        """Return an Audit of the same class, for events of no profile."""
        return type(self)(None)

    def attempt(self, event: Event, **fields: FieldValue) -> Attempt:
        """Return a context manager that writes one line with these fields: a reported success, or its block's error."""
        return Attempt(self, event, fields)

    def succeeded(self, event: Event, tokens: TokenSet | None = None, **fields: FieldValue) -> None:
        """Write a success. `tokens` is the new login, or the one that was just removed."""
        self._write(logging.INFO, event, "success", {**_login_fields(tokens), **fields})

    def refreshed(self, before: TokenSet, after: TokenSet) -> None:
        """Write that the server issued new tokens and that they are stored."""
        self.succeeded("refresh", after, replaced_sha256=fingerprint(before.refresh_token))

    def failed(self, event: Event, error: Exception, tokens: TokenSet | None = None, **fields: FieldValue) -> None:
        """Write a failure, with the error's code and text."""
        reason = {
            "reason": error.code if isinstance(error, NotionOAuthError) else type(error).__name__,
            "error": getattr(error, "error", None),
            "detail": error.message if isinstance(error, NotionOAuthError) else None,
        }
        self._write(logging.WARNING, event, "failure", {**_login_fields(tokens), **fields, **reason})

    def ended(self, tokens: TokenSet, ended: EndedLogin) -> None:
        """Write that the server ended the login instead of refreshing it."""
        reason = {"reason": ended.reason, "error": ended.error, "detail": ended.description}
        self._write(logging.WARNING, "refresh", "login_ended", {**_login_fields(tokens), **reason})

    def relayed(self, method: str, outcome: str, seconds: float, session: str | None) -> None:
        """Write one line for a message of an MCP client; a session is shown like a token."""
        if LOGGER.isEnabledFor(logging.INFO):
            identifier = fingerprint(None if session is None else SecretStr(session))
            milliseconds = f"{seconds * 1000:.0f}"
            fields = {"method": method, "milliseconds": milliseconds, "session": identifier}
            self._write(logging.INFO, "mcp_message", outcome, fields)

    def _write(self, level: int, event: Event, outcome: str, fields: dict[str, FieldValue]) -> None:
        all_fields = {"outcome": outcome, "profile": self.profile, **fields}
        known = LogFields({name: value for name, value in all_fields.items() if value is not None})
        LOGGER.log(level, "%s %s", event, known, extra={"event": event, "facts": known})


class Attempt:
    """Writes exactly one line for its `with` blocks: the reported success, or the first error that leaves a block."""

    def __init__(self, audit: Audit, event: Event, fields: dict[str, FieldValue]) -> None:
        self._audit, self._event, self._fields = audit, event, fields
        self._written = False

    def succeeded(self, tokens: TokenSet | None = None, **fields: FieldValue) -> None:
        self._written = True
        self._audit.succeeded(self._event, tokens, **{**self._fields, **fields})

    def dismiss(self) -> None:
        """Write no line: this repeats an attempt that writes its own."""
        self._written = True

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        if isinstance(error, Exception) and not self._written:
            self._written = True
            self._audit.failed(self._event, error, None, **self._fields)


def _login_fields(tokens: TokenSet | None) -> dict[str, FieldValue]:
    if tokens is None:
        return {}
    return {
        "issuer": tokens.issuer,
        "client_id": tokens.client.client_id if tokens.client else None,
        "access_sha256": fingerprint(tokens.access_token),
        "refresh_sha256": fingerprint(tokens.refresh_token),
    }
