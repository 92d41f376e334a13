"""Revoking a grant at sign-out (RFC 7009), the possible outcomes, and their messages."""

from __future__ import annotations

from enum import Enum

from notion_oauth.errors import NotionOAuthError, OAuthError
from notion_oauth.models import GrantRequest, TokenSet, canonical_issuer
from notion_oauth.observability.audit import Audit
from notion_oauth.tokens.oauth_client import OAuthClient


class SignOut(Enum):
    """The outcome of a sign-out. The stored tokens are deleted in every case but NOT_REMOVED."""

    REVOKED = "revoked"
    NOT_OFFERED = "the server offers no revocation"
    NOT_REACHED = "the server could not be reached"
    REFUSED = "the server refused to end the grant"
    NOT_SIGNED_IN = "there was no login"
    SUPERSEDED = "a later login of the same client replaces it"
    NOT_REMOVED = "the stored login could not be read or removed"


def sign_out_message(outcome: SignOut, server: str) -> str:
    """What a sign-out did, for people. `server` is the name of the login's MCP server."""
    at = "in Notion's settings, under Connections" if server == "Notion" else f"in the settings of {server}"
    end_grant = f"To end the grant, disconnect the app {at}."
    return {
        SignOut.REVOKED: f"Signed out. {server} has ended the grant.",
        SignOut.NOT_OFFERED: f"Signed out, but {server} offers no revocation. {end_grant}",
        SignOut.NOT_REACHED: f"Signed out, but {server} was not asked to end the grant, or did not answer. {end_grant}",
        SignOut.REFUSED: f"Signed out, but {server} refused to end the grant. {end_grant}",
        SignOut.NOT_SIGNED_IN: "You were not signed in.",
        SignOut.SUPERSEDED: "Signed out. The grant was not revoked, because a newer login uses the same client.",
        SignOut.NOT_REMOVED: "Signed out in this browser, but the service could not delete the stored tokens. "
        + end_grant,
    }[outcome]


async def revoke(
    tokens: TokenSet, client: OAuthClient, audit: Audit, *, server_url: str, successor: GrantRequest | None = None
) -> SignOut:
    """Revoke the grant if the server offers that. Raises no NotionOAuthError: a failure goes to the audit log.

    `successor` is the request of a login that replaces this one. If both have the same client, nothing is revoked:
    Notion ends the earlier login itself, and other servers might end both.
    """
    if successor is not None and _same_client(tokens, successor):
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


def _same_client(tokens: TokenSet, successor: GrantRequest) -> bool:
    """Return whether both logins have the same issuer and client. Values that the stored login lacks count as equal."""
    issuer, client = canonical_issuer(tokens.issuer or successor.issuer), tokens.client or successor.client
    return (issuer, client.client_id) == (canonical_issuer(successor.issuer), successor.client.client_id)
