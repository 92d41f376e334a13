"""TokenSource: a valid access token, with one refresh at a time across tasks, threads, processes and machines."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import NoReturn, TypeVar

import anyio
from anyio.lowlevel import RunVar
from pydantic import SecretStr

from notion_oauth.clock import Clock, uptime, utc_now
from notion_oauth.errors import (
    NetworkError,
    NotionOAuthError,
    NotSignedIn,
    ResourceMismatch,
    SignInRequired,
    StorageError,
    TokenRefused,
    TransientError,
)
from notion_oauth.models import EndedLogin, TokenSet
from notion_oauth.observability.audit import Audit
from notion_oauth.observability.context import PROFILE
from notion_oauth.profile_names import DEFAULT_PROFILE, VISITOR_PROFILE
from notion_oauth.protocol import end_reasons, lifetime
from notion_oauth.protocol.lifetime import Lifetimes, Phase
from notion_oauth.protocol.urls import resource_covers
from notion_oauth.storage import Hold, StoredLogin, TokenStore
from notion_oauth.tokens.backoff import Backoff
from notion_oauth.tokens.cache import TokenCache
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.tokens.single_flight import Abandoned, SharedCall, SingleFlight

BACKGROUND_LOCK_WAIT = timedelta(seconds=2)  # a process that holds the lock for longer is refreshing already
CHECK_INTERVAL = timedelta(seconds=30)  # of `keep_fresh`; a sleep does not count the time that the machine is suspended
MAX_REFRESHES = 32  # at once in one event loop: each opens files and a connection, whose number systems limit
_LIMITER: RunVar[anyio.CapacityLimiter] = RunVar("notion_oauth refreshes")
_LOG = logging.getLogger(__name__)
E = TypeVar("E", bound=NotionOAuthError)


def _limiter() -> anyio.CapacityLimiter:
    """Return the limiter of refreshes of the running event loop."""
    try:
        return _LIMITER.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_REFRESHES)
        _LIMITER.set(limiter)
        return limiter


class TokenSource:
    """Provides a valid access token for one profile, and refreshes the stored login when needed.

    May be used from any number of tasks, threads and event loops at once. `server_url` is where the endpoints are
    discovered for a login that another program stored without them. `retry_for` is how long a caller waits while
    transient failures are retried.
    """

    def __init__(
        self,
        store: TokenStore,
        client: OAuthClient,
        *,
        server_url: str,
        profile: str,
        lifetimes: Lifetimes | None = None,
        retry_for: timedelta = timedelta(),
        clock: Clock = utc_now,
        uptime: Callable[[], float] = uptime,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        audit: Audit | None = None,
    ) -> None:
        self._store = store
        self._client = client
        self._server_url = server_url
        self._profile = profile
        self._lifetimes = lifetimes or Lifetimes()
        self._clock = clock
        self._sleep = sleep
        self._audit = audit or Audit(profile)
        self._backoff = Backoff(retry_for, uptime=uptime)
        self._single_flight: SingleFlight[TokenSet] = SingleFlight()
        self._cache = TokenCache(
            store, profile, refresh_window=self._lifetimes.refresh_window, clock=clock, uptime=uptime
        )
        self._ended_token: tuple[SecretStr, EndedLogin] | None = None  # this token is not sent again

    def get_fresh(self) -> SecretStr | None:
        """The cached token if it is certainly valid; None if the caller must use `token`.

        Takes microseconds. Notices what other processes have stored, as far as the store can detect that.
        """
        tokens = self._cache.get_fresh()
        if tokens is None and (self._backoff.in_cooldown or self._single_flight.current() is not None):
            tokens = self._cache.get_fresh(allow_due=True)  # a refresh is running or has failed
        return None if tokens is None else tokens.access_token

    async def token(self, *, rejected: SecretStr | None = None, min_ttl: timedelta = timedelta()) -> SecretStr:
        """A valid access token. `rejected` is a token that the resource has refused: another one is returned.

        A token that expires soon is returned, and refreshed in the background. The caller waits only if the token has
        expired, was rejected, or expires within `min_ttl`. If a refresh for `min_ttl` fails while the token is valid,
        or if the server's tokens have a shorter lifetime, the current token is returned.
        Raises NotSignedIn; SignInRequired if the login has ended; TransientError if a refresh is needed and not
        possible now; TokenRefused or MetadataError if the server refuses or is misconfigured; ConfigurationError;
        StorageError.
        """
        if rejected is None and not min_ttl and (found := self.get_fresh()) is not None:
            return found
        return (await self._valid_login(rejected, min_ttl)).access_token

    async def _valid_login(self, rejected: SecretStr | None, min_ttl: timedelta) -> TokenSet:
        deadline = self._backoff.new_deadline()
        while True:
            tokens = await self.stored()
            phase = self._phase(tokens, rejected, min_ttl)
            if phase is Phase.VALID:
                return tokens
            if phase is Phase.DUE:
                self._refresh_in_background()
                return tokens
            call, new = self._single_flight.join_or_start(partial(self._refresh, rejected, min_ttl))
            try:
                refreshed = await call.result(counted=new)
            except Abandoned:
                continue  # this caller joined a refresh that was abandoned
            except (NotSignedIn, SignInRequired):
                raise
            except NotionOAuthError as error:
                if self._phase(tokens, rejected) is not Phase.EXPIRED:
                    return tokens  # still valid: the refresh was early
                if new or not isinstance(error, TransientError) or self._backoff.exhausted(deadline):
                    raise
                continue  # a refresh of an earlier caller, whose deadline was before ours
            if new or self._phase(refreshed, rejected, min_ttl) is not Phase.EXPIRED:
                return refreshed

    def _phase(self, tokens: TokenSet, rejected: SecretStr | None, min_ttl: timedelta = timedelta()) -> Phase:
        """The phase of a token. One that was rejected, or that expires within `min_ttl`, counts as expired."""
        if rejected is not None and rejected == tokens.access_token:
            return Phase.EXPIRED
        if self._cache.expired_by_uptime(tokens):
            return Phase.EXPIRED
        left = lifetime.remaining(tokens, self._clock())
        if min_ttl and left is not None and left <= min_ttl and tokens.refresh_token is not None:
            return Phase.EXPIRED
        return lifetime.phase(tokens, self._clock(), self._lifetimes.refresh_window)

    def if_unchanged(self) -> TokenSet | None:
        """The cached login, valid or not, if the store has not changed since it was read."""
        return self._cache.if_unchanged()

    async def load(self) -> StoredLogin:
        """The stored login, or the record of its end.

        Raises ResourceMismatch if the login is for another server than `server_url`: its token must not be sent there.
        """
        return self._checked(await self._cache.load())

    def _checked(self, stored: StoredLogin) -> StoredLogin:
        tokens = stored.tokens
        if tokens is None:
            self._cache.clear()
            return stored
        if tokens.resource is not None and not resource_covers(tokens.resource, self._server_url):
            raise self.with_profile_hint(
                ResourceMismatch(
                    f"The stored login is for {tokens.resource}, not for {self._server_url}.",
                    hint=ResourceMismatch.default_hint.with_options({"server_url": tokens.resource}),
                )
            )
        self._cache.put(tokens, version=stored.version)
        return stored

    async def stored(self) -> TokenSet:
        """The stored login. Raises NotSignedIn, ResourceMismatch, SignInRequired if the server has ended it."""
        return self._require_tokens(await self.load())

    def _require_tokens(self, stored: StoredLogin) -> TokenSet:
        if stored.tokens is not None:
            return stored.tokens
        if stored.ended is not None:
            raise self._sign_in_required(stored.ended)
        raise self.with_profile_hint(NotSignedIn("Not signed in."))

    async def refresh(self, *, if_older_than: timedelta = timedelta()) -> TokenSet:
        """Refresh now, even if the token is valid, unless the last refresh is more recent than `if_older_than`.

        A refresh by another caller or process during this call counts. Raises the same errors as `token`.
        """
        tokens = await self.stored()
        if timedelta() <= self._clock() - tokens.updated_at < if_older_than:
            return tokens
        return await self._valid_login(tokens.access_token, timedelta())

    async def keep_fresh(self) -> NoReturn:
        """Refresh the login whenever it is due, until cancelled. Raises no NotionOAuthError.

        Logs once when no refresh is possible any more. The audit log has each refresh that fails.
        """
        PROFILE.set(self._profile)  # for the log lines of this task
        logged = ""
        while True:
            try:
                await self.token()
                logged = ""
            except (SignInRequired, StorageError) as error:
                if error.message != logged:
                    _LOG.warning("The background refresh failed: %s", error)
                logged = error.message
            except NotionOAuthError:
                logged = ""
            await self._sleep(self._check_delay().total_seconds())

    def _check_delay(self) -> timedelta:
        """How long `keep_fresh` sleeps. Short, because of new sign-ins, clocks that jump and suspended machines."""
        left = self._cache.time_until_due()
        return CHECK_INTERVAL if left is None else min(CHECK_INTERVAL, max(timedelta(seconds=1), left))

    async def wait_until_idle(self) -> None:
        """Wait until this process runs no refresh: before the process is replaced or its server is stopped."""
        while (call := self._single_flight.current()) is not None:
            await call.wait_until_done()

    def _refresh_in_background(self) -> None:
        """Start a refresh without waiting for it, unless one is running or the last one failed moments ago."""
        if not self._backoff.in_cooldown:
            refresh = partial(self._refresh, None, timedelta(), background=True)
            self._single_flight.join_or_start(refresh, waits=False)

    async def _refresh(
        self, rejected: SecretStr | None, min_ttl: timedelta, call: SharedCall[TokenSet], *, background: bool = False
    ) -> TokenSet:
        """Refresh, with retries while a caller waits and until the deadline. Between attempts the lock is released."""
        PROFILE.set(self._profile)  # for the log lines of this refresh
        limiter = _limiter()
        deadline = self._backoff.new_deadline()
        while True:
            try:
                with call.abandonable():
                    await self._sleep(self._backoff.next_delay(deadline))
                    await limiter.acquire_on_behalf_of(call)
                try:
                    with call.abandonable(BACKGROUND_LOCK_WAIT if background else None):
                        async with self._store.exclusive(self._profile) as hold:
                            call.must_complete()
                            return await self._refresh_locked(hold, rejected, min_ttl, background=background)
                finally:
                    limiter.release_on_behalf_of(call)
            except (NotSignedIn, SignInRequired):
                raise
            except NotionOAuthError as error:
                self._backoff.record_failure(error)
                self._audit.failed("refresh", error, self._cache.latest)
                if not isinstance(error, TransientError) or not call.waiting or self._backoff.exhausted(deadline):
                    raise

    async def _refresh_locked(
        self, hold: Hold, rejected: SecretStr | None, min_ttl: timedelta, *, background: bool
    ) -> TokenSet:
        # Read again, whatever the version says: network file systems show changes late
        tokens = self._require_tokens(self._checked(await hold.load()))
        phase = self._phase(tokens, rejected, min_ttl)
        if phase is Phase.VALID or (phase is Phase.DUE and not background):
            return tokens  # refreshed by another process while this one waited for the lock
        if self._ended_token is not None and self._ended_token[0] == tokens.refresh_token:
            raise self._sign_in_required(self._ended_token[1])
        try:
            complete = await self._client.with_endpoints(tokens, self._server_url)
            await hold.reserve(tokens.refresh_token)  # before the server issues tokens that could not be stored
            new = await self._refresh_reserved(hold, complete)
        except SignInRequired as error:  # the login has no refresh token
            raise self.with_profile_hint(error) from None
        except TokenRefused as refused:
            if refused.error not in end_reasons.TERMINAL:
                raise self.with_profile_hint(refused) from None
            return await self._record_end(hold, tokens, refused)
        await hold.save(new)  # before any caller gets it
        self._backoff.record_success()
        self._audit.refreshed(tokens, new)
        self._cache.put(new, version=self._store.version(self._profile))
        return new

    async def _refresh_reserved(self, hold: Hold, tokens: TokenSet) -> TokenSet:
        try:
            return await self._client.refresh(tokens)
        except NetworkError:
            hold.request_may_arrive()
            raise

    async def _record_end(self, hold: Hold, tokens: TokenSet, refused: TokenRefused) -> TokenSet:
        """Store that the server has ended the login and raise SignInRequired.

        Returns the stored login instead if a program that does not use the lock has stored a newer one.
        """
        latest = (await hold.load()).tokens
        if latest is not None and latest.refresh_token != tokens.refresh_token:
            return latest
        ended = end_reasons.ended_login(tokens, refused, now=self._clock(), lifetimes=self._lifetimes)
        if tokens.refresh_token is not None:
            self._ended_token = (tokens.refresh_token, ended)
        self._cache.clear()
        self._audit.ended(tokens, ended)
        try:
            await hold.end(ended)
        except StorageError:
            with suppress(StorageError):  # `_ended_token` keeps at least this process from sending it again
                await hold.delete()
        raise self._sign_in_required(ended) from None

    def _sign_in_required(self, ended: EndedLogin) -> SignInRequired:
        description = f' The server said: "{ended.description}".' if ended.description else ""
        because = end_reasons.describe_end(ended, self._lifetimes)
        return self.with_profile_hint(
            SignInRequired(f"The login has ended: {because}.{description}", error=ended.error, reason=ended.reason)
        )

    def with_profile_hint(self, error: E) -> E:
        """The error, with this profile in the command of its hint: a user must not sign in to another profile."""
        if self._profile != DEFAULT_PROFILE and not VISITOR_PROFILE.match(self._profile):
            error.hint = error.hint.with_options({"profile": self._profile})
        return error
