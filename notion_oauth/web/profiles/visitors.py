"""The browser sessions of a service on a public URL: each has a profile of its own."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta

import anyio
from fastapi import Request

from notion_oauth import profile_names
from notion_oauth.errors import ResourceMismatch, StorageError, StoreBusy
from notion_oauth.models import GrantRequest
from notion_oauth.observability.audit import Audit
from notion_oauth.service import NotionOAuth
from notion_oauth.tokens.revocation import SignOut
from notion_oauth.tokens.source import CHECK_INTERVAL
from notion_oauth.tokens.status import LoginStatus
from notion_oauth.web.profiles import visitor_cleanup, visitor_registrations
from notion_oauth.web.profiles.background_refresh import BackgroundRefresh
from notion_oauth.web.profiles.keeper import Keeper
from notion_oauth.web.profiles.logins import MAX_LOGINS, Logins
from notion_oauth.web.profiles.operator_access import OperatorAccess
from notion_oauth.web.profiles.visitor_cleanup import VisitorCleanup
from notion_oauth.web.profiles.visitor_registrations import VisitorRegistrations
from notion_oauth.web.sessions import values
from notion_oauth.web.sessions.browser_cookies import BrowserCookies
from notion_oauth.web.sessions.keys import session_keys
from notion_oauth.web.sessions.pending import SignInCookies
from notion_oauth.web.sessions.values import session_of

REFRESH_VISITORS_FOR = timedelta(days=1)  # after the browser's last visit; a later visit refreshes the token itself
_LOG = logging.getLogger(__name__)


class Visitors:
    """Each browser session has a profile with a name that cannot be guessed. The arguments are limits."""

    has_visitors = True
    operator_access: OperatorAccess | None = None
    sign_in_profile = profile_names.VISITOR_PREFIX

    def __init__(
        self,
        oauth: NotionOAuth,
        *,
        max_logins: int = MAX_LOGINS,
        max_extended_scope: int = visitor_registrations.MAX_EXTENDED_SCOPE,
        registration_timeout: timedelta = visitor_registrations.LOCK_TIMEOUT,
        refresh_interval: timedelta = CHECK_INTERVAL,
        cleanup_interval: timedelta = visitor_cleanup.INTERVAL,
    ) -> None:
        self.oauth = oauth
        self.audit: Audit = oauth.audit.without_profile()
        self._logins = Logins(oauth, max_logins=max_logins, on_drop=self._forget_visit)
        self._last_visits: dict[str, datetime] = {}  # of the visitors in `_logins`
        self._refresh_interval = refresh_interval
        self._cleanup_interval = cleanup_interval
        self._registrations = VisitorRegistrations(
            oauth.store,
            self.sign_in_profile,
            oauth.clock,
            max_extended_scope=max_extended_scope,
            lock_timeout=registration_timeout,
        )
        self._sign_ins = SignInCookies(session_keys(oauth.settings), BrowserCookies(public=oauth.settings.is_public))
        # All visitors share one NotionOAuth to start sign-ins: they have no profile until they complete one
        self._pending = oauth.for_profile(self.sign_in_profile, audit=self.audit, registrations=self._registrations)

    def _forget_visit(self, profile: str) -> None:
        self._last_visits.pop(profile, None)

    async def for_request(self, request: Request) -> NotionOAuth | None:
        name = self._profile_of(request)
        if name is None:
            return None
        now = self.oauth.clock()
        values.mark_seen(session_of(request), now.toordinal())
        self._last_visits[name] = now
        return self._logins.for_profile(name)

    def _profile_of(self, request: Request) -> str | None:
        """Return the profile of the newest login of the browser.

        A response that was late, or that another program wrote, may have restored an older session. The cookies of
        completed sign-ins, which no other response changes, then correct it.
        """
        session = session_of(request)
        for completed in self._sign_ins.all_completed(request):
            if completed.profile is not None and completed.signed_in_at > values.signed_in_at(session):
                self._assign(session, completed.profile, completed.signed_in_at)
        return values.session_profile(session)

    def _assign(self, session: values.Session, profile: str, signed_in_at: int) -> None:
        values.assign_profile(session, profile, signed_in_at, self.oauth.clock().toordinal())

    def session_identity(self, request: Request) -> str:
        """It stays after a sign-out, so that a second click on the button is answered as the first one."""
        self._profile_of(request)
        return str(values.signed_in_at(session_of(request)))

    async def status(self, request: Request) -> LoginStatus:
        oauth = await self.for_request(request)
        return LoginStatus(status="unauthenticated") if oauth is None else await oauth.status(storage=False)

    async def profiles(self) -> Sequence[str]:
        return ()

    def chosen_profile(self, request: Request) -> str:  # noqa: ARG002 - a visitor cannot choose
        return self.oauth.profile

    async def previous_login(self, request: Request) -> NotionOAuth | None:
        """None also for a login that cannot be read: the visitor can have another."""
        oauth = await self.for_request(request)
        if oauth is not None:
            try:
                await oauth.status(storage=False)
            except (StorageError, ResourceMismatch) as error:
                _LOG.warning("Starting a sign-in although the previous login cannot be read: %s", error)
                return None
        return oauth

    async def start_sign_in(self, request: Request) -> NotionOAuth:  # noqa: ARG002 - the same for all visitors
        """A browser session has no profile, and no file on the disk, before it completes a sign-in."""
        return self._pending

    async def complete_sign_in(self, request: Request, profile: str) -> NotionOAuth:  # noqa: ARG002 - see below
        """A new profile each time.

        An attacker who planted the session, or replays it to another worker, therefore neither shares the login that
        the victim creates in it nor ends that login.
        """
        return self.oauth.for_profile(profile_names.VISITOR_PREFIX + secrets.token_hex(16))

    async def discard(self, profile: str) -> None:
        await self.oauth.store.forget(profile)

    async def on_signed_in(self, request: Request, profile: str, started: GrantRequest, signed_in_at: int) -> int:
        """Assign the profile to the browser session, claim its client, and end the session's previous login.

        The sign-in is complete already: a StorageError is only logged.
        """
        previous = self._profile_of(request)
        signed_in_at = max(signed_in_at, values.signed_in_at(session_of(request)) + 1)
        self._assign(session_of(request), profile, signed_in_at)
        with _log_storage_errors("The client of a completed sign-in could not be claimed"):
            await self._registrations.claim(started.client)
        if previous is not None:
            with _log_storage_errors("The login that a sign-in has replaced could not be ended"):
                await self._end(previous, started)
        return signed_in_at

    async def repeat_sign_in(self, request: Request, profile: str, signed_in_at: int) -> int | None:
        session, current = session_of(request), self._profile_of(request)
        newest = values.signed_in_at(session)
        has_other = current not in (None, profile) and await self._has_login(str(current))
        if has_other and newest > signed_in_at:
            return signed_in_at
        if not await self._has_login(profile):
            return signed_in_at if has_other else None
        if current != profile:
            signed_in_at = max(signed_in_at, newest + 1)
            self._assign(session, profile, signed_in_at)
        return signed_in_at

    async def _has_login(self, profile: str) -> bool:
        status = await self._logins.for_profile(profile).status(storage=False)
        if status.status == "unauthenticated":
            self._logins.drop(profile)
        return status.status != "unauthenticated"

    async def sign_out(self, request: Request) -> SignOut:
        """End the login and remove its profile from the store.

        The browser session is signed out even if its login cannot be read or removed; the files then stay as they are.
        """
        oauth = await self.for_request(request)
        if oauth is None:
            return SignOut.NOT_SIGNED_IN
        await self._end_others(request, oauth.profile)
        try:
            outcome = await self._end(oauth.profile)
        except StoreBusy:
            raise  # temporary: the next try may revoke the grant too
        except StorageError as error:
            _LOG.warning("A browser session was signed out, but its login could not be ended: %s", error)
            outcome = SignOut.NOT_REMOVED
        values.remove_profile(session_of(request))
        return outcome

    async def _end_others(self, request: Request, profile: str) -> None:
        """End the logins of sign-ins that this browser has completed at the same time."""
        for other in {completed.profile for completed in self._sign_ins.all_completed(request)} - {None, profile}:
            with _log_storage_errors("Another login of a browser that has signed out could not be ended"):
                if await self._has_login(str(other)):
                    await self._end(str(other))

    async def _end(self, profile: str, successor: GrantRequest | None = None) -> SignOut:
        try:
            return await self._logins.for_profile(profile).sign_out(successor=successor, forget=True)
        finally:
            self._logins.drop(profile)

    @asynccontextmanager
    async def background_tasks(self) -> AsyncIterator[None]:
        """Refresh the logins of recent visitors, and remove ended ones."""
        cleanup = VisitorCleanup(
            self.oauth.store, self.oauth.settings.lifetimes, self.oauth.clock, interval=self._cleanup_interval
        )
        refresh = BackgroundRefresh(self._recent, self._logins.for_profile, interval=self._refresh_interval)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cleanup.run)
            if self.oauth.settings.keep_fresh:
                tasks.start_soon(refresh.run)
                if self.oauth.store.has_leases:
                    tasks.start_soon(Keeper(self.oauth.store, self._logins.for_profile).run)
            yield
            tasks.cancel_scope.cancel()
        await self._logins.wait_until_idle()

    async def _recent(self) -> Sequence[str]:
        """The visitors of the last day. Another login is refreshed at its next visit, or ends after thirty days."""
        now = self.oauth.clock()
        return [name for name, visit in self._last_visits.items() if now - visit < REFRESH_VISITORS_FOR]


@contextmanager
def _log_storage_errors(message: str) -> Iterator[None]:
    """Log a StorageError instead of raising it."""
    try:
        yield
    except StorageError as error:
        _LOG.warning("%s: %s", message, error)
