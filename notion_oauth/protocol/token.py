"""The token endpoint: code and refresh requests, their answers and errors (RFC 6749 §2.3, §4.1.3, §5, §6)."""

from __future__ import annotations

import base64
from datetime import datetime
from urllib.parse import quote

from pydantic import SecretStr, ValidationError

from notion_oauth.errors import ServerUnavailable, SignInRequired, TokenRefused
from notion_oauth.models import (
    ENDPOINT_FIELDS,
    AssertionGrant,
    AuthMethod,
    ClientInformation,
    GrantRequest,
    PendingAuthorization,
    TokenResponse,
    TokenSet,
)
from notion_oauth.protocol.lifetime import expires_at, parse_lifetime
from notion_oauth.protocol.messages import Request, Response, form_of, host_of, raise_for_error

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523 §2.1


_WITH_A_SECRET: tuple[AuthMethod, ...] = ("client_secret_basic", "client_secret_post")


def authentication_method(client: ClientInformation, supported: tuple[str, ...]) -> AuthMethod:
    """How this client authenticates: as it was registered, else by what the server lists (RFC 6749 §2.3)."""
    if client.client_secret is None:
        return "none"
    if client.token_endpoint_auth_method is not None:
        return client.token_endpoint_auth_method
    if "client_secret_basic" in supported or not supported:
        return "client_secret_basic"
    return "client_secret_post" if "client_secret_post" in supported else "none"


def client_authentication(
    client: ClientInformation, supported: tuple[str, ...], *, elsewhere: tuple[str, ...] | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """The headers and the form fields that say who the client is, by one method and never by two.

    `supported` is what the token endpoint lists; `elsewhere` what another one does that is asked, if it lists any.

    Basic carries the form-encoded id and secret (RFC 6749 §2.3.1), a space as %20, which servers read that take a
    plus for itself, too; and then no `client_id` in the body: Notion refuses both at once.
    """
    method = authentication_method(client, supported)
    if elsewhere is not None and method != "none" and method not in elsewhere:
        method = next((other for other in _WITH_A_SECRET if other in elsewhere), method)
    secret = client.client_secret.get_secret_value() if client.client_secret else ""
    if method == "client_secret_basic":
        pair = f"{quote(client.client_id, safe='')}:{quote(secret, safe='')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}, {}
    if method == "client_secret_post":
        return {}, {"client_id": client.client_id, "client_secret": secret}
    return {}, {"client_id": client.client_id}


def code_request(pending: PendingAuthorization, code: SecretStr) -> Request:
    """Exchange a code for tokens (RFC 6749 §4.1.3, RFC 7636 §4.5, RFC 8707 §2.2)."""
    headers, fields = client_authentication(pending.client, pending.token_endpoint_auth_methods_supported)
    form = {
        "grant_type": "authorization_code",
        "code": code.get_secret_value(),
        "redirect_uri": pending.redirect_uri,
        "code_verifier": pending.code_verifier.get_secret_value(),
        "resource": pending.resource,
    }
    return Request("POST", pending.token_endpoint, headers=headers, form={**form, **fields})


def refresh_request(tokens: TokenSet) -> Request:
    """Ask for new tokens (RFC 6749 §6). Raises SignInRequired where the login lacks what it takes."""
    if tokens.refresh_token is None:
        raise SignInRequired("The access token has expired, and the server gave no refresh token with it.")
    if tokens.client is None or tokens.token_endpoint is None:
        raise SignInRequired("The stored login does not say which client or token endpoint it belongs to.")
    headers, fields = client_authentication(tokens.client, tokens.token_endpoint_auth_methods_supported)
    form = form_of(
        {
            "grant_type": "refresh_token",
            "refresh_token": tokens.refresh_token.get_secret_value(),
            "resource": tokens.resource,
        }
    )
    return Request("POST", tokens.token_endpoint, headers=headers, form={**form, **fields})


def parse_token_response(response: Response, *, request: Request) -> TokenResponse:
    """Read the answer of the token endpoint (RFC 6749 §5).

    Raises TokenRefused for an error code, ServerUnavailable for a passing failure, an answer that is no
    token response, or a token that is no bearer token.
    """
    parsed, names = _token_response(response)
    if "access_token" not in names:
        if not response.ok or "error" in names:
            raise_for_error(response, request, TokenRefused, "issue a token")
        raise ServerUnavailable(f"{host_of(response.url)} answered with something that is no token.")
    if parsed is None:
        raise ServerUnavailable(f"{host_of(response.url)} answered with a damaged token response.")
    if parsed.token_type.lower() != "bearer" or not _sendable(parsed.access_token):
        raise ServerUnavailable(f"{host_of(response.url)} issued a token that cannot be sent as a bearer token.")
    return parsed


def _token_response(response: Response) -> tuple[TokenResponse | None, frozenset[str]]:
    """What a successful answer says, None where it is damaged; and the names of all that stands in it.

    A function of its own: whoever reports an error with the local variables on its way finds no token in them.
    """
    document = response.json_object() if response.ok else None
    names = frozenset(document or ())
    try:
        fields = {**(document or {}), "expires_in": parse_lifetime((document or {}).get("expires_in"))}
        return TokenResponse.model_validate(fields), names
    except ValidationError:
        return None, names


def _sendable(token: SecretStr) -> bool:
    """Whether a token fits into a header (RFC 6750 §2.1): anything else could smuggle one in."""
    value = token.get_secret_value()
    return bool(value) and all(0x21 <= ord(character) <= 0x7E for character in value)


def assertion_request(grant: AssertionGrant) -> Request:
    """Exchange an assertion for tokens (RFC 7523 §2.1, RFC 8707 §2.2)."""
    headers, fields = client_authentication(grant.client, grant.token_endpoint_auth_methods_supported)
    form = form_of(
        {
            "grant_type": JWT_BEARER,
            "assertion": grant.assertion.get_secret_value(),
            "scope": grant.scope,
            "resource": grant.resource,
        }
    )
    return Request("POST", grant.token_endpoint, headers=headers, form={**form, **fields})


def token_set(response: TokenResponse, pending: GrantRequest, *, requested_at: datetime) -> TokenSet:
    """The login that begins with these tokens."""
    return TokenSet(
        access_token=response.access_token,
        token_type="Bearer",  # noqa: S106 - the scheme, in the one spelling that every server takes
        expires_in=response.expires_in,
        expires_at=expires_at(response.expires_in, requested_at=requested_at),
        refresh_token=response.refresh_token,
        scope=response.scope or pending.scope,
        requested_scope=pending.scope,
        client=pending.client,
        issuer=pending.issuer,
        resource=pending.resource,
        **{name: getattr(pending, name) for name in ENDPOINT_FIELDS},
        authorized_at=requested_at,
        updated_at=requested_at,
    )


def refreshed(tokens: TokenSet, response: TokenResponse, *, requested_at: datetime) -> TokenSet:
    """The same login with new tokens; without a new refresh token the old one stays good (RFC 6749 §6)."""
    return tokens.model_copy(
        update={
            "access_token": response.access_token,
            "expires_in": response.expires_in,
            "expires_at": expires_at(response.expires_in, requested_at=requested_at),
            "refresh_token": response.refresh_token or tokens.refresh_token,
            "scope": response.scope or tokens.scope,
            "refreshed_at": requested_at,
            "updated_at": requested_at,
        }
    )
