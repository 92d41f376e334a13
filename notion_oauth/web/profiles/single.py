"""One profile for all requests: the local user's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import Request

from notion_oauth.errors import StateMismatch
from notion_oauth.models import GrantRequest
from notion_oauth.observability.audit import Audit
from notion_oauth.service import NotionOAuth
from notion_oauth.tokens.revocation import SignOut
from notion_oauth.tokens.status import LoginStatus
from notion_oauth.web.profiles.operator_access import OperatorAccess


class SingleProfile:
    """Every request is for the profile of the settings."""

    has_visitors = False
    operator_access: OperatorAccess | None = None

    def __init__(self, oauth: NotionOAuth) -> None:
        self.oauth = oauth
        self.audit: Audit = oauth.audit
        self.sign_in_profile = oauth.profile

    async def for_request(self, request: Request) -> NotionOAuth | None:  # noqa: ARG002 - of use to other policies
        return self.oauth

    async def status(self, request: Request) -> LoginStatus:
        oauth = await self.for_request(request)
        return LoginStatus(status="unauthenticated") if oauth is None else await oauth.status(storage=False)

    async def previous_login(self, request: Request) -> NotionOAuth | None:
        return await self.for_request(request)

    async def start_sign_in(self, request: Request) -> NotionOAuth:
        return await self.for_request(request) or self.oauth

    async def complete_sign_in(self, request: Request, profile: str) -> NotionOAuth:
        oauth = await self.start_sign_in(request)
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
        await self.oauth.tokens.wait_until_idle()
