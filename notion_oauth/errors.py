"""Every error this package raises on purpose.

    NotionOAuthError
    ├── ConfigurationError          a setting or an argument is wrong
    ├── StorageError                the token store cannot be read, written or locked
    │   ├── StoreDamaged            the file is not ours, or is damaged; it was left as it is
    │   ├── StoreEncrypted          no key that is set opens the file; it was left as it is
    │   ├── KeyUnavailable          the system keyring does not give the key
    │   └── StoreBusy               another process holds the lock for too long
    ├── NotSignedIn                 no login is stored
    │   └── ResourceMismatch        the one that is stored is for another server
    ├── SignInRequired              the server has ended the login; only a new sign-in helps
    │   └── StepUpRequired          the login lives, and what was asked for takes the person's consent to more
    ├── TransientError              passing: nothing was lost, the same call may succeed later
    │   ├── NetworkError            no answer: DNS, connection, TLS, time-out
    │   └── ServerUnavailable       429, 5xx, or an answer that is no OAuth answer
    │       └── UnexpectedRedirect  a redirect, which is not followed
    ├── MetadataError               discovery documents that are missing, unusable or contradictory
    │   └── MetadataNotFound        a page stands where one should
    ├── OAuthError                  the server refused, with an RFC 6749 error code
    │   ├── RegistrationRefused     at the registration endpoint (RFC 7591 §3.2.2)
    │   ├── AuthorizationRefused    at the authorization endpoint (RFC 6749 §4.1.2.1)
    │   └── TokenRefused            at the token endpoint (RFC 6749 §5.2)
    ├── NotAuthenticated            the application does not know who is asking
    │   └── OperatorRequired        the service is its operator's, who has not said so in this browser
    ├── RequestForbidden            a form that another site sent, or a page that is too old
    ├── BadRequest                  a request that no browser sends
    ├── TooManyRequests             one client asks too often
    ├── HostNotAllowed              a request for another host than the service's own
    ├── InsecureRequest             plain http where https is asked for, or from where it is not served
    └── AuthorizationResponseError  a redirect that must not be acted on
        ├── StateMismatch           no pending sign-in of this browser has that state
        ├── AuthorizationExpired    the sign-in was begun too long ago
        └── IssuerMismatch          another authorization server answered (RFC 9207)

A message says what happened and why, `hint` the one thing to do next. Neither ever holds a secret or a response body.
"""

from __future__ import annotations

from typing import ClassVar

SIGN_IN = "Sign in with: notion-oauth login"
SIGN_IN_AGAIN = "Sign in again with: notion-oauth login"
TRY_LATER = "Nothing was lost. Try again in a moment."


class NotionOAuthError(Exception):
    """The root of the tree. `message` is what happened, `hint` what to do about it; `str()` gives both.

    `code` names the error in JSON, logs and telemetry. It stays the same when a class is renamed.
    """

    code: ClassVar[str] = "NotionOAuthError"
    default_hint: ClassVar[str] = ""

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        """The name of a class is its code, unless an earlier name is public already."""
        cls.code = code or cls.__name__

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = self.default_hint if hint is None else hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def __reduce__(self) -> tuple[object, ...]:
        """Lets a pool of processes hand it over, whatever its own arguments are."""
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[NotionOAuthError], arguments: tuple[object, ...]) -> NotionOAuthError:
    return kind.__new__(kind, *arguments)


class ConfigurationError(NotionOAuthError):
    """A setting or an argument is wrong; nothing was attempted."""


class StorageError(NotionOAuthError):
    """The token store cannot be read, written or locked. What it held is untouched."""


class StoreDamaged(StorageError):
    """The file is not a token file, or is damaged. It is never overwritten or deleted."""


class StoreEncrypted(StorageError, code="StoreSealed"):
    """The file is sealed, and none of the keys that are set opens it. It is never overwritten or deleted."""


class KeyUnavailable(StorageError):
    """The system keyring holds no key of ours, does not answer, or keeps no secret safe. Nothing was changed."""


class StoreBusy(StorageError):
    """Another process holds the store's lock for longer than a refresh may take."""

    default_hint = "If no program of yours is signing in or refreshing, look for one that hangs and end it."


class NotSignedIn(NotionOAuthError):
    """No login is stored for this profile."""

    default_hint = SIGN_IN


class ResourceMismatch(NotSignedIn, code="OtherResource"):
    """The stored login is for another server; its token is not sent to this one (MCP, RFC 8707)."""

    default_hint = "Set NOTION_OAUTH_TOKEN_FILE to another file, or end the other login with: notion-oauth logout"


class SignInRequired(NotionOAuthError):
    """The login has ended and only a new sign-in helps.

    `error` is the server's code, where there was one; `reason` is a Tombstone's, where the server has ended it.
    """

    default_hint = SIGN_IN_AGAIN

    def __init__(
        self, message: str, *, hint: str | None = None, error: str | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.error = error
        self.reason = reason


class StepUpRequired(SignInRequired):
    """The resource asks for more than the person has agreed to: scopes (RFC 6750 §3.1), or a fresher or stronger
    authentication (RFC 9470 §3). The login is as good as before for everything else.

    `scope` is what is missing, separated by spaces; `max_age` is in seconds. `hint` is the command that asks for it.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
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
    """A passing failure. Stored tokens are kept, and the same call may succeed later."""

    default_hint = TRY_LATER


class NetworkError(TransientError):
    """No answer arrived: DNS, connection, TLS or time-out."""

    default_hint = "Nothing was lost. Check the network connection and try again."


class ServerUnavailable(TransientError):
    """The server answered, but not with an OAuth answer. `retry_after` is in seconds, where it gave one.

    `not_processed` says that it has not looked at the request (429, 503): the same one can be sent again.
    """

    def __init__(
        self, message: str, *, hint: str | None = None, retry_after: float | None = None, not_processed: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after
        self.not_processed = not_processed


class UnexpectedRedirect(ServerUnavailable, code="Redirected"):
    """The server answered with a redirect, and none is followed."""


class MetadataError(NotionOAuthError):
    """Discovery documents are missing, unusable or contradict each other (RFC 9728, RFC 8414)."""

    default_hint = "Check NOTION_OAUTH_SERVER_URL; if it is right, the server is set up wrongly."


class MetadataNotFound(MetadataError, code="NoDocument"):
    """A page stands where a discovery document should."""


class OAuthError(NotionOAuthError):
    """The server refused with an error code. `description` is its own text, made safe to print."""

    def __init__(self, message: str, *, error: str, description: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.error = error
        self.description = description


class RegistrationRefused(OAuthError):
    """The registration endpoint refused this client (RFC 7591 §3.2.2)."""


class AuthorizationRefused(OAuthError):
    """The authorization endpoint sent an error back (RFC 6749 §4.1.2.1)."""

    default_hint = SIGN_IN_AGAIN


class TokenRefused(OAuthError):
    """The token endpoint refused with an error code (RFC 6749 §5.2)."""

    default_hint = SIGN_IN_AGAIN


class NotAuthenticated(NotionOAuthError, code="NotIdentified"):
    """The application does not know who is asking, so it does not know whose login is meant."""

    default_hint = "Sign in to this application first."


class OperatorRequired(NotAuthenticated):
    """The service is its operator's alone, and this browser has not given the operator's secret."""

    default_hint = "Open the status page in a browser and enter the operator's secret."


class RequestForbidden(NotionOAuthError):
    """A request that changes something and did not come from our own page in this browser."""

    default_hint = "Nothing was changed. Open the status page and use its buttons."


class BadRequest(NotionOAuthError):
    """A request that no browser sends: two Host headers, for instance."""


class TooManyRequests(NotionOAuthError):
    """One client asks too often. `retry_after` is in seconds, where it is known."""

    def __init__(self, message: str, *, hint: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class HostNotAllowed(NotionOAuthError, code="WrongHost"):
    """A request for another host than the service's own: a wrong address, or DNS rebinding."""


class InsecureRequest(NotionOAuthError):
    """A request over plain http, where https is asked for, or from where plain http is not served."""


class AuthorizationResponseError(NotionOAuthError):
    """A redirect that must not be acted on: damaged, replayed or not meant for us."""

    default_hint = "Nothing was changed. Start the sign-in again."


class StateMismatch(AuthorizationResponseError):
    """No pending sign-in of this browser has that `state` (RFC 6749 §10.12)."""


class AuthorizationExpired(AuthorizationResponseError, code="PendingExpired"):
    """The sign-in was begun more than ten minutes ago."""


class IssuerMismatch(AuthorizationResponseError):
    """Another authorization server answered than the one that was asked (RFC 9207 §2.4)."""
