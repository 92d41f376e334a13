"""The login status as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from notion_oauth.errors import SIGN_IN_AGAIN, Hint, NotSignedIn
from notion_oauth.humanize import format_local
from notion_oauth.profile_names import DEFAULT_PROFILE
from notion_oauth.protocol.urls import server_name
from notion_oauth.tokens.status import LoginStatus

if TYPE_CHECKING:
    from notion_oauth.models import Introspection

_SIGNED_OUT = NotSignedIn("Not signed in.")
_REFRESH, _REFRESH_NOW = Hint("Refresh it", "refresh"), Hint("Refresh it now", "refresh")


def describe(
    status: LoginStatus,
    render: Callable[[Hint], str] = str,
    *,
    profile: str = DEFAULT_PROFILE,
    file: str = "",
    server_url: str = "",
    signed_out: NotSignedIn = _SIGNED_OUT,
) -> str:
    """The status for a user to read, one fact per line. `profile` and `file`, the token file, are shown with it,
    and `server_url`, the configured server, if it is not the one that the login names.

    Without a login, `signed_out` says what to do.
    """
    shown_file = f"  File       {file}"
    if profile != DEFAULT_PROFILE:
        shown_file = f"  Profile    {profile}\n{shown_file}"
    if status.ended_at is not None:
        ended = f"  Ended      {_local(status.ended_at)}"
        return "\n".join(["Not signed in.", ended, shown_file, f"{status.message} {render(SIGN_IN_AGAIN)}"])
    if status.status == "unauthenticated":
        return f"{signed_out.message} {render(signed_out.hint)}\n{shown_file}"
    signed_in = signed_in_to(status)
    lines = [f"{signed_in}." if status.status == "authenticated" else f"{signed_in}; the access token has expired."]
    lines += [f"  {label:<10} {value}" for label, value in _facts(status, render) if value]
    if server_url != status.resource:
        lines.append(f"  URL        {server_url}")
    lines.append(shown_file)
    if status.storage:
        lines.append(f"  Storage    {status.storage}")
    warnings = (status.warning, *status.storage_warnings)
    lines += [f"Warning: {warning.shown_with(render)}" for warning in warnings if warning]
    return "\n".join(lines)


def _facts(status: LoginStatus, render: Callable[[Hint], str]) -> list[tuple[str, str | None]]:
    ends_at = status.login_ends_at if status.refreshable else None
    return [
        ("Workspace", status.workspace),
        ("User", status.user),
        ("Token", validity(status)),
        ("", f"The next use refreshes it. {render(_REFRESH_NOW)}" if status.status == "expired" else None),
        ("Signed in", _local(status.authorized_at) if status.authorized_at else None),
        ("Refreshed", _local(status.refreshed_at) if status.refreshed_at else None),
        ("Login", f"valid until {_local(ends_at)}; a refresh may extend it" if ends_at else None),
        ("Server", status.resource),
    ]


def signed_in_to(status: LoginStatus, server: str = "") -> str:
    """For example `Signed in to Notion`. `server` is the URL of the MCP server if the login does not name it."""
    url = status.resource or server
    return f"Signed in to {server_name(url)}" if url else "Signed in"


def identity_text(status: LoginStatus) -> str:
    """For example ` as Ada, workspace Engines`; empty if the server has not said who has signed in."""
    user = f" as {status.user}" if status.user else ""
    return f"{user}, workspace {status.workspace}" if status.workspace else user


def describe_remote(
    introspection: Introspection | None, render: Callable[[Hint], str] = str, *, expired: bool = False
) -> str:
    """The server's introspection of the token, in one line. For an `expired` token it is not requested."""
    if expired:
        return f"Not checked at the server: the token has expired. {render(_REFRESH)}"
    if introspection is None:
        return "The server cannot check tokens: it offers no introspection (RFC 7662)."
    if not introspection.active:
        return f"The authorization server no longer accepts this token. {render(_REFRESH)}"
    parts = [
        f"until {_local(introspection.expires_at)}" if introspection.expires_at else "",
        f"for {introspection.scope}" if introspection.scope else "",
        f"as {introspection.username}" if introspection.username else "",
    ]
    return " ".join(["  Remote     the server accepts the token", *filter(None, parts)])


def validity(status: LoginStatus) -> str:
    """For example `valid until 14:05 (in 59 minutes)`, in the local time zone."""
    if status.expires_at is None or status.expires_in_seconds is None:
        return "valid until the server rejects it"
    if status.status == "expired":
        return f"expired {_local(status.expires_at)}"
    return f"valid until {_local(status.expires_at)}"


def _local(when: datetime) -> str:
    return format_local(when, datetime.now(UTC))
