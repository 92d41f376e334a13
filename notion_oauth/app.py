"""create_app(): the service, ready to run."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from notion_oauth import __version__, pages
from notion_oauth.errors import ConfigurationError
from notion_oauth.files import env_file
from notion_oauth.gateway.usages import service_usages
from notion_oauth.observability.log_format import configure
from notion_oauth.protocol.urls import mcp_server_name
from notion_oauth.router import build_router
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings, load_settings
from notion_oauth.web import responses
from notion_oauth.web.access_logs import is_callback
from notion_oauth.web.api_docs import add_api_docs
from notion_oauth.web.checked_route import AuthRoute, auth_route_class
from notion_oauth.web.health import Health, open_paths
from notion_oauth.web.profiles.resolver import ProfileResolver, create_resolver
from notion_oauth.web.rate_limits import RateLimits
from notion_oauth.web.request_log import RequestLog
from notion_oauth.web.security_middleware import SecurityMiddleware
from notion_oauth.web.sessions.cookie import SessionCookieMiddleware
from notion_oauth.web.sessions.keys import session_keys
from notion_oauth.web.status_page import StatusPage, route_path
from notion_oauth.web.trusted_hosts import TrustedHosts

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig  # newer than the oldest supported FastAPI

    from notion_oauth.gateway.http import HttpGateway

_LOG = logging.getLogger(__name__)
SESSION_LIFETIME = 8 * 60 * 60  # seconds after its last change; a pending sign-in in it expires after ten minutes
VISITOR_LIFETIME = 30 * 24 * 60 * 60  # seconds; a visitor who loses the session loses its login


class _PublicPath:
    """Makes links start with the public URL's path, whether or not a proxy strips it from requests."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app, self._path = app, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope.get("root_path"):
            scope = {**scope, "root_path": self._path}
        await self._app(scope, receive, send)


def _telemetry(settings: Settings) -> TelemetryConfig:
    """FastAPI's own telemetry. It includes the query of each request, so callbacks are excluded."""
    enabled = settings.telemetry
    return {
        "tracing": enabled,
        "metrics": enabled,
        "logs": enabled,
        "exclude": lambda scope: is_callback(scope["path"], scope.get("query_string", b"")),
    }


def _warn_of_ignored_env_file(settings: Settings) -> None:
    found = None if settings.env_file is not None else env_file.ignored_env_file(None)
    if found is not None:
        _LOG.warning("%s is not read, although it has settings. To use it, set NOTION_OAUTH_ENV_FILE.", found[0])


def _home_page(status_page: StatusPage, route_class: type[AuthRoute]) -> APIRouter:
    router = APIRouter(route_class=route_class)

    @router.get("/", name="notion_oauth_home", response_class=Response, include_in_schema=False)
    async def home(request: Request) -> Response:
        return await status_page.status(request)

    return router


def _gateway(resolver: ProfileResolver) -> HttpGateway | None:
    """The gateway for MCP clients, if the settings have it. Raises ConfigurationError if each visitor has a login."""
    settings = resolver.oauth.settings
    if not settings.gateway:
        return None
    if resolver.has_visitors:
        raise ConfigurationError(
            "NOTION_OAUTH_GATEWAY needs a login that all clients share, but each visitor of this service has one.",
            hint="Set NOTION_OAUTH_OPERATOR_SECRET, which gives the service one login.",
        )
    from notion_oauth.gateway.application import create_gateway  # noqa: PLC0415 - most services have no gateway

    def page(request: Request) -> str:
        return settings.public_url or str(request.url_for("notion_oauth_home"))

    return create_gateway(resolver.oauth, sign_in_url=page)


@asynccontextmanager
async def _lifespan(auth: APIRouter, gateway: HttpGateway | None, app: FastAPI) -> AsyncIterator[None]:
    async with auth.lifespan_context(app):
        try:
            yield
        finally:
            if gateway is not None:
                await gateway.aclose()


def create_app(
    settings: Settings | None = None, *, oauth: NotionOAuth | None = None, clone: Path | None = None
) -> FastAPI:
    """The sign-in service: the status page at `/`, the routes under `/auth`, and sessions.

    Called without settings, as an ASGI server does, it also configures logging: see `log_format.configure`. `clone` is
    the directory of a clone's `main.py`: then the token file and the `.env` beside it are the defaults.

    Raises ConfigurationError for wrong settings, StorageError if the session key can neither be read nor created.
    """
    # What a service shows must not depend on what a person chooses in a terminal
    service = oauth or NotionOAuth(settings or load_settings(clone=clone, default_profile=False))
    if settings is None and oauth is None:
        configure(service.settings.log_level, service.settings.log_format)
        _warn_of_ignored_env_file(service.settings)
    resolver = create_resolver(service, choice=True)
    hosts = TrustedHosts(service.settings)
    route_class = auth_route_class(resolver, hosts, RateLimits(service.settings))
    # On a public URL, the person's clients are on another machine and cannot start a program of this one
    usages = None if service.settings.is_public else partial(service_usages, service.settings, clone)
    status_page = StatusPage(resolver, usages=usages)
    auth = build_router(resolver, hosts, route_class, status_page)
    home_page = _home_page(status_page, route_class)
    gateway = _gateway(resolver)
    app = FastAPI(
        title="notion-oauth",
        summary=f"Sign in to {mcp_server_name(service.settings.server_url)} once.",
        version=__version__,
        openapi_url="/openapi.json" if service.settings.api_docs or not service.settings.is_public else None,
        docs_url=None,  # these pages load scripts from another site
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_telemetry(service.settings),
        # Not include_router: FastAPI would match included routes twice at each request
        routes=[*auth.routes, *home_page.routes, *([] if gateway is None else [Route("/mcp", gateway)])],
        lifespan=partial(_lifespan, auth, gateway),
    )
    if service.settings.api_docs:
        add_api_docs(app)
    app.add_middleware(
        SessionCookieMiddleware,
        keys=session_keys(service.settings),
        lifetime=VISITOR_LIFETIME if resolver.has_visitors else SESSION_LIFETIME,
        secure=service.settings.is_public,
    )
    path = urlsplit(service.settings.public_url or "").path
    if path:
        app.add_middleware(_PublicPath, path=path)
    app.add_middleware(Health, resolver=resolver, prefix=path)
    # The middleware that is added last runs first
    app.add_middleware(SecurityMiddleware, hosts=hosts, open_paths=open_paths(path))
    app.add_middleware(RequestLog, hosts=hosts)  # the outermost

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        """Such as 404 and 405: a page for a browser, JSON for a program."""
        if responses.wants_html(request):
            title, message = error.detail, f"The service refused the request: {error.detail}."
            if error.status_code == HTTPStatus.NOT_FOUND:
                title, message = "There is nothing here", "There is no page at this URL."
            elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
                title = "This is not a page"
                message = f"This URL does not accept {request.method} requests."
            home = route_path(request, "notion_oauth_home")
            response = pages.error_page(message, title=title, status=error.status_code, home=home)
        else:
            response = responses.data({"error": error.detail}, status=error.status_code)
        response.headers.update(error.headers or {})
        return response

    return app
