"""The users of an application: it names the profile of each request."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeAlias

import anyio
from fastapi import Request

from notion_oauth import profile_names
from notion_oauth.errors import ConfigurationError, NotionOAuthError, UserNotIdentified
from notion_oauth.service import NotionOAuth
from notion_oauth.tokens.source import CHECK_INTERVAL
from notion_oauth.web.profiles.background_refresh import BackgroundRefresh
from notion_oauth.web.profiles.keeper import Keeper
from notion_oauth.web.profiles.logins import MAX_LOGINS, Logins
from notion_oauth.web.profiles.single import SingleProfile

ProfileFromRequest: TypeAlias = Callable[[Request], str | Awaitable[str | None] | None]

_LOG = logging.getLogger(__name__)


class ApplicationUsers(SingleProfile):
    """`profile` names the profile of a request, or returns None for an unknown user."""

    def __init__(
        self,
        oauth: NotionOAuth,
        profile: ProfileFromRequest,
        *,
        max_logins: int = MAX_LOGINS,
        refresh_interval: timedelta = CHECK_INTERVAL,
    ) -> None:
        super().__init__(oauth)
        self.audit = oauth.audit.without_profile()
        self._profile_from_request = profile
        self._logins = Logins(oauth, max_logins=max_logins)
        self._refresh_interval = refresh_interval

    async def for_request(self, request: Request) -> NotionOAuth | None:
        found = self._profile_from_request(request)
        name: object = await found if inspect.isawaitable(found) else found
        if name is None:
            raise UserNotIdentified("The application has not identified the user of this request.")
        if not isinstance(name, str) or not profile_names.PROFILE_NAME.match(name):
            raise ConfigurationError(
                "The application returned an invalid profile name.",
                hint="Use at most 64 letters, digits, - and _, such as user-42, where 42 is the account's number.",
            )
        return self._logins.for_profile(name)

    @asynccontextmanager
    async def background_tasks(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            if self.oauth.settings.keep_fresh and self.oauth.store.has_leases:
                # There may be very many users: a token is refreshed when it is used, and ahead of its expiry
                tasks.start_soon(Keeper(self.oauth.store, self._logins.for_profile).run)
            elif self.oauth.settings.keep_fresh:
                refresh = BackgroundRefresh(self._due, self._logins.for_profile, interval=self._refresh_interval)
                tasks.start_soon(refresh.run)
            yield
            tasks.cancel_scope.cancel()
        await self._logins.wait_until_idle()

    async def _due(self) -> Sequence[str]:
        """Return all users whose token may have to be refreshed now."""
        try:
            return await self.oauth.store.due(self.oauth.clock() + self.oauth.settings.lifetimes.refresh_window)
        except NotionOAuthError as error:
            _LOG.warning("The profiles to refresh cannot be listed: %s", error)
            return self._logins.profiles
