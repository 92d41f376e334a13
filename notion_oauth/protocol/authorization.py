"""The authorization request and the authorization response (RFC 6749 §4.1, RFC 7636, RFC 8707, RFC 9207)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime

from pydantic import SecretStr

from notion_oauth.errors import (
    AuthorizationExpired,
    AuthorizationRefused,
    AuthorizationResponseError,
    IssuerMismatch,
    StateMismatch,
)
from notion_oauth.models import (
    PENDING_LIFETIME,
    AuthorizationRequest,
    AuthorizationResponse,
    ClientInformation,
    Discovery,
    PendingAuthorization,
)
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.protocol.compat import NO_PROMPT, NO_RESOURCE, compat_hint
from notion_oauth.protocol.discovery import require_sign_in
from notion_oauth.protocol.messages import error_code, host_of, printable, quoted

_RESPONSE_PARAMETERS = frozenset({"state", "code", "iss", "error", "error_description"})
_ERROR_MESSAGES = {
    "access_denied": "The sign-in was declined.",
    "temporarily_unavailable": "{host} is overloaded. Try again later.",
    "server_error": "{host} had an internal error during the sign-in.",
}


def authorization_request(
    discovery: Discovery,
    client: ClientInformation,
    *,
    redirect_uri: str,
    state: SecretStr,
    code_verifier: SecretStr,
    now: datetime,
    scope: str | None = None,
    challenge: BearerChallenge | None = None,
) -> AuthorizationRequest:
    """Build the authorization URL, and the state to store until the browser is redirected back.

    `scope` is the scope to request. `acr_values` and `max_age` come from the challenge (RFC 9470 §4). `resource` is
    sent exactly as the metadata spells it (RFC 8707 §2). `prompt=consent` makes the server show the account, even
    if the user has a session there. The user may have both left out (NOTION_OAUTH_COMPAT).

    Raises MetadataError if the server lacks what a safe sign-in needs.
    """
    # Not needed to refresh a login, and slow to import
    from authlib.oauth2.rfc6749.parameters import prepare_grant_uri  # noqa: PLC0415
    from authlib.oauth2.rfc7636 import create_s256_code_challenge  # noqa: PLC0415

    server = discovery.server
    endpoint = require_sign_in(server)
    required = BearerChallenge() if challenge is None else challenge
    max_age = None if required.max_age is None else str(required.max_age)
    optional = {"acr_values": required.acr_values, "max_age": max_age}
    url = prepare_grant_uri(
        endpoint,
        client.client_id,
        "code",
        redirect_uri=redirect_uri,
        scope=scope,
        state=state.get_secret_value(),
        code_challenge=create_s256_code_challenge(code_verifier.get_secret_value()),
        code_challenge_method="S256",
        resource=None if NO_RESOURCE in server.compat else discovery.resource,
        prompt=None if NO_PROMPT in server.compat else "consent",
        **{name: value for name, value in optional.items() if value is not None},
    )
    pending = PendingAuthorization.for_discovery(
        discovery,
        client,
        scope,
        state=state,
        code_verifier=code_verifier,
        redirect_uri=redirect_uri,
        authorization_response_iss_parameter_supported=server.authorization_response_iss_parameter_supported,
        begun_at=now,
    )
    return AuthorizationRequest(url=SecretStr(url), pending=pending)


def parse_authorization_response(parameters: Sequence[tuple[str, str]]) -> AuthorizationResponse:
    """Parse the query of the redirect.

    Raises AuthorizationResponseError if a parameter that is read here is repeated (RFC 6749 §3.1): another parser
    may have used the other value.
    """
    found: dict[str, str] = {}
    for name, value in parameters:
        if name not in _RESPONSE_PARAMETERS:
            continue
        if name in found:
            raise AuthorizationResponseError(f"The redirect contains {name} twice.")
        found[name] = value
    return AuthorizationResponse.model_validate({name: value for name, value in found.items() if value})


def check_authorization_response(
    response: AuthorizationResponse, pending: PendingAuthorization, *, now: datetime
) -> SecretStr:
    """Return the code after these checks, in this order: state, age, issuer, error.

    Raises StateMismatch, AuthorizationExpired, IssuerMismatch (RFC 9207 §2.4), AuthorizationRefused for an error
    response, AuthorizationResponseError if the response has neither code nor error.
    """
    if not _equal(response.state or SecretStr(""), pending.state):
        raise StateMismatch("The redirect does not match a sign-in that was started here.")
    if abs(now - pending.begun_at) >= PENDING_LIFETIME:
        raise AuthorizationExpired("This sign-in was started more than ten minutes ago.")
    check_issuer(response, pending)
    if response.error is not None:
        raise _refused(response, pending)
    if response.code is None:
        raise AuthorizationResponseError("The redirect contains neither a code nor an error.")
    return response.code


def _equal(sent: SecretStr, expected: SecretStr) -> bool:
    raw = (secret.get_secret_value().encode(errors="surrogatepass") for secret in (sent, expected))
    return hmac.compare_digest(*raw)


def check_issuer(response: AuthorizationResponse, pending: PendingAuthorization) -> None:
    """Reject a response from another authorization server (RFC 9207 §2.4).

    Raises IssuerMismatch. Compares as strings: case and a trailing slash matter.
    """
    if response.iss is None:
        if pending.authorization_response_iss_parameter_supported:
            raise IssuerMismatch(f"The response lacks the `iss` parameter that {pending.issuer} announces (RFC 9207).")
    elif response.iss != pending.issuer:
        raise IssuerMismatch(f"The response comes from another authorization server than {pending.issuer}.")


def _refused(response: AuthorizationResponse, pending: PendingAuthorization) -> AuthorizationRefused:
    code = error_code(response.error) or "unknown error"
    description = printable(response.error_description)
    host = host_of(pending.issuer)
    message = _ERROR_MESSAGES.get(code, "{host} refused the sign-in.").format(host=host)
    message = f"{message} ({code}{quoted(description)})"
    return AuthorizationRefused(message, error=code, description=description, hint=compat_hint(code, description))
