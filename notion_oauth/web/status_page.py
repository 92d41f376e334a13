"""The status as a page and as JSON, what was done, and what was refused: what the routes answer with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from fastapi import Request, Response

from notion_oauth import pages
from notion_oauth.errors import NotionOAuthError, OperatorRequired, ResourceMismatch, StorageError
from notion_oauth.humanize import format_time
from notion_oauth.tokens.revocation import SIGN_OUT_MESSAGES
from notion_oauth.tokens.status import LoginStatus
from notion_oauth.web import responses
from notion_oauth.web.profiles.resolver import ProfileResolver
from notion_oauth.web.sessions import state
from notion_oauth.web.sessions.state import session_of

_LOG = logging.getLogger(__name__)
_NOTICES = {
    "signed_in": "You are signed in.",
    "refreshed": "The token was renewed.",
    "fresh": "The token was renewed a moment ago.",
    "sent_here": "Another site has sent you here. Sign in only if you meant to.",
    **{f"signed_out_{outcome.name}": text for outcome, text in SIGN_OUT_MESSAGES.items()},
}
_TITLES = {"authenticated": "Connected to Notion", "expired": "Token expired", "unauthenticated": "Not connected"}


class StatusPage:
    """The answers that show a login: of whoever asks."""

    def __init__(self, logins: ProfileResolver) -> None:
        self._logins = logins
        self._links = ("login", "refresh", "logout", *(() if logins.operator_access is None else ("lock",)))

    async def status(self, request: Request, *, notice: str | None = None) -> Response:
        """The status as a page for a browser and as JSON for a program."""
        try:
            status = await self._logins.status(request)
        except (StorageError, ResourceMismatch) as error:
            if not self._logins.has_visitors:
                raise
            return self._unusable(request, error, notice)
        if not responses.wants_html(request):
            return responses.encoded(_as_json(status))
        browser = session_of(request)
        shown = _page_context(request, browser, notice or state.pop_notice(browser), self._links)
        whose = {"own": self._logins.has_visitors}
        return pages.page("status.html", {**_status_context(status, self._logins.clock()), **shown, **whose})

    def _unusable(self, request: Request, error: NotionOAuthError, notice: str | None) -> Response:
        """What a visitor is told whose login cannot be used: they can have another. The reason is its operator's."""
        _LOG.error("The login of a browser session cannot be used: %s", error)
        told = type(error)(
            "The login of this browser cannot be used just now.",
            hint="Sign in anew, or tell the operator of this service: the log says why.",
        )
        code = responses.status_code(told)
        if not responses.wants_html(request):
            return responses.data(responses.problem(told), status=code)
        shown = _page_context(request, session_of(request), notice, self._links)
        context = {"title": "That did not work", "message": told.message, "cure": told.hint, **shown}
        return pages.page("unusable.html", context, status=code)

    async def done(self, request: Request, notice: str) -> Response:
        """Show what was achieved. A browser is sent on: a reload repeats nothing, no code stays in its address bar."""
        if responses.wants_html(request):
            state.set_notice(session_of(request), notice)
            return responses.redirect(route_path(request, "notion_oauth_status"))
        status = await self._logins.status(request)
        return responses.data({**status.as_json(storage=False), "message": _NOTICES[notice]})


@lru_cache(maxsize=64)
def _as_json(status: LoginStatus) -> bytes:
    """The status as programs read it; within a second many ask for the same."""
    return responses.encode(status.as_json(storage=False))


def refusal(request: Request, error: NotionOAuthError) -> Response:
    """An error as a page or as JSON; the operator is asked for the secret where that is what is missing."""
    if isinstance(error, OperatorRequired) and responses.wants_html(request):
        form = {
            "action": route_path(request, "notion_oauth_operator"),
            "csrf_token": state.csrf_token(session_of(request)),
        }
        return pages.page("operator.html", {"title": "Who is there?", **form}, status=401)
    return responses.failure(request, error, home=route_path(request, "notion_oauth_status"))


def _status_context(status: LoginStatus, now: datetime) -> dict[str, Any]:
    return {
        "title": _TITLES[status.status],
        "status": status,
        "remaining": (status.expires_at - now) if status.expires_at else None,
        "expires": _said(status.expires_at),
        "authorized": _said(status.authorized_at),
        "refreshed": _said(status.refreshed_at),
        "ends": _said(status.login_ends_at),
        "ended": _said(status.ended_at),
        # Its buttons are on this page: a command would be the long way round
        "warning": status.warning.partition(" with: ")[0] + "." if status.warning else None,
    }


def _said(when: datetime | None) -> str | None:
    return format_time(when) if when else None


def _page_context(request: Request, browser: state.Session, notice: str | None, names: Sequence[str]) -> dict[str, Any]:
    links = {"lock": None, **{name: route_path(request, f"notion_oauth_{name}") for name in names}}
    return {"links": links, "notice": _NOTICES.get(notice or ""), "csrf_token": state.csrf_token(browser)}


def route_path(request: Request, route: str) -> str:
    """The path of one of our routes as browsers see it, wherever the router is mounted."""
    return request.url_for(route).path
