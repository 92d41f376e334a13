"""The token endpoint: code and refresh requests, responses and errors (RFC 6749 §2.3, §4.1.3, §5, §6)."""

from __future__ import annotations

import base64
from datetime import datetime
from urllib.parse import quote

from pydantic import SecretStr, ValidationError

from notion_oauth.errors import TRY_LATER, ServerUnavailable, SignInRequired, TokenRefused
from notion_oauth.models import (
    AssertionRequest,
    AuthMethod,
    ClientInformation,
    GrantRequest,
    PendingAuthorization,
    TokenResponse,
    TokenSet,
)
from notion_oauth.protocol.compat import NO_RESOURCE, REFRESH_SCOPE
from notion_oauth.protocol.identity import identity_in_token_response
from notion_oauth.protocol.lifetime import expires_at, expiry, parse_lifetime
from notion_oauth.protocol.messages import Request, Response, form_of, host_of, is_sendable, raise_for_error

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523 §2.1

_SECRET_METHODS: tuple[AuthMethod, ...] = ("client_secret_basic", "client_secret_post")


def authentication_method(client: ClientInformation, supported: tuple[str, ...]) -> AuthMethod:
    """Return how this client authenticates: as registered, otherwise by what the server lists (RFC 6749 §2.3)."""
    if client.client_secret is None:
        return "none"
    if client.token_endpoint_auth_method is not None:
        return client.token_endpoint_auth_method
    if "client_secret_basic" in supported or not supported:
        return "client_secret_basic"
    return "client_secret_post" if "client_secret_post" in supported else "none"


def client_authentication(
    client: ClientInformation, supported: tuple[str, ...], *, endpoint_methods: tuple[str, ...] | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the headers and form fields that authenticate the client, always by exactly one method.

    `supported` is what the token endpoint lists; `endpoint_methods` what the requested endpoint lists, if that is
    another one.

    Basic carries the form-encoded id and secret (RFC 6749 §2.3.1), with a space as %20, which servers also decode
    that do not decode a plus. There is no `client_id` in the body then: Notion refuses both together.
    """
    method = authentication_method(client, supported)
    if endpoint_methods is not None and method != "none" and method not in endpoint_methods:
        method = next((other for other in _SECRET_METHODS if other in endpoint_methods), method)
    secret = client.client_secret.get_secret_value() if client.client_secret else ""
    if method == "client_secret_basic":
        pair = f"{quote(client.client_id, safe='')}:{quote(secret, safe='')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}, {}
    if method == "client_secret_post":
        return {}, {"client_id": client.client_id, "client_secret": secret}
    return {}, {"client_id": client.client_id}


def _resource(login: GrantRequest | TokenSet) -> str | None:
    """Return the `resource` to send; None if the user has it left out for this server."""
    return None if NO_RESOURCE in login.compat else login.resource


def code_request(pending: PendingAuthorization, code: SecretStr) -> Request:
    """Return the request that exchanges a code for tokens (RFC 6749 §4.1.3, RFC 7636 §4.5, RFC 8707 §2.2)."""
    headers, fields = client_authentication(pending.client, pending.token_endpoint_auth_methods_supported)
    form = form_of(
        {
            "grant_type": "authorization_code",
            "code": code.get_secret_value(),
            "redirect_uri": pending.redirect_uri,
            "code_verifier": pending.code_verifier.get_secret_value(),
            "resource": _resource(pending),
        }
    )
    return Request("POST", pending.token_endpoint, headers=headers, form={**form, **fields})


def refresh_request(tokens: TokenSet) -> Request:
    """Return the request for new tokens (RFC 6749 §6). Raises SignInRequired if the login cannot be refreshed."""
    if tokens.refresh_token is None:
        raise SignInRequired("The access token has expired, and the server issued no refresh token.")
    if tokens.client is None or tokens.token_endpoint is None:
        raise SignInRequired("The stored login lacks its client or token endpoint.")
    headers, fields = client_authentication(tokens.client, tokens.token_endpoint_auth_methods_supported)
    form = form_of(
        {
            "grant_type": "refresh_token",
            "refresh_token": tokens.refresh_token.get_secret_value(),
            "scope": tokens.requested_scope if REFRESH_SCOPE in tokens.compat else None,
            "resource": _resource(tokens),
        }
    )
    return Request("POST", tokens.token_endpoint, headers=headers, form={**form, **fields})


def parse_token_response(response: Response, *, request: Request) -> TokenResponse:
    """Parse the token response (RFC 6749 §5).

    Raises TokenRefused for an error code, ServerUnavailable for a transient failure, NoUsableToken for an invalid
    token response or a token that is no bearer token.
    """
    parsed, names = _token_response(response)
    if parsed is not None and _is_bearer(parsed):
        return parsed
    new = _new_refresh_token(response, request)
    if new is None and response.is_error:
        raise_for_error(response, request, TokenRefused, "issue a token")
    problem = "sent a response without a token"
    if "access_token" in names:
        problem = "sent an invalid token response"
    if parsed is not None:
        problem = "issued a token that cannot be sent as a bearer token"
    raise NoUsableToken(f"{host_of(response.url)} {problem}.", refresh_token=new)


class NoUsableToken(ServerUnavailable, code="ServerUnavailable"):
    """The response contains no access token that can be used, and maybe a new refresh token, which must be kept."""

    def __init__(self, message: str, *, refresh_token: SecretStr | None = None) -> None:
        super().__init__(message, hint=TRY_LATER)
        self.refresh_token = refresh_token
        self.login: TokenSet | None = None  # the refreshed login with this refresh token

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle and copy without the token."""
        return (*super().__reduce__()[:2], {**self.__dict__, "refresh_token": None, "login": None})


def _token_response(response: Response) -> tuple[TokenResponse | None, frozenset[str]]:
    """Return the parsed token response, None if it is invalid; and the names of all its members.

    A separate function, so that no local variable in a traceback holds a token.
    """
    document = (None if response.is_error else response.members()) or {}
    names = frozenset(document)
    try:
        fields = {**document, "expires_in": parse_lifetime(document.get("expires_in"))}
        fields |= identity_in_token_response(document).identity()
        return TokenResponse.model_validate(fields), names
    except ValidationError:
        return None, names


def _new_refresh_token(response: Response, request: Request) -> SecretStr | None:
    """Return the refresh token of a response, unless it is the one that was sent."""
    document = (response.members() or {}) if response.ok else {}
    value = document.get("refresh_token")
    sent = (request.form or {}).get("refresh_token")
    return SecretStr(value) if isinstance(value, str) and value not in ("", sent) else None


def _is_bearer(response: TokenResponse) -> bool:
    """Return whether the token is a bearer token that may stand in a header."""
    return is_sendable(response.access_token.get_secret_value()) and response.token_type.strip().lower() == "bearer"


def assertion_request(grant: AssertionRequest) -> Request:
    """Return the request that exchanges an assertion for tokens (RFC 7523 §2.1, RFC 8707 §2.2)."""
    headers, fields = client_authentication(grant.client, grant.token_endpoint_auth_methods_supported)
    form = form_of(
        {
            "grant_type": JWT_BEARER,
            "assertion": grant.assertion.get_secret_value(),
            "scope": grant.scope,
            "resource": _resource(grant),
        }
    )
    return Request("POST", grant.token_endpoint, headers=headers, form={**form, **fields})


def token_set(response: TokenResponse, request: GrantRequest, *, requested_at: datetime) -> TokenSet:
    """Return the login that starts with these tokens."""
    return TokenSet(
        access_token=response.access_token,
        token_type="Bearer",  # noqa: S106 - the scheme, in the spelling that every server accepts
        expires_in=response.expires_in,
        expires_at=expires_at(response.expires_in, requested_at=requested_at),
        refresh_token=response.refresh_token,
        scope=response.scope or request.scope,
        requested_scope=request.scope,
        client=request.client,
        issuer=request.issuer,
        resource=request.resource,
        **request.endpoints(),
        authorized_at=requested_at,
        updated_at=requested_at,
        **response.identity(),
    )


def with_new_refresh_token(tokens: TokenSet, refresh_token: SecretStr, *, requested_at: datetime) -> TokenSet:
    """Return the same login after a response with a new refresh token and no usable access token."""
    times = {"expires_in": None, "expires_at": expiry(tokens), "refreshed_at": requested_at, "updated_at": requested_at}
    return tokens.model_copy(update={"refresh_token": refresh_token, "previous_refresh_token": None, **times})


def refreshed(tokens: TokenSet, response: TokenResponse, *, requested_at: datetime) -> TokenSet:
    """Return the same login with new tokens; without a new refresh token the old one stays valid (RFC 6749 §6)."""
    return tokens.model_copy(
        update={
            "access_token": response.access_token,
            "expires_in": response.expires_in,
            "expires_at": expires_at(response.expires_in, requested_at=requested_at),
            "refresh_token": response.refresh_token or tokens.refresh_token,
            "previous_refresh_token": None,
            "scope": response.scope or tokens.scope,
            "refreshed_at": requested_at,
            "updated_at": requested_at,
        }
    )
