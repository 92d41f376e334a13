"""What becomes of a login at sign-out, at its server too, and the words for it."""

from __future__ import annotations

from enum import Enum

from notion_oauth.errors import NotionOAuthError, OAuthError
from notion_oauth.models import GrantRequest, TokenSet
from notion_oauth.observability.audit import Audit
from notion_oauth.tokens.oauth_client import OAuthClient


class SignOut(Enum):
    """What became of a login at sign-out. The stored tokens are gone in every case but the last."""

    REVOKED = "revoked"
    NOT_OFFERED = "the server offers no revocation"
    NOT_REACHED = "the server could not be told"
    REFUSED = "the server refused to end the grant"
    NOT_SIGNED_IN = "nobody was signed in"
    SUPERSEDED = "a later login of the same client has its place"
    NOT_REMOVED = "what is kept could not be read or removed"


SIGN_OUT_MESSAGES = {
    SignOut.REVOKED: "Signed out. Notion has ended the grant.",
    SignOut.NOT_OFFERED: "Signed out here. The server offers no revocation: end the connection in its settings too.",
    SignOut.NOT_REACHED: "Signed out here, but the server could not be told: end the connection in Notion's settings.",
    SignOut.REFUSED: "Signed out here, but the server refused to end the grant: do that in Notion's settings.",
    SignOut.NOT_SIGNED_IN: "Nobody was signed in.",
    SignOut.SUPERSEDED: "Signed out here. The later login of the same client goes on.",
    SignOut.NOT_REMOVED: "Signed out in this browser, but the service could not remove the login: "
    "end the connection in Notion's settings too.",
}


async def revoke(
    tokens: TokenSet, client: OAuthClient, audit: Audit, *, server_url: str, successor: GrantRequest | None = None
) -> SignOut:
    """End the grant at the server, where it offers that. Raises nothing of ours: the audit log tells what fails.

    `successor` is what has led to a login in the place of this one. Where both have one client nothing is revoked:
    Notion ends the earlier login itself, and others might end both.
    """
    if successor is not None and _one_client(tokens, successor):
        return SignOut.SUPERSEDED
    try:
        offered = await client.revoke(await client.with_endpoints(tokens, server_url))
    except NotionOAuthError as error:
        audit.failed("revocation", error, tokens)
        return SignOut.REFUSED if isinstance(error, OAuthError) else SignOut.NOT_REACHED
    if not offered:
        return SignOut.NOT_OFFERED
    audit.succeeded("revocation", tokens)
    return SignOut.REVOKED


def _one_client(tokens: TokenSet, successor: GrantRequest) -> bool:
    """Whether both logins are one client's at one server, as far as what is kept tells."""
    issuer, client = tokens.issuer or successor.issuer, tokens.client or successor.client
    return (issuer, client.client_id) == (successor.issuer, successor.client.client_id)
