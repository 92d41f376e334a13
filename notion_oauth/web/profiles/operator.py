"""The operator of a service: the one profile is theirs alone."""

from __future__ import annotations

from fastapi import Request
from pydantic import SecretStr

from notion_oauth.service import NotionOAuth
from notion_oauth.web.profiles.operator_access import OperatorAccess
from notion_oauth.web.profiles.single import SingleProfile
from notion_oauth.web.sessions.values import session_of


class OperatorProfile(SingleProfile):
    """Requests are for the profile of the settings, if their browser session is the operator's."""

    operator_access: OperatorAccess

    def __init__(self, oauth: NotionOAuth, secret: SecretStr, *, choice: bool = False) -> None:
        super().__init__(oauth, choice=choice)
        self.operator_access = OperatorAccess(secret, oauth)

    async def for_request(self, request: Request) -> NotionOAuth | None:
        """Raises OperatorRequired unless the session is the operator's."""
        self.operator_access.require(request)
        return await super().for_request(request)

    def session_identity(self, request: Request) -> str:
        return self.operator_access.proof(session_of(request))
