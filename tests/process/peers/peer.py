"""What a peer knows, and what a test may do to it. No rule of Notion's and nothing of the practice server is in here.

A refresh token is good for one use; a second one ends its grant (RFC 9700 §4.14.2).
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
    """What one consent of the person allows, and the tokens that it was issued."""

    client_id: str
    scope: str
    resource: str | None
    access_tokens: set[str] = field(default_factory=set, repr=False)
    refresh_tokens: list[str] = field(default_factory=list, repr=False)  # the last one is good
    over: bool = False

    def get_scope(self) -> str:
        return self.scope

    def check_client(self, client: Any) -> bool:
        return bool(client.client_id == self.client_id)


class Peer:
    """An authorization server and the MCP server behind it. Everything is in memory."""

    def __init__(self) -> None:
        self.issuer = self.mcp_url = ""  # known once their ports are bound
        self.clients: dict[str, Any] = {}
        self.consents = True  # whether the person agrees, at once and without a page
        self.issued: list[str] = []  # the grant type of every token response, in order
        self._grants: list[Grant] = []

    @property
    def live_grants(self) -> int:
        return sum(not grant.over for grant in self._grants)

    def expire_access_tokens(self) -> None:
        """End every access token, and no grant."""
        for grant in self._grants:
            grant.access_tokens.clear()

    def end_grants(self) -> None:
        """As when the person ends them in their settings."""
        for grant in self._grants:
            grant.over = True

    def begin(self, client_id: str, scope: str, resource: str | None) -> Grant:
        grant = Grant(client_id, scope, resource)
        self._grants.append(grant)
        return grant

    def issue(self, grant: Grant, grant_type: str, access_token: str, refresh_token: str) -> None:
        self.issued.append(grant_type)
        grant.access_tokens.add(access_token)
        grant.refresh_tokens.append(refresh_token)

    def allowed_by(self, access_token: str) -> Grant | None:
        return self._find(lambda grant: access_token in grant.access_tokens)

    def refreshable_by(self, refresh_token: str) -> Grant | None:
        """The grant whose refresh token this is; one that was used before ends it."""
        grant = self._find(lambda grant: refresh_token in grant.refresh_tokens)
        if grant is None or refresh_token == grant.refresh_tokens[-1]:
            return grant
        grant.over = True
        return None

    def _find(self, fits: Callable[[Grant], bool]) -> Grant | None:
        return next((grant for grant in self._grants if not grant.over and fits(grant)), None)
