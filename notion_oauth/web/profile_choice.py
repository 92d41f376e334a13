"""The profiles that a person can choose from on the page, and the paths of the routes for the chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from fastapi import Request

from notion_oauth.errors import NotionOAuthError
from notion_oauth.tokens.status import LoginStatus
from notion_oauth.web.profiles.resolver import ProfileResolver
from notion_oauth.web.profiles.single import PROFILE

_STATES = {"authenticated": "Connected", "expired": "Connected", "unauthenticated": "Not connected"}


@dataclass(frozen=True)
class Choice:
    """One of the profiles. `status` is None if it cannot be read."""

    profile: str
    path: str
    status: LoginStatus | None
    current: bool

    @property
    def name(self) -> str:
        return (self.status and self.status.workspace) or self.profile

    @property
    def state(self) -> str:
        if self.status is None:
            return "Cannot be read"
        return "Ended, sign in again" if self.status.message else _STATES[self.status.status]


class ProfileChoice:
    def __init__(self, resolver: ProfileResolver) -> None:
        self._resolver = resolver

    def path(self, request: Request, route: str, profile: str | None = None) -> str:
        """The path of a route as browsers see it, wherever the router is mounted.

        It is for `profile`, by default the one that the request has chosen.
        """
        path = request.url_for(f"notion_oauth_{route}").path
        chosen = profile or self._resolver.chosen_profile(request)
        return path if chosen == self._resolver.oauth.profile else f"{path}?{urlencode({PROFILE: chosen})}"

    async def all(self, request: Request) -> Sequence[Choice]:
        """The profiles, if there are several."""
        names, chosen = await self._resolver.profiles(), self._resolver.chosen_profile(request)
        if len(names) < 2:
            return ()
        return [
            Choice(name, self.path(request, "status", name), await self._status(name), name == chosen) for name in names
        ]

    async def _status(self, profile: str) -> LoginStatus | None:
        try:
            return await self._resolver.oauth.for_profile(profile).status(storage=False)
        except NotionOAuthError:
            return None
