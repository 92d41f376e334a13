"""Token revocation (RFC 7009)."""

from __future__ import annotations

from notion_oauth.errors import REPORT_CODE, TokenRefused
from notion_oauth.models import TokenSet
from notion_oauth.protocol.messages import Request, Response, raise_for_error
from notion_oauth.protocol.token import client_authentication


def revocation_requests(tokens: TokenSet) -> tuple[Request, ...]:
    """Return the request that ends the grant, by its refresh token if possible; none if revocation is not offered.

    Also a request for the previous refresh token, if the server may know only that one.
    """
    if tokens.revocation_endpoint is None or tokens.client is None:
        return ()
    headers, fields = client_authentication(
        tokens.client,
        tokens.token_endpoint_auth_methods_supported,
        endpoint_methods=tokens.revocation_endpoint_auth_methods_supported,
    )
    hint = "refresh_token" if tokens.refresh_token else "access_token"
    revoked = (tokens.refresh_token or tokens.access_token, tokens.previous_refresh_token)
    forms = ({"token": token.get_secret_value(), "token_type_hint": hint, **fields} for token in revoked if token)
    return tuple(Request("POST", tokens.revocation_endpoint, headers=headers, form=form) for form in forms)


def check_revocation_response(response: Response, *, request: Request) -> None:
    """Return if the token is revoked (RFC 7009 §2.2: any 2xx, for unknown tokens too).

    Raises TokenRefused for an error code, ServerUnavailable for a transient failure.
    """
    if not response.ok:
        raise_for_error(response, request, TokenRefused, "revoke the login", REPORT_CODE)
