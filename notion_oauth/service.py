"""NotionOAuth: sign in, look, refresh, sign out. What every surface calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
from authlib.common.security import generate_token
from pydantic import SecretStr

from notion_oauth.clock import Clock, utc_now
from notion_oauth.concurrency import run_shielded
from notion_oauth.errors import NotionOAuthError, OAuthError, ServerUnavailable, StorageError, TransientError
from notion_oauth.models import (
    AssertionGrant,
    AuthorizationRequest,
    AuthorizationResponse,
    Discovery,
    EndedLogin,
    GrantRequest,
    Introspection,
    PendingAuthorization,
    TokenSet,
)
from notion_oauth.observability.audit import Attempt
from notion_oauth.protocol import authorization, end_reasons, scopes
from notion_oauth.protocol.challenge import BearerChallenge, merge_challenges
from notion_oauth.protocol.discovery import require_assertions
from notion_oauth.settings import Settings, load_settings
from notion_oauth.storage import TokenStore
from notion_oauth.stores.factory import file_store
from notion_oauth.tokens.backoff import Backoff
from notion_oauth.tokens.client_factory import build_client_and_audit
from notion_oauth.tokens.oauth_client import OAuthClient, Requirement
from notion_oauth.tokens.registrations import Registrations
from notion_oauth.tokens.revocation import SignOut, revoke
from notion_oauth.tokens.source import TokenSource
from notion_oauth.tokens.status import LoginStatus, login_status

STATE_LENGTH = 43  # letters and digits: 256 bits
CODE_PATIENCE = timedelta(seconds=60)  # more than for a token: a person has agreed, and Notion asks for 30 seconds
START_AGAIN = "Nothing that was stored is lost. Start the sign-in again."
ASK_FOR_LESS = "It was asked for the scopes of the last login, too. To ask without them, forget it: notion-oauth logout"
VERIFIER_LENGTH = 64  # RFC 7636 §4.1 allows 43 to 128
_EPOCH = datetime.fromtimestamp(0, UTC)


class NotionOAuth:
    """One profile's login, from discovery to revocation. Cheap to make; holds no connection and no file open.

    `store`, `client`, `clock`, `random` and `sleep` replace what `settings` would lead to.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        profile: str | None = None,
        store: TokenStore | None = None,
        client: OAuthClient | None = None,
        clock: Clock = utc_now,
        random: Callable[[int], str] = generate_token,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.settings = settings or load_settings()
        self.profile = profile or self.settings.profile
        self.store: TokenStore = store or file_store(self.settings)
        watched_client, self.audit = build_client_and_audit(self.settings, self.profile, clock)
        self.client = client or watched_client
        self.clients = Registrations(
            self.settings, store=self.store, client=self.client, profile=self.profile, clock=clock, audit=self.audit
        )
        self.clock = clock
        self._random = random
        self._sleep = sleep
        self._retry_for = timedelta(seconds=self.settings.retry_for)
        self._seen: tuple[TokenSet, int, bool, LoginStatus] | None = None
        self._nobody: tuple[object, LoginStatus] | None = None
        self.tokens = TokenSource(
            self.store,
            self.client,
            server_url=self.settings.server_url,
            profile=self.profile,
            lifetimes=self.settings.lifetimes,
            retry_for=self._retry_for,
            clock=clock,
            sleep=sleep,
            audit=self.audit,
        )

    def for_profile(self, profile: str, *, store: TokenStore | None = None) -> NotionOAuth:
        """Another profile's login, with the same settings, store, client, clock and randomness."""
        return NotionOAuth(
            self.settings,
            profile=profile,
            store=store or self.store,
            client=self.client,
            clock=self.clock,
            random=self._random,
            sleep=self._sleep,
        )

    async def begin_authorization(
        self, redirect_uri: str, *, challenge: BearerChallenge | None = None, replaces: NotionOAuth | None = None
    ) -> AuthorizationRequest:
        """Discover, register where this client is not known yet, and build the URL for the browser.

        `challenge` is the resource's, from a 401 or 403; without one it is asked for. Scopes are asked for beside those
        of the sign-in before; `replaces` is whose that was, where it is another profile's. Raises StorageError where
        the login could not be kept (asked first, before anybody consents), OtherResource where a login of another
        server would be lost, MetadataError, RegistrationRefused, ConfigurationError, TransientError.
        """
        with self.audit.attempt("sign_in"):
            typed = challenge is None or challenge.resource_metadata is None  # by a person: the resource was not asked
            discovery, scope, challenge, login = await self._discover(challenge, self.clients.require_sign_in)
            steps_up = challenge is not None and challenge.requires_step_up
            before = (replaces or self).tokens
            kept = await before.load() or await before.ended_login()
            wanted = scopes.union(scopes.previously_requested(kept, discovery, granted=steps_up), scope)
            known_client = login.client if login and steps_up and not typed else None
            client, scope = await self.clients.get_or_register(
                discovery, redirect_uri, scope=wanted, minimum_scope=scope, known_client=known_client
            )
        return authorization.authorization_request(
            discovery,
            client,
            redirect_uri=redirect_uri,
            state=SecretStr(self._random(STATE_LENGTH)),
            code_verifier=SecretStr(self._random(VERIFIER_LENGTH)),
            now=self.clock(),
            scope=scope,
            challenge=challenge,
        )

    async def _discover(
        self, challenge: BearerChallenge | None, usable: Requirement
    ) -> tuple[Discovery, str | None, BearerChallenge | None, TokenSet | None]:
        """Where to sign in, what for, the whole challenge; and the login that there is already, of that server."""
        await self.store.ensure_writable(self.profile)
        login = await self.tokens.load()  # raises for the login of another server: it would be lost
        told = challenge is not None and challenge.resource_metadata
        asked = None if told else await self.client.challenge(self.settings.server_url)
        challenge = merge_challenges(challenge, asked)
        own = {*(await self.clients.own_issuers())}
        if login is not None and login.issuer and challenge is not None and challenge.requires_step_up:
            own = {login.issuer}  # that one is to allow more
        discovery = await self.client.discover(self.settings.server_url, challenge=challenge, prefer=own, usable=usable)
        discovery = discovery.model_copy(update={"challenged_scope": asked and asked.scope})
        scope = scopes.select_scope(
            challenged=challenge.scope if challenge else None,
            resource=discovery.scopes,
            server=discovery.server.scopes_supported,
        )
        elsewhere = login is None or login.issuer not in (None, discovery.server.issuer)
        return discovery, scope, challenge, None if elsewhere else login

    async def registered_redirect_uris(self) -> Sequence[str]:
        """The redirect URIs that this profile's kept registrations are for, the newest first."""
        return await self.clients.registered_redirect_uris()

    async def complete_authorization(self, pending: PendingAuthorization, response: AuthorizationResponse) -> TokenSet:
        """Check the redirect, exchange its code, store the tokens. Only then is anybody signed in.

        Raises AuthorizationResponseError and its kinds for a redirect that is not ours, AuthorizationRefused for
        the server's own error, TokenRefused, TransientError, StorageError. A stored login is then untouched.
        """
        with self.audit.attempt("sign_in", issuer=pending.issuer) as attempt:
            try:
                code = authorization.check_authorization_response(response, pending, now=self.clock())
                tokens = await self._begin_login(partial(self.client.exchange, pending, code), attempt)
            except OAuthError as error:
                raise await self._with_its_cure(error) from None
            except TransientError as error:
                error.hint = START_AGAIN  # the code is not sent again
                raise
        with suppress(StorageError):  # they are signed in
            await self.clients.mark_used(pending)
        return tokens

    async def _with_its_cure(self, error: OAuthError) -> OAuthError:
        with suppress(NotionOAuthError):  # of the look
            kept = await self.tokens.load() or await self.tokens.ended_login()
            if error.error == "invalid_scope" and kept is not None and kept.requested_scope:
                error.hint = ASK_FOR_LESS
        return self.tokens.with_profile_hint(error)

    async def sign_in_with_assertion(self, assertion: SecretStr, *, scope: str | None = None) -> TokenSet:
        """Sign in without a browser, by an assertion that the server trusts (RFC 7523), and store the tokens.

        `assertion` is a JWT that was issued to the client in NOTION_OAUTH_CLIENT_ID, for this authorization server.
        Raises as begin_authorization does, MetadataError where the server takes none, TokenRefused.
        """
        with self.audit.attempt("sign_in") as attempt:
            asked = None if scope is None else BearerChallenge(scope=scope)
            discovery, scope, _, _ = await self._discover(asked, require_assertions)
            client = await self.clients.assertion_client(discovery)
            grant = AssertionGrant.for_discovery(discovery, client, scope, assertion=assertion)
            return await self._begin_login(partial(self.client.exchange_assertion, grant), attempt)

    async def _begin_login(self, exchange: Callable[[], Coroutine[Any, Any, TokenSet]], attempt: Attempt) -> TokenSet:
        patience = Backoff(max(self._retry_for, CODE_PATIENCE) if self._retry_for else self._retry_for)
        deadline = patience.new_deadline()

        async def alone() -> TokenSet | None:
            with attempt:  # here too: a caller that is cancelled meanwhile sees no error
                await self.store.ensure_writable(self.profile)  # before anything is spent on tokens that can't be kept
                try:
                    tokens = await exchange()
                except ServerUnavailable as busy:
                    patience.record_failure(busy)
                    if not busy.not_processed or patience.exhausted(deadline):
                        raise
                    return None
                await self.store.save(self.profile, tokens)
                attempt.succeeded(tokens)
            return tokens

        while True:
            async with self.store.exclusive(self.profile):
                if (tokens := await run_shielded(alone)) is not None:
                    return tokens
            await self._sleep(patience.next_delay(deadline))  # a code is good for minutes

    async def status(self, *, storage: bool = True) -> LoginStatus:
        """A look at the login, and with `storage` at how it is kept; no request. Raises StorageError, OtherResource."""
        tokens = self.tokens.if_unchanged()
        if tokens is None:
            version = self.store.version(self.profile)
            if self._nobody is not None and version is not None and version == self._nobody[0]:
                return self._nobody[1]
            tokens = await self.tokens.load()
            if tokens is None:
                self._nobody = version, self._status_without(await self.tokens.ended_login())
                return self._nobody[1]
        return await self._status_of(tokens, storage)

    def _status_without(self, ended: EndedLogin | None) -> LoginStatus:
        if ended is None:
            return LoginStatus(status="unauthenticated")
        because = end_reasons.describe_end(ended, self.settings.lifetimes)
        return LoginStatus(
            status="unauthenticated",
            ended_at=ended.ended_at,
            ended_reason=ended.reason,
            message=f"The login has ended: {because}.",
        )

    async def introspect(self) -> Introspection | None:
        """What the server itself says of the access token (RFC 7662); None where it offers no introspection.

        Raises NotSignedIn, SignInRequired, OtherResource, TokenRefused, TransientError, MetadataError, StorageError.
        """
        tokens = await self.client.with_endpoints(await self.tokens.stored(), self.settings.server_url)
        return await self.client.introspect(tokens)

    async def _status_of(self, tokens: TokenSet, storage: bool) -> LoginStatus:
        """The same object for as long as the same login has the same whole seconds left: many ask many times."""
        now = self.clock()
        seconds = int(((tokens.expires_at or _EPOCH) - now).total_seconds() // 1)
        seen = self._seen
        if seen is None or seen[0] is not tokens or seen[1:3] != (seconds, storage):
            kept = await self.store.protection(self.profile) if storage else None
            shown = login_status(tokens, now=now, lifetimes=self.settings.lifetimes, protection=kept)
            seen = tokens, seconds, storage, shown
            self._seen = seen
        return seen[3]

    async def refresh(self, *, if_older_than: timedelta = timedelta()) -> TokenSet:
        """Refresh now, or only where the last one is older. Raises as TokenSource.token does."""
        return await self.tokens.refresh(if_older_than=if_older_than)

    async def sign_out(self, *, successor: GrantRequest | None = None) -> SignOut:
        """Revoke the grant where the server offers it, and forget the tokens in any case.

        `successor` is what has led to a login in the place of this one: see `signing_out.revoke`. The client
        registration is kept for the next sign-in. Raises StorageError, and StoreDamaged for a file that holds no login:
        it is not deleted.
        """
        with self.audit.attempt("sign_out") as attempt:
            async with self.store.exclusive(self.profile):
                return await run_shielded(partial(self._sign_out_alone, attempt, successor))

    async def _sign_out_alone(self, attempt: Attempt, successor: GrantRequest | None) -> SignOut:
        with attempt:
            tokens, outcome = await self.store.load(self.profile), SignOut.NOT_SIGNED_IN
            if tokens is not None:
                url = self.settings.server_url
                outcome = await revoke(tokens, self.client, self.audit, server_url=url, successor=successor)
            await self.store.delete(self.profile)  # or a tombstone, which has been seen then
            attempt.succeeded(tokens, revocation=outcome.name.lower())
        return outcome
