"""Introspection: a client may ask about its own access tokens (RFC 7662)."""

from __future__ import annotations

from typing import Any, Protocol

from authlib.oauth2.rfc7662 import IntrospectionEndpoint

from notion_oauth.sandbox.assertions import AUTH_METHODS
from notion_oauth.sandbox.state import Client, Grant, State


class _Server(Protocol):
    """What introspection needs of the authorization server."""

    state: State


class _Token:
    """One access token of a grant, as Authlib wants to see it."""

    def __init__(self, grant: Grant, expires_at: float) -> None:
        self.grant, self.expires_at = grant, expires_at

    def is_expired(self) -> bool:
        return False  # those that are over are not found

    def is_revoked(self) -> bool:
        return False


class Introspection(IntrospectionEndpoint):
    """Says what an access token is good for, and of everything else that it is not active."""

    CLIENT_AUTH_METHODS = AUTH_METHODS
    server: _Server

    def query_token(self, token_string: str, token_type_hint: str | None) -> _Token | None:
        grant = self.server.state.grant_of_access_token(token_string)
        return _Token(grant, grant.access_tokens[token_string]) if grant else None

    def check_permission(self, token: _Token, client: Client, request: Any) -> bool:
        return token.grant.check_client(client)

    def introspect_token(self, token: _Token) -> dict[str, Any]:
        return {
            "active": True,
            "client_id": token.grant.client_id,
            "scope": token.grant.scope,
            "username": "practice@example.com",
            "exp": int(token.expires_at),
        }
