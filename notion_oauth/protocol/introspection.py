"""Token introspection (RFC 7662)."""

from __future__ import annotations

from notion_oauth.errors import REPORT_CODE, ServerUnavailable, TokenRefused
from notion_oauth.models import Introspection, TokenSet
from notion_oauth.protocol.lifetime import parse_time
from notion_oauth.protocol.messages import Request, Response, host_of, printable, raise_for_error
from notion_oauth.protocol.token import client_authentication


def introspection_request(tokens: TokenSet) -> Request | None:
    """Return the request about the access token (RFC 7662 §2.1); None if the server offers no introspection."""
    if tokens.introspection_endpoint is None or tokens.client is None:
        return None
    headers, fields = client_authentication(
        tokens.client,
        tokens.token_endpoint_auth_methods_supported,
        endpoint_methods=tokens.introspection_endpoint_auth_methods_supported,
    )
    form = {"token": tokens.access_token.get_secret_value(), "token_type_hint": "access_token", **fields}
    return Request("POST", tokens.introspection_endpoint, headers=headers, form=form)


def parse_introspection_response(response: Response, *, request: Request) -> Introspection:
    """Parse the response (RFC 7662 §2.2). Text that repeats a secret of the request is dropped.

    Raises TokenRefused for an error code, ServerUnavailable for a transient failure or an invalid response.
    """
    if response.is_error:
        raise_for_error(response, request, TokenRefused, "introspect the token", REPORT_CODE)
    document = response.json_object()
    if document is None or not isinstance(document.get("active"), bool):
        raise ServerUnavailable(f"{host_of(response.url)} sent an invalid introspection response.")
    if not document["active"]:
        return Introspection(active=False)  # other members have no meaning then (§2.2)
    secrets = request.secrets()
    texts = {name: printable(document.get(name), secrets=secrets) for name in ("scope", "username", "sub")}
    return Introspection(active=True, expires_at=parse_time(document.get("exp")), **texts)
