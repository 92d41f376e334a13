"""Read the stored login without any third-party package: all that `token` and `status` need in the common case.

Importing the models, the settings and the HTTP client takes several times as long as the rest of such a command.
In any unusual case `read_fast` returns None, and the command takes the normal path, which reports what is wrong.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from notion_oauth import profile_names
from notion_oauth.errors import NotionOAuthError
from notion_oauth.files import atomic, permissions
from notion_oauth.files.protection import Protection
from notion_oauth.protocol import lifetime
from notion_oauth.protocol.messages import is_sendable, parse_json
from notion_oauth.protocol.urls import resource_covers, url_problem

_PREFIX = "NOTION_OAUTH_"
_KNOWN = {_PREFIX + name for name in ("TOKEN_FILE", "SERVER_URL", "PROFILE")}
_STRINGS = (
    *("access_token", "token_type", "refresh_token", "client_id", "client_secret", "issuer", "resource"),
    *("scope", "requested_scope", "token_endpoint", "revocation_endpoint", "introspection_endpoint"),
)
_LISTS = tuple(f"{endpoint}_endpoint_auth_methods_supported" for endpoint in ("token", "revocation", "introspection"))
_METHODS = (None, "none", "client_secret_basic", "client_secret_post")


@dataclass(frozen=True, repr=False, kw_only=True)
class FastLogin:
    """A login as stored in the file. Its `repr` shows no field."""

    access_token: str
    token_type: str
    refresh_token: str | None
    client: str | None  # its ID
    expires_in: int | None
    expires_at: datetime | None
    authorized_at: datetime | None
    refreshed_at: datetime | None
    updated_at: datetime
    scope: str | None
    issuer: str | None
    resource: str | None
    protection: Protection


def read_fast(profile: str | None, token_file: Path | None, server_url: str | None) -> FastLogin | None:
    """The login selected by these options and the environment; None if the normal path is needed. Raises nothing."""
    variables = {name: value for name, value in os.environ.items() if name.upper().startswith(_PREFIX) and value}
    if not variables.keys() <= _KNOWN or os.path.lexists(".env"):
        return None
    profile = profile or variables.get(_PREFIX + "PROFILE", profile_names.DEFAULT_PROFILE)
    url = server_url or variables.get(_PREFIX + "SERVER_URL", profile_names.DEFAULT_SERVER_URL)
    path = token_file or Path(variables.get(_PREFIX + "TOKEN_FILE", profile_names.DEFAULT_TOKEN_FILE))
    if not profile_names.PROFILE_NAME.match(profile) or url_problem(url) or path.name in ("", "..") or "~" in str(path):
        return None
    file = profile_names.profile_file(path, profile)
    try:
        found = atomic.read_file(file, _login)
    except (NotionOAuthError, ValueError):
        return None
    if found is None or permissions.weakness(file):
        return None
    if found.resource is not None and not resource_covers(found.resource, url):
        return None
    return replace(found, protection=Protection(format="plain", mode=permissions.mode_of(file)))


def _login(content: bytes) -> FastLogin:
    """Decode a login that has all fields as the store writes them. Raises ValueError otherwise, also if encrypted."""
    document = parse_json(content)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - an error in the document, not in the program
    updated_at = lifetime.from_milliseconds(document.get("updated_at"))
    if (
        not all(_is_plain(document.get(name)) for name in _STRINGS)
        or not is_sendable(document.get("access_token") or "")
        or not document.get("token_endpoint")
        or document.get("token_endpoint_auth_method") not in _METHODS
        or type(document.get("client_secret_expires_at")) is not int
        or not isinstance(document.get(_LISTS[0]), list)
        or not all(_is_list_of_strings(document.get(name)) for name in _LISTS)
        or updated_at is None
    ):
        raise ValueError("not as this program writes it")
    expires_in = lifetime.parse_lifetime(document.get("expires_in"))
    expires_at = lifetime.from_milliseconds(document.get("expires_at"))
    return FastLogin(
        access_token=document["access_token"],
        token_type=document.get("token_type") or "Bearer",
        refresh_token=document.get("refresh_token") or None,
        client=document.get("client_id") or None,
        expires_in=expires_in,
        expires_at=expires_at or lifetime.expires_at(expires_in, requested_at=updated_at),
        authorized_at=lifetime.from_milliseconds(document.get("authorized_at")),
        refreshed_at=lifetime.from_milliseconds(document.get("refreshed_at")),
        updated_at=updated_at,
        scope=document.get("scope"),
        issuer=document.get("issuer"),
        resource=document.get("resource"),
        protection=Protection(format="plain"),
    )


def _is_plain(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.isprintable())


def _is_list_of_strings(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))
