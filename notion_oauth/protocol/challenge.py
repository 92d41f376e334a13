"""What a 401 or 403 asks for: WWW-Authenticate (RFC 9110 §11.6.1, RFC 6750 §3, RFC 9728 §5.1, RFC 9470 §3)."""

from __future__ import annotations

import shlex
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from notion_oauth.errors import StepUpRequired
from notion_oauth.protocol.messages import error_code, printable

MAX_FIELD = 16 * 1024  # characters of all field values together that are read; the rest is ignored
MAX_AGE_DIGITS = 10  # three centuries in seconds
_TOKEN = frozenset(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~")  # RFC 9110 §5.6.2
_TOKEN68 = frozenset(string.ascii_letters + string.digits + "-._~+/")  # RFC 9110 §11.2, without its padding
_VISIBLE = frozenset(map(chr, range(0x21, 0x7F)))
_SCOPE = _VISIBLE - {'"', "\\"}  # RFC 6749 §3.3
_UNSAFE = frozenset("\r\n\0")  # to be taken for spaces: RFC 9110 §5.5
_SPACE = frozenset(" \t") | _UNSAFE
_SEPARATOR = _SPACE | {","}
_UNQUOTED = _VISIBLE - {",", '"'}  # wider than a token: see parse_challenges


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge: scheme and parameter names are in lower case. It has parameters or a token68, never both.

    The server's own text can repeat what it was sent, so `repr` shows the scheme alone.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict, repr=False)
    token68: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class BearerChallenge:
    """What a Bearer challenge says; None for what it leaves out, or says in a form that is not to be used.

    `resource_metadata` is as the server wrote it: whoever fetches it checks the address. `max_age` is in seconds.
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
        """Whether it asks for more than a valid token: scopes (RFC 6750 §3.1), or who the person is (RFC 9470 §3)."""
        return self.error in ("insufficient_scope", "insufficient_user_authentication")


def merge_challenges(given: BearerChallenge | None, asked: BearerChallenge | None) -> BearerChallenge | None:
    """What a person wants, with what the resource said when it was asked, where the person has said nothing."""
    if given is None or asked is None:
        return given or asked
    return replace(given, scope=given.scope or asked.scope, resource_metadata=asked.resource_metadata)


def step_up_required(challenge: BearerChallenge, host: str) -> StepUpRequired:
    """The error that a challenge stands for whose `requires_step_up` holds, with the command that asks the person."""
    options = [("--scope", challenge.scope), ("--acr-values", challenge.acr_values), ("--max-age", challenge.max_age)]
    command = " ".join(f"{name} {shlex.quote(str(value))}" for name, value in options if value is not None)
    if challenge.error == "insufficient_scope":
        wanted = f"the scope {challenge.scope}" if challenge.scope else "a scope that it does not name"
        message = f"{host} asks for {wanted}, which this login does not have."
    else:
        message = f"{host} asks for a fresher or stronger sign-in than this login's."
    return StepUpRequired(
        message,
        hint=f"Allow it with: notion-oauth login {command}".rstrip(),
        error=challenge.error,
        scope=challenge.scope,
        acr_values=challenge.acr_values,
        max_age=challenge.max_age,
    )


def parse_challenges(values: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges of all WWW-Authenticate field values, in order; `", "` may have joined several into one.

    Any text gives a value, in time that grows with its length alone. What follows the grammar is read as
    RFC 9110 §11.2 and §11.6.1 say; of what does not, only as much as can be read in one way:

    - A repeated parameter is dropped with all of its values. A name must occur once in a challenge (§11.2).
      Where it does not, one program on the way has believed the first and another the last, and neither can
      be known to be the server's own. Without the parameter its default holds: a well-known URL, no scope.
    - A value whose quotes are not closed, that runs into something else or was cut off is dropped: half an
      address is another address.
    - An unquoted value may hold what no token holds, as in `resource_metadata=https://…`, and the comma between
      two parameters may be missing. Servers send both.
    - CR, LF and NUL count as spaces (§5.5). Other text is passed over up to the next comma; where a challenge
      should have begun, the parameters that follow are passed over with it.
    """
    found: list[Challenge] = []
    left = MAX_FIELD
    for value in values:
        found += _Reader(value[:left], whole=len(value) <= left).challenges()
        left -= len(value)
        if left <= 0:
            break
    return tuple(found)


def bearer_challenge(values: Iterable[str], *, secrets: frozenset[str] = frozenset()) -> BearerChallenge | None:
    """The Bearer challenge to follow; None where there is none. Text that repeats one of `secrets` is left out.

    Of several it is the first that asks for more than a valid token: a new one would not do. Where it does not say
    where the authorization servers are, another may. Otherwise it is the first that has `resource_metadata`: it alone
    says that, while gateways on the way add bare challenges of their own. Otherwise it is the first with an error,
    which tells why the token did not do; otherwise the first, the server's preference. Nothing else is merged: each is
    a way of its own to be let in (RFC 9110 §11.6.1).
    """
    said = [_bearer(one.parameters, secrets) for one in parse_challenges(values) if one.scheme == "bearer"]
    with_metadata = [one for one in said if one.resource_metadata]
    with_error = [one for one in said if one.error]
    stepping_up = next((one for one in said if one.requires_step_up), None)
    if stepping_up is not None and with_metadata and stepping_up.resource_metadata is None:
        return replace(stepping_up, resource_metadata=with_metadata[0].resource_metadata)
    return stepping_up or next(iter(with_metadata or with_error or said), None)


def _bearer(parameters: Mapping[str, str], secrets: frozenset[str]) -> BearerChallenge:
    told = {name: text for name, text in parameters.items() if not any(secret in text for secret in secrets)}
    return BearerChallenge(
        realm=printable(told.get("realm")),
        scope=parse_scope_tokens(told.get("scope")),
        error=error_code(told.get("error")),
        error_description=printable(told.get("error_description")),
        resource_metadata=told.get("resource_metadata") or None,
        acr_values=parse_scope_tokens(told.get("acr_values")),
        max_age=_seconds(told.get("max_age")),
    )


def parse_scope_tokens(value: str | None) -> str | None:
    """Values of RFC 6749 §3.3, with one space between them; None where one of them is malformed, or there is none.

    Leaving out the malformed one alone would ask for something that the server did not say.
    """
    words = [word for word in (value or "").split(" ") if word]
    return " ".join(words) if words and all(_SCOPE.issuperset(word) for word in words) else None


def _seconds(value: str | None) -> int | None:
    """A non-negative whole number (RFC 9470 §3); None for anything else."""
    sound = value and value.isascii() and value.isdigit() and len(value) <= MAX_AGE_DIGITS
    return int(value) if value and sound else None


class _Reader:
    """Reads one field value from left to right. `whole` is false where its end was cut off."""

    def __init__(self, text: str, *, whole: bool) -> None:
        self._text = text
        self._end = len(text)
        self._whole = whole
        self._at = 0

    def challenges(self) -> list[Challenge]:
        found: list[Challenge] = []
        scheme, token68 = "", None
        parameters: dict[str, str | None] = {}  # of that scheme; None for what is dropped

        def finish() -> None:
            if scheme:
                sound = {name: value for name, value in parameters.items() if value is not None}
                found.append(Challenge(scheme, sound, None if parameters else token68))

        self._comma()
        begins = True
        while self._at < self._end:
            name = self._run(_TOKEN).lower()
            if name and self._equals():
                value = self._value()
                parameters[name] = None if name in parameters else value
            elif name and begins and self._separated():
                finish()
                scheme, parameters, token68 = name, {}, self._token68()
            else:
                if begins:  # no challenge that we know: what follows may belong to it
                    finish()
                    scheme = ""
                self._pass_over()
            begins = self._comma()
        finish()
        return found

    def _run(self, characters: frozenset[str]) -> str:
        """The characters from here on that are among these."""
        start = self._at
        while self._at < self._end and self._text[self._at] in characters:
            self._at += 1
        return self._text[start : self._at]

    def _comma(self) -> bool:
        """Pass over space and empty list elements; whether there was a comma."""
        return "," in self._run(_SEPARATOR)

    def _separated(self) -> bool:
        """Whether what was just read is complete: a space, a comma or the end follows."""
        return self._text[self._at] in _SEPARATOR if self._at < self._end else self._whole

    def _pass_over(self) -> None:
        """Go to the next comma outside quotes."""
        while self._at < self._end and self._text[self._at] != ",":
            if self._text[self._at] == '"':
                self._quoted()
            else:
                self._at += 1

    def _equals(self) -> bool:
        """Pass over an equals sign and the space around it, where there is one."""
        start = self._at
        self._run(_SPACE)
        if self._at == self._end or self._text[self._at] != "=":
            self._at = start
            return False
        self._at += 1
        self._run(_SPACE)
        return True

    def _value(self) -> str | None:
        """A parameter's value; None where it is empty without quotes, or does not end as values do."""
        quoted = self._at < self._end and self._text[self._at] == '"'
        value = self._quoted() if quoted else self._run(_UNQUOTED) or None
        if self._separated():
            return value
        self._pass_over()
        return None

    def _quoted(self) -> str | None:
        """The string whose opening quote is here; None where no quote closes it."""
        said: list[str] = []
        self._at += 1
        while self._at < self._end:
            character = self._text[self._at]
            self._at += 1
            if character == '"':
                return "".join(said)
            if character == "\\" and self._at < self._end:
                character = self._text[self._at]
                self._at += 1
            said.append(" " if character in _UNSAFE else character)
        return None

    def _token68(self) -> str | None:
        """What follows a scheme where that is a token68; None, and nothing is passed over, where it is not."""
        start = self._at
        self._run(_SPACE)
        token68 = self._run(_TOKEN68)
        padded = token68 + self._run(frozenset("="))
        self._run(_SPACE)
        followed = self._text[self._at] == "," if self._at < self._end else self._whole
        if token68 and followed:
            return padded
        self._at = start
        return None


def requested_challenge(scope: str | None, acr_values: str | None, max_age: int | None) -> BearerChallenge | None:
    """A challenge that asks for this; None where nothing is asked for."""
    if scope is None and acr_values is None and max_age is None:
        return None
    fresher = acr_values is not None or max_age is not None
    error = "insufficient_user_authentication" if fresher else "insufficient_scope"
    scope, acr_values = parse_scope_tokens(scope), parse_scope_tokens(acr_values)
    return BearerChallenge(error=error, scope=scope, acr_values=acr_values, max_age=max_age)
