"""Which scopes to ask for (MCP authorization, scope selection; RFC 6749 §3.3)."""

from __future__ import annotations

from collections.abc import Iterable

from notion_oauth.models import Discovery, EndedLogin, TokenSet

OFFLINE_ACCESS = "offline_access"  # OpenID Connect Core §11: where a server lists it, a refresh token takes it


def select_scope(*, challenged: str | None, resource: Iterable[str] | None, server: Iterable[str] | None) -> str | None:
    """The challenge's scope, else all that the resource lists, else none; for `scope`, separated by spaces.

    `offline_access` is added where the authorization server lists it. To none it is not: a server that is asked for
    no scope gives its default ones, and one that is asked for this alone gives nothing else.
    """
    chosen = challenged or union(*(resource or ()))
    if chosen is not None and OFFLINE_ACCESS in (server or ()):
        return union(chosen, OFFLINE_ACCESS)
    return chosen


def registration_scope(found: Discovery) -> str | None:
    """What a client is registered for where nobody asks for more: all that a plain sign-in may come to ask for."""
    listed = found.scopes
    asked = select_scope(challenged=found.challenged_scope, resource=listed, server=found.server.scopes_supported)
    return union(asked, *(listed or ()))


def union(*scopes: str | None) -> str | None:
    """All of them, each once, in the order in which they first come; None where there is none."""
    found = dict.fromkeys(name for scope in scopes for name in (scope or "").split(" ") if name)
    return " ".join(found) or None


def previously_requested(login: TokenSet | EndedLogin | None, found: Discovery, *, granted: bool) -> str | None:
    """What the sign-in before asked for at the same place, alive or ended; `granted` adds what it was given.

    Of a server that lists its scopes, only what it lists still: it refuses a sign-in that asks for another.
    """
    there = login is not None and login.issuer in (None, found.server.issuer)
    if login is None or not there or login.resource not in (None, found.resource):
        return None
    supported = found.server.scopes_supported
    names = (login.requested_scope or "").split(" ")
    asked = union(*(name for name in names if supported is None or name in supported))
    return union(login.scope, asked) if granted else asked


def limit_scope(scope: str | None, allowed: str | None) -> str | None:
    """What of a scope a client may ask for; all of it where the server has not said, or where nothing would be left."""
    names = set((allowed or "").split())
    return union(*(name for name in (scope or "").split(" ") if name in names)) or scope


def includes_scope(granted: str | None, wanted: str | None) -> bool:
    """Whether everything that is wanted has been granted."""
    return set((wanted or "").split()) <= set((granted or "").split())
