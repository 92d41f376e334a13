"""The authorization request and the redirect that answers it (RFC 6749 §4.1, RFC 7636, RFC 8707, RFC 9207)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from datetime import datetime

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri
from authlib.oauth2.rfc7636 import create_s256_code_challenge
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
from notion_oauth.protocol.discovery import require_sign_in
from notion_oauth.protocol.messages import error_code, host_of, printable, quoted

_READ = frozenset({"state", "code", "iss", "error", "error_description"})
_WORDS = {
    "access_denied": "The sign-in was declined.",
    "temporarily_unavailable": "{host} is overloaded and asks to try again later.",
    "server_error": "{host} failed while signing you in.",
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
    """Build the URL for the browser, and what must be remembered until it comes back.

    `scope` is what to ask for; of the challenge, how recently and how strongly the person must have proved who they
    are (RFC 9470 §4). `resource` goes out as the metadata spells it (RFC 8707 §2); `prompt=consent` makes the server
    show whom the person signs in as, even where it remembers them. Raises MetadataError where the server signs
    nobody in safely.
    """
    server = discovery.server
    endpoint = require_sign_in(server)
    asked = BearerChallenge() if challenge is None else challenge
    optional = {"acr_values": asked.acr_values, "max_age": None if asked.max_age is None else str(asked.max_age)}
    url = prepare_grant_uri(
        endpoint,
        client.client_id,
        "code",
        redirect_uri=redirect_uri,
        scope=scope,
        state=state.get_secret_value(),
        code_challenge=create_s256_code_challenge(code_verifier.get_secret_value()),
        code_challenge_method="S256",
        resource=discovery.resource,
        prompt="consent",
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
    """Read the query of the redirect.

    Raises AuthorizationResponseError where a parameter that we read comes twice (RFC 6749 §3.1): which of
    the two another reader took nobody can tell.
    """
    found: dict[str, str] = {}
    for name, value in parameters:
        if name not in _READ:
            continue
        if name in found:
            raise AuthorizationResponseError(f"The redirect carries {name} twice.")
        found[name] = value
    return AuthorizationResponse.model_validate({name: value for name, value in found.items() if value})


def check_authorization_response(
    response: AuthorizationResponse, pending: PendingAuthorization, *, now: datetime
) -> SecretStr:
    """Return the code, once everything that makes it ours has been checked, in this order: state, age, issuer, error.

    Raises StateMismatch, PendingExpired, IssuerMismatch (RFC 9207 §2.4), AuthorizationRefused for the
    server's own error, AuthorizationResponseError where there is neither code nor error.
    """
    if not _same(response.state or SecretStr(""), pending.state):
        raise StateMismatch("The redirect belongs to no sign-in that was begun here.")
    if abs(now - pending.begun_at) >= PENDING_LIFETIME:
        raise AuthorizationExpired("This sign-in was begun more than ten minutes ago.")
    check_issuer(response, pending)
    if response.error is not None:
        raise _refused(response, pending)
    if response.code is None:
        raise AuthorizationResponseError("The redirect carries neither a code nor an error.")
    return response.code


def _same(sent: SecretStr, expected: SecretStr) -> bool:
    raw = (secret.get_secret_value().encode(errors="surrogatepass") for secret in (sent, expected))
    return hmac.compare_digest(*raw)


def check_issuer(response: AuthorizationResponse, pending: PendingAuthorization) -> None:
    """Refuse an answer that another authorization server sent (RFC 9207 §2.4).

    Raises IssuerMismatch. Compares as strings: no case folding, no trailing slash forgiven.
    """
    if response.iss is None:
        if pending.authorization_response_iss_parameter_supported:
            raise IssuerMismatch(f"{pending.issuer} says who it is in every answer; this one says nothing.")
    elif response.iss != pending.issuer:
        raise IssuerMismatch(f"The answer comes from another authorization server than {pending.issuer}.")


def _refused(response: AuthorizationResponse, pending: PendingAuthorization) -> AuthorizationRefused:
    code = error_code(response.error) or "unknown error"
    description = printable(response.error_description)
    host = host_of(pending.issuer)
    words = _WORDS.get(code, "{host} refused the sign-in.").format(host=host)
    return AuthorizationRefused(f"{words} ({code}{quoted(description)})", error=code, description=description)
