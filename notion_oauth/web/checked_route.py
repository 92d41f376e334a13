"""The class of the routes in `router.py`: checks each request, applies rate limits, and turns errors into responses."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from notion_oauth.errors import NotionOAuthError
from notion_oauth.web import responses
from notion_oauth.web.access_logs import is_callback, protect_span
from notion_oauth.web.csrf import Forms, require_navigation
from notion_oauth.web.profiles.resolver import ProfileResolver
from notion_oauth.web.profiles.users import ApplicationUsers
from notion_oauth.web.rate_limits import RateLimits
from notion_oauth.web.sessions.browser_cookies import add_collected_cookies
from notion_oauth.web.status_page import StatusPage, error_response
from notion_oauth.web.trusted_hosts import HOST_CHECKED, TrustedHosts

_BUDGETS = {
    "notion_oauth_status": "status",
    "notion_oauth_home": "status",
    "notion_oauth_client_metadata": "status",
    "notion_oauth_operator": "operator",
}


class AuthRoute(APIRoute):
    """Turns a NotionOAuthError into a page or JSON, in any application that includes the router."""

    async def check(self, request: Request) -> None:
        """Raise a NotionOAuthError if the request must not reach the route."""

    def error_response(self, request: Request, error: NotionOAuthError) -> Response:
        """Return the response that shows the error to the client."""
        return error_response(request, error)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        route = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if is_callback(request.scope["path"], request.scope.get("query_string", b"")):
                protect_span()
            try:
                await self.check(request)
                response = await route(request)
            except NotionOAuthError as error:
                response = self.error_response(request, error)
            add_collected_cookies(request, response)
            return response

        return handle


def auth_route_class(resolver: ProfileResolver, hosts: TrustedHosts, limits: RateLimits) -> type[AuthRoute]:
    """Return a route class that checks the host and the rate limit itself: the application around it may check neither.

    All routes of an application share the same `limits`, so that each request counts once.
    """
    page, forms = StatusPage(resolver), Forms(resolver)
    only_owner = not hosts.public and not isinstance(resolver, ApplicationUsers)

    class CheckedRoute(AuthRoute):
        async def check(self, request: Request) -> None:
            if HOST_CHECKED not in request.scope:
                hosts.check(request.scope)
            budget = _BUDGETS.get(self.name, "auth")
            if budget != "status":  # first: requests that another site triggers must not use up the limit
                require_navigation(request)
            if request.method == "POST":
                forms.check_sender(request)
            if limits.is_limited(budget):
                await limits.count(budget, hosts.client(request.scope))

        def error_response(self, request: Request, error: NotionOAuthError) -> Response:
            return page.error(request, error if only_owner else responses.public_error(error))

    return CheckedRoute
