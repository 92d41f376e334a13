"""Login status, from stored data only. Imports no third-party package, because the fast path imports it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from notion_oauth.errors import Hint, WarningWithHint
from notion_oauth.protocol import lifetime
from notion_oauth.protocol.lifetime import WARN_BEFORE_END, Lifetimes

if TYPE_CHECKING:
    from typing import Protocol

    from notion_oauth.files.protection import Protection
    from notion_oauth.protocol.lifetime import Login

    class StoredLogin(Login, Protocol):
        """What the status shows of a login in addition to its times; a TokenSet has it."""

        @property
        def token_type(self) -> str: ...
        @property
        def scope(self) -> str | None: ...
        @property
        def issuer(self) -> str | None: ...
        @property
        def resource(self) -> str | None: ...
        @property
        def workspace(self) -> str | None: ...
        @property
        def workspace_id(self) -> str | None: ...
        @property
        def user(self) -> str | None: ...
        @property
        def user_id(self) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class LoginStatus:
    """`status` is "authenticated", "expired" (the access token has expired and the next use refreshes it) or
    "unauthenticated". `ended_at` and the fields after it describe a login that the server has ended. Times are in UTC,
    and None if they are unknown.
    """

    status: Literal["authenticated", "expired", "unauthenticated"]
    expires_in_seconds: int | None = None
    token_type: str | None = None
    expires_at: datetime | None = None
    refreshable: bool = False
    scope: str | None = None
    issuer: str | None = None
    resource: str | None = None
    workspace: str | None = None  # as the server says it
    workspace_id: str | None = None
    user: str | None = None
    user_id: str | None = None
    authorized_at: datetime | None = None
    refreshed_at: datetime | None = None
    updated_at: datetime | None = None
    login_ends_at: datetime | None = None  # if it is not refreshed before
    warning: WarningWithHint | None = None  # if that is within two weeks
    storage: str | None = None  # how the tokens are protected on the disk
    storage_warnings: tuple[WarningWithHint, ...] = ()  # what is weaker than configured
    ended_at: datetime | None = None
    ended_reason: str | None = None
    message: str | None = None  # why it has ended, as a sentence

    @property
    def storage_warning(self) -> str | None:
        return "\n".join(self.storage_warnings) or None

    def with_storage_warning(self, warning: WarningWithHint | None) -> LoginStatus:
        """The status with another warning of how the tokens are stored, unless it is None."""
        return self if warning is None else replace(self, storage_warnings=(*self.storage_warnings, warning))

    def as_json(self, *, storage: bool = True, render: Callable[[Hint], str] = str) -> dict[str, Any]:
        """Return a JSON-ready mapping; without a login, `status` and how the last one ended. Times are RFC 3339 in UTC.

        Without `storage`, how the tokens are stored is left out. `render` returns the text of a hint.
        """
        if self.status != "unauthenticated":
            hidden = (*_ENDED_FIELDS, "storage", "storage_warnings")
            shown = {name: value for name, value in vars(self).items() if name not in hidden}
            shown["warning"] = self.warning and self.warning.shown_with(render)
            if storage:
                warnings = "\n".join(each.shown_with(render) for each in self.storage_warnings)
                shown |= {"storage": self.storage, "storage_warning": warnings or None}
        else:
            shown = {"status": self.status}
            if self.ended_at is not None:
                shown |= {name: getattr(self, name) for name in _ENDED_FIELDS}
        return {name: rfc3339(value) if isinstance(value, datetime) else value for name, value in shown.items()}


_ENDED_FIELDS = ("ended_at", "ended_reason", "message")


def rfc3339(moment: datetime) -> str:
    """Return the time in UTC, as JSON has it."""
    return moment.isoformat().replace("+00:00", "Z")


def login_status(
    login: StoredLogin, *, now: datetime, lifetimes: Lifetimes, protection: Protection | None = None
) -> LoginStatus:
    """Return the status of a login at the time `now`, and how it is protected on the disk."""
    left = lifetime.remaining(login, now)
    refreshable = login.refresh_token is not None
    expired = left is not None and left <= timedelta()
    if expired and not refreshable:
        message = "The login has ended: the access token has expired, and the server issued no refresh token."
        ended_at = lifetime.expiry(login)
        return LoginStatus(status="unauthenticated", ended_at=ended_at, ended_reason="expired", message=message)
    ends_at = lifetime.login_end(login, lifetimes) if refreshable else login.expires_at
    return LoginStatus(
        status="expired" if expired else "authenticated",
        expires_in_seconds=None if left is None else max(0, int(left.total_seconds())),
        token_type=login.token_type,
        expires_at=lifetime.expiry(login),
        refreshable=refreshable,
        scope=login.scope,
        issuer=login.issuer,
        resource=login.resource,
        workspace=login.workspace,
        workspace_id=login.workspace_id,
        user=login.user,
        user_id=login.user_id,
        authorized_at=login.authorized_at,
        refreshed_at=login.refreshed_at,
        updated_at=login.updated_at,
        login_ends_at=ends_at,
        warning=_warning(login, ends_at, now, lifetimes) if refreshable else None,
        storage=None if protection is None else protection.describe(),
        storage_warnings=() if protection is None else protection.weaknesses,
    )


def _warning(login: Login, ends_at: datetime | None, now: datetime, lifetimes: Lifetimes) -> WarningWithHint | None:
    """Return what to do before the login ends, if that is within two weeks."""
    if ends_at is None or ends_at - now > WARN_BEFORE_END:
        return None
    days = max(0, (ends_at - now).days)
    span = f"in {days} day{'' if days == 1 else 's'}" if days else "within a day" if ends_at > now else "now"
    if login.authorized_at is not None and ends_at == login.authorized_at + lifetimes.grant:
        message = f"The login ends {span}, {lifetimes.grant.days} days after the sign-in."
        return WarningWithHint(message, Hint("Sign in again before that", "login"))
    limit = f"it ends after {lifetimes.idle.days} days without a refresh"
    message = f"The login ends {span} unless it is refreshed: {limit}."
    return WarningWithHint(message, Hint("Refresh it before that", "refresh"))
