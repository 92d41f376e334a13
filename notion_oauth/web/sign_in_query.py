"""The query parameters of the sign-in route: `scope`, `acr_values` and `max_age`."""

from __future__ import annotations

from collections.abc import Iterable

from notion_oauth.errors import BadRequest
from notion_oauth.protocol.challenge import MAX_AGE_DIGITS, BearerChallenge, parse_scope_tokens, requested_challenge

QUERY = ("scope", "acr_values", "max_age")
MAX_VALUE_LENGTH = 500  # characters of each value: the pending sign-in must fit into a cookie
_INVALID_VALUE = "{name} must contain values separated by spaces, without quotes or backslashes (RFC 6749 §3.3)."
_CORRECT_IT = "Correct the URL, or remove the parameter: the sign-in has defaults."
_SEND_ONCE = "Send it once, with its values separated by spaces."


def parse_sign_in_query(parameters: Iterable[tuple[str, str]]) -> BearerChallenge | None:
    """Return a challenge with the `scope`, `acr_values` and `max_age` of a query. Other parameters are ignored.

    Raises BadRequest, which names the parameter but does not echo its value.
    """
    found: dict[str, str] = {}
    for name, value in parameters:
        if name in QUERY:
            if name in found:
                raise BadRequest(f"{name} was sent twice.", hint=_SEND_ONCE)
            found[name] = value
    for name in ("scope", "acr_values"):
        if len(found.get(name, "")) > MAX_VALUE_LENGTH:
            raise BadRequest(f"{name} is longer than {MAX_VALUE_LENGTH} characters.", hint=_CORRECT_IT)
        if name in found and parse_scope_tokens(found[name]) is None:
            raise BadRequest(_INVALID_VALUE.format(name=name), hint=_CORRECT_IT)
    seconds = found.get("max_age")
    if seconds is not None and not (seconds.isascii() and seconds.isdigit() and len(seconds) <= MAX_AGE_DIGITS):
        raise BadRequest("max_age must be a whole number of seconds (RFC 9470 §3).", hint=_CORRECT_IT)
    return requested_challenge(found.get("scope"), found.get("acr_values"), None if seconds is None else int(seconds))
