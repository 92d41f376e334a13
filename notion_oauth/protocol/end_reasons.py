"""Why the server ended a login, from its error code, its description and the clock (RFC 6749 §5.2)."""

from __future__ import annotations

from datetime import datetime

from notion_oauth.errors import TokenRefused
from notion_oauth.models import EndedLogin, EndReason, TokenSet
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.protocol.urls import server_name

# The last three are not registered: servers such as GitHub send them for a refresh token that they refuse for good
REFUSED_GRANT = frozenset({"invalid_grant", "invalid_token", "bad_refresh_token", "invalid_refresh_token"})
TERMINAL = REFUSED_GRANT | {"invalid_client", "unauthorized_client"}


def ended_login(tokens: TokenSet, refused: TokenRefused, *, now: datetime, lifetimes: Lifetimes) -> EndedLogin:
    """Return the record of a login whose refresh failed for good: when and why, without any secret."""
    return EndedLogin(
        ended_at=now,
        reason=_reason(tokens, refused, now, lifetimes),
        error=refused.error,
        description=refused.description,
        authorized_at=tokens.authorized_at,
        refreshed_at=tokens.refreshed_at or tokens.updated_at,
        issuer=tokens.issuer,
        resource=tokens.resource,
        scope=tokens.scope,
        requested_scope=tokens.requested_scope,
    )


def _reason(tokens: TokenSet, refused: TokenRefused, now: datetime, lifetimes: Lifetimes) -> EndReason:
    """From the error code and description if they are clear, otherwise from the lifetimes."""
    if refused.error == "invalid_client":
        return "client_forgotten"
    if refused.error == "unauthorized_client":
        return "client_refused"
    description = (refused.description or "").casefold()
    if "reuse" in description or "replay" in description:
        return "reused"
    if "client id mismatch" in description:
        return "client_refused"
    if "revoked" in description:
        return "revoked"
    if tokens.authorized_at is not None and now - tokens.authorized_at >= lifetimes.grant:
        return "too_old"
    if now - (tokens.refreshed_at or tokens.updated_at) >= lifetimes.idle:
        return "idle"
    return "expired" if "expired" in description else "ended"


def describe_end(ended: EndedLogin, lifetimes: Lifetimes) -> str:
    """Return the reason as a clause, without a capital letter and a full stop."""
    url = ended.resource or ended.issuer
    server = "the server" if url is None else server_name(url)
    return {
        "reused": f"its refresh token was used twice, which {server} treats as theft; "
        "a copy of the tokens may be in use on another machine",
        "idle": f"it was not refreshed for {lifetimes.idle.days} days",
        "too_old": f"a login ends {lifetimes.grant.days} days after the sign-in",
        "expired": f"{server} reports that its refresh token has expired",
        "revoked": f"the app was disconnected in the settings of {server}, or another machine signed out",
        "client_forgotten": f"{server} no longer recognises this client; a new sign-in registers it again",
        "client_refused": f"{server} no longer allows this client to use refresh tokens",
        "ended": f"{server} ended it: the app was disconnected in its settings, or the same client signed in again",
    }[ended.reason]
