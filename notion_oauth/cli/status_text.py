"""The login status as text for a terminal."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from notion_oauth.errors import SIGN_IN, SIGN_IN_AGAIN
from notion_oauth.humanize import format_duration
from notion_oauth.tokens.status import LoginStatus

if TYPE_CHECKING:
    from notion_oauth.models import Introspection


def describe(status: LoginStatus) -> str:
    """The status as a person reads it in a terminal, a line for each thing."""
    if status.ended_at is not None:
        return f"Not signed in.\n  Ended      {_local(status.ended_at)}\n{status.message} {SIGN_IN_AGAIN}"
    if status.status == "unauthenticated":
        return f"Not signed in. {SIGN_IN}"
    lines = ["Signed in to Notion." if status.status == "authenticated" else "Signed in; the access token has expired."]
    lines.append(f"  Token      {validity(status)}")
    if status.status == "expired":
        lines.append("             the next program that needs one renews it (now: notion-oauth refresh)")
    if status.authorized_at:
        lines.append(f"  Signed in  {_local(status.authorized_at)}")
    if status.refreshed_at:
        lines.append(f"  Refreshed  {_local(status.refreshed_at)}")
    if status.refreshable and status.login_ends_at:
        lines.append(f"  Login      can live until {_local(status.login_ends_at)}; a refresh may prolong it")
    if status.resource:
        lines.append(f"  Server     {status.resource}")
    if status.storage:
        lines.append(f"  Kept       {status.storage}")
    lines += [f"Warning: {warning}" for warning in (status.warning, status.storage_warning) if warning]
    return "\n".join(lines)


def describe_remote(said: Introspection | None, *, expired: bool = False) -> str:
    """What the server itself says of the token, in one line; of one that has expired it is not asked."""
    if expired:
        return "The server was not asked: this token has expired. The next use renews it, or: notion-oauth refresh"
    if said is None:
        return "The server offers no introspection, so it was not asked."
    if not said.active:
        return "The server no longer takes this token. Renew it with: notion-oauth refresh"
    parts = [
        f"until {_local(said.expires_at)}" if said.expires_at else "",
        f"for {said.scope}" if said.scope else "",
        f"as {said.username}" if said.username else "",
    ]
    return " ".join(["  Remote     the server takes the token", *filter(None, parts)])


def validity(status: LoginStatus) -> str:
    """`valid for 59 minutes, until …`, in the reader's own time zone."""
    if status.expires_at is None or status.expires_in_seconds is None:
        return "valid until the server says otherwise"
    if status.status == "expired":
        return f"expired on {_local(status.expires_at)}"
    return (
        f"valid for {format_duration(timedelta(seconds=status.expires_in_seconds))}, until {_local(status.expires_at)}"
    )


def _local(when: datetime) -> str:
    return f"{when.astimezone():%Y-%m-%d %H:%M:%S %Z}"
