"""/login, /callback, /status, /refresh and /logout, for any FastAPI application with a SessionMiddleware."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from notion_oauth import described, pages, session
from notion_oauth.asking import challenge_of
from notion_oauth.errors import BadRequest, ConfigurationError, NotionOAuthError, NotSignedIn, StorageError
from notion_oauth.forms import require_own_page, require_visit, sent_by_another_site
from notion_oauth.gate import Gate
from notion_oauth.hosts import GUARDED, Hosts
from notion_oauth.profiles import Logins, WhoAsks
from notion_oauth.protocol import registration
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.ratelimits import RateLimits
from notion_oauth.server_logs import is_callback, protect_access_logs, protect_span
from notion_oauth.service import NotionOAuth
from notion_oauth.session import session_of
from notion_oauth.settings import Settings
from notion_oauth.statuspages import StatusPages, path_of, refusal

_LOG = logging.getLogger(__name__)
_BUDGETS = {
    "notion_oauth_status": "status",
    "notion_oauth_home": "status",
    "notion_oauth_client_metadata": "status",
    "notion_oauth_operator": "operator",
}


class AuthRoute(APIRoute):
    """Turns our errors into a page or JSON, in whichever application the router is mounted."""

    async def admit(self, request: Request) -> None:
        """Raise an error of ours where the request must not reach the route."""

    def shown(self, error: NotionOAuthError) -> NotionOAuthError:
        """What whoever asks may know of an error."""
        return error

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        route = super().get_route_handler()

        async def answer(request: Request) -> Response:
            if is_callback(request.scope["path"], request.scope.get("query_string", b"")):
                protect_span()
            try:
                await self.admit(request)
                return await route(request)
            except NotionOAuthError as error:
                return refusal(request, self.shown(error))

        return answer


def admitting(settings: Settings) -> type[AuthRoute]:
    """Routes that check for themselves whom a request addresses, and how often its client asks.

    The application around them may check nothing.
    """
    hosts, limits = Hosts(settings), RateLimits(settings)

    class Admitting(AuthRoute):
        async def admit(self, request: Request) -> None:
            if GUARDED not in request.scope:
                hosts.check(request.scope)
            budget = _BUDGETS.get(self.name, "auth")
            if budget != "status":
                require_visit(request)  # first: what another site asks for must not use up what its victim may
            if limits.on(budget):
                await limits.count(budget, hosts.client(request.scope))

        def shown(self, error: NotionOAuthError) -> NotionOAuthError:
            """On the internet, no path, key or setting of the machine: its operator reads them in the log."""
            if not settings.is_public or not isinstance(error, StorageError):
                return error
            _LOG.error("A request failed: %s", error)
            return type(error)("The service cannot keep logins just now.", cure="Tell its operator: the log says why.")

    return Admitting


def create_router(
    oauth: NotionOAuth | None = None, *, prefix: str = "/auth", profile: WhoAsks | None = None
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
    return router_of(Logins(oauth or NotionOAuth(), profile), prefix=prefix)


def router_of(logins: Logins, *, prefix: str = "/auth") -> APIRouter:
    """As `create_router`, for logins that pages of the application's own show too."""
    service = logins.oauth
    protect_access_logs()
    pending = session.PendingAuthorizations(session.session_keys(service.settings))
    router = APIRouter(
        prefix=prefix,
        tags=["auth"],
        route_class=admitting(service.settings),
        lifespan=lambda _: logins.kept_fresh(),
        responses=described.REFUSALS,
    )
    pages_of = StatusPages(logins)

    @router.get("/status", name="notion_oauth_status", response_class=Response, responses=described.STATUS)
    async def status(request: Request) -> Response:
        """Whether whoever asks is signed in, from what is stored: no request is made, nothing is refreshed."""
        return await pages_of.status(request)

    @router.get(
        "/login",
        name="notion_oauth_login",
        status_code=303,
        response_class=Response,
        responses=described.SENT_ON | described.STATUS | described.SERVER_FAILED,
    )
    async def login(
        request: Request,
        scope: described.Words = None,
        acr_values: described.Words = None,
        max_age: described.Seconds = None,
    ) -> Response:
        """Discover, register where needed, and send the browser to the authorization page.

        The parameters ask for more than the login has, or for a fresher or stronger sign-in (RFC 9470).
        """
        browser = session_of(request)
        challenge = _asked(scope, acr_values, max_age)
        if sent_by_another_site(request):
            return await pages_of.status(request, notice="sent_here")
        beginning = await logins.beginning(request)
        begun = await beginning.begin_authorization(
            _redirect_uri(request, service), challenge=challenge, replaces=await logins.of(request)
        )
        pending.remember(browser, begun.pending, beginning.profile)
        return pages.redirect(begun.url.get_secret_value())

    @router.get(
        "/callback",
        name="notion_oauth_callback",
        response_class=Response,
        responses=described.DONE | described.SERVER_FAILED,
        openapi_extra=described.REDIRECT,
    )
    async def callback(request: Request) -> Response:
        """Check the redirect, exchange its code, store the tokens; success is shown only then."""
        browser = session_of(request)
        with logins.audit.attempt("sign_in"):
            response = parse_authorization_response(request.query_params.multi_items())
            begun, for_whom = pending.take(browser, response.state)
            finishing = await logins.finishing(request, for_whom)
        try:
            await finishing.complete_authorization(begun, response)
        except NotionOAuthError:
            await logins.abandoned(finishing.profile)
            raise
        await logins.finished(request, finishing.profile, begun.client)
        return await pages_of.done(request, "signed_in")

    @router.post(
        "/refresh",
        name="notion_oauth_refresh",
        response_class=Response,
        responses=described.DONE | described.SERVER_FAILED,
        openapi_extra=described.OWN_FORM,
    )
    async def refresh(request: Request) -> Response:
        """Renew the token now. Only our own page can ask for it."""
        await require_own_page(request, session_of(request), _base_url(request, service))
        found = await logins.of(request)
        if found is None:
            raise NotSignedIn("Nobody is signed in.")
        return await pages_of.done(request, "refreshed" if await _refreshed(found) else "fresh")

    @router.post(
        "/logout",
        name="notion_oauth_logout",
        response_class=Response,
        responses=described.DONE,
        openapi_extra=described.OWN_FORM,
    )
    async def logout(request: Request) -> Response:
        """Revoke the grant and forget the tokens. Only our own page can ask for it."""
        await require_own_page(request, session_of(request), _base_url(request, service))
        outcome = await logins.sign_out(request)
        return await pages_of.done(request, f"signed_out_{outcome.name}")

    _add_what_is_set(router, logins.gate, service)
    return router


def _asked(scope: str | None, acr_values: str | None, max_age: int | None) -> BearerChallenge | None:
    """What the parameters of a sign-in ask for. Raises BadRequest where they are none."""
    try:
        return challenge_of(scope, acr_values, max_age)
    except ConfigurationError:
        raise BadRequest(
            "scope and acr_values take values without quotes, separated by spaces (RFC 6749 §3.3)."
        ) from None


def _add_what_is_set(router: APIRouter, gate: Gate | None, service: NotionOAuth) -> None:
    if service.settings.is_public:
        _add_client_metadata(router, service)
    if gate is not None:
        _add_operator(router, gate, service)


def _add_client_metadata(router: APIRouter, service: NotionOAuth) -> None:
    @router.get("/client-metadata.json", name="notion_oauth_client_metadata")
    async def client_metadata(request: Request) -> Response:
        """What this client is, for authorization servers that take this address as its id (client ID metadata)."""
        document = registration.client_metadata_document(
            client_id=_base_url(request, service) + path_of(request, "notion_oauth_client_metadata"),
            client_name=service.settings.client_name,
            redirect_uri=_redirect_uri(request, service),
        )
        return pages.data(document.model_dump(mode="json", exclude_none=True))


async def _refreshed(login: NotionOAuth) -> bool:
    """Refresh, unless that was done a moment ago: however often somebody asks, the server is asked now and then."""
    status = await login.status(storage=False)
    since, floor = status.refreshed_at, timedelta(seconds=login.settings.refresh_floor)
    if status.status == "authenticated" and since and timedelta() <= login.clock() - since < floor:
        return False
    await login.refresh()
    return True


def _add_operator(router: APIRouter, gate: Gate, service: NotionOAuth) -> None:
    @router.post(
        "/operator",
        name="notion_oauth_operator",
        status_code=303,
        response_class=Response,
        responses=described.SENT_ON,
        openapi_extra=described.OPERATOR_FORM,
    )
    async def operator(request: Request) -> Response:
        """Take the operator's secret, once for a browser session. Only our own page can send it."""
        browser = session_of(request)
        fields = await require_own_page(request, browser, _base_url(request, service))
        gate.enter(browser, fields.get("secret", ""))
        return pages.redirect(path_of(request, "notion_oauth_status"))


def _base_url(request: Request, service: NotionOAuth) -> str:
    """Scheme, host and port as browsers see them: the public URL's, else what loopback was addressed as."""
    public = urlsplit(service.settings.public_url or "")
    return f"{public.scheme}://{public.netloc}" if public.netloc else f"{request.url.scheme}://{request.url.netloc}"


def _redirect_uri(request: Request, service: NotionOAuth) -> str:
    return _base_url(request, service) + path_of(request, "notion_oauth_callback")
