"""Map a request to a login: one NotionOAuth for each profile.

On loopback all requests use the local user's profile. On a public URL each browser session has its own profile, with
a name that cannot be guessed, unless the application names the profile, or an operator's secret is set.
"""

from __future__ import annotations

import inspect
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import TypeAlias

import anyio
from fastapi import Request

from notion_oauth import profile_names
from notion_oauth.clock import Clock
from notion_oauth.errors import (
    ConfigurationError,
    NotAuthenticated,
    NotionOAuthError,
    ResourceMismatch,
    StateMismatch,
    StorageError,
    StoreBusy,
)
from notion_oauth.models import GrantRequest
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.tokens.revocation import SignOut
from notion_oauth.tokens.source import CHECK_INTERVAL
from notion_oauth.tokens.status import LoginStatus
from notion_oauth.web.profiles import visitor_cleanup, visitor_registrations
from notion_oauth.web.profiles.background_refresh import BackgroundRefresh
from notion_oauth.web.profiles.operator import OperatorAccess
from notion_oauth.web.profiles.visitor_cleanup import VisitorCleanup
from notion_oauth.web.profiles.visitor_registrations import VisitorRegistrations
from notion_oauth.web.sessions import state
from notion_oauth.web.sessions.state import session_of

ProfileFromRequest: TypeAlias = Callable[[Request], str | Awaitable[str | None] | None]

MAX_LOGINS = 1024  # in memory; the least recently used is dropped, and created again on demand
REFRESH_VISITORS_FOR = timedelta(days=1)  # after the browser's last visit; a later visit refreshes the token itself
_LOG = logging.getLogger(__name__)


class ProfileResolver:
    """The logins of an application's requests.

    `profile` is the application's function that names the profile of a request, or returns None for an unknown user.
    Without it: if an operator's secret is set, the operator has the profile of `oauth`, and other requests are
    refused. If none is set, requests on loopback have that profile, and on a public URL each browser session has its
    own. The other arguments are limits, see the constants that they default to.
    """

    def __init__(
        self,
        oauth: NotionOAuth,
        profile: ProfileFromRequest | None = None,
        *,
        max_logins: int = MAX_LOGINS,
        max_extended_scope: int = visitor_registrations.MAX_EXTENDED_SCOPE,
        registration_timeout: timedelta = visitor_registrations.LOCK_TIMEOUT,
        refresh_interval: timedelta = CHECK_INTERVAL,
        cleanup_interval: timedelta = visitor_cleanup.INTERVAL,
    ) -> None:
        self._oauth = oauth
        secret = oauth.settings.operator_secret
        self.operator_access = OperatorAccess(secret, oauth) if secret is not None and profile is None else None
        self.has_visitors = profile is None and self.operator_access is None and oauth.settings.is_public
        self._has_users = profile is not None
        self._profile_from_request = self.operator_access.profile if self.operator_access is not None else profile
        self._max_logins = max_logins
        self._logins: OrderedDict[str, NotionOAuth] = OrderedDict()
        self._last_visits: dict[str, datetime] = {}  # of the visitors in `_logins`
        self._refresh_interval = refresh_interval
        self._cleanup_interval = cleanup_interval
        self._registrations = VisitorRegistrations(
            oauth.store,
            profile_names.VISITOR_PREFIX,
            oauth.clock,
            max_extended_scope=max_extended_scope,
            lock_timeout=registration_timeout,
        )
        # All visitors share one NotionOAuth to start sign-ins: they have no profile until they complete one
        self._pending_visitors = oauth.for_profile(profile_names.VISITOR_PREFIX, store=self._registrations)
        self._pending_visitors.registrations.registration_lock = self._registrations.registration_lock
        self._pending_visitors.audit.profile = None
        self.audit = oauth.audit.without_profile() if self.has_visitors or self._has_users else oauth.audit

    @property
    def oauth(self) -> NotionOAuth:
        """The NotionOAuth whose settings and store all profiles use."""
        return self._oauth

    @property
    def settings(self) -> Settings:
        return self._oauth.settings

    @property
    def clock(self) -> Clock:
        return self._oauth.clock

    @property
    def sign_in_profile(self) -> str:
        """The profile that this service starts sign-ins for. The users of an application have others."""
        return self._pending_visitors.profile if self.has_visitors else self._oauth.profile

    async def for_request(self, request: Request) -> NotionOAuth | None:
        """The login of this request; None for a browser session that has never signed in.

        Raises NotAuthenticated if the application has not identified the user, ConfigurationError if it returns an
        invalid profile name.
        """
        if self.has_visitors:
            browser = session_of(request)
            name = state.session_profile(browser)
            if name is None:
                return None
            state.mark_seen(browser, self.clock().toordinal())
            self._last_visits[name] = self.clock()
            return self.for_profile(name)
        return self.for_profile(await self._profile_of(request))

    async def _profile_of(self, request: Request) -> str:
        if self._profile_from_request is None:
            return self._oauth.profile
        found = self._profile_from_request(request)
        name: object = await found if inspect.isawaitable(found) else found
        if name is None:
            raise NotAuthenticated("The application has not identified the user of this request.")
        if not isinstance(name, str) or not profile_names.PROFILE_NAME.match(name):
            raise ConfigurationError(
                "The application returned an invalid profile name.",
                hint="Use at most 64 letters, digits, - and _, such as user-42, where 42 is the account's number.",
            )
        return name

    def for_profile(self, profile: str) -> NotionOAuth:
        """The login of that profile. Repeated calls return the same object."""
        if profile == self._oauth.profile:
            return self._oauth
        login = self._logins.pop(profile, None) or self._oauth.for_profile(profile)
        self._logins[profile] = login
        if len(self._logins) > self._max_logins:
            self._last_visits.pop(self._logins.popitem(last=False)[0], None)
        return login

    async def status(self, request: Request) -> LoginStatus:
        """The status of this request's login, from stored data only."""
        login = await self.for_request(request)
        return LoginStatus(status="unauthenticated") if login is None else await login.status(storage=False)

    async def previous_login(self, request: Request) -> NotionOAuth | None:
        """The login that a new sign-in would replace. None if it belongs to a browser session and cannot be read."""
        login = await self.for_request(request)
        if self.has_visitors and login is not None:
            try:
                await login.status(storage=False)
            except (StorageError, ResourceMismatch) as error:
                _LOG.warning("Starting a sign-in although the previous login cannot be read: %s", error)
                return None
        return login

    async def start_sign_in(self, request: Request) -> NotionOAuth:
        """The NotionOAuth that starts this request's sign-in.

        A browser session has no profile, and no file on the disk, before it completes a sign-in.
        """
        if self.has_visitors:
            return self._pending_visitors
        return self.for_profile(await self._profile_of(request))

    async def complete_sign_in(self, request: Request, profile: str) -> NotionOAuth:
        """The NotionOAuth that completes a sign-in for this profile. Raises StateMismatch if the user has changed.

        A browser session gets a new profile each time. An attacker who planted the session, or replays it to another
        worker, therefore neither shares the login that the victim creates in it nor ends that login.
        """
        if self.has_visitors:
            return self._oauth.for_profile(profile_names.VISITOR_PREFIX + secrets.token_hex(16))
        if profile != await self._profile_of(request):
            raise StateMismatch("This sign-in was started by another user.")
        return self.for_profile(profile)

    async def discard(self, profile: str) -> None:
        """Remove what a browser session's failed sign-in has stored."""
        if self.has_visitors and isinstance(self._oauth.store, JsonFileStore):
            await self._oauth.store.forget(profile)

    async def on_signed_in(self, request: Request, profile: str, started: GrantRequest) -> None:
        """Assign the profile to the browser session, claim its client, and end the session's previous login.

        The sign-in is complete already: a StorageError is only logged.
        """
        if self.has_visitors:
            browser = session_of(request)
            previous = state.session_profile(browser)
            state.assign_profile(browser, profile)
            with _log_storage_errors("The client of a completed sign-in could not be claimed"):
                await self._registrations.claim(started.client)
            if previous is not None:
                with _log_storage_errors("The login that a sign-in has replaced could not be ended"):
                    await self._end(previous, started)

    async def sign_out(self, request: Request) -> SignOut:
        """End the login of this request. A browser session's profile is removed from the store.

        A browser session is signed out even if its login cannot be read or removed; the files then stay as they are.
        Raises StorageError.
        """
        login = await self.for_request(request)
        if login is None:
            return SignOut.NOT_SIGNED_IN
        if not self.has_visitors:
            return await login.sign_out()
        try:
            outcome = await self._end(login.profile)
        except StoreBusy:
            raise  # temporary: the next try may revoke the grant too
        except StorageError as error:
            _LOG.warning("A browser session was signed out, but its login could not be ended: %s", error)
            outcome = SignOut.NOT_REMOVED
        state.remove_profile(session_of(request))
        return outcome

    async def _end(self, profile: str, successor: GrantRequest | None = None) -> SignOut:
        try:
            outcome = await self.for_profile(profile).sign_out(successor=successor)
        finally:
            self._logins.pop(profile, None)
            self._last_visits.pop(profile, None)
        if isinstance(self._oauth.store, JsonFileStore):
            await self._oauth.store.forget(profile)
        return outcome

    @asynccontextmanager
    async def background_tasks(self) -> AsyncIterator[None]:
        """Refresh logins, if the settings say so, and remove ended visitor logins, until the context exits.

        The exit waits for the refreshes in progress.
        """
        store = self._oauth.store
        async with anyio.create_task_group() as tasks:
            if self.has_visitors and isinstance(store, JsonFileStore):
                lifetimes, interval = self.settings.lifetimes, self._cleanup_interval
                tasks.start_soon(VisitorCleanup(store, lifetimes, self.clock, interval=interval).run)
            if self.settings.keep_fresh and (self._has_users or self.has_visitors):
                refresh = BackgroundRefresh(
                    self._profiles_to_refresh, self.for_profile, interval=self._refresh_interval
                )
                tasks.start_soon(refresh.run)
            elif self.settings.keep_fresh:
                tasks.start_soon(self._oauth.tokens.keep_fresh)
            yield
            tasks.cancel_scope.cancel()
        for login in (self._oauth, *self._logins.values()):
            await login.tokens.wait_until_idle()

    async def _profiles_to_refresh(self) -> Sequence[str]:
        """An application's users: all profiles in the store, if it can list them. Visitors: those of the last day.

        Another visitor's login is refreshed at the next visit, or ends after thirty days.
        """
        store = self._oauth.store
        if self.has_visitors:
            now = self.clock()
            return [name for name, visit in self._last_visits.items() if now - visit < REFRESH_VISITORS_FOR]
        if not isinstance(store, JsonFileStore):
            return tuple(self._logins)
        try:
            return await store.profiles()
        except NotionOAuthError as error:
            _LOG.warning("The profiles to refresh cannot be listed: %s", error)
            return tuple(self._logins)


@contextmanager
def _log_storage_errors(message: str) -> Iterator[None]:
    """Log a StorageError instead of raising it."""
    try:
        yield
    except StorageError as error:
        _LOG.warning("%s: %s", message, error)
