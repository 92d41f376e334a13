"""The OAuth types, under the RFCs' own field names. All are immutable; secrets are `SecretStr`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, SecretStr, field_validator

AuthMethod = Literal["none", "client_secret_basic", "client_secret_post"]
PENDING_LIFETIME = timedelta(minutes=10)  # Notion keeps its side of a pending sign-in for ten minutes at most


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class ProtectedResourceMetadata(_Frozen):
    """What a resource says of itself (RFC 9728 §2)."""

    resource: str
    authorization_servers: tuple[str, ...] = ()
    scopes_supported: tuple[str, ...] | None = None
    bearer_methods_supported: tuple[str, ...] | None = None
    resource_name: str | None = None


class AuthorizationServerMetadata(_Frozen):
    """What an authorization server says of itself (RFC 8414 §2, RFC 9207 §3)."""

    issuer: str
    authorization_endpoint: str | None = None  # a server for assertions alone has none
    token_endpoint: str
    registration_endpoint: str | None = None
    revocation_endpoint: str | None = None
    introspection_endpoint: str | None = None
    scopes_supported: tuple[str, ...] | None = None
    grant_types_supported: tuple[str, ...] | None = None
    # Left out means client_secret_basic alone (RFC 8414 §2)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    revocation_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    introspection_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    code_challenge_methods_supported: tuple[str, ...] = ()
    authorization_response_iss_parameter_supported: bool = False
    client_id_metadata_document_supported: bool = False

    @field_validator(
        *("scopes_supported", "grant_types_supported"),
        *("revocation_endpoint_auth_methods_supported", "introspection_endpoint_auth_methods_supported"),
        mode="before",
    )
    @classmethod
    def _a_list_or_nothing(cls, value: object) -> object:
        """What is no list of texts says nothing, and is no reason to refuse the server."""
        return value if isinstance(value, list | tuple) and all(isinstance(text, str) for text in value) else None


class Discovery(_Frozen):
    """What discovery found: the resource indicator as the metadata spells it, the scopes, the server.

    `challenged_scope` is the scope in the resource's challenge to a request without a token. `assumed` says that no
    document named the endpoints: they are the defaults of MCP 2025-03-26.
    """

    resource: str
    scopes: tuple[str, ...] | None
    server: AuthorizationServerMetadata
    assumed: bool = False
    challenged_scope: str | None = None


class ClientMetadata(_Frozen):
    """What a client asks to be registered as (RFC 7591 §2). A public client, unless told otherwise."""

    client_name: str
    redirect_uris: tuple[str, ...]
    grant_types: tuple[str, ...] = ("authorization_code", "refresh_token")
    response_types: tuple[str, ...] = ("code",)
    client_id: str | None = None  # in a client ID metadata document alone, where it is the document's URL
    token_endpoint_auth_method: AuthMethod = "none"  # noqa: S105 - a method, no secret
    application_type: Literal["native", "web"]
    scope: str | None = None


class ClientInformation(_Frozen):
    """What the server made of it (RFC 7591 §3.2.1). Times are seconds since 1970; 0 means never."""

    client_id: str
    client_secret: SecretStr | None = None
    client_secret_expires_at: int = 0
    token_endpoint_auth_method: AuthMethod | None = None
    scope: str | None = None  # that it may ask for, in the answer to its registration alone

    @field_validator("client_id")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value:
            raise ValueError("client_id is empty")
        return value

    @field_validator("client_secret", mode="before")
    @classmethod
    def _no_empty_secret(cls, value: object) -> object:
        return value or None  # some servers send "" or null to public clients

    @field_validator("scope", mode="before")
    @classmethod
    def _only_text(cls, value: object) -> object:
        return value if isinstance(value, str) and value.strip() else None

    @field_validator("client_secret_expires_at", mode="before")
    @classmethod
    def _no_null(cls, value: object) -> object:
        return 0 if value is None else value

    def expired(self, now: datetime) -> bool:
        """Whether the secret's lifetime is over (RFC 7591 §3.2.1)."""
        return 0 < self.client_secret_expires_at <= now.timestamp()


class Registration(_Frozen):
    """A client registration that is kept: good for this issuer and this redirect URI alone.

    One made `by_hand` is kept for its issuer's sake, without its secret; one that is `taken` is a login's by now, of
    those that are made with one that waits for them. A `wide` one was registered for more than whoever signs in is
    asked for, and does for those alone who want more.
    """

    issuer: str
    redirect_uri: str
    client: ClientInformation
    preregistered: bool = False
    claimed: bool = False
    extended_scope: bool = False
    registered_at: datetime | None = None  # None: not known
    scope: str | None = None  # it was registered with; None: none, or not known
    registered_scope: str | None = None  # as the server made it; None: not said

    @property
    def key(self) -> tuple[str, ...]:
        """What another is kept in the place of: one for the same; by hand, for any port of loopback (http is that)."""
        if not self.preregistered:
            return (self.issuer, self.redirect_uri, *(("wide",) if self.extended_scope else ()))
        where = "loopback" if self.redirect_uri.startswith("http:") else self.redirect_uri
        return (self.issuer, where, self.client.client_id)


ENDPOINT_FIELDS = (  # what a login keeps of its server's metadata, so that discovery is not needed again
    *("token_endpoint", "revocation_endpoint", "introspection_endpoint"),
    *("token_endpoint_auth_methods_supported", "revocation_endpoint_auth_methods_supported"),
    "introspection_endpoint_auth_methods_supported",
)


class GrantRequest(_Frozen):
    """Whom tokens are asked of, for what, and as which client: all that a login is made of beside its tokens."""

    resource: str
    scope: str | None
    client: ClientInformation
    issuer: str
    token_endpoint: str
    revocation_endpoint: str | None
    introspection_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...]
    revocation_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    introspection_endpoint_auth_methods_supported: tuple[str, ...] | None = None

    @classmethod
    def for_discovery(cls, discovery: Discovery, client: ClientInformation, scope: str | None, **more: Any) -> Self:
        """One to the server that discovery found."""
        server = discovery.server
        return cls(
            resource=discovery.resource,
            scope=scope,
            client=client,
            issuer=server.issuer,
            **{name: getattr(server, name) for name in ENDPOINT_FIELDS},
            **more,
        )


class PendingAuthorization(GrantRequest):
    """A sign-in that waits for the browser to come back. Everything that the answer is checked against."""

    state: SecretStr
    code_verifier: SecretStr
    redirect_uri: str
    authorization_response_iss_parameter_supported: bool
    begun_at: datetime


class AssertionGrant(GrantRequest):
    """A sign-in by an assertion that somebody else has signed (RFC 7523 §2.1)."""

    assertion: SecretStr


class AuthorizationRequest(_Frozen):
    """Where to send the browser, and what to remember until it comes back."""

    url: SecretStr  # it carries the state, which is no one else's business
    pending: PendingAuthorization


class AuthorizationResponse(_Frozen):
    """The parameters of the redirect, each at most once (RFC 6749 §4.1.2, RFC 9207 §2)."""

    state: SecretStr | None = None
    code: SecretStr | None = None
    iss: str | None = None
    error: str | None = None
    error_description: str | None = None


class TokenResponse(_Frozen):
    """A successful answer of the token endpoint (RFC 6749 §5.1). `expires_in` is in seconds."""

    access_token: SecretStr
    token_type: str
    expires_in: int | None = None
    refresh_token: SecretStr | None = None
    scope: str | None = None

    @field_validator("refresh_token", mode="before")
    @classmethod
    def _no_empty_token(cls, value: object) -> object:
        return None if value == "" else value  # nothing could be refreshed with it

    @field_validator("scope", mode="before")
    @classmethod
    def _only_text(cls, value: object) -> object:
        return value if isinstance(value, str) else None  # no reason to lose tokens that cannot be had again


class TokenSet(_Frozen):
    """A login: the tokens, and all that it takes to refresh and revoke them without discovery."""

    access_token: SecretStr
    token_type: str = "Bearer"  # noqa: S105 - a scheme, no secret
    expires_in: int | None = None  # as the server gave it; seconds from updated_at
    expires_at: datetime | None = None  # None: the server did not say
    refresh_token: SecretStr | None = None
    scope: str | None = None  # that was granted
    requested_scope: str | None = None  # by us, at the sign-in
    client: ClientInformation | None = None
    issuer: str | None = None
    resource: str | None = None
    token_endpoint: str | None = None
    revocation_endpoint: str | None = None
    introspection_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ()
    revocation_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    introspection_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    authorized_at: datetime | None = None  # when the person signed in
    refreshed_at: datetime | None = None  # when we last refreshed it
    updated_at: datetime  # when these tokens were asked for


class Introspection(_Frozen):
    """What the authorization server says of an access token (RFC 7662 §2.2)."""

    active: bool
    scope: str | None = None
    username: str | None = None
    sub: str | None = None
    expires_at: datetime | None = None


EndReason = Literal[
    "reused", "idle", "too_old", "expired", "revoked", "client_forgotten", "client_refused", "ended"
]  # why the server has ended a login; `ended` where it does not say


class EndedLogin(_Frozen):
    """What is kept of a login that the server has ended. It holds no token."""

    ended_at: datetime
    reason: EndReason
    error: str  # the server's code
    description: str | None = None  # the server's words, made safe to print
    authorized_at: datetime | None = None
    refreshed_at: datetime | None = None
    issuer: str | None = None
    resource: str | None = None
    scope: str | None = None
    requested_scope: str | None = None
