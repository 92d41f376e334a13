"""The responses of the routes: the status, results and errors, as a page or as JSON."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any

import anyio
from fastapi import Request, Response

from notion_oauth import pages
from notion_oauth.errors import (
    NotionOAuthError,
    OperatorRequired,
    ResourceMismatch,
    StorageError,
    WrongOperatorSecret,
)
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.protocol.urls import mcp_server_name, server_name
from notion_oauth.tokens.revocation import SignOut, sign_out_message
from notion_oauth.tokens.status import LoginStatus
from notion_oauth.web import responses
from notion_oauth.web.csrf import Forms
from notion_oauth.web.profile_choice import Choice, ProfileChoice
from notion_oauth.web.profiles.resolver import ProfileResolver
from notion_oauth.web.sessions.browser_cookies import BrowserCookies

_LOG = logging.getLogger(__name__)
NOTICE = "notion_oauth_notice"  # the cookie with the name of the notice for the next page
NOTICE_LIFETIME = 60  # seconds
NAMES_WITHIN = 0.2  # seconds that the page after a sign-in waits for the names of the workspace and the person
_POLL = 0.05  # seconds
_NOTICES = {  # the names are stored in cookies
    "signed_in": "You are signed in.",
    "refreshed": "The token was refreshed.",
    "fresh": "The token was not refreshed again: the last refresh was a moment ago.",
    "sent_here": "Another site sent you here. Sign in only if you want to.",
}
_SIGNED_OUT = {f"signed_out_{outcome.name}": outcome for outcome in SignOut}
_COLOURS = 6  # of the workspaces' tiles in style.css
_SAME_DAY = timedelta(hours=12)  # a time that is closer needs no date


@dataclass(frozen=True)
class Snippet:
    """Lines to copy: what for, and where they belong. An alternative is shown on demand."""

    purpose: str
    place: str
    text: str
    alternative: bool = False


@dataclass(frozen=True)
class Usage:
    """How one kind of program uses the login."""

    title: str
    snippets: Sequence[Snippet]
    note: str = ""


class StatusPage:
    """The responses that show the login of a request. `usages` returns how programs of this machine use a profile's."""

    def __init__(self, resolver: ProfileResolver, *, usages: Callable[[str], Sequence[Usage]] | None = None) -> None:
        self._resolver = resolver
        self._choice = ProfileChoice(resolver)
        self._usages = lru_cache(usages or (lambda _: ()))
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
            return responses.encoded_data(_as_json(status, self._login_path(request, status)))
        notice = notice or self._pop_notice(request)
        if notice == "signed_in":
            status = await self._with_names(request, status)
        return self._status_page(request, status, notice, await self._choice.all(request))

    async def _with_names(self, request: Request, status: LoginStatus) -> LoginStatus:
        """The status, if possible with the workspace and the person: the server is asked for them after the sign-in."""
        with anyio.move_on_after(NAMES_WITHIN):
            while status.status == "authenticated" and status.workspace is None:
                await anyio.sleep(_POLL)
                status = await self._resolver.status(request)
        return status

    def _status_page(
        self, request: Request, status: LoginStatus, notice: str | None, choices: Sequence[Choice]
    ) -> Response:
        oauth = self._resolver.oauth
        usages = self._usages(self._resolver.chosen_profile(request))
        context = {
            "links": {"lock": None, **{name: self._choice.path(request, name) for name in self._links}},
            "home": self._choice.path(request, "status"),
            "profile": self._resolver.chosen_profile(request),
            "choices": [(each, _tile(each.status)) for each in choices],
            "csrf_token": self._forms.token(request),
            "server": self._server,
            "mcp_server": mcp_server_name(oauth.settings.server_url),
            "local": not oauth.settings.is_public,
            "own": self._resolver.has_visitors,
            "usages": usages,
            "wide": status.status == "authenticated" or (status.status == "expired" and usages),
            **self._notice_context(status, notice, usages),
            **_status_context(status, oauth.clock(), oauth.settings.lifetimes),
        }
        return pages.page("status.html", {"title": self._title(status, context), **context})

    def _title(self, status: LoginStatus, context: dict[str, Any]) -> str:
        if status.status == "authenticated":
            return f"Connected to {status.workspace or self._server}"
        if status.status == "expired":
            return "The token has expired"
        if context["signed_out"]:
            return "You are signed out"
        return "This login has ended" if status.message else "Not connected yet"

    def _unusable_login(self, request: Request, error: NotionOAuthError, notice: str | None) -> Response:
        """Offer a visitor a new sign-in if the login cannot be used. The reason is logged for the operator."""
        _LOG.error("The login of a browser session cannot be used: %s", error)
        shown = type(error)(
            "This browser's login cannot be used.", hint="Sign in again, or contact the service's operator."
        )
        code = responses.status_code(shown)
        if not responses.wants_html(request):
            return responses.data(responses.problem(shown), status=code)
        return pages.explained_page(
            shown,
            f"{shown.hint}",
            status=code,
            server=self._server,
            notice=self._notice(notice),
            home=route_path(request, "notion_oauth_status"),
            login=route_path(request, "notion_oauth_login"),
            logout=route_path(request, "notion_oauth_logout"),
            csrf_token=self._forms.token(request),
        )

    async def result(self, request: Request, notice: str, *, profile: str | None = None) -> Response:
        """Show what was done. A browser is redirected: a reload repeats nothing, and no code stays in its URL.

        The login shown is that of `profile` if a person can choose it, by default the one that the request has chosen.
        """
        if responses.wants_html(request):
            self._cookies.set(request, NOTICE, notice, max_age=NOTICE_LIFETIME)
            name = profile or self._resolver.chosen_profile(request)
            shown = name if name in await self._resolver.profiles() else self._resolver.oauth.profile
            return responses.redirect(self._choice.path(request, "status", shown))
        status = await self._resolver.status(request)
        content = _json_content(status, self._login_path(request, status))
        return responses.data({**content, "message": self._notice(notice)})

    def _notice(self, name: str | None) -> str | None:
        if (outcome := _SIGNED_OUT.get(name or "")) is not None:
            return sign_out_message(outcome, self._server)
        return _NOTICES.get(name or "")

    @property
    def _server(self) -> str:
        return server_name(self._resolver.oauth.settings.server_url)

    def error(self, request: Request, error: NotionOAuthError) -> Response:
        """As `error_response`. If the operator's secret is required or wrong, the page is the form for it."""
        if isinstance(error, OperatorRequired | WrongOperatorSecret) and responses.wants_html(request):
            wrong = isinstance(error, WrongOperatorSecret)
            form = {
                "title": "Wrong secret: operator sign-in" if wrong else "Operator sign-in",
                "wrong": error.message if wrong else None,
                "action": route_path(request, "notion_oauth_operator"),
                "csrf_token": self._forms.token(request),
            }
            return pages.page("operator.html", form, status=responses.status_code(error))
        home, login = (self._choice.path(request, name) for name in ("status", "login"))
        return responses.failure(request, error, home=home, login=login, server=self._server)

    def _login_path(self, request: Request, status: LoginStatus) -> str:
        """The path of the sign-in, if the status needs it: for its warning."""
        return "" if status.warning is None else self._choice.path(request, "login")

    def _pop_notice(self, request: Request) -> str | None:
        """Return the name of the notice for the next page, once."""
        notice = self._cookies.get(request, NOTICE)
        if notice is not None:
            self._cookies.delete(request, NOTICE)
        return notice

    def _notice_context(self, status: LoginStatus, name: str | None, usages: Sequence[Usage]) -> dict[str, Any]:
        """The notice above the status; after a sign-out, what it did, in place of the status."""
        outcome, text = _SIGNED_OUT.get(name or ""), self._notice(name)
        if outcome is not None and status.status == "unauthenticated":
            if outcome is SignOut.REVOKED:
                text = f"{self._server} has ended the login, and its tokens are deleted here. You can close this page."
            return {"signed_out": text, "notice": None, "notice_kind": ""}
        if name == "signed_in" and usages:
            text = f"{text} Copy what your program needs, and you are done."
        return {"signed_out": None, "notice": text, "notice_kind": "w" if name == "sent_here" or outcome else ""}


@lru_cache(maxsize=64)
def _as_json(status: LoginStatus, login: str) -> bytes:
    """The status as JSON. Cached, because many requests within a second get the same."""
    return responses.encode(_json_content(status, login))


def _json_content(status: LoginStatus, login: str) -> dict[str, Any]:
    return status.as_json(storage=False, render=partial(responses.next_step, login=login))


def error_response(request: Request, error: NotionOAuthError) -> Response:
    """An error as a page or as JSON."""
    home, login = (route_path(request, f"notion_oauth_{name}") for name in ("status", "login"))
    return responses.failure(request, error, home=home, login=login)


def _status_context(status: LoginStatus, now: datetime, lifetimes: Lifetimes) -> dict[str, Any]:
    warning = status.warning
    primary = "copy"  # the one filled button: copy, refresh, or login
    if warning is not None and warning.hint.command == "login":
        primary = "login"
    elif warning is not None or status.status == "expired":
        primary = "refresh"
    latest_end = status.authorized_at + lifetimes.grant if status.authorized_at else None
    extendable = latest_end is not None and status.login_ends_at is not None and status.login_ends_at < latest_end
    return {
        "status": status,
        "now": now,
        "primary": primary,
        "tile": _tile(status),
        "same_day": status.expires_at is not None and status.expires_at - now < _SAME_DAY,
        "extended_until": latest_end if extendable else None,
        "warning": f"{warning.message} {warning.hint.text}." if warning else None,  # has a button
    }


def _tile(status: LoginStatus | None) -> dict[str, str | int] | None:
    """The letter and the colour that stand for the workspace, if its name is known."""
    letter = next((letter for letter in (status and status.workspace) or "" if letter.isalnum()), None)
    if status is None or letter is None:
        return None
    return {"letter": letter.upper(), "colour": zlib.crc32((status.workspace_id or letter).encode()) % _COLOURS}


def route_path(request: Request, route: str) -> str:
    """The path of a route as browsers see it, wherever the router is mounted."""
    return request.url_for(route).path
