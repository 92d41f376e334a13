"""create_gateway(): the gateway as a part of an ASGI application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from fastapi import Request
from pydantic import SecretStr

from notion_oauth.gateway.gateway import PATIENCE, Gateway
from notion_oauth.gateway.http import HttpGateway
from notion_oauth.gateway.local_secret import local_secret
from notion_oauth.gateway.sign_in import PageSignIn
from notion_oauth.gateway.tools import ToolFilter
from notion_oauth.service import NotionOAuth
from notion_oauth.web.profiles.single import SingleProfile
from notion_oauth.web.profiles.users import ApplicationUsers, ProfileFromRequest
from notion_oauth.web.sessions.keys import session_keys


def create_gateway(
    oauth: NotionOAuth,
    *,
    profile: str | ProfileFromRequest | None = None,
    bearer: SecretStr | None = None,
    tool_filter: ToolFilter | None = None,
    patience: float = PATIENCE,
    allow_origins: Sequence[str] = (),
    allow_hosts: Sequence[str] = (),
    sign_in_url: str | Callable[[Request], str] | None = None,
) -> HttpGateway:
    """An ASGI application that is the login's MCP server, over Streamable HTTP, at every path.

        app.add_route("/mcp", create_gateway(oauth, profile=profile_of_request))

    Each request must have `Authorization: Bearer` with `bearer`: by default the operator's secret, or else the local
    secret (`notion-oauth mcp secret`). If `profile` is a function, it takes the place of this check: it gets the
    request, and returns the profile of its user, or None for an unknown one, whose request is refused.

    `patience` is in seconds. Browsers may use it only from `allow_origins`. Requests for hosts other than localhost,
    the public URL's and `allow_hosts` are refused. `sign_in_url` is the page where users sign in, or a function of the
    request that returns its URL.

    Raises StorageError if a secret can neither be read nor created.
    """
    if callable(profile):
        resolver: SingleProfile = ApplicationUsers(oauth, profile)
        bearer = None
    else:
        resolver = SingleProfile(oauth if profile is None else oauth.for_profile(profile))
        bearer = bearer or oauth.settings.operator_secret or local_secret(oauth.settings)

    def build(login: NotionOAuth, request: Request) -> Gateway:
        url = sign_in_url(request) if callable(sign_in_url) else sign_in_url
        return Gateway(login, sign_in=PageSignIn(url), tool_filter=tool_filter, patience=patience)

    return HttpGateway(
        resolver.for_request,
        build,
        bearer=bearer,
        keys=session_keys(oauth.settings),
        allow_origins=allow_origins,
        allow_hosts=(*allow_hosts, *filter(None, (urlsplit(oauth.settings.public_url or "").hostname,))),
        strict=tool_filter is not None and tool_filter.is_set,
    )
