"""Clients, codes, grants and tokens, and the rules for their lifetimes. All in memory, behind one lock."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from authlib.oauth2.rfc6749 import AuthorizationCodeMixin, ClientMixin, InvalidGrantError, TokenMixin

from notion_oauth.sandbox.options import SandboxOptions

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(repr=False)
class Client(ClientMixin):
    """A registered client (RFC 7591)."""

    client_id: str
    client_secret: str | None
    metadata: dict[str, Any]
    registered_at: float

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str | None:
        return None  # a request must always contain it

    def get_allowed_scope(self, scope: str) -> str:
        """Return the part of the scope that the client may request: any, unless it registered a scope (RFC 7591 §2)."""
        registered = self.metadata.get("scope")
        allowed = set(registered.split()) if registered else None
        requested = (scope or "default").split()
        return " ".join(name for name in requested if allowed is None or name in allowed)

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return any(_without_port(redirect_uri) == _without_port(uri) for uri in self.metadata["redirect_uris"])

    def check_client_secret(self, client_secret: str) -> bool:
        return self.client_secret is not None and secrets.compare_digest(self.client_secret, client_secret)

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return bool(self.metadata["token_endpoint_auth_method"] == method)

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.metadata.get("grant_types", ["authorization_code", "refresh_token"])


def _without_port(uri: str) -> str:
    """Remove the port of a loopback redirect URI: it may differ from the registered one (RFC 8252 §7.3)."""
    parts = urlsplit(uri)
    if parts.scheme != "http" or parts.hostname not in LOOPBACK:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition(":")[0] if parts.port else parts.netloc))


@dataclass(repr=False)
class Code(AuthorizationCodeMixin):
    """An authorization code, valid once."""

    code: str
    client_id: str
    redirect_uri: str
    scope: str
    resource: str | None
    code_challenge: str | None
    code_challenge_method: str | None
    expires_at: float
    grant_id: str | None = None  # started by its first use

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


@dataclass(repr=False)
class Grant(TokenMixin):
    """A user's grant to a client. Two of its refresh tokens are valid: the current and the previous one."""

    grant_id: str
    client_id: str
    scope: str
    authorized_at: float
    refreshed_at: float
    current: str = ""
    previous: str | None = None
    replaced: set[str] = field(default_factory=set)  # refresh tokens that a replay of the previous one has replaced
    access_tokens: dict[str, float] = field(default_factory=dict)  # token to expiry time
    ended: str | None = None  # the reason

    def check_client(self, client: Client) -> bool:
        return self.client_id == client.client_id

    def get_scope(self) -> str:
        return self.scope


class State:
    """All state of the server."""

    def __init__(self, options: SandboxOptions, clock: Callable[[], float]) -> None:
        self.options = options
        self.clock = clock
        self.lock = threading.RLock()
        self.clients: dict[str, Client] = {}
        self.codes: dict[str, Code] = {}
        self.grants: dict[str, Grant] = {}
        self._assertions: set[str] = set()  # the `jti` of each
        self._refresh_tokens: dict[str, str] = {}  # every refresh token ever issued, to its grant's id

    def find_client(self, client_id: str | None) -> Client | None:
        """Return the client, if it is registered and its registration has not expired."""
        if (document := self.options.client_metadata_documents.get(client_id or "")) is not None:
            return self._client_of_document(client_id or "", document)
        client = self.clients.get(client_id or "")
        lifetime = self.options.registration_lifetime
        if client is not None and lifetime is not None and client.registered_at + lifetime <= self.clock():
            return None
        return client

    def _client_of_document(self, client_id: str, document: dict[str, Any]) -> Client | None:
        """Return a client whose id is the URL of its metadata document; the document must contain the same id."""
        if document.get("client_id") != client_id:
            return None
        return Client(client_id, None, {"token_endpoint_auth_method": "none", **document}, self.clock())

    def use_assertion(self, jti: Any) -> None:
        """Mark an assertion as used. Raises InvalidGrantError if it was used before (RFC 7523 §3)."""
        if not isinstance(jti, str) or jti in self._assertions:
            raise InvalidGrantError("The assertion was used before, or has no jti")
        self._assertions.add(jti)

    def find_code(self, code: str, client: Client) -> Code | None:
        """Return the code, if it is this client's and has not expired. A second use ends the grant of the first."""
        found = self.codes.get(code)
        if found is None or found.client_id != client.client_id or found.expires_at <= self.clock():
            return None
        if found.grant_id is not None:
            self.end(self.grants[found.grant_id], "Authorization code used twice")
            return None
        return found

    def start_grant(self, client_id: str, scope: str) -> Grant:
        """Return a new grant. It ends the earlier grant of the same user to the same client."""
        for grant in self.grants.values():
            if grant.client_id == client_id and grant.ended is None:
                self.end(grant, "Grant not found")
        now = self.clock()
        grant = Grant(secrets.token_hex(8), client_id, scope, authorized_at=now, refreshed_at=now)
        self.grants[grant.grant_id] = grant
        return grant

    def issue(self, grant: Grant) -> tuple[str, str]:
        """A new access and refresh token. The refresh token that was sent stays valid until the new one is used."""
        if not self.options.access_token_survives_refresh:
            grant.access_tokens.clear()
        access, refresh = (f"user:{grant.grant_id}:{secrets.token_urlsafe(24)}" for _ in range(2))
        grant.access_tokens[access] = self.clock() + self.options.access_token_lifetime
        grant.current, self._refresh_tokens[refresh] = refresh, grant.grant_id
        grant.refreshed_at = self.clock()
        return access, refresh

    def use_refresh_token(self, token: str, client: Client) -> Grant:
        """Return the grant of a valid refresh token. Raises InvalidGrantError with Notion's descriptions.

        With Notion's rules, a replay of the previous refresh token replaces the current one, which is invalid then.
        """
        if token.count(":") != 2:
            raise InvalidGrantError("Invalid token format")
        if token not in self._refresh_tokens:
            raise InvalidGrantError("Invalid refresh token")
        grant = self.grants[self._refresh_tokens[token]]
        if grant.ended is not None:
            raise InvalidGrantError(grant.ended)
        if not grant.check_client(client):
            raise InvalidGrantError("Client ID mismatch")
        self._check_age(grant)
        if token in grant.replaced:
            raise InvalidGrantError("Invalid refresh token")
        if token == grant.previous and self.options.reuse == "notion":
            grant.replaced.add(grant.current)
        elif token != grant.current:
            self.end(grant, "Refresh token reuse detected")
            raise InvalidGrantError("Refresh token reuse detected")
        grant.previous = token
        return grant

    def _check_age(self, grant: Grant) -> None:
        now, options = self.clock(), self.options
        absolute = grant.authorized_at + options.refresh_token_lifetime
        if now >= absolute or now >= grant.refreshed_at + options.refresh_token_idle_lifetime:
            self.end(grant, "Refresh token has expired")
            raise InvalidGrantError("Refresh token has expired")

    def grant_of_refresh_token(self, token: str) -> Grant | None:
        """Return the grant that the refresh token was issued for, valid or not."""
        return self.grants.get(self._refresh_tokens.get(token, ""))

    def grant_of_access_token(self, token: str) -> Grant | None:
        """Return the grant of an access token, if neither has ended."""
        for grant in self.grants.values():
            if grant.ended is None and grant.access_tokens.get(token, 0) > self.clock():
                return grant
        return None

    def end(self, grant: Grant, reason: str) -> None:
        """End a grant and all its tokens."""
        grant.ended = reason
        grant.access_tokens.clear()
