"""Read the stored login without any third-party package: all that `token` and `status` need in the common case.

Importing the models, the settings and the HTTP client takes several times as long as the rest of such a command.
In any unusual case `read_fast` returns None, and the command takes the normal path, which reports what is wrong.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from notion_oauth import profile_names
from notion_oauth.errors import NotionOAuthError
from notion_oauth.files import atomic, env_file, moved, permissions
from notion_oauth.files.default_profile import read_default_profile
from notion_oauth.files.locations import CLONE_TOKEN_FILE, Origin, user_token_file
from notion_oauth.files.protection import Protection
from notion_oauth.protocol import lifetime
from notion_oauth.protocol.messages import is_sendable, parse_json, safe_name
from notion_oauth.protocol.urls import resource_covers, url_problem

_PREFIX = "NOTION_OAUTH_"
_KNOWN = {_PREFIX + name for name in ("TOKEN_FILE", "SERVER_URL", "PROFILE")}
_SECRETS = ("refresh_token", "previous_refresh_token", "client_id", "client_secret")
_STRINGS = (
    *("access_token", "token_type", "issuer", "resource", "scope", "requested_scope"),
    *("token_endpoint", "revocation_endpoint", "introspection_endpoint"),
)
_IDENTITY = ("workspace", "workspace_id", "user", "user_id", "email")
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
    workspace: str | None
    workspace_id: str | None
    user: str | None
    user_id: str | None
    email: str | None
    protection: Protection
    profile: str
    file: Path
    origin: Origin
    server_url: str  # the configured one


def read_fast(
    profile: str | None, token_file: Path | None, server_url: str | None, *, clone: Path | None = None
) -> FastLogin | None:
    """The login selected by these options and the environment; None if the normal path is needed. Raises nothing.

    `clone` is the directory of a clone's `cli.py`. A file with settings is not read here.
    """
    variables = {name: value for name, value in os.environ.items() if name.upper().startswith(_PREFIX) and value}
    if not variables.keys() <= _KNOWN or (clone is not None and os.path.lexists(clone / env_file.NAME)):
        return None
    url = server_url or variables.get(_PREFIX + "SERVER_URL", profile_names.DEFAULT_SERVER_URL)
    try:
        path, origin = _token_file(token_file, variables.get(_PREFIX + "TOKEN_FILE"), clone)
        profile = profile or variables.get(_PREFIX + "PROFILE") or read_default_profile(path.expanduser().absolute())
        file = profile_names.profile_file(path.expanduser().absolute(), profile)
        if not profile_names.PROFILE_NAME.match(profile) or url_problem(url) or path.name == ".." or _is_quoted(path):
            return None
        found = atomic.read_file(file, partial(_login, profile=profile, file=file, origin=origin, server_url=url))
    except (NotionOAuthError, ValueError, OSError, RuntimeError):
        return None
    if found is None or permissions.weakness(file) or moved.is_moved(file):
        return None
    if found.resource is not None and not resource_covers(found.resource, url):
        return None
    return replace(found, protection=Protection(format="plain", mode=permissions.mode_of(file)))


def stored_profiles(token_file: Path | None, *, clone: Path | None = None) -> dict[str, str]:
    """The profiles with a login, and the name of the workspace of each as far as that is readable. Raises nothing."""
    try:
        path, _ = _token_file(token_file, os.environ.get(_PREFIX + "TOKEN_FILE") or None, clone)
        path = path.expanduser().absolute()
        names, suffixes = [name for name, _ in atomic.directory_entries(path.parent)], ("", moved.SUFFIX)
        found = sorted({each for name in names if (each := profile_names.profile_of(path, name, suffixes)) is not None})
        return {name: _workspace(profile_names.profile_file(path, name)) for name in found}
    except (NotionOAuthError, ValueError, OSError, RuntimeError):
        return {}


def _workspace(file: Path) -> str:
    try:
        document = atomic.read_file(file, parse_json)
    except (NotionOAuthError, ValueError):
        return ""
    return (safe_name(document.get("workspace")) or "") if isinstance(document, dict) else ""


def _token_file(option: Path | None, variable: str | None, clone: Path | None) -> tuple[Path, Origin]:
    if option is not None:
        return option, "option"
    if variable is not None:
        return Path(variable), "environment"
    return (user_token_file(), "user_data") if clone is None else (clone / CLONE_TOKEN_FILE, "clone")


def _is_quoted(path: Path) -> bool:
    return str(path)[0] in "'\"" and str(path)[-1] == str(path)[0]


def _login(content: bytes, *, profile: str, file: Path, origin: Origin, server_url: str) -> FastLogin:
    """Decode a login that has all fields as the store writes them. Raises ValueError otherwise, also if encrypted."""
    document = parse_json(content)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - an error in the document, not in the program
    updated_at = lifetime.parse_time(document.get("updated_at"))
    if (
        not all(_is_plain(document.get(name)) for name in (*_STRINGS, *_SECRETS))
        or any(document.get(name) != safe_name(document.get(name)) for name in _IDENTITY)
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
    expires_at = lifetime.parse_time(document.get("expires_at"))
    return FastLogin(
        access_token=document["access_token"],
        token_type=document.get("token_type") or "Bearer",
        refresh_token=document.get("refresh_token") or None,
        client=document.get("client_id") or None,
        expires_in=expires_in,
        expires_at=expires_at or lifetime.expires_at(expires_in, requested_at=updated_at),
        authorized_at=lifetime.parse_time(document.get("authorized_at")),
        refreshed_at=lifetime.parse_time(document.get("refreshed_at")),
        updated_at=updated_at,
        scope=document.get("scope") or None,
        issuer=document.get("issuer"),
        resource=document.get("resource"),
        **{name: document.get(name) for name in _IDENTITY},
        protection=Protection(format="plain"),
        profile=profile,
        file=file,
        origin=origin,
        server_url=server_url,
    )


def _is_plain(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.isprintable() and value == value.strip())


def _is_list_of_strings(value: object) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value))
