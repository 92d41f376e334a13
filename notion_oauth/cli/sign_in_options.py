"""What a person asks a sign-in for: scopes, how fresh and how strong it is to be; or with an assertion in a file."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from pydantic import SecretStr

from notion_oauth.errors import ConfigurationError
from notion_oauth.protocol.challenge import BearerChallenge, parse_scope_tokens, requested_challenge

_NOT_WORDS = "{name} takes values without quotes, separated by spaces (RFC 6749 §3.3)."
MAX_ASSERTION = 64 * 1024  # characters


def challenge_of(
    scope: str | None = None, acr_values: str | None = None, max_age: int | None = None
) -> BearerChallenge | None:
    """The challenge that says the same; None where nothing is asked for. Raises ConfigurationError."""
    for name, value in (("--scope", scope), ("--acr-values", acr_values)):
        if value is not None and parse_scope_tokens(value) is None:
            raise ConfigurationError(_NOT_WORDS.format(name=name), hint="Correct it and run the command again.")
    return requested_challenge(scope, acr_values, max_age)


def assertion_in(path: Path) -> SecretStr:
    """The assertion that a file holds, or standard input where the path is `-`. Raises ConfigurationError."""
    try:
        # Not read as a file of ours is: whoever issues it decides whose it is, and who may read it
        with contextlib.nullcontext(sys.stdin) if str(path) == "-" else path.open(encoding="utf-8") as source:
            content = source.read(MAX_ASSERTION)
    except (OSError, UnicodeDecodeError):
        content = ""
    parts = content.strip().split(".")
    if len(parts) != 3 or not all(part and part.isascii() and not part.isspace() for part in parts):
        where = "Standard input" if str(path) == "-" else f"{path}"
        raise ConfigurationError(
            f"{where} holds no assertion: a JWT has three parts, with dots between them.",
            hint="Have your identity provider issue one for this server, and sign in with it while it is fresh.",
        )
    return SecretStr(content.strip())
