"""Token revocation (RFC 7009)."""

from __future__ import annotations

from notion_oauth.errors import REPORT_CODE, TokenRefused
from notion_oauth.models import TokenSet
from notion_oauth.protocol.messages import Request, Response, raise_for_error
from notion_oauth.protocol.token import client_authentication


def revocation_request(tokens: TokenSet) -> Request | None:
    """The request that ends the grant, by its refresh token if possible; None if the server offers no revocation."""
    if tokens.revocation_endpoint is None or tokens.client is None:
        return None
    headers, fields = client_authentication(
        tokens.client,
        tokens.token_endpoint_auth_methods_supported,
        endpoint_methods=tokens.revocation_endpoint_auth_methods_supported,
    )
    refresh = tokens.refresh_token
    token, hint = (refresh, "refresh_token") if refresh else (tokens.access_token, "access_token")
    form = {"token": token.get_secret_value(), "token_type_hint": hint, **fields}
    return Request("POST", tokens.revocation_endpoint, headers=headers, form=form)


def check_revocation_response(response: Response, *, request: Request) -> None:
    """Return if the token is revoked (RFC 7009 §2.2: any 2xx, for unknown tokens too).

    Raises TokenRefused for an error code, ServerUnavailable for a transient failure.
    """
    if not response.ok:
        raise_for_error(response, request, TokenRefused, "revoke the login", REPORT_CODE)
