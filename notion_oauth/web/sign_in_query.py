"""The query parameters of the sign-in route: `scope`, `acr_values` and `max_age`."""

from __future__ import annotations

from collections.abc import Iterable

from notion_oauth.errors import BadRequest
from notion_oauth.protocol.challenge import MAX_AGE_DIGITS, BearerChallenge, parse_scope_tokens, requested_challenge

QUERY = ("scope", "acr_values", "max_age")
MAX_WORDS = 500  # characters of each value: the pending sign-in has to fit into a cookie
_NOT_WORDS = "{name} takes values without quotes, separated by spaces (RFC 6749 §3.3)."
_CORRECT_IT = "Correct the address, or leave it out: then the sign-in asks for what it needs."
_SAY_IT_ONCE = "Say it once, with spaces between its values."


def challenge_in_query(parameters: Iterable[tuple[str, str]]) -> BearerChallenge | None:
    """The same, of what an address asks for by `scope`, `acr_values` and `max_age`; others say nothing.

    Raises BadRequest, which names the parameter and repeats nothing of what was sent.
    """
    given: dict[str, str] = {}
    for name, value in parameters:
        if name in QUERY:
            if name in given:
                raise BadRequest(f"{name} is there twice.", hint=_SAY_IT_ONCE)
            given[name] = value
    for name in ("scope", "acr_values"):
        if len(given.get(name, "")) > MAX_WORDS:
            raise BadRequest(f"{name} is longer than {MAX_WORDS} characters.", hint=_CORRECT_IT)
        if name in given and parse_scope_tokens(given[name]) is None:
            raise BadRequest(_NOT_WORDS.format(name=name), hint=_CORRECT_IT)
    seconds = given.get("max_age")
    if seconds is not None and not (seconds.isascii() and seconds.isdigit() and len(seconds) <= MAX_AGE_DIGITS):
        raise BadRequest("max_age is a whole number of seconds (RFC 9470 §3).", hint=_CORRECT_IT)
    return requested_challenge(given.get("scope"), given.get("acr_values"), None if seconds is None else int(seconds))
