"""The MCP Python SDK's authorization server and MCP server, with a provider that stores everything in memory."""

from __future__ import annotations

import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    AuthorizeError,
    OAuthAuthorizationServerProvider,
    RefreshToken,
    TokenVerifier,
    construct_redirect_uri,
)
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions, RevocationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from starlette.types import ASGIApp

from notion_oauth.cli.background_server import served_by_factory
from tests.process.peers.peer import ACCESS_TOKEN_LIFETIME, PERSON, SCOPE, Grant, Peer


class Verifier(TokenVerifier):
    """Finds the grant of an access token."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def verify_token(self, token: str) -> AccessToken | None:
        grant = self._peer.grant_of_access_token(token)
        if grant is None:
            return None
        return AccessToken(
            token=token,
            client_id=grant.client_id,
            scopes=grant.scope.split(),
            resource=grant.resource,
            subject=PERSON,
        )


class Provider(OAuthAuthorizationServerProvider[AuthorizationCode, RefreshToken, AccessToken]):
    """What the SDK leaves to the application: clients, consent, codes and tokens."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._codes: dict[str, AuthorizationCode] = {}

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self._peer.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        self._peer.clients[client_info.client_id] = client_info

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        if params.resource != self._peer.mcp_url:
            raise AuthorizeError("invalid_target", "There is no such resource here")
        if not self._peer.consents:
            raise AuthorizeError("access_denied", "The user declined")
        code = secrets.token_urlsafe(32)
        self._codes[code] = AuthorizationCode(
            code=code,
            client_id=client.client_id,
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
        )
        return construct_redirect_uri(str(params.redirect_uri), code=code, state=params.state)

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        return self._codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        del self._codes[authorization_code.code]
        grant = self._peer.start_grant(
            client.client_id, " ".join(authorization_code.scopes), authorization_code.resource
        )
        return self._issue(grant, "authorization_code")

    async def load_refresh_token(self, client: OAuthClientInformationFull, refresh_token: str) -> RefreshToken | None:
        grant = self._peer.grant_of_refresh_token(refresh_token)
        if grant is None:
            return None
        return RefreshToken(token=refresh_token, client_id=grant.client_id, scopes=grant.scope.split())

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        grant = self._peer.grant_of_refresh_token(refresh_token.token)
        assert grant is not None, "load_refresh_token has found it"
        return self._issue(grant, "refresh_token")

    async def load_access_token(self, token: str) -> AccessToken | None:
        return await Verifier(self._peer).verify_token(token)

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        grant = self._peer.grant_of_refresh_token(token.token) or self._peer.grant_of_access_token(token.token)
        if grant is not None:
            grant.ended = True

    def _issue(self, grant: Grant, grant_type: str) -> OAuthToken:
        access, refresh = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._peer.issue(grant, grant_type, access, refresh)
        return OAuthToken(
            access_token=access, expires_in=ACCESS_TOKEN_LIFETIME, refresh_token=refresh, scope=grant.scope
        )


def mcp_app(peer: Peer, *, provider: Provider | None = None) -> ASGIApp:
    """The SDK's MCP server with one tool; with a provider, also its authorization server."""
    settings = {
        "issuer_url": peer.issuer,
        "resource_server_url": peer.mcp_url,
        "validate_token_resource": True,
        "required_scopes": [SCOPE],
        "client_registration_options": ClientRegistrationOptions(enabled=True, valid_scopes=[SCOPE]),
        "revocation_options": RevocationOptions(enabled=True),
    }
    server = MCPServer(
        "Notes",
        auth=AuthSettings.model_validate(settings),  # from strings: AnyHttpUrl would add a slash to the issuer
        auth_server_provider=provider,
        token_verifier=None if provider else Verifier(peer),
    )

    @server.tool()
    def whoami() -> str:
        token = get_access_token()
        return token.subject or "" if token else ""

    return server.streamable_http_app(stateless_http=True, json_response=True)


@contextmanager
def serve_mcp_sdk(*, issuer_path: str = "") -> Generator[Peer]:
    """Serve both at one origin."""
    peer = Peer()

    def build(base_url: str) -> ASGIApp:
        peer.issuer, peer.mcp_url = f"{base_url}{issuer_path}", f"{base_url}/mcp"
        return mcp_app(peer, provider=Provider(peer))

    with served_by_factory(build):
        yield peer
