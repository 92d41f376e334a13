"""The login status as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from notion_oauth.errors import SIGN_IN_AGAIN, Hint, NotSignedIn
from notion_oauth.humanize import format_duration
from notion_oauth.protocol.urls import server_name
from notion_oauth.tokens.status import LoginStatus

if TYPE_CHECKING:
    from notion_oauth.models import Introspection

_SIGNED_OUT = NotSignedIn("Not signed in.")
_REFRESH, _REFRESH_NOW = Hint("Refresh it", "refresh"), Hint("Refresh it now", "refresh")


def describe(
    status: LoginStatus, render: Callable[[Hint], str] = str, *, file: str = "", signed_out: NotSignedIn = _SIGNED_OUT
) -> str:
    """The status for a user to read, one fact per line. `file` is the token file.

    Without a login, `signed_out` says what to do.
    """
    shown_file = f"  File       {file}"
    if status.ended_at is not None:
        ended = f"  Ended      {_local(status.ended_at)}"
        return "\n".join(["Not signed in.", ended, shown_file, f"{status.message} {render(SIGN_IN_AGAIN)}"])
    if status.status == "unauthenticated":
        return f"{signed_out.message} {render(signed_out.hint)}\n{shown_file}"
    server = server_name(status.resource) if status.resource else None
    signed_in = f"Signed in to {server}" if server else "Signed in"
    lines = [f"{signed_in}." if status.status == "authenticated" else f"{signed_in}; the access token has expired."]
    lines.append(f"  Token      {validity(status)}")
    if status.status == "expired":
        lines.append(f"             The next use refreshes it. {render(_REFRESH_NOW)}")
    if status.authorized_at:
        lines.append(f"  Signed in  {_local(status.authorized_at)}")
    if status.refreshed_at:
        lines.append(f"  Refreshed  {_local(status.refreshed_at)}")
    if status.refreshable and status.login_ends_at:
        lines.append(f"  Login      valid until {_local(status.login_ends_at)}; a refresh may extend it")
    if status.resource:
        lines.append(f"  Server     {status.resource}")
    lines.append(shown_file)
    if status.storage:
        lines.append(f"  Storage    {status.storage}")
    warnings = (status.warning, *status.storage_warnings)
    lines += [f"Warning: {warning.shown_with(render)}" for warning in warnings if warning]
    return "\n".join(lines)


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
    """For example `valid for 59 minutes, until …`, in the local time zone."""
    if status.expires_at is None or status.expires_in_seconds is None:
        return "valid until the server rejects it"
    if status.status == "expired":
        return f"expired on {_local(status.expires_at)}"
    return (
        f"valid for {format_duration(timedelta(seconds=status.expires_in_seconds))}, until {_local(status.expires_at)}"
    )


def _local(when: datetime) -> str:
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S %Z}"
