"""Who is let in to the routes, how often, and as what their errors are shown: in whichever application they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from notion_oauth.errors import NotionOAuthError, StorageError
from notion_oauth.web.access_logs import is_callback, protect_span
from notion_oauth.web.csrf import require_visit
from notion_oauth.web.rate_limits import RateLimits
from notion_oauth.web.status_page import refusal
from notion_oauth.web.trusted_hosts import HOST_CHECKED, TrustedHosts

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


def auth_route_class(hosts: TrustedHosts, limits: RateLimits) -> type[AuthRoute]:
    """Routes that check for themselves whom a request addresses, and how often its client asks.

    The application around them may check nothing. All routes of an application have the same `limits`, so that each
    budget is counted once.
    """

    class Admitting(AuthRoute):
        async def admit(self, request: Request) -> None:
            if HOST_CHECKED not in request.scope:
                hosts.check(request.scope)
            budget = _BUDGETS.get(self.name, "auth")
            if budget != "status":
                require_visit(request)  # first: what another site asks for must not use up what its victim may
            if limits.on(budget):
                await limits.count(budget, hosts.client(request.scope))

        def shown(self, error: NotionOAuthError) -> NotionOAuthError:
            """On the internet, no path, key or setting of the machine: its operator reads them in the log."""
            if not hosts.public or not isinstance(error, StorageError):
                return error
            _LOG.error("A request failed: %s", error)
            return type(error)("The service cannot keep logins just now.", hint="Tell its operator: the log says why.")

    return Admitting
