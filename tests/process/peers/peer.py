"""The state of a peer, and what a test may change. It has none of Notion's rules and no code of the practice server.

A refresh token is valid for one use; a second use ends its grant (RFC 9700 §4.14.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

ACCESS_TOKEN_LIFETIME = 3600  # seconds
SCOPE = "notes"
PERSON = "ada"


@dataclass(eq=False)
class Grant:
    """A user's consent, and the tokens that were issued for it."""

    client_id: str
    scope: str
    resource: str | None
    access_tokens: set[str] = field(default_factory=set, repr=False)
    refresh_tokens: list[str] = field(default_factory=list, repr=False)  # only the last one is valid
    ended: bool = False

    def get_scope(self) -> str:
        return self.scope

    def check_client(self, client: Any) -> bool:
        return bool(client.client_id == self.client_id)


class Peer:
    """An authorization server and the MCP server behind it. Everything is in memory."""

    def __init__(self) -> None:
        self.issuer = self.mcp_url = ""  # known once their ports are bound
        self.clients: dict[str, Any] = {}
        self.consents = True  # whether the user agrees; there is no consent page
        self.issued: list[str] = []  # the grant type of every token response, in order
        self._grants: list[Grant] = []

    @property
    def live_grants(self) -> int:
        return sum(not grant.ended for grant in self._grants)

    def expire_access_tokens(self) -> None:
        """Expire all access tokens; the grants stay valid."""
        for grant in self._grants:
            grant.access_tokens.clear()

    def end_grants(self) -> None:
        """End all grants, as a user does in the settings."""
        for grant in self._grants:
            grant.ended = True

    def start_grant(self, client_id: str, scope: str, resource: str | None) -> Grant:
        grant = Grant(client_id, scope, resource)
        self._grants.append(grant)
        return grant

    def issue(self, grant: Grant, grant_type: str, access_token: str, refresh_token: str) -> None:
        self.issued.append(grant_type)
        grant.access_tokens.add(access_token)
        grant.refresh_tokens.append(refresh_token)

    def grant_of_access_token(self, access_token: str) -> Grant | None:
        return self._find(lambda grant: access_token in grant.access_tokens)

    def grant_of_refresh_token(self, refresh_token: str) -> Grant | None:
        """The grant of a valid refresh token; a token that was used before ends its grant."""
        grant = self._find(lambda grant: refresh_token in grant.refresh_tokens)
        if grant is None or refresh_token == grant.refresh_tokens[-1]:
            return grant
        grant.ended = True
        return None

    def _find(self, matches: Callable[[Grant], bool]) -> Grant | None:
        return next((grant for grant in self._grants if not grant.ended and matches(grant)), None)
