"""Requests to the servers: each method sends what `protocol` builds and returns what `protocol` parses."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

from pydantic import SecretStr

from notion_oauth.clock import Clock, utc_now
from notion_oauth.errors import (
    MetadataError,
    MetadataNotJson,
    NotionOAuthError,
    ServerUnavailable,
    TransientError,
    UnexpectedRedirect,
)
from notion_oauth.models import (
    AssertionRequest,
    AuthorizationServerMetadata,
    ClientInformation,
    ClientMetadata,
    Discovery,
    Identity,
    Introspection,
    PendingAuthorization,
    ProtectedResourceMetadata,
    TokenResponse,
    TokenSet,
    canonical_issuer,
)
from notion_oauth.protocol import discovery, identity, introspection, registration, revocation, token
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.protocol.messages import Request, Response
from notion_oauth.transport.client import Transport

Requirement = Callable[[AuthorizationServerMetadata], object]  # raises MetadataError if it is not met
MAX_SERVERS = 5  # how many of the listed authorization servers are tried; a resource could list thousands
M = TypeVar("M")


class Span(Protocol):
    """Makes the context around an operation, from its name, URL and issuer. It gives a setter of the issuer."""

    def __call__(
        self, name: str, url: str | None, issuer: str | None = None, /
    ) -> AbstractContextManager[Callable[[str], object]]: ...


def no_span(*_: str | None) -> AbstractContextManager[Callable[[str], object]]:
    """Do nothing around an operation."""
    return nullcontext(lambda _: None)


class OAuthClient:
    """Sends requests to the resource and to its authorization server. Stores nothing.

    Every method raises NetworkError or ServerUnavailable for a transient failure; its docstring names other errors.
    `issuer` is the authorization server to use, if the user has configured one. `compat` is what the user allows
    servers (the words of NOTION_OAUTH_COMPAT). `span` surrounds each operation.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        clock: Clock = utc_now,
        issuer: str | None = None,
        compat: tuple[str, ...] = (),
        span: Span = no_span,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._issuer = issuer
        self._compat = compat
        self._span = span

    async def challenge(self, server_url: str) -> BearerChallenge | None:
        """The challenge of the resource to a request without a token; None without one, or if it cannot be reached."""
        with self._span("challenge", server_url):
            try:
                return discovery.challenge_of(await self._transport.send(discovery.challenge_probe_request(server_url)))
            except (TransientError, MetadataError):
                return None  # the metadata at the well-known URLs may be enough

    async def discover(
        self,
        server_url: str,
        *,
        challenge: BearerChallenge | None = None,
        prefer: Collection[str] = (),
        allow_ambiguous: bool = True,
        check_server: Requirement | None = None,
        max_servers: int = MAX_SERVERS,
        compat: tuple[str, ...] = (),
    ) -> Discovery:
        """Find the authorization server of an MCP server: the configured one, else the first usable one.

        Servers in `prefer` are tried first. Without `allow_ambiguous`, several candidates are an error.
        `check_server` raises for a server that cannot be used; at most `max_servers` are tried. `compat` is what the
        user has allowed the server at an earlier sign-in. Without protected
        resource metadata, the origin of the MCP server is the authorization server (MCP 2025-03-26). Raises
        MetadataError.
        """
        with self._span("discover", server_url) as set_issuer:
            allowed = _union(compat, self._compat)
            found = await self._discover(
                server_url, challenge, prefer, allow_ambiguous, check_server, max_servers, allowed
            )
            set_issuer(found.server.issuer)
            return found

    async def _discover(
        self,
        server_url: str,
        challenge: BearerChallenge | None,
        prefer: Collection[str],
        allow_ambiguous: bool,
        check_server: Requirement | None,
        max_servers: int,
        compat: tuple[str, ...],
    ) -> Discovery:
        try:
            resource, not_found = await self._protected_resource_metadata(server_url, challenge), None
        except MetadataNotJson as error:
            if challenge is not None and challenge.resource_metadata is not None and not error.refused:
                raise  # the challenge says that metadata exists, so the failure may be temporary
            resource, not_found = None, error
        if resource is None:
            return await self._without_resource_metadata(server_url, not_found, check_server, compat)
        candidates = _candidates(resource.authorization_servers, self._issuer, prefer)
        if not allow_ambiguous and len(candidates) > 1:
            raise MetadataError(
                f"{server_url} lists several authorization servers, and the stored login does not name its issuer.",
                hint="No server received the tokens. Set NOTION_OAUTH_ISSUER to the server that issued the login.",
            )
        failure: MetadataError | None = None
        for issuer in candidates[:max_servers]:
            try:
                server = await self._authorization_server_metadata(issuer, compat)
                if server is not None and check_server is not None:
                    check_server(server)
            except MetadataError as error:
                failure = failure or error
                continue  # another server may be usable
            if server is not None:
                return Discovery(resource=resource.resource, scopes=resource.scopes_supported or None, server=server)
            missing = f"{issuer} publishes no authorization server metadata (RFC 8414)."
            failure = failure or MetadataError(missing)
        assert failure is not None  # noqa: S101 - the parser refuses a resource that lists no server
        raise failure

    async def _without_resource_metadata(
        self,
        server_url: str,
        not_found: MetadataNotJson | None,
        check_server: Requirement | None,
        compat: tuple[str, ...],
    ) -> Discovery:
        base = discovery.base_url(server_url)
        if canonical_issuer(self._issuer) not in (None, base):
            raise MetadataError(
                f"NOTION_OAUTH_ISSUER is {self._issuer}, but {server_url} lists no authorization server."
            )
        published = await self._authorization_server_metadata(base, compat)
        if published is None and not_found is not None:
            raise not_found  # only where every URL is a 404, the default endpoints can be assumed
        server = published or discovery.assumed_authorization_server(base, compat=compat)
        if check_server is not None:
            check_server(server)
        return Discovery(resource=server_url, scopes=None, server=server, assumed=published is None)

    async def _protected_resource_metadata(
        self, server_url: str, challenge: BearerChallenge | None
    ) -> ProtectedResourceMetadata | None:
        url = None if challenge is None else challenge.resource_metadata
        urls = discovery.protected_resource_metadata_urls(server_url, url)
        parse = partial(discovery.parse_protected_resource_metadata, server_url=server_url)
        return await self._first(urls, parse, decisive=url)

    async def _authorization_server_metadata(
        self, issuer: str, compat: tuple[str, ...]
    ) -> AuthorizationServerMetadata | None:
        parse = partial(discovery.parse_authorization_server_metadata, issuer=issuer, compat=compat)
        return await self._first(discovery.authorization_server_metadata_urls(issuer), parse)

    async def _first(
        self, urls: Iterable[str], parse: Callable[[Response], M | None], *, decisive: str | None = None
    ) -> M | None:
        """The first valid document at the URLs; None if every URL is a 404.

        Otherwise raises the most important failure: a transient one first (the document may exist), then an invalid
        document, then MetadataNotJson or UnexpectedRedirect. The next URL is not tried after an invalid document at the
        `decisive` URL, and after NetworkError.
        """
        failures: list[NotionOAuthError] = []
        for url in urls:
            try:
                if (metadata := parse(await self._transport.send(Request("GET", url)))) is not None:
                    return metadata
            except (MetadataError, ServerUnavailable) as error:
                failures.append(error)
                if url == decisive and not isinstance(error, (MetadataNotJson, ServerUnavailable)):
                    break
        if failures:
            raise max(failures, key=_importance)  # the first of several
        return None

    async def register(self, server: AuthorizationServerMetadata, metadata: ClientMetadata) -> ClientInformation:
        """Register a client (RFC 7591). Raises MetadataError if that is not offered, RegistrationRefused."""
        with self._span("register", server.registration_endpoint, server.issuer):
            request = registration.registration_request(server, metadata)
            return registration.parse_registration_response(await self._transport.send(request), request=request)

    async def is_client_registered(
        self, server: AuthorizationServerMetadata, client: ClientInformation, redirect_uri: str
    ) -> bool:
        """Whether the server still recognises a client; True after a transient failure, which is not raised.

        A server that does not is asked again, because it may copy its data with a delay. An answer that only may mean
        that the client is unknown is compared with the answer about a client that was never registered.
        """
        with self._span("knows", server.token_endpoint, server.issuer):
            try:
                if registration.is_client_unknown(await self._check_client(server, client, redirect_uri)) is False:
                    return True
                response = await self._check_client(server, client, redirect_uri)
                if (unknown := registration.is_client_unknown(response)) is not None:
                    return not unknown
                other = await self._check_client(server, registration.unregistered_client(client), redirect_uri)
            except TransientError:
                return True
            return not registration.answers_alike(response, other)

    async def _check_client(
        self, server: AuthorizationServerMetadata, client: ClientInformation, redirect_uri: str
    ) -> Response:
        return await self._transport.send(registration.client_check_request(server, client, redirect_uri))

    async def exchange(self, pending: PendingAuthorization, code: SecretStr) -> TokenSet:
        """Exchange a code for tokens. Raises TokenRefused."""
        with self._span("exchange", pending.token_endpoint, pending.issuer):
            parsed, requested_at = await self._tokens(token.code_request(pending, code))
            return token.token_set(parsed, pending, requested_at=requested_at)

    async def exchange_assertion(self, grant: AssertionRequest) -> TokenSet:
        """Exchange an assertion for tokens (RFC 7523). Raises TokenRefused."""
        with self._span("exchange", grant.token_endpoint, grant.issuer):
            parsed, requested_at = await self._tokens(token.assertion_request(grant))
            return token.token_set(parsed, grant, requested_at=requested_at)

    async def refresh(self, tokens: TokenSet) -> TokenSet:
        """Refresh a login. Raises TokenRefused, NoUsableToken, SignInRequired if it has no refresh token."""
        with self._span("refresh", tokens.token_endpoint, tokens.issuer):
            requested_at = self._now()
            tokens = tokens.model_copy(update={"compat": _union(tokens.compat, self._compat)})
            try:
                parsed, requested_at = await self._tokens(token.refresh_request(tokens))
            except token.NoUsableToken as error:
                if error.refresh_token is not None:
                    error.login = token.with_new_refresh_token(tokens, error.refresh_token, requested_at=requested_at)
                raise
            return token.refreshed(tokens, parsed, requested_at=requested_at)

    async def _tokens(self, request: Request) -> tuple[TokenResponse, datetime]:
        requested_at = self._now()
        response = await self._transport.send(request)
        return token.parse_token_response(response, request=request), requested_at

    async def with_endpoints(self, tokens: TokenSet, server_url: str) -> TokenSet:
        """Return the login with its endpoints. They are discovered if another program stored it without them.

        Raises MetadataError, also if the login could belong to several servers: then none of them gets its secrets.
        """
        if tokens.token_endpoint is not None or tokens.refresh_token is None:
            return tokens
        known = (tokens.issuer,) if tokens.issuer else ()
        found = await self.discover(
            server_url, prefer=known, allow_ambiguous=bool(known), max_servers=1, compat=tokens.compat
        )
        if tokens.issuer is not None and canonical_issuer(tokens.issuer) != canonical_issuer(found.server.issuer):
            raise MetadataError(f"{server_url} no longer lists {tokens.issuer}, which issued the stored login.")
        return tokens.model_copy(
            update={
                "issuer": found.server.issuer,
                "resource": found.resource,
                **found.server.endpoints(),
            }
        )

    async def introspect(self, tokens: TokenSet) -> Introspection | None:
        """Introspect the access token (RFC 7662); None if the server does not offer that. Raises TokenRefused."""
        with self._span("introspect", tokens.introspection_endpoint, tokens.issuer):
            request = introspection.introspection_request(tokens)
            if request is None:
                return None
            return introspection.parse_introspection_response(await self._transport.send(request), request=request)

    async def identify(self, access_token: SecretStr, server_url: str) -> Identity:
        """Ask the MCP server who has signed in; empty if it does not say. Raises MetadataError for a wrong URL."""
        with self._span("identify", server_url):
            steps = identity.identity_requests(server_url, access_token.get_secret_value())
            try:
                request = next(steps)
                while True:
                    request = steps.send(await self._transport.send(request))
            except StopIteration as done:
                found: Identity = done.value
                return found

    async def revoke(self, tokens: TokenSet) -> bool:
        """Revoke the grant (RFC 7009); False if the server offers no revocation. Raises TokenRefused."""
        with self._span("revoke", tokens.revocation_endpoint, tokens.issuer):
            requests, failures = revocation.revocation_requests(tokens), []
            for request in requests:
                try:
                    revocation.check_revocation_response(await self._transport.send(request), request=request)
                except NotionOAuthError as error:
                    failures.append(error)  # the other token is revoked all the same
            for failure in failures:
                raise failure
            return bool(requests)

    def _now(self) -> datetime:
        """The time in whole milliseconds, as stores save it, so that a login equals itself after it is read back."""
        now = self._clock()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)


def _candidates(issuers: tuple[str, ...], configured: str | None, prefer: Collection[str]) -> tuple[str, ...]:
    """The authorization servers to try, in order. Raises MetadataError if the configured one is not listed."""
    if configured is None:
        preferred = {canonical_issuer(issuer) for issuer in prefer}
        return tuple(sorted(issuers, key=lambda issuer: canonical_issuer(issuer) not in preferred))
    listed = next((issuer for issuer in issuers if canonical_issuer(issuer) == canonical_issuer(configured)), None)
    if listed is None:
        raise MetadataError(
            f"NOTION_OAUTH_ISSUER is {configured}, but the server lists only {', '.join(issuers)}.",
            hint="Correct NOTION_OAUTH_ISSUER, or unset it.",
        )
    return (listed,)


def _union(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one, *other)))


def _importance(failure: NotionOAuthError) -> int:
    if isinstance(failure, UnexpectedRedirect | MetadataNotJson):
        return 0
    return 2 if isinstance(failure, TransientError) else 1
