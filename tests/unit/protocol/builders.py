"""Objects for protocol tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from notion_oauth.models import (
    AuthorizationServerMetadata,
    ClientInformation,
    Discovery,
    PendingAuthorization,
    TokenSet,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
ISSUER = "https://mcp.notion.com"
REDIRECT_URI = "http://127.0.0.1:4321/callback"

SERVER = AuthorizationServerMetadata(
    issuer=ISSUER,
    authorization_endpoint=f"{ISSUER}/authorize",
    token_endpoint=f"{ISSUER}/token",
    registration_endpoint=f"{ISSUER}/register",
    revocation_endpoint=f"{ISSUER}/token",
    token_endpoint_auth_methods_supported=("client_secret_basic", "client_secret_post", "none"),
    code_challenge_methods_supported=("S256",),
)
DISCOVERY = Discovery(resource=f"{ISSUER}/mcp", scopes=("default",), server=SERVER)
PUBLIC = ClientInformation(client_id="public-client", token_endpoint_auth_method="none")


def pending(**changes: Any) -> PendingAuthorization:
    """A sign-in that was started at NOW."""
    fields: dict[str, Any] = {
        "state": SecretStr("canary-state"),
        "code_verifier": SecretStr("canary-verifier-" + "v" * 30),
        "redirect_uri": REDIRECT_URI,
        "resource": f"{ISSUER}/mcp",
        "scope": "default",
        "client": PUBLIC,
        "issuer": ISSUER,
        "token_endpoint": f"{ISSUER}/token",
        "revocation_endpoint": f"{ISSUER}/token",
        "token_endpoint_auth_methods_supported": SERVER.token_endpoint_auth_methods_supported,
        "authorization_response_iss_parameter_supported": False,
        "begun_at": NOW,
    }
    return PendingAuthorization(**{**fields, **changes})


def tokens(**changes: Any) -> TokenSet:
    """A login whose access token is valid for one hour from NOW."""
    fields: dict[str, Any] = {
        "access_token": SecretStr("canary-access-token"),
        "expires_in": 3600,
        "expires_at": datetime(2026, 11, 23, 13, 0, tzinfo=UTC),
        "refresh_token": SecretStr("canary-refresh-token"),
        "scope": "default",
        "client": PUBLIC,
        "issuer": ISSUER,
        "resource": f"{ISSUER}/mcp",
        "token_endpoint": f"{ISSUER}/token",
        "revocation_endpoint": f"{ISSUER}/token",
        "authorized_at": NOW,
        "updated_at": NOW,
    }
    return TokenSet(**{**fields, **changes})
