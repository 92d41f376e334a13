"""The identity-assertion grant: tokens for a JWT that the user's company has signed (RFC 7523 §2.1)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Protocol

from authlib.oauth2.rfc6749 import InvalidGrantError, InvalidRequestError
from authlib.oauth2.rfc7523 import JWTBearerGrant
from joserfc import jwt
from joserfc.jwk import OctKey

from notion_oauth.sandbox.state import State

AUTH_METHODS = ["client_secret_basic", "client_secret_post", "none"]
IDENTITY_PROVIDER = "https://idp.example"
LIFETIME = 300  # seconds


class IdentityProvider:
    """Signs assertions like a company's identity provider: for one user, client and server."""

    def __init__(self, audience: str, clock: Callable[[], float]) -> None:
        self.key = OctKey.generate_key(256)
        self._audience = audience
        self._clock = clock

    def assertion(self, client_id: str, **claims: Any) -> str:
        """Return a JWT for one use; `claims` replace the default ones, and None removes one."""
        now = int(self._clock())
        defaults = {
            "iss": IDENTITY_PROVIDER,
            "sub": "practice-user",
            "aud": self._audience,
            "client_id": client_id,
            "jti": secrets.token_urlsafe(12),
            "iat": now,
            "exp": now + LIFETIME,
        }
        payload = {name: value for name, value in {**defaults, **claims}.items() if value is not None}
        return jwt.encode({"alg": "HS256", "typ": "oauth-id-jag+jwt"}, payload, self.key)


class _Server(Protocol):
    """The attributes of the authorization server that the grant needs."""

    state: State
    issuer: str
    identity_provider: IdentityProvider

    def check_resource(self, resource: str | None) -> None: ...


class AssertionGrant(JWTBearerGrant):
    """The client authenticates, and the assertion must be issued to it. It gets no refresh token."""

    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS
    server: _Server

    def validate_token_request(self) -> None:
        client = self.authenticate_token_endpoint_client()
        data = self.request.payload.data
        self.server.check_resource(data.get("resource"))
        if not data.get("assertion"):
            raise InvalidRequestError("Missing 'assertion' in request")
        claims = self.process_assertion_claims(data["assertion"])
        if claims.get("client_id") != client.client_id:
            raise InvalidGrantError("The assertion was issued to another client")
        self.server.state.use_assertion(claims.get("jti"))
        self.request.client = client
        self.request.user = claims.get("sub")

    def resolve_issuer_client(self, issuer: str) -> str | None:
        return issuer if issuer == IDENTITY_PROVIDER else None

    def resolve_client_public_key(self, client: str) -> OctKey:
        return self.server.identity_provider.key

    def get_audiences(self) -> list[str]:
        return [self.server.issuer]
