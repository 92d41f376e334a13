"""Challenges in WWW-Authenticate (RFC 9110 §11.6.1, RFC 6750 §3, RFC 9728 §5.1, RFC 9470 §3)."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from notion_oauth.errors import Hint, StepUpRequired
from notion_oauth.protocol.messages import error_code, printable

MAX_FIELD = 16 * 1024  # characters read from all field values together; the rest is ignored
MAX_AGE_DIGITS = 10  # three centuries in seconds
_TOKEN = frozenset(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")  # RFC 9110 §5.6.2
_TOKEN68 = frozenset(string.ascii_letters + string.digits + "-._~+/")  # RFC 9110 §11.2, without its padding
_VISIBLE = frozenset(map(chr, range(0x21, 0x7F)))
_SCOPE = _VISIBLE - {'"', "\\"}  # RFC 6749 §3.3
_UNSAFE = frozenset("\r\n\0")  # read as spaces: RFC 9110 §5.5
_SPACE = frozenset(" \t") | _UNSAFE
_SEPARATOR = _SPACE | {","}
_UNQUOTED = _VISIBLE - {",", '"'}  # more than a token may contain: see parse_challenges


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge, with parameters or a token68, never both. Scheme and parameter names are in lower case.

    A server can repeat what it was sent, so `repr` shows only the scheme.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    token68: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class BearerChallenge:
    """The parameters of a Bearer challenge; None for those that are missing or malformed.

    `resource_metadata` is not validated: check the URL before fetching it. `max_age` is in seconds.
    """

    realm: str | None = None
    scope: str | None = None
    error: str | None = None
    error_description: str | None = None
    resource_metadata: str | None = None
    acr_values: str | None = None
    max_age: int | None = None

    @property
    def requires_step_up(self) -> bool:
        """Whether a valid token is not enough: it needs more scope (RFC 6750 §3.1) or a new sign-in (RFC 9470 §3)."""
        return self.error in ("insufficient_scope", "insufficient_user_authentication")


def merge_challenges(
    requested: BearerChallenge | None, from_resource: BearerChallenge | None
) -> BearerChallenge | None:
    """Return `requested` with the resource's `resource_metadata`, and with its scope if none is requested."""
    if requested is None or from_resource is None:
        return requested or from_resource
    scope = requested.scope or from_resource.scope
    return replace(requested, scope=scope, resource_metadata=from_resource.resource_metadata)


def step_up_required(challenge: BearerChallenge, host: str) -> StepUpRequired:
    """Return the error for a challenge with `requires_step_up`; its hint is the sign-in to start."""
    options = {"scope": challenge.scope, "acr_values": challenge.acr_values, "max_age": challenge.max_age}
    if challenge.error == "insufficient_scope":
        wanted = f"the scope {challenge.scope}" if challenge.scope else "a scope that it does not name"
        message = f"{host} requires {wanted}, which this login does not have."
    else:
        message = f"{host} requires a more recent or stronger sign-in."
    return StepUpRequired(
        message,
        hint=Hint("Sign in again", "login", {name: str(value) for name, value in options.items() if value is not None}),
        error=challenge.error,
        scope=challenge.scope,
        acr_values=challenge.acr_values,
        max_age=challenge.max_age,
    )


def parse_challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """Parse all WWW-Authenticate field values, in order; one value may hold several challenges, joined with commas.

    Accepts any text, in linear time. Valid text is parsed as RFC 9110 §11.2 and §11.6.1 say; malformed text only
    where it has one meaning:

    - A repeated parameter is dropped with all its values: a name must occur once in a challenge (§11.2), parsers
      differ in which one they use, and an intermediary may have added one. Without the parameter its default
      applies: a well-known URL, no scope.
    - A value is dropped if its quotes are not closed, if it runs into other text, or if it was cut off: part of a
      URL is a different URL.
    - An unquoted value may contain more than a token may, as in `resource_metadata=https://…`, and the comma
      between two parameters may be missing. Servers send both.
    - CR, LF and NUL count as spaces (§5.5). Other text is skipped up to the next comma; in place of a scheme, it
      is skipped together with the parameters that follow.
    """
    found: list[Challenge] = []
    left = MAX_FIELD
    for value in values:
        found += _Parser(value[:left], complete=len(value) <= left).challenges()
        left -= len(value)
        if left <= 0:
            break
    return tuple(found)


def bearer_challenge(values: Iterable[str], *, secrets: frozenset[str] = frozenset()) -> BearerChallenge | None:
    """Return the Bearer challenge to follow, or None. Parameters that repeat one of `secrets` are dropped.

    Of several, the first of these is used:

    1. One that requires a step-up: a new token would not be enough. If it lacks `resource_metadata`, it gets that
       of another challenge.
    2. One with `resource_metadata`: gateways add challenges without it.
    3. One with an error: it says why the token was rejected.
    4. The first one, which the server prefers.

    Nothing else is merged: challenges are alternatives (RFC 9110 §11.6.1).
    """
    found = [_bearer(one.parameters, secrets) for one in parse_challenges(values) if one.scheme == "bearer"]
    with_metadata = [one for one in found if one.resource_metadata]
    with_error = [one for one in found if one.error]
    step_up = next((one for one in found if one.requires_step_up), None)
    if step_up is not None and with_metadata and step_up.resource_metadata is None:
        return replace(step_up, resource_metadata=with_metadata[0].resource_metadata)
    return step_up or next(iter(with_metadata or with_error or found), None)


def _bearer(parameters: Mapping[str, str], secrets: frozenset[str]) -> BearerChallenge:
    safe = {name: text for name, text in parameters.items() if not any(secret in text for secret in secrets)}
    return BearerChallenge(
        realm=printable(safe.get("realm")),
        scope=parse_scope_tokens(safe.get("scope")),
        error=error_code(safe.get("error")),
        error_description=printable(safe.get("error_description")),
        resource_metadata=safe.get("resource_metadata") or None,
        acr_values=parse_scope_tokens(safe.get("acr_values")),
        max_age=_seconds(safe.get("max_age")),
    )


def parse_scope_tokens(value: str | None) -> str | None:
    """Scope tokens (RFC 6749 §3.3) joined by one space; None if there are none or one is malformed.

    Dropping only the malformed one would request something that the server did not ask for.
    """
    tokens = [token for token in (value or "").split(" ") if token]
    return " ".join(tokens) if tokens and all(_SCOPE.issuperset(token) for token in tokens) else None


def _seconds(value: str | None) -> int | None:
    """Return a non-negative whole number (RFC 9470 §3); None for anything else."""
    valid = value and value.isascii() and value.isdigit() and len(value) <= MAX_AGE_DIGITS
    return int(value) if value and valid else None


class _Parser:
    """Parses one field value from left to right. `complete` is false if its end was cut off."""

    def __init__(self, text: str, *, complete: bool) -> None:
        self._text = text
        self._end = len(text)
        self._complete = complete
        self._at = 0

    def challenges(self) -> list[Challenge]:
        found: list[Challenge] = []
        scheme, token68 = "", None
        parameters: dict[str, str | None] = {}  # of that scheme; None if dropped

        def add_challenge() -> None:
            if scheme:
                valid = {name: value for name, value in parameters.items() if value is not None}
                found.append(Challenge(scheme, valid, None if parameters else token68))

        self._skip_separator()
        after_comma = True
        while self._at < self._end:
            name = self._read(_TOKEN).lower()
            if name and self._skip_equals():
                value = self._value()
                parameters[name] = None if name in parameters else value
            elif name and after_comma and self._at_separator():
                add_challenge()
                scheme, parameters, token68 = name, {}, self._token68()
            else:
                if after_comma:  # malformed: the parameters that follow may belong to it
                    add_challenge()
                    scheme = ""
                self._skip_to_comma()
            after_comma = self._skip_separator()
        add_challenge()
        return found

    def _read(self, characters: frozenset[str]) -> str:
        """Return the longest run of these characters from here on."""
        start = self._at
        while self._at < self._end and self._text[self._at] in characters:
            self._at += 1
        return self._text[start : self._at]

    def _skip_separator(self) -> bool:
        """Skip spaces and empty list elements; return whether there was a comma."""
        return "," in self._read(_SEPARATOR)

    def _at_separator(self) -> bool:
        """Return whether a space, a comma or the end follows, so that what was read is complete."""
        return self._text[self._at] in _SEPARATOR if self._at < self._end else self._complete

    def _skip_to_comma(self) -> None:
        """Skip to the next comma outside quotes."""
        while self._at < self._end and self._text[self._at] != ",":
            if self._text[self._at] == '"':
                self._quoted()
            else:
                self._at += 1

    def _skip_equals(self) -> bool:
        """Skip an equals sign and the spaces around it; return whether there was one."""
        start = self._at
        self._read(_SPACE)
        if self._at == self._end or self._text[self._at] != "=":
            self._at = start
            return False
        self._at += 1
        self._read(_SPACE)
        return True

    def _value(self) -> str | None:
        """Return a parameter's value; None if it is empty and unquoted, or no separator follows it."""
        quoted = self._at < self._end and self._text[self._at] == '"'
        value = self._quoted() if quoted else self._read(_UNQUOTED) or None
        if self._at_separator():
            return value
        self._skip_to_comma()
        return None

    def _quoted(self) -> str | None:
        """Return the quoted string that starts here; None if it is not closed."""
        characters: list[str] = []
        self._at += 1
        while self._at < self._end:
            character = self._text[self._at]
            self._at += 1
            if character == '"':
                return "".join(characters)
            if character == "\\" and self._at < self._end:
                character = self._text[self._at]
                self._at += 1
            characters.append(" " if character in _UNSAFE else character)
        return None

    def _token68(self) -> str | None:
        """Return the token68 after a scheme; None if something else follows, and then nothing is skipped."""
        start = self._at
        self._read(_SPACE)
        token68 = self._read(_TOKEN68)
        padded = token68 + self._read(frozenset("="))
        self._read(_SPACE)
        at_end = self._text[self._at] == "," if self._at < self._end else self._complete
        if token68 and at_end:
            return padded
        self._at = start
        return None


def requested_challenge(scope: str | None, acr_values: str | None, max_age: int | None) -> BearerChallenge | None:
    """Return a challenge that a sign-in with these options would answer; None without options."""
    if scope is None and acr_values is None and max_age is None:
        return None
    authentication = acr_values is not None or max_age is not None
    error = "insufficient_user_authentication" if authentication else "insufficient_scope"
    scope, acr_values = parse_scope_tokens(scope), parse_scope_tokens(acr_values)
    return BearerChallenge(error=error, scope=scope, acr_values=acr_values, max_age=max_age)
