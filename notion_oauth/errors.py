"""Every error this package raises on purpose.

    NotionOAuthError
    ├── ConfigurationError          a setting or an argument is wrong
    ├── StorageError                the token store cannot be read, written or locked
    │   ├── StoreDamaged            the file is damaged or belongs to another program; it was not changed
    │   ├── StoreEncrypted          none of the configured keys decrypts the file; it was not changed
    │   ├── KeyUnavailable          the system keyring does not return the key
    │   ├── LoginExists             a login would be moved over another one
    │   ├── LoginMoved              the login was moved to a database, which is not configured
    │   ├── StoreBusy               another process holds the lock for too long
    │   ├── LockLost                this process held the lock for too long, and another one has it now
    │   └── StoreUnavailable        the database cannot be reached
    ├── NotSignedIn                 no login is stored
    │   └── ResourceMismatch        the stored login is for another server
    ├── SignInRequired              the server has ended the login; only a new sign-in helps
    │   └── StepUpRequired          the login is valid, but the request needs more consent from the user
    ├── TransientError              temporary: the stored login is unchanged, and the same call may succeed later
    │   ├── NetworkError            no response: DNS, connection, TLS, time-out
    │   ├── NewTokenRejected        the resource refused a token that had just been refreshed
    │   └── ServerUnavailable       429, 5xx, or a response that is not an OAuth response
    │       └── UnexpectedRedirect  a redirect, which is not followed
    ├── MetadataError               discovery documents are missing, unusable or contradict each other
    │   └── MetadataNotJson         the URL of a discovery document returns something else, such as a web page
    ├── OAuthError                  the server refused, with an RFC 6749 error code
    │   ├── RegistrationRefused     at the registration endpoint (RFC 7591 §3.2.2)
    │   ├── AuthorizationRefused    at the authorization endpoint (RFC 6749 §4.1.2.1)
    │   └── TokenRefused            at the token (RFC 6749 §5.2), revocation or introspection endpoint
    ├── UserNotIdentified           the application has not identified the user
    │   └── OperatorRequired        this browser has not sent the operator's secret
    ├── RequestForbidden            a form that another site sent, or an outdated page
    │   └── WrongOperatorSecret     the operator's secret is wrong
    ├── BadRequest                  a request that no browser sends
    ├── TooManyRequests             one client sends requests too often
    ├── HostNotAllowed              a request for a host that is not the service's
    ├── InsecureRequest             plain http where https is required, or a request from another machine
    └── AuthorizationResponseError  a redirect that must not be processed
        ├── StateMismatch           no pending sign-in of this browser has that state
        ├── AuthorizationExpired    the sign-in was started too long ago
        └── IssuerMismatch          another authorization server answered (RFC 9207)

`message` says what happened and why; `hint` says what to do next. Neither ever contains a secret or a response body.
The hint is `next` in HTTP responses, and `cure` in the output of `doctor --json`. `code` is the class name, with these
exceptions: StoreSealed (StoreEncrypted), OtherResource (ResourceMismatch), Redirected (UnexpectedRedirect), NoDocument
(MetadataNotJson), NotIdentified (UserNotIdentified), WrongHost (HostNotAllowed), RequestForbidden
(WrongOperatorSecret), PendingExpired (AuthorizationExpired).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar


def escape(text: str, *, keep: str = "") -> str:
    """Return the text with control and formatting characters, but not those of `keep`, as `\\x1b` and the like.

    Text from a file, a server or the environment can then neither control a terminal nor start a line of its own.
    """
    if text.isprintable():
        return text
    import unicodedata  # noqa: PLC0415 - rarely needed

    return "".join(
        character
        if character.isprintable() or character in keep or unicodedata.category(character) == "Zs"
        else character.encode("unicode_escape").decode()
        for character in text
    )


@dataclass(frozen=True)
class Hint:
    """What to do next. `str()` returns it for a terminal; a page shows a button instead of the command.

    If `command` is set, it is appended to `text`: "Sign in" is shown as "Sign in with: notion-oauth login".
    `options` are those of the command, by parameter name; an option without a value is None. `arguments` come before
    them. `other_command` is a command line of another program instead.
    """

    text: str = ""
    command: str | None = None
    options: Mapping[str, str | None] = field(default_factory=dict, hash=False)
    other_command: str | None = None
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.with_command()

    def __bool__(self) -> bool:
        return bool(self.text)

    def with_command(self, program: str = "notion-oauth") -> str:
        """The hint with its command, as a user of `program` types it."""
        words = [program, self.command or "", *map(shlex.quote, self.arguments)]
        for name, value in self.options.items():
            words += [f"--{name.replace('_', '-')}", *([] if value is None else [shlex.quote(value)])]
        return self.instead_of_command(f"with: {self.other_command or ' '.join(words)}")

    def instead_of_command(self, how: str) -> str:
        """The hint with another way to follow it, such as `on the page of the service.`"""
        return escape(self.text if self.command is None and self.other_command is None else f"{self.text} {how}")

    def with_options(self, options: Mapping[str, str]) -> Hint:
        """The hint with these options in addition, if it has a command."""
        return self if self.command is None else replace(self, options={**options, **self.options})


SIGN_IN = Hint("Sign in", "login")
SIGN_IN_AGAIN = Hint("Sign in again", "login")
TRY_LATER = "Try again in a moment."
UNCHANGED = "The stored login is unchanged."
REPORT_CODE = Hint(f"{UNCHANGED} Report the error code to the server's operator.")
PREREGISTER = Hint(
    "Ask the server's operator for a client ID, and set NOTION_OAUTH_CLIENT_ID (and NOTION_OAUTH_CLIENT_SECRET)."
)


def _as_hint(hint: Hint | str) -> Hint:
    return Hint(hint) if isinstance(hint, str) else hint


class WarningWithHint(str):
    """A warning for the user: the text is `message` and `hint` together."""

    message: str
    hint: Hint

    def __new__(cls, message: str, hint: Hint | str) -> WarningWithHint:
        message, hint = escape(message), _as_hint(hint)
        warning = super().__new__(cls, f"{message} {hint}")
        warning.message, warning.hint = message, hint
        return warning

    def shown_with(self, render: Callable[[Hint], str]) -> str:
        """The text, with the hint as `render` formats it for a terminal, a page or JSON."""
        return f"{self.message} {render(self.hint)}"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.hint)


class NotionOAuthError(Exception):
    """The base class. `message` says what happened, `hint` what to do next; `str()` returns both.

    `code` names the error in JSON, logs and telemetry. It stays the same when a class is renamed.
    """

    code: ClassVar[str] = "NotionOAuthError"
    default_hint: ClassVar[Hint] = Hint()

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        """The code is the class name, unless an older name is already public."""
        cls.code = code or cls.__name__

    def __init__(self, message: str, *, hint: Hint | str | None = None) -> None:
        message = escape(message)
        super().__init__(message)
        self.message = message
        self.hint = _as_hint(self.default_hint if hint is None else hint)  # a subclass may have a text as its default

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        """Support pickling, for example between processes, whatever arguments a subclass takes."""
        return _unpickle, (type(self), self.args), self.__dict__


def _unpickle(kind: type[NotionOAuthError], arguments: tuple[object, ...]) -> NotionOAuthError:
    return kind.__new__(kind, *arguments)


class ConfigurationError(NotionOAuthError):
    """A setting or an argument is wrong. Nothing was attempted."""


class StorageError(NotionOAuthError):
    """The token store cannot be read, written or locked. Its content was not changed."""


class StoreDamaged(StorageError):
    """The file is not a token file, or is damaged. It is never overwritten or deleted."""


class StoreEncrypted(StorageError, code="StoreSealed"):
    """The file is encrypted, and none of the configured keys decrypts it. It is never overwritten or deleted."""


class KeyUnavailable(StorageError):
    """The system keyring has no key, does not answer, or does not protect secrets. Nothing was changed."""


class LoginExists(StorageError):
    """A login is stored where another one was to be moved. Neither was changed."""

    default_hint = Hint("Neither was changed. To replace the login here, first end it", "logout")


class LoginMoved(StorageError):
    """The login of this token file was moved to a database, so the file is not used. Nothing was changed."""


class StoreBusy(StorageError):
    """Another process holds the store's lock for longer than a refresh may take."""

    default_hint = Hint(
        "Wait until your other programs have signed in or refreshed. If the lock is still held then, find its holder",
        "doctor",
    )


class LockLost(StorageError):
    """The lock of a login expired while this process was stopped, and another process has taken it."""

    default_hint = Hint(TRY_LATER)


class StoreUnavailable(StorageError):
    """The database cannot be reached, or did not answer in time. A change that was sent may have been made."""

    default_hint = Hint("Try again when the database is available. Find out what is wrong", "doctor")


class NotSignedIn(NotionOAuthError):
    """No login is stored for this profile."""

    default_hint = SIGN_IN


class ResourceMismatch(NotSignedIn, code="OtherResource"):
    """The stored login is for another server; its token is not sent to this one (MCP, RFC 8707)."""

    default_hint = Hint("Set NOTION_OAUTH_SERVER_URL to that server.")


class SignInRequired(NotionOAuthError):
    """The login has ended; only a new sign-in helps.

    `error` is the server's error code, if it sent one. `reason` is the `EndReason`, if the server ended the login.
    """

    default_hint = SIGN_IN_AGAIN

    def __init__(
        self, message: str, *, hint: Hint | str | None = None, error: str | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.error = error
        self.reason = reason


class StepUpRequired(SignInRequired):
    """The resource requires more than the user has granted: scopes (RFC 6750 §3.1), or a more recent or stronger
    authentication (RFC 9470 §3). The login stays valid for all other requests.

    `scope` holds the missing scopes, separated by spaces; `max_age` is in seconds. `hint` names the command to run.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: Hint | str | None = None,
        error: str | None = None,
        scope: str | None = None,
        acr_values: str | None = None,
        max_age: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint, error=error)
        self.scope = scope
        self.acr_values = acr_values
        self.max_age = max_age


class TransientError(NotionOAuthError):
    """A temporary failure. Stored tokens are unchanged, and the same call may succeed later."""

    default_hint = Hint(f"{UNCHANGED} {TRY_LATER}")


class NetworkError(TransientError):
    """No response arrived: DNS, connection, TLS or time-out."""

    default_hint = Hint(f"{UNCHANGED} Check the network connection and try again.")


class NewTokenRejected(TransientError):
    """The resource refused a token that had just been refreshed because it refused the one before."""

    default_hint = Hint(f"{UNCHANGED} Try again later. If it stays so, the server does not accept its own tokens.")


class ServerUnavailable(TransientError):
    """The server answered, but not with an OAuth response. `retry_after` is in seconds, if the server sent it.

    `not_processed`: the server did not process the request (429, 503), so the same request can be sent again.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: Hint | str | None = None,
        retry_after: float | None = None,
        not_processed: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        self.not_processed = not_processed


class UnexpectedRedirect(ServerUnavailable, code="Redirected"):
    """The server answered with a redirect, which is not followed.

    It may be from a maintenance page or the portal of a network, so the same call may succeed later.
    """

    default_hint = Hint(f"{UNCHANGED} Check NOTION_OAUTH_SERVER_URL: redirects are not followed.")


class MetadataError(NotionOAuthError):
    """Discovery documents are missing, unusable or contradict each other (RFC 9728, RFC 8414)."""

    default_hint = Hint("Check NOTION_OAUTH_SERVER_URL. If it is correct, the server is misconfigured.")


class MetadataNotJson(MetadataError, code="NoDocument"):
    """The URL of a discovery document returned something other than a JSON object, such as a web page.

    `refused`: it returned an HTTP error other than 404, as some servers do for an unknown URL.
    """

    def __init__(self, message: str, *, hint: Hint | str | None = None, refused: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.refused = refused


class OAuthError(NotionOAuthError):
    """The server refused with an error code. `description` is the server's text, made safe to print."""

    def __init__(
        self, message: str, *, error: str, description: str | None = None, hint: Hint | str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.error = error
        self.description = description


class RegistrationRefused(OAuthError):
    """The registration endpoint refused this client (RFC 7591 §3.2.2)."""

    default_hint = PREREGISTER


class AuthorizationRefused(OAuthError):
    """The authorization endpoint returned an error (RFC 6749 §4.1.2.1)."""

    default_hint = SIGN_IN_AGAIN


class TokenRefused(OAuthError):
    """The token endpoint (RFC 6749 §5.2), the revocation or the introspection endpoint refused with an error code."""

    default_hint = SIGN_IN_AGAIN


class UserNotIdentified(NotionOAuthError, code="NotIdentified"):
    """The application does not know the user of this request, so it cannot select a login.

    This says nothing about the user's login at Notion, unlike the status `unauthenticated`.
    """

    default_hint = Hint("Sign in to this application first.")


class OperatorRequired(UserNotIdentified):
    """Only the operator may use this service, and this browser has not sent the operator's secret."""

    default_hint = Hint("Open the status page in a browser and enter the operator's secret.")


class RequestForbidden(NotionOAuthError):
    """Another site sent the request, its form is out of date or incomplete, or the operator's secret is wrong."""

    default_hint = Hint("Nothing was changed. Open the status page and use its buttons.")


class WrongOperatorSecret(RequestForbidden, code="RequestForbidden"):
    """The operator's secret is wrong."""

    default_hint = Hint("Try again.")


class BadRequest(NotionOAuthError):
    """A request that no browser sends, for example one with two Host headers."""


class TooManyRequests(NotionOAuthError):
    """One client sends requests too often. `retry_after` is in seconds, if it is known."""

    def __init__(self, message: str, *, hint: Hint | str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class HostNotAllowed(NotionOAuthError, code="WrongHost"):
    """A request for a host that is not the service's: a wrong address, or DNS rebinding."""


class InsecureRequest(NotionOAuthError):
    """A request over plain http where https is required. Without a public URL: a request from another machine."""


class AuthorizationResponseError(NotionOAuthError):
    """A redirect that must not be processed: it is damaged, replayed or was not meant for this program."""

    default_hint = Hint("Nothing was changed. Start the sign-in again", "login")


class StateMismatch(AuthorizationResponseError):
    """No pending sign-in of this browser has that `state` (RFC 6749 §10.12)."""


class AuthorizationExpired(AuthorizationResponseError, code="PendingExpired"):
    """The sign-in was started more than ten minutes ago."""


class IssuerMismatch(AuthorizationResponseError):
    """The response is not from the authorization server that the request was sent to (RFC 9207 §2.4)."""
