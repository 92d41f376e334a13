"""The conversation with the servers: each method sends what `protocol` builds and returns what it reads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from pydantic import SecretStr

from notion_oauth.errors import MetadataError, TransientError
from notion_oauth.models import (
    AuthorizationServerMetadata,
    ClientInformation,
    ClientMetadata,
    Discovery,
    PendingAuthorization,
    ProtectedResourceMetadata,
    TokenSet,
)
from notion_oauth.protocol import discovery, registration, revocation, token
from notion_oauth.protocol.message import Request
from notion_oauth.transport import Transport

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The wall clock, with its time zone."""
    return datetime.now(UTC)


class OAuthClient:
    """Speaks to the resource and to its authorization server, and keeps nothing.

    Every method raises NetworkError or ServerUnavailable for a passing failure; the others are named.
    """

    def __init__(self, transport: Transport, *, clock: Clock = utc_now) -> None:
        self._transport = transport
        self._clock = clock

    async def discover(self, server_url: str) -> Discovery:
        """Find the authorization server of an MCP server. Raises MetadataError."""
        resource = await self._protected_resource_metadata(server_url)
        server = await self._authorization_server_metadata(resource.authorization_servers[0])
        return Discovery(resource=resource.resource, scopes=resource.scopes_supported or None, server=server)

    async def _protected_resource_metadata(self, server_url: str) -> ProtectedResourceMetadata:
        for url in discovery.protected_resource_metadata_urls(server_url):
            response = await self._transport.send(Request("GET", url))
            if metadata := discovery.parse_protected_resource_metadata(response, server_url=server_url):
                return metadata
        raise MetadataError(f"{server_url} publishes no protected resource metadata (RFC 9728).")

    async def _authorization_server_metadata(self, issuer: str) -> AuthorizationServerMetadata:
        for url in discovery.authorization_server_metadata_urls(issuer):
            response = await self._transport.send(Request("GET", url))
            if metadata := discovery.parse_authorization_server_metadata(response, issuer=issuer):
                return metadata
        raise MetadataError(f"{issuer} publishes no authorization server metadata (RFC 8414).")

    async def register(self, server: AuthorizationServerMetadata, metadata: ClientMetadata) -> ClientInformation:
        """Register a client (RFC 7591). Raises MetadataError where that is not offered, RegistrationRefused."""
        request = registration.registration_request(server, metadata)
        return registration.parse_registration_response(await self._transport.send(request), request=request)

    async def knows(self, server: AuthorizationServerMetadata, client: ClientInformation, redirect_uri: str) -> bool:
        """Whether the server still knows a client. Raises nothing for a passing failure: it then counts as known."""
        try:
            answer = await self._transport.send(registration.probe_request(server, client, redirect_uri))
        except TransientError:
            return True
        return not registration.is_forgotten(answer)

    async def exchange(self, pending: PendingAuthorization, code: SecretStr) -> TokenSet:
        """Exchange a code for tokens. Raises TokenRefused."""
        request = token.code_request(pending, code)
        asked_at = self._now()
        response = await self._transport.send(request)
        parsed = token.parse_token_response(response, request=request)
        return token.token_set(parsed, pending, asked_at=asked_at)

    async def refresh(self, tokens: TokenSet) -> TokenSet:
        """Refresh a login. Raises TokenRefused, SignInRequired where it has no refresh token."""
        request = token.refresh_request(tokens)
        asked_at = self._now()
        response = await self._transport.send(request)
        parsed = token.parse_token_response(response, request=request)
        return token.refreshed(tokens, parsed, asked_at=asked_at)

    async def complete(self, tokens: TokenSet, server_url: str) -> TokenSet:
        """Add what a login lacks that another program stored. A complete one costs no request.

        Raises MetadataError.
        """
        if tokens.token_endpoint is not None or tokens.refresh_token is None:
            return tokens
        found = await self.discover(server_url)
        return tokens.model_copy(
            update={
                "issuer": found.server.issuer,
                "resource": found.resource,
                "token_endpoint": found.server.token_endpoint,
                "revocation_endpoint": found.server.revocation_endpoint,
                "token_endpoint_auth_methods_supported": found.server.token_endpoint_auth_methods_supported,
            }
        )

    async def revoke(self, tokens: TokenSet) -> bool:
        """End the grant at the server; False where the server offers no revocation. Raises TokenRefused."""
        request = revocation.revocation_request(tokens)
        if request is None:
            return False
        revocation.check_revocation_response(await self._transport.send(request), request=request)
        return True

    def _now(self) -> datetime:
        """In whole milliseconds: what stores keep, so that a login is equal to itself when it is read again."""
        now = self._clock()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)
