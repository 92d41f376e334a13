"""The audit log: one line for each sign-in, refresh, revocation and sign-out, for each that failed, and at the gate.

A token is shown as the first eight hexadecimal digits of its SHA-256, so that a rotation can be followed from line
to line and from machine to machine, and compared with what `printf %s "$TOKEN" | sha256sum` says. No key is needed:
a token is random (RFC 6749 §10.10), so nobody can guess which one it was, and 32 bits of a hash give no token back.
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

Event = Literal["registration", "sign_in", "refresh", "revocation", "sign_out", "operator_unlock", "operator_lock"]
Fact = str | None

FINGERPRINT = 8  # hexadecimal digits
LOGGER = logging.getLogger("notion_oauth.audit")
# Whether and where a library's lines are written is its application's choice
logging.getLogger("notion_oauth").addHandler(logging.NullHandler())


def fingerprint(token: SecretStr | None) -> str | None:
    """What a token is called in the logs."""
    if token is None:
        return None
    return hashlib.sha256(token.get_secret_value().encode(errors="surrogatepass")).hexdigest()[:FINGERPRINT]


class Facts(dict[str, str]):
    """Named values of a line; `str` writes them as name=value, in quotes where that would be unclear otherwise."""

    def __str__(self) -> str:
        return " ".join([f"{name}={value if value.isalnum() else _quoted(value)}" for name, value in self.items()])


def _quoted(value: str) -> str:
    plain = value and value.isprintable() and not (" " in value or '"' in value or "=" in value)
    return value if plain else json.dumps(value)


class Audit:
    """Writes the lines of one profile. A refresh that another process has done, and whose token is taken, is none.

    `profile` is None for what concerns no profile, or none that is known.
    """

    def __init__(self, profile: str | None) -> None:
        self.profile = profile

    def without_profile(self) -> Self:
        """As this one, for what concerns no profile."""
        return type(self)(None)

    def attempt(self, event: Event, **facts: Fact) -> Attempt:
        """Something that is begun and will be told of once, however it ends, with these facts."""
        return Attempt(self, event, facts)

    def succeeded(self, event: Event, tokens: TokenSet | None = None, **facts: Fact) -> None:
        """It is done. `tokens` is the login as it is from now on, or was until now."""
        self._write(logging.INFO, event, "success", {**_login(tokens), **facts})

    def refreshed(self, before: TokenSet, after: TokenSet) -> None:
        """The server has given new tokens, and they are stored."""
        self.succeeded("refresh", after, replaced_sha256=fingerprint(before.refresh_token))

    def failed(self, event: Event, error: Exception, tokens: TokenSet | None = None, **facts: Fact) -> None:
        """It did not happen this time."""
        why = {
            "reason": error.code if isinstance(error, NotionOAuthError) else type(error).__name__,
            "error": getattr(error, "error", None),
            "detail": error.message if isinstance(error, NotionOAuthError) else None,
        }
        self._write(logging.WARNING, event, "failure", {**_login(tokens), **facts, **why})

    def ended(self, tokens: TokenSet, ended: EndedLogin) -> None:
        """The server has ended the login instead of refreshing it."""
        why = {"reason": ended.reason, "error": ended.error, "detail": ended.description}
        self._write(logging.WARNING, "refresh", "login_ended", {**_login(tokens), **why})

    def _write(self, level: int, event: Event, outcome: str, facts: dict[str, Fact]) -> None:
        given = {"outcome": outcome, "profile": self.profile, **facts}
        known = Facts({name: value for name, value in given.items() if value is not None})
        LOGGER.log(level, "%s %s", event, known, extra={"event": event, "facts": known})


class Attempt:
    """Exactly one line for what is done in its blocks: the success that is told, or the first error that leaves one."""

    def __init__(self, audit: Audit, event: Event, facts: dict[str, Fact]) -> None:
        self._audit, self._event, self._facts = audit, event, facts
        self._told = False

    def succeeded(self, tokens: TokenSet | None = None, **facts: Fact) -> None:
        self._told = True
        self._audit.succeeded(self._event, tokens, **{**self._facts, **facts})

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        if isinstance(error, Exception) and not self._told:
            self._told = True
            self._audit.failed(self._event, error, None, **self._facts)


def _login(tokens: TokenSet | None) -> dict[str, Fact]:
    if tokens is None:
        return {}
    return {
        "issuer": tokens.issuer,
        "client_id": tokens.client.client_id if tokens.client else None,
        "access_sha256": fingerprint(tokens.access_token),
        "refresh_sha256": fingerprint(tokens.refresh_token),
    }
