"""Find the NotionOAuth of a request. There are four kinds of services, and a policy for each.

| Service | Policy | Profile of a request |
|---|---|---|
| on this machine | SingleProfile | the profile of the settings |
| with an operator's secret | OperatorProfile | the same, in the browser sessions that have sent the secret |
| an application that knows its users | ApplicationUsers | the one that the application names |
| on a public URL | Visitors | another one for each browser session |
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from fastapi import Request

from notion_oauth.models import GrantRequest
from notion_oauth.observability.audit import Audit
from notion_oauth.service import NotionOAuth
from notion_oauth.tokens.revocation import SignOut
from notion_oauth.tokens.status import LoginStatus
from notion_oauth.web.profiles.operator import OperatorProfile
from notion_oauth.web.profiles.operator_access import OperatorAccess
from notion_oauth.web.profiles.single import SingleProfile
from notion_oauth.web.profiles.users import ApplicationUsers, ProfileFromRequest
from notion_oauth.web.profiles.visitors import Visitors

__all__ = ["ProfileFromRequest", "ProfileResolver", "create_resolver"]


class ProfileResolver(Protocol):
    """Finds the NotionOAuth of each request: what each policy does. Methods that read the store raise StorageError."""

    @property
    def oauth(self) -> NotionOAuth:
        """The NotionOAuth whose settings and store all profiles use."""

    @property
    def audit(self) -> Audit:
        """The log for events before the profile is known."""

    @property
    def has_visitors(self) -> bool:
        """Whether a login belongs to a browser session, and is lost with its cookie."""

    @property
    def operator_access(self) -> OperatorAccess | None:
        """The operator's access, if the service has an operator."""

    @property
    def sign_in_profile(self) -> str:
        """The profile that /login starts a sign-in for, unless the application names one for each user."""

    async def for_request(self, request: Request) -> NotionOAuth | None:
        """Return the NotionOAuth of this request; None for a browser session that has never signed in.

        Raises UserNotIdentified if the user is unknown, ConfigurationError for an invalid profile name.
        """

    async def status(self, request: Request) -> LoginStatus:
        """Return the status of this request's login, from stored data only."""

    async def profiles(self) -> Sequence[str]:
        """Return the profiles that a person may choose from; none if a request cannot choose."""

    def chosen_profile(self, request: Request) -> str:
        """Return the profile that the request's query names, or that of the settings if it cannot choose one."""

    async def previous_login(self, request: Request) -> NotionOAuth | None:
        """Return the NotionOAuth of the login that a new sign-in would replace."""

    async def start_sign_in(self, request: Request) -> NotionOAuth:
        """Return the NotionOAuth that starts this request's sign-in."""

    async def complete_sign_in(self, request: Request, profile: str) -> NotionOAuth:
        """Return the NotionOAuth that completes a sign-in for `profile`. Raises StateMismatch for another user's."""

    async def discard(self, profile: str) -> None:
        """Remove what a failed sign-in has stored."""

    async def on_signed_in(self, request: Request, profile: str, started: GrantRequest, signed_in_at: int) -> int:
        """Called when a sign-in is complete and stored, with its time in milliseconds since 1970.

        Return the time, or a later one if the clock that gave it is behind: later than the browser's earlier logins.
        """

    async def repeat_sign_in(self, request: Request, profile: str, signed_in_at: int) -> int | None:
        """Give the browser the login of a sign-in that it has completed before, and return its time.

        A later login of the browser stays. None if there is no login any more. Raises StateMismatch for another user's.
        """

    def session_identity(self, request: Request) -> str:
        """Return what distinguishes this session's login or access from that of other sessions: for form tokens."""

    async def sign_out(self, request: Request) -> SignOut:
        """End the login of this request."""

    def background_tasks(self) -> AbstractAsyncContextManager[None]:
        """Keep tokens fresh, if the settings say so, until the context exits; that waits for refreshes in progress."""


def create_resolver(
    oauth: NotionOAuth, profile: ProfileFromRequest | None = None, *, choice: bool = False
) -> ProfileResolver:
    """Return the policy for these settings. `profile` names a request's profile, or None for an unknown user.

    With `choice`, the query of a request may name one of the stored profiles: for the service alone, because in an
    application the query is the application's. Raises ConfigurationError if this version cannot use the store.
    """
    oauth.store.check_usable()
    if profile is not None:
        return ApplicationUsers(oauth, profile)
    if oauth.settings.operator_secret is not None:
        return OperatorProfile(oauth, oauth.settings.operator_secret, choice=choice)
    return Visitors(oauth) if oauth.settings.is_public else SingleProfile(oauth, choice=choice)
