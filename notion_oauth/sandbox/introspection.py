"""Introspection: a client may introspect its own access tokens (RFC 7662)."""

from __future__ import annotations

from typing import Any, Protocol

from authlib.oauth2.rfc7662 import IntrospectionEndpoint

from notion_oauth.sandbox.assertions import AUTH_METHODS
from notion_oauth.sandbox.state import Client, Grant, State


class _Server(Protocol):
    """The attributes of the authorization server that introspection needs."""

    state: State


class _Token:
    """One access token of a grant, in the form that Authlib expects."""

    def __init__(self, grant: Grant, expires_at: float) -> None:
        self.grant, self.expires_at = grant, expires_at

    def is_expired(self) -> bool:
        return False  # query_token does not return expired tokens

    def is_revoked(self) -> bool:
        return False


class Introspection(IntrospectionEndpoint):
    """Describes active access tokens; reports everything else as not active."""

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
