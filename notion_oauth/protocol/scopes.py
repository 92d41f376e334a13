"""Which scopes to request (MCP authorization, scope selection; RFC 6749 §3.3)."""

from __future__ import annotations

from collections.abc import Iterable

from notion_oauth.models import Discovery, EndedLogin, TokenSet, canonical_issuer

OFFLINE_ACCESS = "offline_access"  # OpenID Connect Core §11: servers that list it require it for a refresh token


def select_scope(
    *, challenge_scope: str | None, resource: Iterable[str] | None, server: Iterable[str] | None
) -> str | None:
    """Return the challenge's scope, otherwise all that the resource lists, otherwise None; separated by spaces.

    `offline_access` is added if the authorization server lists it, but never as the only scope: without a scope the
    server grants its default, which `offline_access` alone would replace.
    """
    chosen = challenge_scope or union(*(resource or ()))
    if chosen is not None and OFFLINE_ACCESS in (server or ()):
        return union(chosen, OFFLINE_ACCESS)
    return chosen


def registration_scope(found: Discovery) -> str | None:
    """Return the scope to register a client with: all that a sign-in without options may request."""
    listed = found.scopes
    selected = select_scope(
        challenge_scope=found.challenged_scope, resource=listed, server=found.server.scopes_supported
    )
    return union(selected, *(listed or ()))


def union(*scopes: str | None) -> str | None:
    """Return all scope tokens, each once, in order of first appearance; None if there are none."""
    found = dict.fromkeys(name for scope in scopes for name in (scope or "").split(" ") if name)
    return " ".join(found) or None


def previously_requested(login: TokenSet | EndedLogin | None, found: Discovery, *, granted: bool) -> str | None:
    """Return what the previous login, current or ended, requested from the same server and resource.

    `granted` adds its granted scope. If the server lists its scopes, others are dropped: it would refuse them.
    """
    if login is None or canonical_issuer(login.issuer) not in (None, canonical_issuer(found.server.issuer)):
        return None
    if login.resource not in (None, found.resource):
        return None
    supported = found.server.scopes_supported
    names = (login.requested_scope or "").split(" ")
    requested = union(*(name for name in names if supported is None or name in supported))
    return union(login.scope, requested) if granted else requested


def limit_scope(scope: str | None, allowed: str | None) -> str | None:
    """Return the part of a scope that the client may request; all if `allowed` is unknown or nothing would be left."""
    names = set((allowed or "").split())
    return union(*(name for name in (scope or "").split(" ") if name in names)) or scope


def includes_scope(granted: str | None, wanted: str | None) -> bool:
    """Return whether all wanted scope tokens are granted."""
    return set((wanted or "").split()) <= set((granted or "").split())
