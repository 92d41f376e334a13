"""What a person asks a sign-in for: scopes, how fresh and how strong it is to be; or with an assertion in a file."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

from pydantic import SecretStr

from notion_oauth.errors import BadRequest, ConfigurationError
from notion_oauth.protocol.challenge import MAX_AGE_DIGITS, BearerChallenge, words

_NOT_WORDS = "{name} takes values without quotes, separated by spaces (RFC 6749 §3.3)."
_CORRECT_IT = "Correct the address, or leave it out: then the sign-in asks for what it needs."
_SAY_IT_ONCE = "Say it once, with spaces between its values."
QUERY = ("scope", "acr_values", "max_age")  # what the address of a sign-in may ask for
MAX_WORDS = 500  # characters of each value of an address; a sign-in that waits has to fit into a cookie
MAX_ASSERTION = 64 * 1024  # characters


def challenge_of(
    scope: str | None = None, acr_values: str | None = None, max_age: int | None = None
) -> BearerChallenge | None:
    """The challenge that says the same; None where nothing is asked for. Raises ConfigurationError."""
    for name, value in (("--scope", scope), ("--acr-values", acr_values)):
        if value is not None and words(value) is None:
            raise ConfigurationError(_NOT_WORDS.format(name=name), cure="Correct it and run the command again.")
    return _challenge(scope, acr_values, max_age)


def challenge_in_query(parameters: Iterable[tuple[str, str]]) -> BearerChallenge | None:
    """The same, of what an address asks for by `scope`, `acr_values` and `max_age`; others say nothing.

    Raises BadRequest, which names the parameter and repeats nothing of what was sent.
    """
    given: dict[str, str] = {}
    for name, value in parameters:
        if name in QUERY:
            if name in given:
                raise BadRequest(f"{name} is there twice.", cure=_SAY_IT_ONCE)
            given[name] = value
    for name in ("scope", "acr_values"):
        if len(given.get(name, "")) > MAX_WORDS:
            raise BadRequest(f"{name} is longer than {MAX_WORDS} characters.", cure=_CORRECT_IT)
        if name in given and words(given[name]) is None:
            raise BadRequest(_NOT_WORDS.format(name=name), cure=_CORRECT_IT)
    seconds = given.get("max_age")
    if seconds is not None and not (seconds.isascii() and seconds.isdigit() and len(seconds) <= MAX_AGE_DIGITS):
        raise BadRequest("max_age is a whole number of seconds (RFC 9470 §3).", cure=_CORRECT_IT)
    return _challenge(given.get("scope"), given.get("acr_values"), None if seconds is None else int(seconds))


def _challenge(scope: str | None, acr_values: str | None, max_age: int | None) -> BearerChallenge | None:
    if scope is None and acr_values is None and max_age is None:
        return None
    fresher = acr_values is not None or max_age is not None
    error = "insufficient_user_authentication" if fresher else "insufficient_scope"
    return BearerChallenge(error=error, scope=words(scope), acr_values=words(acr_values), max_age=max_age)


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
            cure="Have your identity provider issue one for this server, and sign in with it while it is fresh.",
        )
    return SecretStr(content.strip())
