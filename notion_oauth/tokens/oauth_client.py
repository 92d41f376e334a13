"""The conversation with the servers: each method sends what `protocol` builds and returns what it reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from functools import partial
from typing import TypeVar

from pydantic import SecretStr

from notion_oauth.clock import Clock, utc_now
from notion_oauth.errors import MetadataError, MetadataNotFound, NotionOAuthError, TransientError, UnexpectedRedirect
from notion_oauth.models import (
    ENDPOINT_FIELDS,
    AssertionGrant,
    AuthorizationServerMetadata,
    ClientInformation,
    ClientMetadata,
    Discovery,
    Introspection,
    PendingAuthorization,
    ProtectedResourceMetadata,
    TokenResponse,
    TokenSet,
)
from notion_oauth.protocol import discovery, introspection, registration, revocation, token
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.protocol.messages import Request, Response
from notion_oauth.transport.client import Transport

Requirement = Callable[[AuthorizationServerMetadata], object]  # raises MetadataError where it is not met
MAX_SERVERS = 5  # of those that a resource lists, that are asked; it could list thousands
M = TypeVar("M")


class OAuthClient:
    """Speaks to the resource and to its authorization server, and keeps nothing.

    Every method raises NetworkError or ServerUnavailable for a passing failure; the others are named. `issuer` is the
    authorization server to be used, where a person has said so.
    """

    def __init__(self, transport: Transport, *, clock: Clock = utc_now, issuer: str | None = None) -> None:
        self._transport = transport
        self._clock = clock
        self._issuer = issuer

    async def challenge(self, server_url: str) -> BearerChallenge | None:
        """What the resource asks of whoever comes without a token; None where it says nothing, or cannot be reached."""
        try:
            return discovery.challenge_of(await self._transport.send(discovery.probe_request(server_url)))
        except (TransientError, MetadataError):
            return None  # what it would have said may stand at the well-known URLs, too

    async def discover(
        self,
        server_url: str,
        *,
        challenge: BearerChallenge | None = None,
        prefer: Collection[str] = (),
        allow_ambiguous: bool = True,
        usable: Requirement | None = None,
        max_servers: int = MAX_SERVERS,
    ) -> Discovery:
        """Find the authorization server of an MCP server: the one that is set, else the first that can be used.

        Of several servers, those in `prefer` are tried first. Without `allow_ambiguous`, two candidates are an error.
        `usable` raises for a server that cannot be used; at most `max_servers` are asked. Without protected resource
        metadata, the server's own origin is the authorization server (MCP 2025-03-26). Raises MetadataError.
        """
        try:
            resource, page = await self._protected_resource_metadata(server_url, challenge), None
        except MetadataNotFound as odd:
            if challenge is not None and challenge.resource_metadata is not None:
                raise  # it has such metadata, and only shows something else just now
            resource, page = None, odd
        if resource is None:
            return await self._without_resource_metadata(server_url, page, usable)
        chosen = _chosen(resource.authorization_servers, self._issuer, prefer)
        if not allow_ambiguous and len(chosen) > 1:
            raise MetadataError(
                f"{server_url} names several authorization servers, and the stored login does not say whose it is.",
                hint="Nothing was sent to any. Set NOTION_OAUTH_ISSUER to the one that the login was made with.",
            )
        failure: MetadataError | None = None
        for found in chosen[:max_servers]:
            try:
                server = await self._authorization_server_metadata(found)
                if server is not None and usable is not None:
                    usable(server)
            except MetadataError as error:
                failure = failure or error
                continue  # the servers are independent of each other: another may be set up rightly
            if server is not None:
                return Discovery(resource=resource.resource, scopes=resource.scopes_supported or None, server=server)
            missing = f"{found} publishes no authorization server metadata (RFC 8414)."
            failure = failure or MetadataError(missing)
        assert failure is not None  # noqa: S101 - a resource that names no server was refused before
        raise failure

    async def _without_resource_metadata(
        self, server_url: str, page: MetadataNotFound | None, usable: Requirement | None
    ) -> Discovery:
        base = discovery.base_url(server_url)
        if self._issuer not in (None, base, f"{base}/"):
            raise MetadataError(f"{server_url} names no authorization server, and so not {self._issuer}.")
        published = await self._authorization_server_metadata(base, presumed=True)
        if published is None and page is not None:
            raise page  # a site that answers everything: there is nothing to be assumed of it
        server = published or discovery.assumed_authorization_server(base)
        if usable is not None:
            usable(server)
        return Discovery(resource=server_url, scopes=None, server=server, assumed=published is None)

    async def _protected_resource_metadata(
        self, server_url: str, challenge: BearerChallenge | None
    ) -> ProtectedResourceMetadata | None:
        named = None if challenge is None else challenge.resource_metadata
        urls = discovery.protected_resource_metadata_urls(server_url, named)
        parse = partial(discovery.parse_protected_resource_metadata, server_url=server_url)
        return await self._first(urls, parse, decisive=named)

    async def _authorization_server_metadata(
        self, issuer: str, *, presumed: bool = False
    ) -> AuthorizationServerMetadata | None:
        parse = partial(discovery.parse_authorization_server_metadata, issuer=issuer, presumed=presumed)
        return await self._first(discovery.authorization_server_metadata_urls(issuer), parse)

    async def _first(
        self, urls: Iterable[str], parse: Callable[[Response], M | None], *, decisive: str | None = None
    ) -> M | None:
        """The first document that is right, whatever stands at the URLs before; None where there is none anywhere.

        Raises MetadataError where only wrong ones were found, or a wrong one at the `decisive` URL, NoDocument or
        Redirected where there was only such.
        """
        failure: NotionOAuthError | None = None
        nothing = (MetadataNotFound, UnexpectedRedirect)
        for url in urls:
            try:
                if (metadata := parse(await self._transport.send(Request("GET", url)))) is not None:
                    return metadata
            except (MetadataError, UnexpectedRedirect) as error:
                if failure is None or isinstance(failure, nothing):
                    failure = error
                if url == decisive and not isinstance(error, nothing):
                    break
        if failure is not None:
            raise failure
        return None

    async def register(self, server: AuthorizationServerMetadata, metadata: ClientMetadata) -> ClientInformation:
        """Register a client (RFC 7591). Raises MetadataError where that is not offered, RegistrationRefused."""
        request = registration.registration_request(server, metadata)
        return registration.parse_registration_response(await self._transport.send(request), request=request)

    async def is_client_registered(
        self, server: AuthorizationServerMetadata, client: ClientInformation, redirect_uri: str
    ) -> bool:
        """Whether the server still knows a client. Raises nothing for a passing failure: it then counts as known."""
        try:
            answer = await self._transport.send(registration.probe_request(server, client, redirect_uri))
        except TransientError:
            return True
        return not registration.is_client_unknown(answer)

    async def exchange(self, pending: PendingAuthorization, code: SecretStr) -> TokenSet:
        """Exchange a code for tokens. Raises TokenRefused."""
        parsed, requested_at = await self._tokens(token.code_request(pending, code))
        return token.token_set(parsed, pending, requested_at=requested_at)

    async def exchange_assertion(self, grant: AssertionGrant) -> TokenSet:
        """Exchange an assertion for tokens (RFC 7523). Raises TokenRefused."""
        parsed, requested_at = await self._tokens(token.assertion_request(grant))
        return token.token_set(parsed, grant, requested_at=requested_at)

    async def refresh(self, tokens: TokenSet) -> TokenSet:
        """Refresh a login. Raises TokenRefused, SignInRequired where it has no refresh token."""
        parsed, requested_at = await self._tokens(token.refresh_request(tokens))
        return token.refreshed(tokens, parsed, requested_at=requested_at)

    async def _tokens(self, request: Request) -> tuple[TokenResponse, datetime]:
        requested_at = self._now()
        response = await self._transport.send(request)
        return token.parse_token_response(response, request=request), requested_at

    async def with_endpoints(self, tokens: TokenSet, server_url: str) -> TokenSet:
        """Add what a login lacks that another program stored. A complete one costs no request.

        Raises MetadataError; also where it could belong to several servers: its secrets are shown to none of them then.
        """
        if tokens.token_endpoint is not None or tokens.refresh_token is None:
            return tokens
        known = (tokens.issuer,) if tokens.issuer else ()
        found = await self.discover(server_url, prefer=known, allow_ambiguous=bool(known), max_servers=1)
        if tokens.issuer not in (None, found.server.issuer):
            raise MetadataError(f"{server_url} no longer names {tokens.issuer}, which the stored login was made with.")
        return tokens.model_copy(
            update={
                "issuer": found.server.issuer,
                "resource": found.resource,
                **{name: getattr(found.server, name) for name in ENDPOINT_FIELDS},
            }
        )

    async def introspect(self, tokens: TokenSet) -> Introspection | None:
        """What the server says of the access token; None where it offers no introspection. Raises TokenRefused."""
        request = introspection.introspection_request(tokens)
        if request is None:
            return None
        return introspection.parse_introspection_response(await self._transport.send(request), request=request)

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


def _chosen(issuers: tuple[str, ...], wanted: str | None, prefer: Collection[str]) -> tuple[str, ...]:
    """The authorization servers to try, in order. Raises MetadataError where the one that is wanted is not named."""
    if wanted is None:
        return tuple(sorted(issuers, key=lambda issuer: issuer not in prefer))
    if wanted not in issuers:
        raise MetadataError(
            f"The server names {', '.join(issuers)} as its authorization servers, and not {wanted}.",
            hint="Correct NOTION_OAUTH_ISSUER, or unset it.",
        )
    return (wanted,)
