"""Which scopes to ask for (MCP authorization, scope selection; RFC 6749 §3.3)."""

from __future__ import annotations

from collections.abc import Iterable

OFFLINE_ACCESS = "offline_access"  # OpenID Connect Core §11: where a server lists it, a refresh token takes it


def select(*, challenged: str | None, resource: Iterable[str] | None, server: Iterable[str] | None) -> str | None:
    """The challenge's scope, else all that the resource lists, else none; for `scope`, separated by spaces.

    `offline_access` is added where the authorization server lists it. To none it is not: a server that is asked for
    no scope gives its default ones, and one that is asked for this alone gives nothing else.
    """
    chosen = challenged or union(*(resource or ()))
    if chosen is not None and OFFLINE_ACCESS in (server or ()):
        return union(chosen, OFFLINE_ACCESS)
    return chosen


def union(*scopes: str | None) -> str | None:
    """All of them, each once, in the order in which they first come; None where there is none."""
    found = dict.fromkeys(name for scope in scopes for name in (scope or "").split(" ") if name)
    return " ".join(found) or None


def covers(granted: str | None, wanted: str | None) -> bool:
    """Whether everything that is wanted has been granted."""
    return set((wanted or "").split()) <= set((granted or "").split())
