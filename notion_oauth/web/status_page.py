"""The responses of the routes: the status, results and errors, as a page or as JSON."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

from fastapi import Request, Response

from notion_oauth import pages
from notion_oauth.errors import NotionOAuthError, OperatorRequired, ResourceMismatch, StorageError
from notion_oauth.humanize import format_time
from notion_oauth.protocol.urls import mcp_server_name, server_name
from notion_oauth.tokens.revocation import SignOut, sign_out_message
from notion_oauth.tokens.status import LoginStatus
from notion_oauth.web import responses
from notion_oauth.web.csrf import Forms
from notion_oauth.web.profiles.resolver import ProfileResolver
from notion_oauth.web.sessions.browser_cookies import BrowserCookies

_LOG = logging.getLogger(__name__)
NOTICE = "notion_oauth_notice"  # the cookie with the name of the notice for the next page
NOTICE_LIFETIME = 60  # seconds
_NOTICES = {  # the names are stored in cookies
    "signed_in": "You are signed in.",
    "refreshed": "The token was refreshed.",
    "fresh": "The token was not refreshed again: the last refresh was a moment ago.",
    "sent_here": "Another site sent you here. Sign in only if you want to.",
}
_SIGNED_OUT = {f"signed_out_{outcome.name}": outcome for outcome in SignOut}
_TITLES = {"authenticated": "Connected to {}", "expired": "Token expired", "unauthenticated": "Not connected"}


class ClientConfiguration(Protocol):
    """What an MCP client needs in its configuration: as `gateway.clients.Configuration`."""

    @property
    def client(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def files(self) -> Sequence[Path]: ...
    @property
    def note(self) -> str: ...


class StatusPage:
    """The responses that show the login of a request. `clients` are shown with how each uses the login."""

    def __init__(self, resolver: ProfileResolver, *, clients: Sequence[ClientConfiguration] = ()) -> None:
        self._resolver = resolver
        self._clients = clients
        self._forms = Forms(resolver)
        self._cookies = BrowserCookies(public=resolver.oauth.settings.is_public)
        self._links = ("login", "refresh", "logout", *(() if resolver.operator_access is None else ("lock",)))

    async def status(self, request: Request, *, notice: str | None = None) -> Response:
        """The status as a page for a browser and as JSON for a program."""
        try:
            status = await self._resolver.status(request)
        except (StorageError, ResourceMismatch) as error:
            if not self._resolver.has_visitors:
                raise
            return self._unusable_login(request, error, notice)
        if not responses.wants_html(request):
            return responses.encoded_data(_as_json(status, _login_path(request, status)))
        context = self._page_context(request, notice or self._pop_notice(request))
        context["own"] = self._resolver.has_visitors
        context["clients"] = self._clients
        context["title"] = _TITLES[status.status].format(context["server"])
        return pages.page("status.html", {**_status_context(status, self._resolver.oauth.clock()), **context})

    def _unusable_login(self, request: Request, error: NotionOAuthError, notice: str | None) -> Response:
        """Offer a visitor a new sign-in if the login cannot be used. The reason is logged for the operator."""
        _LOG.error("The login of a browser session cannot be used: %s", error)
        shown = type(error)(
            "This browser's login cannot be used.", hint="Sign in again, or contact the service's operator."
        )
        code = responses.status_code(shown)
        if not responses.wants_html(request):
            return responses.data(responses.problem(shown), status=code)
        context = self._page_context(request, notice)
        context |= {"title": pages.ERROR_TITLE, **responses.problem(shown)}
        return pages.page("unusable.html", context, status=code)

    async def result(self, request: Request, notice: str) -> Response:
        """Show what was done. A browser is redirected: a reload repeats nothing, and no code stays in its URL."""
        if responses.wants_html(request):
            self._cookies.set(request, NOTICE, notice, max_age=NOTICE_LIFETIME)
            return responses.redirect(route_path(request, "notion_oauth_status"))
        status = await self._resolver.status(request)
        content = _json_content(status, _login_path(request, status))
        return responses.data({**content, "message": self._notice(notice)})

    def _notice(self, name: str | None) -> str | None:
        if (outcome := _SIGNED_OUT.get(name or "")) is not None:
            return sign_out_message(outcome, self._server)
        return _NOTICES.get(name or "")

    @property
    def _server(self) -> str:
        return server_name(self._resolver.oauth.settings.server_url)

    def error(self, request: Request, error: NotionOAuthError) -> Response:
        """As `error_response`. If the operator's secret is required, the page is the form for it."""
        if isinstance(error, OperatorRequired) and responses.wants_html(request):
            form = {"action": route_path(request, "notion_oauth_operator"), "csrf_token": self._forms.token(request)}
            return pages.page("operator.html", {"title": "Operator sign-in", **form}, status=401)
        return error_response(request, error, server=self._server)

    def _pop_notice(self, request: Request) -> str | None:
        """Return the name of the notice for the next page, once."""
        notice = self._cookies.get(request, NOTICE)
        if notice is not None:
            self._cookies.delete(request, NOTICE)
        return notice

    def _page_context(self, request: Request, notice: str | None) -> dict[str, Any]:
        links = {"lock": None, **{name: route_path(request, f"notion_oauth_{name}") for name in self._links}}
        return {
            "links": links,
            "notice": self._notice(notice),
            "csrf_token": self._forms.token(request),
            "server": self._server,
            "mcp_server": mcp_server_name(self._resolver.oauth.settings.server_url),
        }


@lru_cache(maxsize=64)
def _as_json(status: LoginStatus, login: str) -> bytes:
    """The status as JSON. Cached, because many requests within a second get the same."""
    return responses.encode(_json_content(status, login))


def _json_content(status: LoginStatus, login: str) -> dict[str, Any]:
    return status.as_json(storage=False, render=partial(responses.next_step, login=login))


def _login_path(request: Request, status: LoginStatus) -> str:
    """The path of the sign-in, if the status needs it: for its warning."""
    return "" if status.warning is None else route_path(request, "notion_oauth_login")


def error_response(request: Request, error: NotionOAuthError, *, server: str = "") -> Response:
    """An error as a page or as JSON. `server` is the name of the MCP server."""
    home, login = (route_path(request, f"notion_oauth_{name}") for name in ("status", "login"))
    return responses.failure(request, error, home=home, login=login, server=server)


def _status_context(status: LoginStatus, now: datetime) -> dict[str, Any]:
    return {
        "status": status,
        "remaining": (status.expires_at - now) if status.expires_at else None,
        "expires": _format(status.expires_at),
        "authorized": _format(status.authorized_at),
        "refreshed": _format(status.refreshed_at),
        "ends": _format(status.login_ends_at),
        "ended": _format(status.ended_at),
        "warning": f"{status.warning.message} {status.warning.hint.text}." if status.warning else None,  # has a button
    }


def _format(when: datetime | None) -> str | None:
    return format_time(when) if when else None


def route_path(request: Request, route: str) -> str:
    """The path of a route as browsers see it, wherever the router is mounted."""
    return request.url_for(route).path
