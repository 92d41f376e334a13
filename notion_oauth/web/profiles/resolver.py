"""Whose login a request means: one NotionOAuth for each profile, and who of those who ask has which.

On loopback it is the local user's. On a public URL each browser session has a profile of its own, under a name that
nobody can guess, unless the application says who is asking, or the operator has set a secret.
"""

from __future__ import annotations

import inspect
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import NoReturn, TypeAlias

import anyio
from fastapi import Request

from notion_oauth import profile_names
from notion_oauth.clock import Clock
from notion_oauth.errors import (
    ConfigurationError,
    NotAuthenticated,
    NotionOAuthError,
    NotSignedIn,
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
from notion_oauth.web.profiles.operator import OperatorAccess
from notion_oauth.web.profiles.visitor_cleanup import VisitorCleanup
from notion_oauth.web.profiles.visitor_registrations import VisitorRegistrations
from notion_oauth.web.sessions import state
from notion_oauth.web.sessions.state import session_of

ProfileFromRequest: TypeAlias = Callable[[Request], str | Awaitable[str | None] | None]

MAX_LOGINS = 1024  # in memory; the one that was asked for least recently gives way, and is made again when asked for
AT_ONCE = 8  # refreshes that are waited for side by side
FRESH_FOR = timedelta(days=1)  # after a browser's last visit; who comes later has the token renewed then
_LOG = logging.getLogger(__name__)


class ProfileResolver:
    """The logins that an application's requests mean.

    `profile` is the application's own notion of who is asking: the name of a profile, None for nobody. Without it,
    whoever has given the operator's secret means the profile of `oauth`, where one is set; where none is, all on
    loopback do, and each browser session means its own on a public URL.
    """

    def __init__(self, oauth: NotionOAuth, profile: ProfileFromRequest | None = None) -> None:
        self._oauth = oauth
        secret = oauth.settings.operator_secret
        self.operator_access = OperatorAccess(secret, oauth) if secret is not None and profile is None else None
        self.has_visitors = profile is None and self.operator_access is None and oauth.settings.is_public
        self._who_asks = self.operator_access.profile if self.operator_access is not None else profile
        self._many = profile is not None
        self._visited: dict[str, datetime] = {}  # of those in `_made`
        self._made: OrderedDict[str, NotionOAuth] = OrderedDict()
        self._said: dict[str, str] = {}  # of those that are kept fresh, why they last could not be
        self._unfinished = VisitorRegistrations(oauth.store, profile_names.VISITOR_PREFIX, oauth.clock)
        self._beginning = oauth.for_profile(
            profile_names.VISITOR_PREFIX, store=self._unfinished
        )  # of all browser sessions
        self._beginning.registrations.registration_lock = self._unfinished.registration_lock
        self._beginning.audit.profile = None  # they have none before they are finished
        self.audit = oauth.audit.without_profile() if self.has_visitors or self._many else oauth.audit

    @property
    def oauth(self) -> NotionOAuth:
        """Whose settings and store they all have."""
        return self._oauth

    @property
    def settings(self) -> Settings:
        return self._oauth.settings

    @property
    def clock(self) -> Clock:
        return self._oauth.clock

    @property
    def sign_in_profile(self) -> str:
        """The profile that a sign-in of this service's own is begun in; an application's users have others."""
        return self._beginning.profile if self.has_visitors else self._oauth.profile

    async def for_request(self, request: Request) -> NotionOAuth | None:
        """The login of whoever asks; None for a browser that has never signed in.

        Raises NotIdentified where the application knows nobody, ConfigurationError where it gives a name that is none.
        """
        if self.has_visitors:
            browser = session_of(request)
            name = state.session_profile(browser)
            if name is None:
                return None
            state.mark_seen(browser, self.clock().toordinal())
            self._visited[name] = self.clock()
            return self.for_profile(name)
        return self.for_profile(await self._asking(request))

    async def _asking(self, request: Request) -> str:
        if self._who_asks is None:
            return self._oauth.profile
        found = self._who_asks(request)
        name: object = await found if inspect.isawaitable(found) else found
        if name is None:
            raise NotAuthenticated("This application does not know who is asking.")
        if not isinstance(name, str) or not profile_names.PROFILE_NAME.match(name):
            raise ConfigurationError(
                "The application names a profile that is none.",
                hint="Give names of letters, digits, - and _, 64 at most; such as user- and the number of an account.",
            )
        return name

    def for_profile(self, profile: str) -> NotionOAuth:
        """The login of that profile; the same object for as long as it is asked for."""
        if profile == self._oauth.profile:
            return self._oauth
        found = self._made.pop(profile, None) or self._oauth.for_profile(profile)
        self._made[profile] = found
        if len(self._made) > MAX_LOGINS:
            self._visited.pop(self._made.popitem(last=False)[0], None)
        return found

    async def status(self, request: Request) -> LoginStatus:
        """A look at the login of whoever asks."""
        login = await self.for_request(request)
        return LoginStatus(status="unauthenticated") if login is None else await login.status(storage=False)

    async def previous_login(self, request: Request) -> NotionOAuth | None:
        """The login in whose place a sign-in would come. Of a browser session none that cannot be used."""
        login = await self.for_request(request)
        if self.has_visitors and login is not None:
            try:
                await login.status(storage=False)
            except (StorageError, ResourceMismatch) as error:
                _LOG.warning("A sign-in begins without a look at the one before: %s", error)
                return None
        return login

    async def start_sign_in(self, request: Request) -> NotionOAuth:
        """What begins a sign-in for whoever asks.

        A browser session's leaves nothing of its own on the disk before it is finished, and has no profile before.
        """
        if self.has_visitors:
            return self._beginning
        return self.for_profile(await self._asking(request))

    async def complete_sign_in(self, request: Request, profile: str) -> NotionOAuth:
        """What finishes the sign-in that was begun for this profile. Raises StateMismatch where another asks now.

        A browser session's gets its profile only now, another each time: whoever has planted the session, or replays
        it to another worker, neither shares the login that somebody else makes in it nor loses it for them.
        """
        if self.has_visitors:
            return self._oauth.for_profile(profile_names.VISITOR_PREFIX + secrets.token_hex(16))
        if profile != await self._asking(request):
            raise StateMismatch("This sign-in was begun by somebody else.")
        return self.for_profile(profile)

    async def discard(self, profile: str) -> None:
        """Leave nothing of a browser session's sign-in that has failed."""
        if self.has_visitors and isinstance(self._oauth.store, JsonFileStore):
            await self._oauth.store.forget(profile)

    async def on_signed_in(self, request: Request, profile: str, begun: GrantRequest) -> None:
        """Let the browser session have the profile and the client, and end the login that it had before.

        What cannot be done beside is told in the log: the login is there all the same.
        """
        if self.has_visitors:
            browser = session_of(request)
            before = state.session_profile(browser)
            state.assign_profile(browser, profile)
            with _only_logged("Others may begin with the client of a sign-in that is finished"):
                await self._unfinished.claim(begun.client)
            if before is not None:
                with _only_logged("The login that a sign-in has replaced could not be ended"):
                    await self._end(before, begun)

    async def sign_out(self, request: Request) -> SignOut:
        """End the login of whoever asks; of a browser session's own nothing is kept.

        A browser session lets go of one that cannot be read or removed, which is left as it is. Raises StorageError.
        """
        login = await self.for_request(request)
        if login is None:
            return SignOut.NOT_SIGNED_IN
        if not self.has_visitors:
            return await login.sign_out()
        try:
            outcome = await self._end(login.profile)
        except StoreBusy:
            raise  # passing: the next try may end it at the server too
        except StorageError as error:
            _LOG.warning("A browser session was signed out of a login that could not be ended: %s", error)
            outcome = SignOut.NOT_REMOVED
        state.remove_profile(session_of(request))
        return outcome

    async def _end(self, profile: str, successor: GrantRequest | None = None) -> SignOut:
        try:
            outcome = await self.for_profile(profile).sign_out(successor=successor)
        finally:
            self._made.pop(profile, None)
            self._visited.pop(profile, None)
        if isinstance(self._oauth.store, JsonFileStore):
            await self._oauth.store.forget(profile)
        return outcome

    async def keep_fresh(self) -> NoReturn:
        """Refresh whatever login is due, until cancelled. Logs what goes wrong; raises nothing of ours.

        Of an application's users: all that the store has, where it can tell. Of browser sessions: those that this
        worker has seen within a day. Another is refreshed when its browser comes back, or ends after thirty days.
        """
        if not self._many and not self.has_visitors:
            await self._oauth.tokens.keep_fresh()
        side_by_side = anyio.CapacityLimiter(AT_ONCE)
        while True:
            await self._refresh_all(side_by_side)
            await anyio.sleep(CHECK_INTERVAL.total_seconds())

    async def _refresh_all(self, side_by_side: anyio.CapacityLimiter) -> None:
        names = await self._kept()
        for gone in self._said.keys() - set(names):
            del self._said[gone]
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(self._refreshed, name, side_by_side)

    async def _kept(self) -> Sequence[str]:
        store = self._oauth.store
        if self.has_visitors:
            now = self.clock()
            return [name for name, when in self._visited.items() if now - when < FRESH_FOR]
        if not isinstance(store, JsonFileStore):
            return tuple(self._made)
        try:
            return await store.profiles()
        except NotionOAuthError as error:
            _LOG.warning("The logins cannot be kept fresh: %s", error)
            return tuple(self._made)

    async def _refreshed(self, profile: str, side_by_side: anyio.CapacityLimiter) -> None:
        async with side_by_side:
            tokens = self.for_profile(profile).tokens
            try:
                await tokens.token()
                await tokens.wait_until_idle()
            except NotionOAuthError as error:
                if error.message != self._said.get(profile) and not isinstance(error, NotSignedIn):
                    _LOG.warning("A token cannot be kept fresh: %s", error)
                self._said[profile] = error.message
            else:
                self._said.pop(profile, None)

    @asynccontextmanager
    async def kept_fresh(self) -> AsyncIterator[None]:
        """Keep logins fresh meanwhile, where that is set, and remove those that have ended of browsers that have gone.

        Ends when the refreshes under way have.
        """
        store = self._oauth.store
        async with anyio.create_task_group() as tasks:
            if self.has_visitors and isinstance(store, JsonFileStore):
                tasks.start_soon(VisitorCleanup(store, self.settings.lifetimes, self.clock).go_on)
            if self.settings.keep_fresh:
                tasks.start_soon(self.keep_fresh)
            yield
            tasks.cancel_scope.cancel()
        for login in (self._oauth, *self._made.values()):
            await login.tokens.wait_until_idle()


@contextmanager
def _only_logged(failed: str) -> Iterator[None]:
    """Let what the store cannot do be a line in the log."""
    try:
        yield
    except StorageError as error:
        _LOG.warning("%s: %s", failed, error)
