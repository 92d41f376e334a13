"""One profile for all requests, the local user's; on the page of the service, those beside it can be chosen."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
from fastapi import Request

from notion_oauth.errors import BadRequest, StateMismatch
from notion_oauth.models import GrantRequest
from notion_oauth.observability.audit import Audit
from notion_oauth.profile_names import VISITOR_PROFILE
from notion_oauth.service import NotionOAuth
from notion_oauth.tokens.revocation import SignOut
from notion_oauth.tokens.status import LoginStatus
from notion_oauth.web.profiles.logins import Logins
from notion_oauth.web.profiles.operator_access import OperatorAccess

PROFILE = "profile"  # the query parameter that chooses one
MAX_CHOICE = 20  # profiles to choose from


class SingleProfile:
    """Every request is for the profile of the settings. With `choice`, its query may name another stored one."""

    has_visitors = False
    operator_access: OperatorAccess | None = None

    def __init__(self, oauth: NotionOAuth, *, choice: bool = False) -> None:
        self.oauth = oauth
        self._choice = Logins(oauth, max_logins=MAX_CHOICE) if choice else None
        self.audit: Audit = oauth.audit
        self.sign_in_profile = oauth.profile

    async def for_request(self, request: Request) -> NotionOAuth | None:
        name = self.chosen_profile(request)
        if self._choice is None or name == self.oauth.profile:
            return self.oauth
        if name not in await self.profiles():
            raise BadRequest("There is no login of that profile.", hint="Open the status page.")
        return self._choice.for_profile(name)

    def chosen_profile(self, request: Request) -> str:
        return (request.query_params.get(PROFILE) if self._choice is not None else None) or self.oauth.profile

    async def profiles(self) -> Sequence[str]:
        if self._choice is None:
            return ()
        stored = await self.oauth.store.profiles(limit=MAX_CHOICE)
        return sorted({self.oauth.profile, *(name for name in stored if not VISITOR_PROFILE.match(name))})

    async def status(self, request: Request) -> LoginStatus:
        oauth = await self.for_request(request)
        return LoginStatus(status="unauthenticated") if oauth is None else await oauth.status(storage=False)

    async def previous_login(self, request: Request) -> NotionOAuth | None:
        return await self.for_request(request)

    async def start_sign_in(self, request: Request) -> NotionOAuth:
        return await self.for_request(request) or self.oauth

    async def complete_sign_in(self, request: Request, profile: str) -> NotionOAuth:
        oauth = await self.start_sign_in(request)
        if self._choice is not None:
            return self._choice.for_profile(profile)
        if oauth.profile != profile:
            raise StateMismatch("This sign-in was started by another user.")
        return oauth

    async def discard(self, profile: str) -> None:
        pass  # a sign-in stores nothing before it is complete

    async def on_signed_in(self, request: Request, profile: str, started: GrantRequest, signed_in_at: int) -> int:  # noqa: ARG002 - of use to other policies
        return signed_in_at

    async def repeat_sign_in(self, request: Request, profile: str, signed_in_at: int) -> int | None:
        oauth = await self.complete_sign_in(request, profile)
        return None if (await oauth.status(storage=False)).status == "unauthenticated" else signed_in_at

    def session_identity(self, request: Request) -> str:  # noqa: ARG002 - of use to other policies
        return ""

    async def sign_out(self, request: Request) -> SignOut:
        oauth = await self.for_request(request)
        return SignOut.NOT_SIGNED_IN if oauth is None else await oauth.sign_out()

    @asynccontextmanager
    async def background_tasks(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            if self.oauth.settings.keep_fresh:
                tasks.start_soon(self.oauth.tokens.keep_fresh)
            yield
            tasks.cancel_scope.cancel()
        await (self.oauth.tokens if self._choice is None else self._choice).wait_until_idle()
