"""The OAuth types, with the field names of the RFCs. All are immutable; secrets are `SecretStr`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, SecretStr, field_validator
from pydantic_core import PydanticUseDefault

AuthMethod = Literal["none", "client_secret_basic", "client_secret_post"]
PENDING_LIFETIME = timedelta(minutes=10)  # at Notion, a pending sign-in expires after ten minutes at most


Issuer = TypeVar("Issuer", str, str | None)


def canonical_issuer(issuer: Issuer) -> Issuer:
    """Return the issuer without the final slash of `https://host/`, which is the same URL (RFC 3986 §6.2.3).

    Servers spell such an issuer in both ways. Compare with this what the documents and settings say; compare the `iss`
    of a response to the letter.
    """
    return issuer[:-1] if issuer and issuer.endswith("/") and issuer.count("/") == 3 else issuer


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
        defer_build=True,  # most programs use few of these classes
    )


def _list_or_default(value: object) -> object:
    """Leave out a value that is not a list of strings, instead of rejecting the document for it."""
    if isinstance(value, list | tuple) and all(isinstance(text, str) for text in value):
        return value
    raise PydanticUseDefault


def scope_text(value: object) -> str | None:
    """Return a scope, also from a list of its tokens, as some servers and programs write it; None for anything else."""
    if isinstance(value, list) and all(isinstance(token, str) for token in value):
        value = " ".join(value)
    return value if isinstance(value, str) and value.strip() else None


def bare_token(value: object) -> object:
    """Return a token without white space around it, and without the scheme `Bearer` that some servers put before it."""
    if not isinstance(value, str):
        return value
    words = value.split(maxsplit=1)
    return words[1].strip() if len(words) > 1 and words[0].lower() == "bearer" else value.strip()


class ProtectedResourceMetadata(_Frozen):
    """Metadata that a resource publishes (RFC 9728 §2)."""

    resource: str
    authorization_servers: tuple[str, ...] = ()
    scopes_supported: tuple[str, ...] | None = None
    bearer_methods_supported: tuple[str, ...] | None = None
    resource_name: str | None = None

    _lists = field_validator("scopes_supported", "bearer_methods_supported", mode="before")(_list_or_default)

    @field_validator("authorization_servers", mode="before")
    @classmethod
    def _one_or_list(cls, value: object) -> object:
        values = [value] if isinstance(value, str) else value
        return [each for each in values if isinstance(each, str)] if isinstance(values, list | tuple) else values

    @field_validator("resource_name", mode="before")
    @classmethod
    def _text_or_none(cls, value: object) -> object:
        return value if isinstance(value, str) else None


class ServerEndpoints(_Frozen):
    """The endpoints that a login uses, and how a client may authenticate there (RFC 8414 §2).

    A login stores them, so that it needs no further discovery. `compat` is what the user allows this server (the words
    of NOTION_OAUTH_COMPAT); no document of a server sets it.
    """

    token_endpoint: str | None = None  # None only in a login that another program has stored
    revocation_endpoint: str | None = None
    introspection_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ()
    revocation_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    introspection_endpoint_auth_methods_supported: tuple[str, ...] | None = None
    compat: tuple[str, ...] = ()

    _lists = field_validator(
        "token_endpoint_auth_methods_supported",
        "revocation_endpoint_auth_methods_supported",
        "introspection_endpoint_auth_methods_supported",
        "compat",
        mode="before",
    )(_list_or_default)

    def endpoints(self) -> dict[str, Any]:
        """Return these fields with their values, to copy them into another model."""
        return {name: value for name, value in self if name in ServerEndpoints.model_fields}


class AuthorizationServerMetadata(ServerEndpoints):
    """Metadata that an authorization server publishes (RFC 8414 §2, RFC 9207 §3)."""

    issuer: str
    authorization_endpoint: str | None = None  # absent from a server that accepts only assertions
    token_endpoint: str
    registration_endpoint: str | None = None
    scopes_supported: tuple[str, ...] | None = None
    grant_types_supported: tuple[str, ...] | None = None
    # The default is client_secret_basic (RFC 8414 §2)
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    code_challenge_methods_supported: tuple[str, ...] = ()
    authorization_response_iss_parameter_supported: bool = False
    client_id_metadata_document_supported: bool = False

    _more_lists = field_validator(
        *("scopes_supported", "grant_types_supported", "code_challenge_methods_supported"), mode="before"
    )(_list_or_default)

    @field_validator("authorization_response_iss_parameter_supported", mode="before")
    @classmethod
    def _yes_unless_no(cls, value: object) -> bool:
        """Read an odd value as yes, so that a response without `iss` is refused."""
        text = value.strip().lower() if isinstance(value, str) else value
        return text not in (None, False, 0, "", "false", "no", "off", "0")

    @field_validator("client_id_metadata_document_supported", mode="before")
    @classmethod
    def _no_unless_yes(cls, value: object) -> bool:
        return value is True or (isinstance(value, str) and value.strip().lower() == "true")


class Discovery(_Frozen):
    """The result of discovery: the resource indicator as the metadata spells it, the scopes, the server.

    `challenged_scope` is the scope in the resource's challenge to a request without a token. `assumed`: no document
    named the endpoints, so they are the defaults of MCP 2025-03-26.
    """

    resource: str
    scopes: tuple[str, ...] | None
    server: AuthorizationServerMetadata
    assumed: bool = False
    challenged_scope: str | None = None


class ClientMetadata(_Frozen):
    """Metadata that a client sends to register (RFC 7591 §2). By default a public client."""

    client_name: str
    redirect_uris: tuple[str, ...]
    grant_types: tuple[str, ...] = ("authorization_code", "refresh_token")
    response_types: tuple[str, ...] = ("code",)
    client_id: str | None = None  # only in a client ID metadata document: the document's URL
    token_endpoint_auth_method: AuthMethod = "none"  # noqa: S105 - a method, no secret
    application_type: Literal["native", "web"]
    scope: str | None = None


class ClientInformation(_Frozen):
    """The registered client (RFC 7591 §3.2.1). Times are seconds since 1970; 0 means never."""

    client_id: str
    client_secret: SecretStr | None = None
    client_secret_expires_at: int = 0
    token_endpoint_auth_method: AuthMethod | None = None
    scope: str | None = None  # that the client may request; only in a registration response

    @field_validator("client_id", "client_secret", mode="before")
    @classmethod
    def _number_as_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

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

    _scope = field_validator("scope", mode="before")(scope_text)

    @field_validator("client_secret_expires_at", mode="before")
    @classmethod
    def _no_null(cls, value: object) -> object:
        return 0 if value is None else value

    def expired(self, now: datetime) -> bool:
        """Whether the client secret has expired (RFC 7591 §3.2.1)."""
        return 0 < self.client_secret_expires_at <= now.timestamp()


class Registration(_Frozen):
    """A stored client registration, valid only for this issuer and this redirect URI.

    `preregistered`: the client is configured; the registration is stored without its secret, to record the issuer.
    `claimed`: a completed sign-in uses this client, so no new sign-in may start with it. `extended_scope`: the client
    was registered for more scopes than a sign-in requests by default, and serves only sign-ins that request more.
    `replacement`: the client was registered in place of one that the server does not accept. That one is kept until a
    sign-in with the new client has succeeded.
    """

    issuer: str
    redirect_uri: str
    client: ClientInformation
    preregistered: bool = False
    claimed: bool = False
    extended_scope: bool = False
    replacement: bool = False
    registered_at: datetime | None = None  # None: unknown
    scope: str | None = None  # in the registration request; None: none, or unknown
    registered_scope: str | None = None  # in the registration response; None: not returned

    @property
    def key(self) -> tuple[str, ...]:
        """A new registration replaces the stored one with the same key.

        A preregistered client has one key for all loopback ports; only loopback URIs use http.
        """
        issuer = canonical_issuer(self.issuer)
        if not self.preregistered:
            flags = ("extended_scope", "replacement")
            return (issuer, self.redirect_uri, *(flag for flag in flags if getattr(self, flag)))
        where = "loopback" if self.redirect_uri.startswith("http:") else self.redirect_uri
        return (issuer, where, self.client.client_id)


class GrantRequest(ServerEndpoints):
    """What a token request needs: the server, the resource, the scope and the client. A login stores the same data."""

    resource: str
    scope: str | None
    client: ClientInformation
    issuer: str
    token_endpoint: str

    @classmethod
    def for_discovery(cls, discovery: Discovery, client: ClientInformation, scope: str | None, **more: Any) -> Self:
        """A request to the server that discovery found."""
        server = discovery.server
        return cls(
            resource=discovery.resource,
            scope=scope,
            client=client,
            issuer=server.issuer,
            **server.endpoints(),
            **more,
        )


class PendingAuthorization(GrantRequest):
    """A sign-in that waits for the redirect. It holds everything that the response is checked against."""

    state: SecretStr
    code_verifier: SecretStr
    redirect_uri: str
    authorization_response_iss_parameter_supported: bool
    begun_at: datetime


class AssertionRequest(GrantRequest):
    """A sign-in with an assertion that a third party signed (RFC 7523 §2.1)."""

    assertion: SecretStr


class AuthorizationRequest(_Frozen):
    """The URL to open in the browser, and the data to store until the redirect arrives."""

    url: SecretStr  # contains the state, which must not be logged
    pending: PendingAuthorization


class AuthorizationResponse(_Frozen):
    """The parameters of the redirect, each at most once (RFC 6749 §4.1.2, RFC 9207 §2)."""

    state: SecretStr | None = None
    code: SecretStr | None = None
    iss: str | None = None
    error: str | None = None
    error_description: str | None = None


class Identity(_Frozen):
    """Who has signed in, and to which workspace, as far as the server says it; names are made safe to print."""

    workspace: str | None = None
    workspace_id: str | None = None
    user: str | None = None
    user_id: str | None = None
    email: str | None = None

    def identity(self) -> dict[str, str | None]:
        """Return these fields with their values, to copy them into another model."""
        return {name: getattr(self, name) for name in Identity.model_fields}


class TokenResponse(Identity):
    """A successful response of the token endpoint (RFC 6749 §5.1). `expires_in` is in seconds."""

    access_token: SecretStr
    token_type: str = "Bearer"  # noqa: S105 - a scheme, no secret
    expires_in: int | None = None
    refresh_token: SecretStr | None = None
    scope: str | None = None

    _token = field_validator("access_token", mode="before")(bare_token)

    @field_validator("refresh_token", "scope", mode="before")
    @classmethod
    def _text_or_none(cls, value: object) -> object:
        """Leave out what cannot be used: the tokens beside it are issued only once."""
        return value if isinstance(value, str) and value else None

    @field_validator("token_type", mode="before")
    @classmethod
    def _bearer_if_missing(cls, value: object) -> object:
        return "Bearer" if value is None or value == "" else value


class TokenSet(ServerEndpoints, Identity):
    """A login: the tokens, and everything needed to refresh and revoke them without discovery."""

    access_token: SecretStr
    token_type: str = "Bearer"  # noqa: S105 - a scheme, no secret
    expires_in: int | None = None  # as the server sent it; in seconds, from updated_at
    expires_at: datetime | None = None  # None: not sent by the server
    refresh_token: SecretStr | None = None
    previous_refresh_token: SecretStr | None = None  # if its request may still arrive at the server and replace ours
    scope: str | None = None  # granted by the server
    requested_scope: str | None = None  # at the sign-in
    client: ClientInformation | None = None
    issuer: str | None = None
    resource: str | None = None
    authorized_at: datetime | None = None  # when the user signed in
    refreshed_at: datetime | None = None  # the last refresh
    updated_at: datetime  # when these tokens were requested


class Introspection(_Frozen):
    """The introspection response for an access token (RFC 7662 §2.2)."""

    active: bool
    scope: str | None = None
    username: str | None = None
    sub: str | None = None
    expires_at: datetime | None = None


EndReason = Literal[
    "reused", "idle", "too_old", "expired", "revoked", "client_forgotten", "client_refused", "ended"
]  # why the server has ended a login; `ended` if the reason is unknown


class EndedLogin(_Frozen):
    """The record of a login that the server has ended. It contains no token."""

    ended_at: datetime
    reason: EndReason
    error: str  # the server's error code
    description: str | None = None  # the server's text, made safe to print
    authorized_at: datetime | None = None
    refreshed_at: datetime | None = None
    issuer: str | None = None
    resource: str | None = None
    scope: str | None = None
    requested_scope: str | None = None
