"""The routes /login, /callback, /status, /refresh and /logout, for any FastAPI application with sessions."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

import anyio
from anyio.lowlevel import RunVar
from fastapi import APIRouter, Request, Response
from starlette.background import BackgroundTask

from notion_oauth.errors import NotionOAuthError, NotSignedIn
from notion_oauth.protocol import registration
from notion_oauth.service import NotionOAuth
from notion_oauth.web import openapi, responses
from notion_oauth.web.access_logs import protect_access_logs
from notion_oauth.web.callbacks import Callbacks
from notion_oauth.web.checked_route import AuthRoute, auth_route_class
from notion_oauth.web.csrf import Forms, base_url, is_cross_site
from notion_oauth.web.profiles.operator_access import OperatorAccess
from notion_oauth.web.profiles.resolver import ProfileFromRequest, ProfileResolver, create_resolver
from notion_oauth.web.rate_limits import RateLimits
from notion_oauth.web.sessions.browser_cookies import BrowserCookies
from notion_oauth.web.sessions.cookie import sends_cookie_over_http
from notion_oauth.web.sessions.keys import session_keys
from notion_oauth.web.sessions.pending import SignInCookies
from notion_oauth.web.sessions.values import session_of
from notion_oauth.web.sign_in_query import parse_sign_in_query
from notion_oauth.web.status_page import StatusPage, route_path
from notion_oauth.web.trusted_hosts import TrustedHosts

_LOG = logging.getLogger(__name__)
MAX_IDENTIFYING = 8  # logins for which the server is asked at once who has signed in: each opens a connection
_IDENTIFYING: RunVar[anyio.CapacityLimiter] = RunVar("notion_oauth identifying")


def create_router(
    oauth: NotionOAuth | None = None, *, prefix: str = "/auth", profile: ProfileFromRequest | None = None
) -> APIRouter:
    """The sign-in routes under `prefix`. The application must have Starlette's SessionMiddleware.

    `profile` is a function, async or not, that returns the profile name for a request (at most 64 letters, digits, -
    and _), or None for an unknown user (401). Each profile has its own login, so do not let users choose the name: use
    "user-" and the account's number, for example. Without `profile` there is one login on loopback, and one for each
    browser session on a public URL, unless an operator's secret is set.

    While the application runs, the router refreshes tokens in the background, unless the setting `keep_fresh` is off.
    Raises ConfigurationError for wrong settings, StorageError if the session key can neither be read nor created.
    """
    service = oauth or NotionOAuth()
    hosts = TrustedHosts(service.settings)
    resolver = create_resolver(service, profile)
    route_class = auth_route_class(resolver, hosts, RateLimits(service.settings))
    return build_router(resolver, hosts, route_class, StatusPage(resolver), prefix=prefix)


def build_router(
    resolver: ProfileResolver,
    hosts: TrustedHosts,
    route_class: type[AuthRoute],
    status_page: StatusPage,
    *,
    prefix: str = "/auth",
) -> APIRouter:
    """As `create_router`, from parts that the application's other routes share."""
    service = resolver.oauth
    protect_access_logs()
    sign_ins = SignInCookies(session_keys(service.settings), BrowserCookies(public=service.settings.is_public))
    callbacks, forms = Callbacks(resolver, sign_ins), Forms(resolver)
    router = APIRouter(
        prefix=prefix,
        tags=["auth"],
        route_class=route_class,
        lifespan=partial(_lifespan, resolver),
        responses=openapi.ERRORS,
    )

    @router.get("/status", name="notion_oauth_status", response_class=Response, responses=openapi.STATUS)
    async def status(request: Request) -> Response:
        """The login status, from stored data only: no request to the server, no refresh."""
        return await status_page.status(request)

    @router.get(
        "/login",
        name="notion_oauth_login",
        status_code=303,
        response_class=Response,
        responses=openapi.REDIRECT | openapi.STATUS | openapi.SERVER_FAILED,
        openapi_extra=openapi.SIGN_IN_QUERY,
    )
    async def login(request: Request) -> Response:
        """Discover the server, register if needed, and redirect the browser to the authorization page.

        The parameters request additional scopes, or a more recent or stronger authentication (RFC 9470).
        """
        session_of(request)  # raises if the application has none: the login may need it
        challenge = parse_sign_in_query(request.query_params.multi_items())
        if is_cross_site(request):
            return await status_page.status(request, notice="sent_here")
        oauth = await resolver.start_sign_in(request)
        started = await oauth.begin_authorization(
            _redirect_uri(request, service), challenge=challenge, replaces=await resolver.previous_login(request)
        )
        sign_ins.save(request, started.pending, oauth.profile)
        return responses.redirect(started.url.get_secret_value())

    @router.get(
        "/callback",
        name="notion_oauth_callback",
        response_class=Response,
        responses=openapi.RESULT | openapi.SERVER_FAILED,
        openapi_extra=openapi.CALLBACK_QUERY,
    )
    async def callback(request: Request) -> Response:
        """Check the redirect, exchange the code, store the tokens, and only then show success.

        The same browser may repeat it.
        """
        session_of(request)
        signed_in = await callbacks.complete(request)
        profile = None if signed_in is None else signed_in.profile
        response = await status_page.result(request, "signed_in", profile=profile)
        response.background = BackgroundTask(_identify, signed_in)
        return response

    @router.post(
        "/refresh",
        name="notion_oauth_refresh",
        response_class=Response,
        responses=openapi.RESULT | openapi.SERVER_FAILED,
        openapi_extra=openapi.OWN_FORM,
    )
    async def refresh(request: Request) -> Response:
        """Refresh the token now. Only forms on the service's own page are accepted."""
        await forms.read(request)
        oauth = await resolver.for_request(request)
        if oauth is None:
            raise NotSignedIn("Not signed in.")
        return await status_page.result(request, "refreshed" if await _refresh_if_old(oauth) else "fresh")

    @router.post(
        "/logout",
        name="notion_oauth_logout",
        response_class=Response,
        responses=openapi.RESULT,
        openapi_extra=openapi.OWN_FORM,
    )
    async def logout(request: Request) -> Response:
        """Revoke the grant and delete the tokens. Only forms on the service's own page are accepted."""
        await forms.read(request)
        outcome = await resolver.sign_out(request)
        sign_ins.forget_completed(request)
        return await status_page.result(request, f"signed_out_{outcome.name}")

    if service.settings.is_public:
        _add_client_metadata(router, service)
    if resolver.operator_access is not None:
        _add_operator(router, resolver.operator_access, hosts, forms, sign_ins)
    return router


@asynccontextmanager
async def _lifespan(resolver: ProfileResolver, app: object) -> AsyncIterator[None]:
    if resolver.oauth.settings.is_public and sends_cookie_over_http(app):
        _LOG.warning(
            "The session cookie may go over plain http: set https_only=True in the application's SessionMiddleware."
        )
    async with resolver.background_tasks():
        yield


def _add_client_metadata(router: APIRouter, service: NotionOAuth) -> None:
    @router.get("/client-metadata.json", name="notion_oauth_client_metadata")
    async def client_metadata(request: Request) -> Response:
        """The client metadata, for authorization servers that accept this URL as the client_id."""
        document = registration.client_metadata_document(
            client_id=base_url(request, service.settings.public_url)
            + route_path(request, "notion_oauth_client_metadata"),
            client_name=service.settings.client_name,
            redirect_uri=_redirect_uri(request, service),
        )
        return responses.data(document.model_dump(mode="json", exclude_none=True))


async def _identify(oauth: NotionOAuth | None) -> None:
    """Store who has signed in, after the browser has its response. None: another request does that."""
    if oauth is None:
        return
    try:
        limiter = _IDENTIFYING.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_IDENTIFYING)
        _IDENTIFYING.set(limiter)
    async with limiter:
        with suppress(NotionOAuthError):  # the sign-in has succeeded
            await oauth.identify()


async def _refresh_if_old(oauth: NotionOAuth) -> bool:
    """Refresh, unless the last refresh is newer than `refresh_floor`: this limits the requests to the server."""
    status = await oauth.status(storage=False)
    refreshed_at, floor = status.refreshed_at, timedelta(seconds=oauth.settings.refresh_floor)
    if status.status == "authenticated" and refreshed_at and timedelta() <= oauth.clock() - refreshed_at < floor:
        return False
    await oauth.refresh()
    return True


def _add_operator(
    router: APIRouter, access: OperatorAccess, hosts: TrustedHosts, forms: Forms, sign_ins: SignInCookies
) -> None:
    @router.post(
        "/operator",
        name="notion_oauth_operator",
        status_code=303,
        response_class=Response,
        responses=openapi.REDIRECT,
        openapi_extra=openapi.OPERATOR_FORM,
    )
    async def operator(request: Request) -> Response:
        """Check the operator's secret, once for each browser session. Only the service's own form is accepted."""
        fields = await forms.read(request)
        access.unlock(session_of(request), fields.get("secret", ""), client=hosts.client(request.scope))
        return responses.redirect(route_path(request, "notion_oauth_status"))

    @router.post(
        "/lock",
        name="notion_oauth_lock",
        status_code=303,
        response_class=Response,
        responses=openapi.REDIRECT,
        openapi_extra=openapi.OWN_FORM,
    )
    async def lock(request: Request) -> Response:
        """End the operator's access in this browser; the login stays. Only the service's own form is accepted."""
        await forms.read(request)
        access.lock(session_of(request), client=hosts.client(request.scope))
        sign_ins.forget_all(request)
        return responses.redirect(route_path(request, "notion_oauth_status"))


def _redirect_uri(request: Request, service: NotionOAuth) -> str:
    return base_url(request, service.settings.public_url) + route_path(request, "notion_oauth_callback")
