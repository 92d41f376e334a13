"""Why the server has ended a login: told apart by its error code, its words and the clock (RFC 6749 §5.2)."""

from __future__ import annotations

from datetime import datetime

from notion_oauth.errors import TokenRefused
from notion_oauth.models import EndedLogin, EndReason, TokenSet
from notion_oauth.protocol.lifetime import Lifetimes

TERMINAL = frozenset({"invalid_grant", "invalid_client", "unauthorized_client"})


def ended_login(tokens: TokenSet, refused: TokenRefused, *, now: datetime, lifetimes: Lifetimes) -> EndedLogin:
    """What is kept of a login that was refused for good: when, why, and nothing that could be used."""
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
    """The server's words where they are plain, else the clocks, else what is left."""
    if refused.error == "invalid_client":
        return "client_forgotten"
    if refused.error == "unauthorized_client":
        return "client_refused"
    words = (refused.description or "").casefold()
    if "reuse" in words or "replay" in words:
        return "reused"
    if "client id mismatch" in words:
        return "client_refused"
    if "revoked" in words:
        return "revoked"
    if tokens.authorized_at is not None and now - tokens.authorized_at >= lifetimes.grant:
        return "too_old"
    if now - (tokens.refreshed_at or tokens.updated_at) >= lifetimes.idle:
        return "idle"
    return "expired" if "expired" in words else "ended"


def describe_end(ended: EndedLogin, lifetimes: Lifetimes) -> str:
    """The reason as a sentence."""
    return {
        "reused": "its refresh token was used twice, which the server takes for theft; "
        "a copy of the tokens may be in use elsewhere",
        "idle": f"it was not refreshed for {lifetimes.idle.days} days",
        "too_old": f"{lifetimes.grant.days} days after a sign-in every login ends",
        "expired": "the server says that its refresh token has expired",
        "revoked": "it was revoked: in Notion's settings, or by a sign-out elsewhere",
        "client_forgotten": "the server no longer knows this client; a new sign-in registers it anew",
        "client_refused": "the server does not let this client refresh it",
        "ended": "the server has ended it: in Notion's settings, or through a new sign-in with the same client",
    }[ended.reason]
