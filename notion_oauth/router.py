"""/login, /callback, /status, /refresh and /logout, for any FastAPI application with a SessionMiddleware."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response

from notion_oauth.errors import NotionOAuthError, NotSignedIn
from notion_oauth.protocol import registration
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.service import NotionOAuth
from notion_oauth.web import openapi, responses
from notion_oauth.web.access_logs import protect_access_logs
from notion_oauth.web.auth_route import AuthRoute, auth_route_class
from notion_oauth.web.csrf import require_own_page, sent_by_another_site
from notion_oauth.web.profiles.operator import OperatorAccess
from notion_oauth.web.profiles.resolver import ProfileFromRequest, ProfileResolver
from notion_oauth.web.rate_limits import RateLimits
from notion_oauth.web.sessions.cookie import cookie_goes_over_http
from notion_oauth.web.sessions.keys import session_keys
from notion_oauth.web.sessions.pending import PendingAuthorizations
from notion_oauth.web.sessions.state import session_of
from notion_oauth.web.sign_in_query import challenge_in_query
from notion_oauth.web.status_page import StatusPage, route_path
from notion_oauth.web.trusted_hosts import TrustedHosts

_LOG = logging.getLogger(__name__)


def create_router(
    oauth: NotionOAuth | None = None, *, prefix: str = "/auth", profile: ProfileFromRequest | None = None
) -> APIRouter:
    """The sign-in routes under `prefix`. The application must have Starlette's SessionMiddleware.

    `profile` says who is asking: a function of the request, async or not, that gives the name of a profile (letters,
    digits, - and _, 64 at most), or None for nobody (401). Make names that are no user's to choose, such as user- and
    the account's number: each has a login of its own. Without it there is one login on loopback, and one for each
    browser session on a public URL, unless an operator's secret is set.

    While an application runs that includes them, it keeps the tokens fresh in the background, unless the setting
    `keep_fresh` is off. Raises ConfigurationError for wrong settings, StorageError where no session key can be read or
    made.
    """
    service = oauth or NotionOAuth()
    hosts = TrustedHosts(service.settings)
    return build_router(
        ProfileResolver(service, profile), hosts, auth_route_class(hosts, RateLimits(service.settings)), prefix=prefix
    )


def build_router(
    logins: ProfileResolver, hosts: TrustedHosts, admitted: type[AuthRoute], *, prefix: str = "/auth"
) -> APIRouter:
    """As `create_router`, for logins that pages of the application's own show too, to whom it has `admitted`."""
    service = logins.oauth
    protect_access_logs()
    pending = PendingAuthorizations(session_keys(service.settings))
    router = APIRouter(
        prefix=prefix,
        tags=["auth"],
        route_class=admitted,
        lifespan=partial(_lifespan, logins),
        responses=openapi.REFUSALS,
    )
    pages_of = StatusPage(logins)

    @router.get("/status", name="notion_oauth_status", response_class=Response, responses=openapi.STATUS)
    async def status(request: Request) -> Response:
        """Whether whoever asks is signed in, from what is stored: no request is made, nothing is refreshed."""
        return await pages_of.status(request)

    @router.get(
        "/login",
        name="notion_oauth_login",
        status_code=303,
        response_class=Response,
        responses=openapi.SENT_ON | openapi.STATUS | openapi.SERVER_FAILED,
        openapi_extra=openapi.ASKED_FOR,
    )
    async def login(request: Request) -> Response:
        """Discover, register where needed, and send the browser to the authorization page.

        The parameters ask for more than the login has, or for a fresher or stronger sign-in (RFC 9470).
        """
        browser = session_of(request)
        challenge = challenge_in_query(request.query_params.multi_items())
        if sent_by_another_site(request):
            return await pages_of.status(request, notice="sent_here")
        beginning = await logins.start_sign_in(request)
        begun = await beginning.begin_authorization(
            _redirect_uri(request, service), challenge=challenge, replaces=await logins.previous_login(request)
        )
        pending.remember(browser, begun.pending, beginning.profile)
        return responses.redirect(begun.url.get_secret_value())

    @router.get(
        "/callback",
        name="notion_oauth_callback",
        response_class=Response,
        responses=openapi.DONE | openapi.SERVER_FAILED,
        openapi_extra=openapi.REDIRECT,
    )
    async def callback(request: Request) -> Response:
        """Check the redirect, exchange its code, store the tokens; success is shown only then."""
        browser = session_of(request)
        with logins.audit.attempt("sign_in"):
            response = parse_authorization_response(request.query_params.multi_items())
            begun, for_whom = pending.take(browser, response.state)
            finishing = await logins.complete_sign_in(request, for_whom)
        try:
            await finishing.complete_authorization(begun, response)
        except NotionOAuthError:
            await logins.discard(finishing.profile)
            raise
        await logins.on_signed_in(request, finishing.profile, begun)
        return await pages_of.done(request, "signed_in")

    @router.post(
        "/refresh",
        name="notion_oauth_refresh",
        response_class=Response,
        responses=openapi.DONE | openapi.SERVER_FAILED,
        openapi_extra=openapi.OWN_FORM,
    )
    async def refresh(request: Request) -> Response:
        """Renew the token now. Only our own page can ask for it."""
        await require_own_page(request, session_of(request), _base_url(request, service))
        found = await logins.for_request(request)
        if found is None:
            raise NotSignedIn("Not signed in.")
        return await pages_of.done(request, "refreshed" if await _refreshed(found) else "fresh")

    @router.post(
        "/logout",
        name="notion_oauth_logout",
        response_class=Response,
        responses=openapi.DONE,
        openapi_extra=openapi.OWN_FORM,
    )
    async def logout(request: Request) -> Response:
        """Revoke the grant and forget the tokens. Only our own page can ask for it."""
        await require_own_page(request, session_of(request), _base_url(request, service))
        outcome = await logins.sign_out(request)
        return await pages_of.done(request, f"signed_out_{outcome.name}")

    _add_what_is_set(router, logins.operator_access, service, hosts)
    return router


@asynccontextmanager
async def _lifespan(logins: ProfileResolver, app: object) -> AsyncIterator[None]:
    if logins.settings.is_public and cookie_goes_over_http(app):
        _LOG.warning(
            "The session cookie of this application may go over plain http: give its SessionMiddleware https_only=True."
        )
    async with logins.background_tasks():
        yield


def _add_what_is_set(router: APIRouter, gate: OperatorAccess | None, service: NotionOAuth, hosts: TrustedHosts) -> None:
    if service.settings.is_public:
        _add_client_metadata(router, service)
    if gate is not None:
        _add_operator(router, gate, service, hosts)


def _add_client_metadata(router: APIRouter, service: NotionOAuth) -> None:
    @router.get("/client-metadata.json", name="notion_oauth_client_metadata")
    async def client_metadata(request: Request) -> Response:
        """What this client is, for authorization servers that take this address as its id (client ID metadata)."""
        document = registration.client_metadata_document(
            client_id=_base_url(request, service) + route_path(request, "notion_oauth_client_metadata"),
            client_name=service.settings.client_name,
            redirect_uri=_redirect_uri(request, service),
        )
        return responses.data(document.model_dump(mode="json", exclude_none=True))


async def _refreshed(login: NotionOAuth) -> bool:
    """Refresh, unless that was done a moment ago: however often somebody asks, the server is asked now and then."""
    status = await login.status(storage=False)
    since, floor = status.refreshed_at, timedelta(seconds=login.settings.refresh_floor)
    if status.status == "authenticated" and since and timedelta() <= login.clock() - since < floor:
        return False
    await login.refresh()
    return True


def _add_operator(router: APIRouter, gate: OperatorAccess, service: NotionOAuth, hosts: TrustedHosts) -> None:
    @router.post(
        "/operator",
        name="notion_oauth_operator",
        status_code=303,
        response_class=Response,
        responses=openapi.SENT_ON,
        openapi_extra=openapi.OPERATOR_FORM,
    )
    async def operator(request: Request) -> Response:
        """Take the operator's secret, once for a browser session. Only our own page can send it."""
        browser = session_of(request)
        fields = await require_own_page(request, browser, _base_url(request, service))
        gate.unlock(browser, fields.get("secret", ""), client=hosts.client(request.scope))
        return responses.redirect(route_path(request, "notion_oauth_status"))

    @router.post(
        "/lock",
        name="notion_oauth_lock",
        status_code=303,
        response_class=Response,
        responses=openapi.SENT_ON,
        openapi_extra=openapi.OWN_FORM,
    )
    async def lock(request: Request) -> Response:
        """Let this browser be the operator's no longer; the login stays. Only our own page can ask for it."""
        browser = session_of(request)
        await require_own_page(request, browser, _base_url(request, service))
        gate.lock(browser, client=hosts.client(request.scope))
        return responses.redirect(route_path(request, "notion_oauth_status"))


def _base_url(request: Request, service: NotionOAuth) -> str:
    """Scheme, host and port as browsers see them: the public URL's, else what loopback was addressed as."""
    public = urlsplit(service.settings.public_url or "")
    return f"{public.scheme}://{public.netloc}" if public.netloc else f"{request.url.scheme}://{request.url.netloc}"


def _redirect_uri(request: Request, service: NotionOAuth) -> str:
    return _base_url(request, service) + route_path(request, "notion_oauth_callback")
