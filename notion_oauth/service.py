"""NotionOAuth: sign in, status, refresh, sign out. The commands, the routes and BearerAuth use it."""

from __future__ import annotations

import secrets
import string
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
from pydantic import SecretStr

from notion_oauth.clock import Clock, utc_now
from notion_oauth.concurrency import run_shielded, run_within
from notion_oauth.errors import (
    UNCHANGED,
    Hint,
    NetworkError,
    NotionOAuthError,
    OAuthError,
    ServerUnavailable,
    StorageError,
    TransientError,
)
from notion_oauth.files.locations import other_token_file
from notion_oauth.models import (
    AssertionRequest,
    AuthorizationRequest,
    AuthorizationResponse,
    Discovery,
    EndedLogin,
    GrantRequest,
    Identity,
    Introspection,
    PendingAuthorization,
    TokenSet,
    canonical_issuer,
)
from notion_oauth.observability.audit import Attempt, Audit
from notion_oauth.protocol import authorization, end_reasons, scopes
from notion_oauth.protocol.challenge import BearerChallenge, merge_challenges
from notion_oauth.protocol.discovery import require_assertions
from notion_oauth.protocol.lifetime import expiry
from notion_oauth.protocol.registration import UNKNOWN_CLIENT
from notion_oauth.settings import Settings, load_settings
from notion_oauth.storage import Hold, TokenStore
from notion_oauth.stores.factory import create_store
from notion_oauth.tokens.backoff import Backoff
from notion_oauth.tokens.client_factory import build_audit, build_client
from notion_oauth.tokens.code_claims import CodeAlreadySent, CodeClaim
from notion_oauth.tokens.oauth_client import OAuthClient, Requirement
from notion_oauth.tokens.recent_result import RecentResult
from notion_oauth.tokens.registrations import ProfileRegistrations, Registrations, StoredRegistrations
from notion_oauth.tokens.revocation import SignOut, revoke
from notion_oauth.tokens.source import TokenSource
from notion_oauth.tokens.status import LoginStatus, login_status

STATE_LENGTH = 43  # letters and digits: 256 bits
SAVE_RETRY_FOR = timedelta(seconds=20)  # at most
CODE_RETRY_FOR = timedelta(seconds=60)  # at least: the user has consented, and Notion sends Retry-After: 30
RESTART_HINT = Hint(f"{UNCHANGED} Start the sign-in again", "login")
SCOPE_HINT = Hint(
    "The request included the scopes of the last login. To sign in without them, first sign out", "logout"
)
NEW_CLIENT_HINT = Hint("Sign in again", "login", {"new_client": None})
VERIFIER_LENGTH = 64  # RFC 7636 §4.1 allows 43 to 128
DISCOVERY_LIFETIME = 10.0  # seconds for which sign-ins share a discovery, unless one of them fails
IDENTITY_TIME_LIMIT = timedelta(seconds=4)  # for all requests that find out who has signed in
_EPOCH = datetime.fromtimestamp(0, UTC)


def random_text(length: int) -> str:
    """Return letters and digits that nobody can guess."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


class NotionOAuth:
    """One profile's login, from discovery to revocation. Cheap to create; keeps no connection and no file open.

    Without `settings`, they are read from the environment: that raises ConfigurationError if one is wrong. The other
    arguments replace the defaults, which follow from `settings`. `tokens` is the login's TokenSource.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        profile: str | None = None,
        store: TokenStore | None = None,
        client: OAuthClient | None = None,
        clock: Clock = utc_now,
        random: Callable[[int], str] = random_text,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        audit: Audit | None = None,
        registrations: StoredRegistrations | None = None,
    ) -> None:
        self._given = {"store": store, "client": client, "audit": audit, "registrations": registrations}
        self.settings = settings or load_settings()
        self.profile = profile or self.settings.profile
        self.store: TokenStore = store or create_store(self.settings)
        self.audit = audit or build_audit(self.settings, self.profile)
        self.client = client or build_client(self.settings, clock)
        self.registrations = Registrations(
            self.settings,
            store=self.store,
            client=self.client,
            stored=registrations or ProfileRegistrations(self.store, self.profile),
            clock=clock,
            audit=self.audit,
        )
        self.clock = clock
        self._random = random
        self._sleep = sleep
        self._retry_for = timedelta(seconds=self.settings.retry_for)
        self._recent_discovery = RecentResult(self._probe_and_discover, lifetime=DISCOVERY_LIFETIME)
        self._last_status: tuple[TokenSet, int, bool, LoginStatus] | None = None
        self._signed_out_status: tuple[object, LoginStatus] | None = None
        other_file = partial(other_token_file, self.settings.token_file, self.profile)
        self.tokens = TokenSource(
            self.store,
            self.client,
            server_url=self.settings.server_url,
            server_of_unbound_login=self.settings.server_of_unbound_login,
            other_token_file=other_file if store is None and self.settings.database is None else lambda: None,
            profile=self.profile,
            lifetimes=self.settings.lifetimes,
            retry_for=self._retry_for,
            clock=clock,
            sleep=sleep,
            audit=self.audit,
        )

    def for_profile(
        self, profile: str, *, audit: Audit | None = None, registrations: StoredRegistrations | None = None
    ) -> NotionOAuth:
        """Another profile's login, with the same settings, store, client, clock and randomness."""
        other = NotionOAuth(
            self.settings,
            profile=profile,
            store=self.store,
            client=self.client,
            clock=self.clock,
            random=self._random,
            sleep=self._sleep,
            audit=audit,
            registrations=registrations,
        )
        other._recent_discovery = self._recent_discovery
        other._given = {**self._given, "audit": audit, "registrations": registrations}
        return other

    def _constructor(self) -> Callable[[], NotionOAuth]:
        functions = {"clock": self.clock, "random": self._random, "sleep": self._sleep}
        return partial(NotionOAuth, self.settings, profile=self.profile, **self._given, **functions)  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[Callable[[], NotionOAuth], tuple[()]]:
        """Pickle what the constructor needs, without tokens. For secrets, see `Settings.__reduce__`."""
        return self._constructor(), ()

    def __deepcopy__(self, memo: dict[int, Any]) -> NotionOAuth:
        """Return an independent object for the same stored login: store and client are shared."""
        return self._constructor()()

    async def begin_authorization(
        self,
        redirect_uri: str,
        *,
        challenge: BearerChallenge | None = None,
        replaces: NotionOAuth | None = None,
        new_client: bool = False,
    ) -> AuthorizationRequest:
        """Discover the server, register a client if needed, and build the URL for the browser.

        `challenge` is that of the resource's 401 or 403 response. If it is None, a request without a token is sent to
        obtain one. The scopes of the previous sign-in are requested again; `replaces` is the profile of that sign-in if
        it is another one. With `new_client`, a new client is registered although a registration is stored, which is
        kept until the sign-in has succeeded.

        Raises StorageError if the login could not be stored (checked before the user consents), ResourceMismatch if a
        login of another server would be lost, MetadataError, RegistrationRefused, ConfigurationError, TransientError.
        """
        with self.audit.attempt("sign_in"), self._forgetting_discovery():
            from_resource = challenge is not None and challenge.resource_metadata is not None  # else the user typed it
            recent = self._recent_discovery if challenge is None else None
            check_server = self.registrations.check_can_sign_in
            discovery, scope, challenge, login = await self._discover(challenge, check_server, recent)
            steps_up = challenge is not None and challenge.requires_step_up
            previous = (replaces or self).tokens
            previous_login = (await previous.load()).login
            requested = scopes.union(scopes.previously_requested(previous_login, discovery, granted=steps_up), scope)
            known_client = login.client if login and steps_up and from_resource else None
            client, scope = await self.registrations.get_or_register(
                discovery,
                redirect_uri,
                scope=requested,
                minimum_scope=scope,
                known_client=known_client,
                new_client=new_client,
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
        self,
        challenge: BearerChallenge | None,
        check_server: Requirement,
        recent: RecentResult[tuple[BearerChallenge | None, Discovery]] | None = None,
    ) -> tuple[Discovery, str | None, BearerChallenge | None, TokenSet | None]:
        """The authorization server, the scope, the whole challenge, and the stored login if that server issued it."""
        await self.store.check_writable(self.profile)
        login = (await self.tokens.load()).tokens  # raises for a login of another server, which would be lost
        url, found = self.settings.server_url, None
        if recent is not None:
            probed, found = await recent.get()
        else:
            complete = challenge is not None and challenge.resource_metadata
            probed = None if complete else await self.client.challenge(url)
        challenge = merge_challenges(challenge, probed)
        compat: tuple[str, ...] = ()
        if login is not None and login.issuer and challenge is not None and challenge.requires_step_up:
            # This server has to grant more scopes
            preferred, found, compat = {login.issuer}, None, login.compat
        else:
            preferred = {*(await self.registrations.own_issuers())}
        discovery = found or await self.client.discover(
            url, challenge=challenge, prefer=preferred, check_server=check_server, compat=compat
        )
        discovery = discovery.model_copy(update={"challenged_scope": probed and probed.scope})
        scope = scopes.select_scope(
            challenge_scope=challenge.scope if challenge else None,
            resource=discovery.scopes,
            server=discovery.server.scopes_supported,
        )
        issuer = canonical_issuer(discovery.server.issuer)
        same_issuer = login is not None and canonical_issuer(login.issuer) in (None, issuer)
        return discovery, scope, challenge, login if same_issuer else None

    async def _probe_and_discover(self) -> tuple[BearerChallenge | None, Discovery]:
        """The resource's challenge to a request without a token, and the server for a sign-in that follows it."""
        url = self.settings.server_url
        challenge = await self.client.challenge(url)
        preferred = await self.registrations.own_issuers()
        check_server = self.registrations.check_can_sign_in
        return challenge, await self.client.discover(
            url, challenge=challenge, prefer=preferred, check_server=check_server
        )

    @contextmanager
    def _forgetting_discovery(self) -> Iterator[None]:
        """After an error, the next sign-in discovers the server again."""
        try:
            yield
        except NotionOAuthError:
            self._recent_discovery.forget()
            raise

    async def registered_redirect_uris(self) -> Sequence[str]:
        """Return the redirect URIs of this profile's stored registrations, the newest first."""
        return await self.registrations.registered_redirect_uris()

    async def complete_authorization(
        self, pending: PendingAuthorization, response: AuthorizationResponse, *, claim: CodeClaim | None = None
    ) -> TokenSet:
        """Check the redirect, exchange its code, store the tokens. Only then does the user count as signed in.

        With a `claim`, the code is sent only if no other caller has sent it, and the outcome is stored for the others.
        Raises AuthorizationResponseError or a subclass for a redirect that does not belong to `pending`,
        CodeAlreadySent, AuthorizationRefused for an error of the server, TokenRefused, TransientError, StorageError.
        After an error, the stored login is unchanged.
        """
        async with nullcontext() if claim is None else claim.settled():
            return await self._complete_authorization(pending, response, claim)

    async def _complete_authorization(
        self, pending: PendingAuthorization, response: AuthorizationResponse, claim: CodeClaim | None
    ) -> TokenSet:
        with self.audit.attempt("sign_in", issuer=pending.issuer) as attempt, self._forgetting_discovery():
            try:
                code = authorization.check_authorization_response(response, pending, now=self.clock())
                tokens = await self._save_login(partial(self.client.exchange, pending, code), attempt, claim)
            except OAuthError as error:
                raise await self._with_hint(error) from None
            except TransientError as error:
                error.hint = RESTART_HINT  # the code is not sent again
                raise
        with suppress(StorageError):  # the sign-in has succeeded
            await self.registrations.mark_used(pending)
        return tokens

    async def _with_hint(self, error: OAuthError) -> OAuthError:
        with suppress(NotionOAuthError):  # of reading the stored login
            previous = (await self.tokens.load()).login
            if error.error == "invalid_scope" and previous is not None and previous.requested_scope:
                error.hint = SCOPE_HINT
        if error.error in UNKNOWN_CLIENT and not self.settings.client_id:
            error.hint = NEW_CLIENT_HINT
        return self.tokens.with_profile_hint(error)

    async def sign_in_with_assertion(self, assertion: SecretStr, *, scope: str | None = None) -> TokenSet:
        """Sign in without a browser, with an assertion that the server trusts (RFC 7523), and store the tokens.

        `assertion` is a JWT that was issued to the client in NOTION_OAUTH_CLIENT_ID, for this authorization server.
        Raises as begin_authorization does, MetadataError if the server accepts no assertions, TokenRefused.
        """
        with self.audit.attempt("sign_in") as attempt:
            challenge = None if scope is None else BearerChallenge(scope=scope)
            discovery, scope, _, _ = await self._discover(challenge, require_assertions)
            client = await self.registrations.assertion_client(discovery)
            grant = AssertionRequest.for_discovery(discovery, client, scope, assertion=assertion)
            return await self._save_login(partial(self.client.exchange_assertion, grant), attempt)

    async def _save_login(
        self,
        exchange: Callable[[], Coroutine[Any, Any, TokenSet]],
        attempt: Attempt,
        claim: CodeClaim | None = None,
    ) -> TokenSet:
        """Exchange under the lock and store the tokens. Repeats a request that a busy server did not process."""
        backoff = Backoff(max(self._retry_for, CODE_RETRY_FOR) if self._retry_for else self._retry_for)
        deadline = backoff.new_deadline()

        async def locked(hold: Hold) -> TokenSet | None:
            with attempt:  # also here: a cancelled caller does not see the error
                await hold.reserve()  # before the code is used up
                try:
                    if claim is not None:
                        await claim.take()
                except CodeAlreadySent:
                    attempt.dismiss()
                    raise
                try:
                    tokens = await exchange()
                except ServerUnavailable as busy:
                    backoff.record_failure(busy)
                    if not busy.not_processed or backoff.exhausted(deadline):
                        raise
                    return None
                await self._save(hold, tokens, claim)
                if claim is not None:
                    await claim.succeeded(self.profile, tokens)
                attempt.succeeded(tokens)
            return tokens

        while True:
            async with self.store.exclusive(self.profile) as hold:
                if (tokens := await run_shielded(partial(locked, hold))) is not None:
                    return tokens
            delay = backoff.next_delay(deadline)
            if claim is not None:
                await claim.extend(delay)
            await self._sleep(delay)  # without the lock; the code stays valid for minutes

    async def _save(self, hold: Hold, tokens: TokenSet, claim: CodeClaim | None) -> None:
        """Save the tokens of a code that is used up. A failure is raised after further tries."""
        backoff = Backoff(min(self._retry_for, SAVE_RETRY_FOR))  # the lock is held meanwhile
        deadline = backoff.new_deadline()
        while True:
            try:
                return await hold.save(tokens)
            except StorageError as error:
                backoff.record_failure(error)
                if backoff.exhausted(deadline):
                    raise
            delay = backoff.next_delay(deadline)
            if claim is not None:
                await claim.extend(delay)
            await self._sleep(delay)

    async def server_of_login(self) -> str:
        """The URL of the stored login's MCP server; without a login, of the configured one. Raises StorageError."""
        tokens = (await self.store.load(self.profile)).tokens
        return self.settings.server_url if tokens is None else self.tokens.server_of(tokens)

    async def status(self, *, storage: bool = True) -> LoginStatus:
        """Login status from stored data, without a request; with `storage`, also how it is protected on the disk.

        Raises StorageError, ResourceMismatch.
        """
        tokens = self.tokens.if_unchanged()
        if tokens is None:
            version = self.store.version(self.profile)
            if self._signed_out_status is not None and version is not None and version == self._signed_out_status[0]:
                return self._signed_out_status[1]
            stored = await self.tokens.load()
            if stored.tokens is None:
                self._signed_out_status = version, self._status_without(stored.ended)
                return self._signed_out_status[1]
            tokens = stored.tokens
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
        """Ask the server about the access token (RFC 7662); None if it offers no introspection.

        Raises NotSignedIn, SignInRequired, ResourceMismatch, TokenRefused, TransientError, MetadataError, StorageError.
        """
        tokens = await self.client.with_endpoints(await self.tokens.stored(), self.settings.server_url)
        return await self.client.introspect(tokens)

    async def identify(self) -> Identity:
        """Who has signed in, and to which workspace: what is stored, or else what the MCP server says, which is stored.

        Empty if the server does not say. Takes a few seconds at most. Raises as TokenSource.token does, and
        MetadataError.
        """
        tokens = await self.tokens.stored()
        if tokens.workspace is not None:
            return tokens
        try:
            return await run_within(IDENTITY_TIME_LIMIT.total_seconds(), partial(self._ask_identity, tokens))
        except TimeoutError:
            raise NetworkError("The server did not say in time who has signed in.") from None

    async def _ask_identity(self, tokens: TokenSet) -> Identity:
        found = await self.client.identify(await self.tokens.token(), self.settings.server_url)
        known = {name: value for name, value in found.identity().items() if value is not None}
        if not known:
            return tokens
        async with self.store.exclusive(self.profile) as hold:
            await run_shielded(partial(self._save_identity_locked, hold, tokens, known))
        await self.tokens.load()  # the cache must not keep the login without it
        return tokens.model_copy(update=known)

    async def _save_identity_locked(self, hold: Hold, asked: TokenSet, known: dict[str, str]) -> None:
        stored = (await hold.load()).tokens
        same = stored is not None and (stored.authorized_at, stored.client) == (asked.authorized_at, asked.client)
        # A save would end the record of a request that may still arrive at the server: then it is asked another time
        if stored is not None and same and hold.attempt is None:
            await hold.save(stored.model_copy(update=known))

    async def _status_of(self, tokens: TokenSet, storage: bool) -> LoginStatus:
        """Return the status, created once per second and login, because many requests may ask for it."""
        now = self.clock()
        seconds = int(((expiry(tokens) or _EPOCH) - now).total_seconds() // 1)
        last = self._last_status
        if last is None or last[0] is not tokens or last[1:3] != (seconds, storage):
            protection = await self.store.protection(self.profile) if storage else None
            status = login_status(tokens, now=now, lifetimes=self.settings.lifetimes, protection=protection)
            last = tokens, seconds, storage, status
            self._last_status = last
        return last[3]

    async def refresh(self, *, if_older_than: timedelta = timedelta()) -> TokenSet:
        """Refresh now, or only if the last refresh is older than `if_older_than`, and return the stored login.

        Raises as TokenSource.token does.
        """
        return await self.tokens.refresh(if_older_than=if_older_than)

    async def sign_out(self, *, successor: GrantRequest | None = None, forget: bool = False) -> SignOut:
        """Revoke the grant if the server offers that, and delete the stored tokens in any case.

        `successor` is the request of a login that replaces this one: see `tokens.revocation.revoke`. The client
        registration stays for the next sign-in, unless `forget` says to delete everything of the profile. Raises
        StorageError; StoreDamaged for a file that is not a login, which is not deleted.
        """
        with self.audit.attempt("sign_out") as attempt:
            async with self.store.exclusive(self.profile) as hold:
                return await run_shielded(partial(self._sign_out_locked, hold, attempt, successor, forget))

    async def _sign_out_locked(
        self, hold: Hold, attempt: Attempt, successor: GrantRequest | None, forget: bool
    ) -> SignOut:
        with attempt:
            tokens, outcome = self.tokens.newest(await hold.load()).tokens, SignOut.NOT_SIGNED_IN
            if tokens is not None:
                # Perhaps not the configured server, which must not get the refresh token of another server's login
                url = self.tokens.server_of(tokens)
                outcome = await revoke(tokens, self.client, self.audit, server_url=url, successor=successor)
            await hold.delete()  # also deletes the record of an ended login
            if forget or (outcome is SignOut.NOT_SIGNED_IN and not await hold.is_registered()):
                await hold.forget()  # also the lock, which a profile that never was has only now
            attempt.succeeded(tokens, revocation=outcome.name.lower())
        return outcome
