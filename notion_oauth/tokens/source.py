"""TokenSource: a valid access token, with one refresh at a time across tasks, threads, processes and machines."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import NoReturn, TypeVar

import anyio
from pydantic import SecretStr

from notion_oauth.clock import Clock, uptime, utc_now
from notion_oauth.errors import (
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
from notion_oauth.storage import TokenStore
from notion_oauth.tokens.backoff import Backoff
from notion_oauth.tokens.cache import TokenCache
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.tokens.single_flight import Abandoned, SharedCall, SingleFlight

BACKGROUND_LOCK_WAIT = timedelta(seconds=2)  # whoever holds the lock for longer refreshes, and nobody waits for us
CHECK_INTERVAL = timedelta(seconds=30)  # how often `keep_fresh` looks; a suspended machine counts no seconds
ON_THE_PAGE = "Sign in again on the page of the service."
_COMMAND = re.compile(r"notion-oauth (login|logout)\b")
_LOG = logging.getLogger(__name__)
E = TypeVar("E", bound=NotionOAuthError)


class TokenSource:
    """Hands out a valid access token of one profile, and refreshes the stored login when that takes it.

    May be used from any number of tasks, threads and event loops at once. `server_url` is asked for what a login
    lacks that another program stored; `retry_for` is how long a caller is kept waiting through passing failures.
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
        self._cache = TokenCache(store, profile, window=self._lifetimes.window, clock=clock, uptime=uptime)
        self._ended_token: tuple[SecretStr, EndedLogin] | None = None  # of a refresh token that is never sent again

    def get_fresh(self) -> SecretStr | None:
        """The token from memory where it is good without a doubt; None sends the caller to `token`.

        Takes microseconds. Notices what other processes have stored, as far as the store can tell.
        """
        tokens = self._cache.get_fresh()
        if tokens is None and (self._backoff.in_cooldown or self._single_flight.current() is not None):
            tokens = self._cache.get_fresh(due=True)  # it is being refreshed, or could not be just now
        return None if tokens is None else tokens.access_token

    async def token(self, *, rejected: SecretStr | None = None, min_ttl: timedelta = timedelta()) -> SecretStr:
        """A valid access token. `rejected` is one that the resource has just refused: another is then found.

        One that is soon to expire is served, and refreshed in the background; only one that has expired, was
        rejected, or would expire within `min_ttl` makes the caller wait. Where a refresh for `min_ttl` fails while
        the token is good, or where the server's tokens live shorter than that, what there is has to do.
        Raises NotSignedIn, SignInRequired where the login has ended, TransientError where a refresh is due and not
        possible now, StorageError.
        """
        if rejected is None and not min_ttl and (found := self.get_fresh()) is not None:
            return found
        return (await self._valid(rejected, min_ttl)).access_token

    async def _valid(self, rejected: SecretStr | None, min_ttl: timedelta) -> TokenSet:
        deadline = self._backoff.deadline()
        while True:
            tokens = await self.stored()
            phase = self._phase(tokens, rejected, min_ttl)
            if phase is Phase.GOOD:
                return tokens
            if phase is Phase.DUE:
                self._refresh_in_background()
                return tokens
            flight, new = self._single_flight.join_or_start(partial(self._refresh, rejected, min_ttl))
            try:
                refreshed = await flight.result()
            except Abandoned:
                continue  # another's flight, which nobody waited for
            except (NotSignedIn, SignInRequired):
                raise
            except NotionOAuthError as error:
                if self._phase(tokens, rejected) is not Phase.EXPIRED:
                    return tokens  # refreshed early for comfort: it is still good
                if new or not isinstance(error, TransientError) or self._backoff.exhausted(deadline):
                    raise
                continue  # another's flight, whose patience began before ours
            if new or self._phase(refreshed, rejected, min_ttl) is not Phase.EXPIRED:
                return refreshed

    def _phase(self, tokens: TokenSet, rejected: SecretStr | None, min_ttl: timedelta = timedelta()) -> Phase:
        """Where a token stands for a caller to whom `rejected` and what ends within `min_ttl` count as expired."""
        if rejected is not None and rejected == tokens.access_token:
            return Phase.EXPIRED
        if self._cache.expired_by_uptime(tokens):
            return Phase.EXPIRED
        left = lifetime.remaining(tokens, self._clock())
        if min_ttl and left is not None and left <= min_ttl and tokens.refresh_token is not None:
            return Phase.EXPIRED
        return lifetime.phase(tokens, self._clock(), self._lifetimes.window)

    def if_unchanged(self) -> TokenSet | None:
        """The login that was seen last, whatever its age, where the store has not changed since."""
        return self._cache.if_unchanged()

    async def load(self, *, again: bool = False) -> TokenSet | None:
        """The stored login, None where there is none; `again` reads it even where nothing seems to have changed.

        Raises OtherResource where it is for another server than the one that is set: its token must not go there.
        """
        version = self._store.version(self._profile)
        tokens = await self._cache.load(again=again)
        if tokens is None:
            self._cache.forget()
            return None
        if tokens.resource is not None and not resource_covers(tokens.resource, self._server_url):
            raise self.with_profile_hint(
                ResourceMismatch(f"The stored login is for {tokens.resource}, not for {self._server_url}.")
            )
        self._cache.remember(tokens, version=version)
        return tokens

    async def ended_login(self) -> EndedLogin | None:
        """What is kept of a login that the server has ended; None where there is none."""
        return await self._store.load_ended_login(self._profile)

    async def stored(self, *, again: bool = False) -> TokenSet:
        """The stored login. Raises NotSignedIn, OtherResource, SignInRequired where the server has ended it."""
        tokens = await self.load(again=again)
        if tokens is not None:
            return tokens
        ended = await self.ended_login()
        if ended is None:
            raise self.with_profile_hint(NotSignedIn("Nobody is signed in."))
        raise self._over(ended)

    async def refresh(self, *, if_older_than: timedelta = timedelta()) -> TokenSet:
        """Refresh now, valid or not, unless another has done so since this call began, or within `if_older_than`.

        Raises as `token` does.
        """
        tokens = await self.stored()
        if timedelta() <= self._clock() - tokens.updated_at < if_older_than:
            return tokens
        return await self._valid(tokens.access_token, timedelta())

    async def keep_fresh(self) -> NoReturn:
        """Refresh the login whenever it is due, until cancelled; raises nothing of ours.

        Logs once that nothing can be refreshed any more. A refresh that fails is in the audit log.
        """
        PROFILE.set(self._profile)  # of the task that this runs in
        said = ""
        while True:
            try:
                await self.token()
                said = ""
            except (SignInRequired, StorageError) as error:
                if error.message != said:
                    _LOG.warning("The token cannot be kept fresh: %s", error)
                said = error.message
            except NotionOAuthError:
                said = ""
            await self._sleep(self._until_due().total_seconds())

    def _until_due(self) -> timedelta:
        """How long `keep_fresh` sleeps: never long, for sign-ins, clocks that jump and machines that sleep."""
        left = self._cache.until_due()
        return CHECK_INTERVAL if left is None else min(CHECK_INTERVAL, max(timedelta(seconds=1), left))

    async def wait_until_idle(self) -> None:
        """Wait until no refresh of this process is under way: before the process is replaced or its server stopped."""
        while (flight := self._single_flight.current()) is not None:
            await flight.wait_until_done()

    def _refresh_in_background(self) -> None:
        """Begin a refresh that nobody waits for, unless one is under way or the last has failed just now."""
        if not self._backoff.in_cooldown:
            self._single_flight.join_or_start(partial(self._refresh, None, timedelta(), background=True))

    async def _refresh(
        self, rejected: SecretStr | None, min_ttl: timedelta, flight: SharedCall[TokenSet], *, background: bool = False
    ) -> TokenSet:
        """Try until it is done, as long as anybody waits and patience lasts. Between tries the lock is free."""
        PROFILE.set(self._profile)  # of the flight's thread
        deadline = self._backoff.deadline()
        while True:
            try:
                with flight.abandonable(BACKGROUND_LOCK_WAIT if background else None):
                    await self._sleep(self._backoff.next_delay(deadline))
                    async with self._store.exclusive(self._profile):
                        flight.must_complete()
                        return await self._refresh_alone(rejected, min_ttl, background=background)
            except (NotSignedIn, SignInRequired):
                raise
            except NotionOAuthError as error:
                self._backoff.failed(error)
                self._audit.failed("refresh", error, self._cache.last)
                if not isinstance(error, TransientError) or not flight.waiting or self._backoff.exhausted(deadline):
                    raise

    async def _refresh_alone(self, rejected: SecretStr | None, min_ttl: timedelta, *, background: bool) -> TokenSet:
        tokens = await self.stored(again=True)
        phase = self._phase(tokens, rejected, min_ttl)
        if phase is Phase.GOOD or (phase is Phase.DUE and not background):
            return tokens  # somebody else has refreshed while we waited
        if self._ended_token is not None and self._ended_token[0] == tokens.refresh_token:
            raise self._over(self._ended_token[1])
        await self._store.ensure_writable(self._profile)  # before the server gives what can't be kept
        try:
            new = await self._client.refresh(await self._client.with_endpoints(tokens, self._server_url))
        except SignInRequired as error:  # it lacks what a refresh takes
            raise self.with_profile_hint(error) from None
        except TokenRefused as refused:
            if refused.error not in end_reasons.TERMINAL:
                raise self.with_profile_hint(refused) from None
            return await self._ended(tokens, refused)
        await self._store.save(self._profile, new)  # before any caller sees it
        self._backoff.succeeded()
        self._audit.refreshed(tokens, new)
        self._cache.remember(new, version=self._store.version(self._profile))
        return new

    async def _ended(self, tokens: TokenSet, refused: TokenRefused) -> TokenSet:
        """Bury a login that the server has ended, unless a program that knows no lock has stored another one."""
        latest = await self._store.load(self._profile)
        if latest is not None and latest.refresh_token != tokens.refresh_token:
            return latest
        ended = end_reasons.ended_login(tokens, refused, now=self._clock(), lifetimes=self._lifetimes)
        if tokens.refresh_token is not None:
            self._ended_token = (tokens.refresh_token, ended)
        self._cache.forget()
        self._audit.ended(tokens, ended)
        try:
            await self._store.save_ended_login(self._profile, ended)
        except StorageError:
            with suppress(StorageError):  # what cannot be deleted is not sent again by this process at least
                await self._store.delete(self._profile)
        raise self._over(ended) from None

    def _over(self, ended: EndedLogin) -> SignInRequired:
        said = f' The server said: "{ended.description}".' if ended.description else ""
        because = end_reasons.describe_end(ended, self._lifetimes)
        return self.with_profile_hint(
            SignInRequired(f"The login has ended: {because}.{said}", error=ended.error, reason=ended.reason)
        )

    def with_profile_hint(self, error: E) -> E:
        """The error, with a cure whose command is about this profile; a visitor of the service has a page instead."""
        if VISITOR_PROFILE.match(self._profile):
            error.hint = ON_THE_PAGE if _COMMAND.search(error.hint) else error.hint
        elif self._profile != DEFAULT_PROFILE:
            error.hint = _COMMAND.sub(rf"\g<0> --profile {self._profile}", error.hint)
        return error
