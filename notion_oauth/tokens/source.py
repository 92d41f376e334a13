"""TokenSource: a valid access token, with one refresh at a time across tasks, threads, processes and machines."""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

import anyio
from anyio.lowlevel import RunVar
from pydantic import SecretStr

from notion_oauth.clock import Clock, uptime, utc_now
from notion_oauth.errors import (
    LockLost,
    NetworkError,
    NewTokenRejected,
    NotionOAuthError,
    NotSignedIn,
    ServerUnavailable,
    SignInRequired,
    StorageError,
    StoreUnavailable,
    TokenRefused,
    TransientError,
)
from notion_oauth.models import EndedLogin, TokenSet
from notion_oauth.observability.audit import Audit
from notion_oauth.observability.context import PROFILE
from notion_oauth.profile_names import DEFAULT_PROFILE, VISITOR_PROFILE
from notion_oauth.protocol import end_reasons, lifetime
from notion_oauth.protocol.lifetime import Lifetimes, Phase
from notion_oauth.protocol.token import NoUsableToken
from notion_oauth.storage import Attempt, Hold, StoredLogin, TokenStore
from notion_oauth.tokens import login_server
from notion_oauth.tokens.backoff import Backoff
from notion_oauth.tokens.cache import TokenCache
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.tokens.single_flight import Abandoned, SharedCall, SingleFlight

BACKGROUND_LOCK_WAIT = timedelta(seconds=2)  # a process that holds the lock for longer is refreshing already
CHECK_INTERVAL = timedelta(seconds=30)  # of `keep_fresh`; a sleep does not count the time that the machine is suspended
STORE_INTERVAL = 1.0  # seconds between two tries to read a login from, or save it in, a database that is away
SAVE_FOR = 300.0  # seconds
REFUSAL_PAUSE = 2.0  # seconds before a refused refresh token is sent again, because some servers refuse once by mistake
REFUSED_COOLDOWN = 60.0  # seconds without a refresh after the resource refused a token that was just refreshed for it
_LIMITERS: RunVar[dict[int, anyio.CapacityLimiter]] = RunVar("notion_oauth refreshes")
_LOG = logging.getLogger(__name__)
E = TypeVar("E", bound=NotionOAuthError)


def _limiter(store: TokenStore) -> anyio.CapacityLimiter:
    """Return the limiter of the refreshes of such stores in the running event loop."""
    try:
        limiters = _LIMITERS.get()
    except LookupError:
        limiters = {}
        _LIMITERS.set(limiters)
    return limiters.setdefault(store.max_refreshes, anyio.CapacityLimiter(store.max_refreshes))


@dataclass(frozen=True)
class _Renewed:
    """A token that was refreshed at this `uptime`; `logged` if its rejection is in the audit log."""

    token: SecretStr
    at: float
    logged: bool = False


@dataclass(frozen=True)
class _Unsaved:
    """A login that the server has refreshed and the store could not save, the stored one before, and the error."""

    login: TokenSet
    before: TokenSet
    error: StorageError
    at: float  # uptime
    sent: Attempt | None  # the request that it is from

    def replaces(self, stored: TokenSet) -> bool:
        """Return whether it is newer than the stored login, which no other program has replaced by a newer one."""
        rotated = self.login.refresh_token != self.before.refresh_token
        same = rotated and stored.refresh_token == self.before.refresh_token
        # After a pause in which the lock was lost, the time of the tokens says nothing
        return same or (not isinstance(self.error, LockLost) and stored.updated_at < self.login.updated_at)


class TokenSource:
    """Provides a valid access token for one profile, and refreshes the stored login when needed.

    May be used from any number of tasks, threads and event loops at once. `server_url` is where the endpoints are
    discovered for a login that another program stored without them. Such a login belongs to
    `server_of_unbound_login` (default: `server_url`), if it names no resource. `other_token_file` finds a login in a
    file that is not used, for the error without a login. `retry_for` is how long a caller waits while transient
    failures are retried.
    """

    def __init__(
        self,
        store: TokenStore,
        client: OAuthClient,
        *,
        server_url: str,
        profile: str,
        server_of_unbound_login: str | None = None,
        other_token_file: Callable[[], Path | None] = lambda: None,
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
        self._server_of_unbound_login = server_of_unbound_login or server_url
        self._other_token_file = other_token_file
        self._profile = profile
        self._lifetimes = lifetimes or Lifetimes()
        self._clock = clock
        self._sleep = sleep
        self._audit = audit or Audit(profile)
        self._backoff = Backoff(retry_for, uptime=uptime)
        self._retry_for = retry_for.total_seconds()
        self._single_flight: SingleFlight[TokenSet] = SingleFlight()
        self._cache = TokenCache(
            store, profile, refresh_window=self._lifetimes.refresh_window, clock=clock, uptime=uptime
        )
        self._ended_token: tuple[SecretStr, EndedLogin] | None = None  # this token is not sent again
        self._unsaved: _Unsaved | None = None
        self._uptime = uptime
        self._latest_refresh: _Renewed | None = None
        self._renewed: _Renewed | None = None  # the latest refresh that replaced a rejected token

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
        or if the server's tokens have a shorter lifetime, the current token is returned. If new tokens cannot be
        saved, they are returned, and the save is tried again in the background: see `check_saved`. If the resource
        accepts a token that replaced a rejected one, call `record_accepted`.
        Raises NotSignedIn; SignInRequired if the login has ended; NewTokenRejected if `rejected` has itself just
        replaced a rejected token and was not accepted; TransientError if a refresh is needed and not possible now;
        TokenRefused or MetadataError if the server refuses or is misconfigured; ConfigurationError; StorageError.
        """
        if rejected is None and not min_ttl and (found := self.get_fresh()) is not None:
            return found
        if rejected is not None:
            await self._check_not_just_renewed(rejected)
        login = await self._valid_login(rejected, min_ttl)
        latest = self._latest_refresh
        if rejected is not None and latest is not None and latest.token == login.access_token:
            self._renewed = latest
        return login.access_token

    async def token_at_exit(self, *, min_ttl: timedelta = timedelta()) -> SecretStr:
        """A valid access token like that of `token`, after the end of any refresh: for a program that then exits.

        It is the one that is stored then: the new one, or the current one if the refresh has failed. Raises the same
        errors as `token`, and StorageError if new tokens could not be saved.
        """
        while True:
            token = await self.token(min_ttl=min_ttl)
            await self.wait_until_idle()
            self.check_saved()
            tokens = await self.stored()
            if tokens.access_token == token or self._phase(tokens, None) is not Phase.EXPIRED:
                return tokens.access_token

    async def _valid_login(self, rejected: SecretStr | None, min_ttl: timedelta) -> TokenSet:
        deadline = self._backoff.new_deadline()
        while True:
            tokens = await self._stored_or_unsaved(deadline)
            phase = self._phase(tokens, rejected, min_ttl)
            if phase is not Phase.EXPIRED:
                if phase is Phase.DUE or self._unsaved is not None:
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
                if (usable := self._usable_after_failure(tokens, rejected)) is not None:
                    return usable
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

    def _usable_after_failure(self, tokens: TokenSet, rejected: SecretStr | None) -> TokenSet | None:
        """The login to use although a refresh failed: new tokens that could not be saved, or those still valid."""
        if (unsaved := self._unsaved) is not None:
            tokens = unsaved.login
            self._refresh_in_background()
        if tokens.expires_at is None and tokens.access_token != rejected:
            return tokens  # its expiry is only assumed
        return None if self._phase(tokens, rejected) is Phase.EXPIRED else tokens

    def record_accepted(self, token: SecretStr | None) -> None:
        """Note that the resource has accepted a token which replaced a rejected one: it may be rejected later."""
        if (renewed := self._renewed) is not None and renewed.token == token:
            self._renewed = None

    async def _check_not_just_renewed(self, rejected: SecretStr) -> None:
        """Raise NewTokenRejected if the stored token is rejected and has itself just replaced a rejected one.

        A resource that refuses every token would otherwise cause a refresh for each request.
        """
        if (renewed := self._renewed) is None or renewed.token != rejected:
            return
        tokens = await self.stored()
        left = renewed.at + REFUSED_COOLDOWN - self._uptime()
        if left > 0 and tokens.access_token == rejected and self._phase(tokens, None) is not Phase.EXPIRED:
            message = "The server refused a token that had just been refreshed."
            error = NewTokenRejected(f"{message} The login is not refreshed for this again for {left:.0f} seconds.")
            if not renewed.logged:
                self._renewed = replace(renewed, logged=True)
                self._audit.failed("refresh", error, tokens)
            raise error

    def if_unchanged(self) -> TokenSet | None:
        """The cached login, valid or not, if the store has not changed since it was read."""
        return self._cache.if_unchanged()

    async def load(self) -> StoredLogin:
        """The stored login, or the record of its end.

        Raises ResourceMismatch if the login is for another server than `server_url`: its token must not be sent there.
        A login that names no server is for `server_of_unbound_login`.
        """
        return self._checked(await self._cache.load())

    def _checked(self, stored: StoredLogin) -> StoredLogin:
        newest = self.newest(stored)
        if newest is not stored:
            return newest  # not in the cache, so that each use tries to save it
        tokens = stored.tokens
        if tokens is None:
            self._cache.clear()
            return stored
        mismatch = login_server.mismatch(tokens, self._server_url, unbound=self._server_of_unbound_login)
        if mismatch is not None:
            raise self.with_profile_hint(mismatch)
        self._cache.put(tokens, version=stored.version)
        return stored

    def newest(self, stored: StoredLogin) -> StoredLogin:
        """The login that could not be saved, if there is one that replaces the stored login, else the stored login."""
        if (unsaved := self._unsaved) is None:
            return stored
        if stored.tokens is not None and unsaved.replaces(stored.tokens):
            return StoredLogin(unsaved.login, None)
        self._unsaved = None  # another process has signed in or out, or found these tokens and saved them
        return stored

    def server_of(self, tokens: TokenSet) -> str:
        """The URL of the MCP server that the login belongs to: the configured one, or another."""
        return login_server.server_of(tokens, self._server_url, unbound=self._server_of_unbound_login)

    def not_signed_in(self) -> NotSignedIn:
        """The error without a login. It names a login in a file that is not used, if there is one."""
        return self.with_profile_hint(login_server.not_signed_in(self._other_token_file()))

    async def stored(self) -> TokenSet:
        """The stored login. Raises NotSignedIn, ResourceMismatch, SignInRequired if the server has ended it."""
        return self._require_tokens(await self.load())

    async def _stored_or_unsaved(self, deadline: float) -> TokenSet:
        """The stored login; if it cannot be read, the one that could not be saved.

        While the database cannot be reached, the last login that was read counts as unchanged if its token is valid.
        Otherwise the database is tried again until the deadline.
        """
        while True:
            try:
                return await self.stored()
            except StorageError as error:
                if (unsaved := self._unsaved) is not None:
                    return unsaved.login
                if not isinstance(error, StoreUnavailable):
                    raise
                latest = self._cache.latest
                if latest is not None and self._phase(latest, None) is not Phase.EXPIRED:
                    self._cache.assume_unchanged()
                    return latest
                if self._uptime() >= deadline:
                    raise
            await self._sleep(STORE_INTERVAL)

    def _require_tokens(self, stored: StoredLogin) -> TokenSet:
        if stored.tokens is not None:
            return stored.tokens
        if stored.ended is not None:
            raise self._sign_in_required(stored.ended)
        raise self.not_signed_in()

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
                self.check_saved()
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

    @property
    def is_busy(self) -> bool:
        """Whether a refresh is running, or tokens of the last one are not saved: this object must not be dropped."""
        return self._unsaved is not None or self._single_flight.current() is not None

    def check_saved(self) -> None:
        """Raise StorageError if tokens of the last refresh could not be saved. Call it when `wait_until_idle` ends."""
        if (unsaved := self._unsaved) is not None:
            raise copy.copy(unsaved.error)

    def _refresh_in_background(self) -> None:
        """Start a refresh without waiting for it, unless one is running or the last one failed moments ago.

        If the tokens of the last refresh could not be saved, it saves them.
        """
        if self._unsaved is not None or not self._backoff.in_cooldown:
            refresh = partial(self._refresh, None, timedelta(), background=True)
            self._single_flight.join_or_start(refresh, waits=False)

    async def _refresh(
        self, rejected: SecretStr | None, min_ttl: timedelta, call: SharedCall[TokenSet], *, background: bool = False
    ) -> TokenSet:
        """Refresh, with retries while a caller waits and until the deadline. Between attempts the lock is released."""
        PROFILE.set(self._profile)  # for the log lines of this refresh
        limiter = _limiter(self._store)
        deadline = self._backoff.new_deadline()
        while True:
            try:
                with call.abandonable():
                    if delay := self._save_delay() or self._backoff.next_delay(deadline):
                        await self._sleep(delay)
                    await limiter.acquire_on_behalf_of(call)
                try:
                    with call.abandonable(BACKGROUND_LOCK_WAIT if background and self._unsaved is None else None):
                        async with self._store.exclusive(self._profile) as hold:
                            call.must_complete()
                            return await self._refresh_locked(hold, rejected, min_ttl, background=background)
                finally:
                    limiter.release_on_behalf_of(call)
            except (NotSignedIn, SignInRequired):
                raise
            except NotionOAuthError as error:
                if not self._backoff.has_recorded(error):
                    self._record_failure(error)
                # With tokens that are not saved, callers get these at once, and another call saves them
                store_failed = isinstance(error, StoreUnavailable | LockLost) and self._unsaved is None
                temporary = isinstance(error, TransientError) or store_failed
                tried_again = (temporary and call.waiting) or (background and self._unsaved)
                if not tried_again or (self._backoff.exhausted(deadline) and not self._save_delay()):
                    raise

    def _record_failure(self, error: NotionOAuthError) -> None:
        self._backoff.record_failure(error)
        self._audit.failed("refresh", error, self._cache.latest)

    def _save_delay(self) -> float:
        """The delay before tokens are saved that a database did not take, because it could not be reached; else 0.

        Short, because other processes wait for the lock, and would use the old refresh token.
        """
        unsaved = self._unsaved
        if unsaved is None or not isinstance(unsaved.error, StoreUnavailable):
            return 0.0
        return STORE_INTERVAL if self._uptime() - unsaved.at < SAVE_FOR else 0.0

    async def _refresh_locked(
        self, hold: Hold, rejected: SecretStr | None, min_ttl: timedelta, *, background: bool
    ) -> TokenSet:
        # Read again, whatever the version says: network file systems show changes late
        tokens = self._require_tokens(self._checked(await hold.load()))
        if (unsaved := self._unsaved) is not None:
            login = hold.with_previous(unsaved.login, unsaved.before.refresh_token, sent=unsaved.sent)
            await self._save(hold, login, before=unsaved.before)
            self._audit.refreshed(unsaved.before, unsaved.login)
            self._backoff.record_success()
        phase = self._phase(tokens, rejected, min_ttl)
        if phase is Phase.VALID or (phase is Phase.DUE and not background):
            return tokens  # refreshed by another process while this one waited for the lock
        if self._ended_token is not None and self._ended_token[0] == tokens.refresh_token:
            raise self._sign_in_required(self._ended_token[1])
        self._check_cooldown(hold, waits=not background)
        try:
            new = await self._request_tokens(hold, tokens)
        except SignInRequired as error:  # the login has no refresh token
            raise self.with_profile_hint(error) from None
        except TokenRefused as refused:
            if refused.error not in end_reasons.TERMINAL:
                raise self.with_profile_hint(refused) from None
            return await self._record_end(hold, tokens, refused)
        if new is None:
            return await self._refresh_locked(hold, rejected, min_ttl, background=background)
        self._latest_refresh = _Renewed(new.access_token, self._uptime())
        await self._save(hold, new, before=tokens, last=True)
        self._backoff.record_success()
        self._audit.refreshed(tokens, new)
        return new

    def _check_cooldown(self, hold: Hold, *, waits: bool) -> None:
        """Raise TransientError if another instance has learned that it is too early for a request."""
        if (cooldown := hold.cooldown) is not None:
            if cooldown.failure is not None:
                self._backoff.check_record(cooldown.failure, cooldown.age, waits=waits)
            self._backoff.check_pause(cooldown.pause)

    async def _request_tokens(self, hold: Hold, tokens: TokenSet) -> TokenSet | None:
        """Do what `_send_until_repeated_refusal` does. Other instances get to know a transient failure."""
        try:
            complete = await self._client.with_endpoints(tokens, self._server_url)
            return await self._send_until_repeated_refusal(hold, complete)
        except (NetworkError, ServerUnavailable) as error:
            self._record_failure(error)
            with suppress(StorageError):
                await hold.record_failure(self._backoff.as_record(), pause_all=self._backoff.pause_of_all)
            raise

    async def _send_until_repeated_refusal(self, hold: Hold, tokens: TokenSet) -> TokenSet | None:
        """Return the refreshed login; None if a program that does not use the lock has stored a newer one.

        A refusal that ends the login counts if the server repeats it after a pause, and refuses the previous refresh
        token too: an earlier request that arrived late may have replaced the current one.
        """
        try:
            return await self._send(hold, tokens, tokens.refresh_token)
        except TokenRefused as refused:
            if refused.error not in end_reasons.TERMINAL:
                raise
        await self._sleep(min(REFUSAL_PAUSE, self._retry_for))
        latest = (await hold.load()).tokens
        if latest is not None and latest.refresh_token != tokens.refresh_token:
            return None
        try:
            return await self._send(hold, tokens, tokens.refresh_token)
        except TokenRefused as refused:
            if tokens.previous_refresh_token is None or refused.error not in end_reasons.REFUSED_GRANT:
                raise
            repeated = refused
        with suppress(TokenRefused):
            return await self._send(hold, tokens, tokens.previous_refresh_token)
        raise repeated

    async def _send(self, hold: Hold, tokens: TokenSet, refresh_token: SecretStr | None) -> TokenSet:
        """Refresh with this refresh token, which is kept where an earlier request with it may still arrive."""
        await hold.reserve(refresh_token)  # before the server issues tokens that could not be stored
        # A second late request may follow the one that made the previous refresh token the only valid one
        arrives = refresh_token == tokens.previous_refresh_token or hold.may_still_arrive(refresh_token)
        previous = refresh_token if arrives else None
        try:
            new = await self._client.refresh(tokens.model_copy(update={"refresh_token": refresh_token}))
        except NoUsableToken as error:
            if error.login is not None:
                login = error.login.model_copy(update={"previous_refresh_token": previous})
                await self._save(hold, login, before=tokens)
            raise
        except TransientError as error:
            if not (isinstance(error, ServerUnavailable) and error.not_processed):
                hold.request_may_arrive()
            raise
        if previous is not None and new.refresh_token != previous:
            new = new.model_copy(update={"previous_refresh_token": previous})
        return new

    async def _save(self, hold: Hold, login: TokenSet, *, before: TokenSet, last: bool = False) -> None:
        """Save tokens before any caller gets them. If that fails, this process keeps them."""
        try:
            await hold.save(login, last=last)
        except StorageError as error:
            earlier = self._unsaved
            at, sent = (self._uptime(), None) if earlier is None else (earlier.at, earlier.sent)
            self._unsaved = _Unsaved(login, before, error, at, hold.sent or sent)
            self._cache.clear()  # it has the stored login, which must not be used any more
            raise
        self._unsaved = None
        self._cache.put(login, version=self._store.version(self._profile))

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
