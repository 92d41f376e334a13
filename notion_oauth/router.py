"""/login, /callback, /status, /refresh and /logout, for any FastAPI application with a SessionMiddleware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from notion_oauth import pages, session
from notion_oauth.errors import ConfigurationError, NotionOAuthError, RequestForbidden
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.protocol.urls import is_loopback
from notion_oauth.server_logs import is_callback, protect_access_logs, protect_span
from notion_oauth.service import SIGNED_OUT, NotionOAuth
from notion_oauth.status import Status
from notion_oauth.words import moment

MAX_FORM = 8 * 1024  # bytes; ours hold one short field
_NOTICES = {
    "signed_in": "You are signed in.",
    "refreshed": "The token was renewed.",
    **{f"signed_out_{outcome.name}": text for outcome, text in SIGNED_OUT.items()},
}
_TITLES = {"authenticated": "Connected to Notion", "expired": "Token expired", "unauthenticated": "Not connected"}


class AuthRoute(APIRoute):
    """Turns our errors into a page or JSON, in whichever application the router is mounted."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        route = super().get_route_handler()

        async def answer(request: Request) -> Response:
            if is_callback(request.url.path, request.url.query):
                protect_span()
            try:
                return await route(request)
            except NotionOAuthError as error:
                return pages.failure(request, error, home=path_of(request, "notion_oauth_status"))

        return answer


def create_router(oauth: NotionOAuth | None = None, *, prefix: str = "/auth") -> APIRouter:
    """The sign-in routes under `prefix`. The application must have Starlette's SessionMiddleware.

    While an application runs that includes them, it keeps the token fresh in the background, unless the setting
    `keep_fresh` is off.

    Raises ConfigurationError for wrong settings, StorageError where no session key can be read or made.
    """
    service = oauth or NotionOAuth()
    protect_access_logs()
    pending = session.PendingAuthorizations(session.session_key(service.settings))
    router = APIRouter(prefix=prefix, tags=["auth"], route_class=AuthRoute, lifespan=_kept_fresh(service))

    @router.get("/login", name="notion_oauth_login", status_code=303, response_class=Response)
    async def login(request: Request) -> Response:
        """Discover, register where needed, and send the browser to the authorization page."""
        browser = _session(request)
        begun = await service.begin_authorization(_redirect_uri(request, service))
        pending.remember(browser, begun.pending)
        return pages.redirect(begun.url.get_secret_value())

    @router.get("/callback", name="notion_oauth_callback", response_class=Response)
    async def callback(request: Request) -> Response:
        """Check the redirect, exchange its code, store the tokens; success is shown only then."""
        browser = _session(request)
        with service.audit.attempt("sign_in"):
            response = parse_authorization_response(request.query_params.multi_items())
            begun = pending.take(browser, response.state)
        await service.complete_authorization(begun, response)
        return await _done(request, service, "signed_in")

    @router.get("/status", name="notion_oauth_status", response_class=Response)
    async def status(request: Request) -> Response:
        """Whether anybody is signed in, from what is stored: no request is made, nothing is refreshed."""
        return await status_response(request, service)

    @router.post("/refresh", name="notion_oauth_refresh", response_class=Response)
    async def refresh(request: Request) -> Response:
        """Renew the token now. Only our own page can ask for it."""
        await _require_own_page(request, service)
        await service.refresh()
        return await _done(request, service, "refreshed")

    @router.post("/logout", name="notion_oauth_logout", response_class=Response)
    async def logout(request: Request) -> Response:
        """Revoke the grant and forget the tokens. Only our own page can ask for it."""
        await _require_own_page(request, service)
        outcome = await service.sign_out()
        return await _done(request, service, f"signed_out_{outcome.name}")

    return router


def _kept_fresh(service: NotionOAuth) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """A lifespan with a task that refreshes the token whenever it is due, and ends when the refresh under way has."""

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            if service.settings.keep_fresh:
                tasks.start_soon(service.tokens.keep_fresh)
            yield
            tasks.cancel_scope.cancel()
        await service.tokens.settle()

    return lifespan


async def status_response(request: Request, service: NotionOAuth) -> Response:
    """The status as a page for a browser and as JSON for a program."""
    status = await service.status()
    if not pages.wants_html(request):
        return pages.data(status.as_json(storage=False))
    browser = _session(request)
    return pages.page("status.html", {**_status_context(status, service.clock()), **_page_context(request, browser)})


def _status_context(status: Status, now: datetime) -> dict[str, Any]:
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
    return moment(when) if when else None


def _page_context(request: Request, browser: session.Session) -> dict[str, Any]:
    links = {name: path_of(request, f"notion_oauth_{name}") for name in ("login", "refresh", "logout")}
    notice = _NOTICES.get(session.take_notice(browser) or "")
    return {"links": links, "notice": notice, "csrf_token": session.csrf_token(browser)}


async def _done(request: Request, service: NotionOAuth, notice: str) -> Response:
    """Show what was achieved. A browser is sent on: a reload repeats nothing, and no code stays in its address bar."""
    if pages.wants_html(request):
        session.leave_notice(_session(request), notice)
        return pages.redirect(path_of(request, "notion_oauth_status"))
    status = await service.status()
    return pages.data({**status.as_json(storage=False), "message": _NOTICES[notice]})


def _session(request: Request) -> session.Session:
    if "session" not in request.scope:
        raise ConfigurationError(
            "The sign-in needs sessions, and this application has none.",
            cure="Add starlette.middleware.sessions.SessionMiddleware to it, or use notion_oauth.app.create_app().",
        )
    return request.session


async def _require_own_page(request: Request, service: NotionOAuth) -> None:
    """Raise RequestForbidden unless a form on our own page sent this, in the browser that was given the form.

    The token in the form is what proves it. Where the browser says which site sent it, that must be ours too;
    an `Origin: null` says nothing, for it is what a page without referrer sends.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "null")
    foreign = site != "same-origin" if site is not None else origin not in ("null", _base_url(request, service))
    if foreign or not session.csrf_valid(_session(request), await _field(request, "csrf_token")):
        raise RequestForbidden("This did not come from this service's own page, or the page is too old.")


async def _field(request: Request, name: str) -> str | None:
    """One field of a small form; None where there is none, or the body is larger than any form of ours."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM:
            return None
    values = parse_qs(body.decode("ascii", "replace")).get(name, [])
    return values[0] if len(values) == 1 else None


def path_of(request: Request, route: str) -> str:
    """The path of one of our routes as browsers see it, wherever the router is mounted."""
    return request.url_for(route).path


def _base_url(request: Request, service: NotionOAuth) -> str:
    """Scheme, host and port as browsers see them: the public URL's, else what loopback was addressed as.

    Raises ConfigurationError for another host: what a browser claims to have addressed is no proof of it.
    """
    if service.settings.public_url is not None:
        public = urlsplit(service.settings.public_url)
        return f"{public.scheme}://{public.netloc}"
    if not is_loopback(request.url.hostname):
        raise ConfigurationError(
            "This service is not addressed as localhost, and does not know its public address.",
            cure="Set NOTION_OAUTH_PUBLIC_URL to the address that browsers use.",
        )
    return f"{request.url.scheme}://{request.url.netloc}"


def _redirect_uri(request: Request, service: NotionOAuth) -> str:
    return _base_url(request, service) + path_of(request, "notion_oauth_callback")
