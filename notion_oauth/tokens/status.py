"""A look at the stored login, made without any request. Needs the standard library alone, as a quick command does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from notion_oauth.protocol import lifetime
from notion_oauth.protocol.lifetime import WARNING, Lifetimes

if TYPE_CHECKING:
    from typing import Protocol

    from notion_oauth.files.protection import Protection
    from notion_oauth.protocol.lifetime import Login

    class StoredLogin(Login, Protocol):
        """What a look at a login shows beside its times; TokenSet has it."""

        @property
        def token_type(self) -> str: ...
        @property
        def scope(self) -> str | None: ...
        @property
        def issuer(self) -> str | None: ...
        @property
        def resource(self) -> str | None: ...


@dataclass(frozen=True, kw_only=True)
class LoginStatus:
    """A look at the stored login.

    `status` is "authenticated", "expired" (the access token is over, the login is not: the next use
    refreshes it) or "unauthenticated". Of a login that the server has ended, `ended_at` and the fields after it tell.
    """

    status: Literal["authenticated", "expired", "unauthenticated"]
    expires_in_seconds: int | None = None
    token_type: str | None = None
    expires_at: datetime | None = None
    refreshable: bool = False
    scope: str | None = None
    issuer: str | None = None
    resource: str | None = None
    authorized_at: datetime | None = None
    refreshed_at: datetime | None = None
    updated_at: datetime | None = None
    login_ends_at: datetime | None = None  # unless it is refreshed before, and at the latest
    warning: str | None = None  # where that is near
    storage: str | None = None  # how the tokens are kept
    storage_warning: str | None = None  # what is weaker in that than it is set up to be
    ended_at: datetime | None = None
    ended_reason: str | None = None
    message: str | None = None  # why it has ended, in a sentence

    def as_json(self, *, storage: bool = True) -> dict[str, Any]:
        """A JSON-ready mapping; without a login, `status` and what has become of it. Times are RFC 3339 in UTC.

        How the tokens are kept is left out for those whom it does not concern.
        """
        if self.status != "unauthenticated":
            hidden = _OF_AN_END if storage else (*_OF_AN_END, "storage", "storage_warning")
            shown = {name: value for name, value in vars(self).items() if name not in hidden}
        else:
            shown = {"status": self.status}
            if self.ended_at is not None:
                shown |= {name: getattr(self, name) for name in _OF_AN_END}
        return {name: _rfc3339(value) if isinstance(value, datetime) else value for name, value in shown.items()}


_OF_AN_END = ("ended_at", "ended_reason", "message")


def _rfc3339(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def login_status(
    login: StoredLogin, *, now: datetime, lifetimes: Lifetimes, protection: Protection | None = None
) -> LoginStatus:
    """What there is to say of a login at that moment, and of how it is kept."""
    left = lifetime.remaining(login, now)
    refreshable = login.refresh_token is not None
    expired = left is not None and left <= timedelta()
    if expired and not refreshable:
        return LoginStatus(status="unauthenticated")
    ends_at = lifetime.grant_end(login, lifetimes) if refreshable else login.expires_at
    return LoginStatus(
        status="expired" if expired else "authenticated",
        expires_in_seconds=None if left is None else max(0, int(left.total_seconds())),
        token_type=login.token_type,
        expires_at=login.expires_at,
        refreshable=refreshable,
        scope=login.scope,
        issuer=login.issuer,
        resource=login.resource,
        authorized_at=login.authorized_at,
        refreshed_at=login.refreshed_at,
        updated_at=login.updated_at,
        login_ends_at=ends_at,
        warning=_warning(login, ends_at, now, lifetimes) if refreshable else None,
        storage=None if protection is None else protection.describe(),
        storage_warning=None if protection is None else protection.warning(),
    )


def _warning(login: Login, ends_at: datetime | None, now: datetime, lifetimes: Lifetimes) -> str | None:
    """What to do before the login ends, where that is within two weeks."""
    if ends_at is None or ends_at - now > WARNING:
        return None
    days = max(0, (ends_at - now).days)
    span = f"in {days} day{'' if days == 1 else 's'}" if days else "within a day" if ends_at > now else "by now"
    if login.authorized_at is not None and ends_at == login.authorized_at + lifetimes.grant:
        hint = "Sign in again before that with: notion-oauth login"
        return f"The login ends {span}, {lifetimes.grant.days} days after the sign-in. {hint}"
    hint = "Refresh it before that with: notion-oauth refresh"
    return f"The login ends {span} unless it is refreshed: it lives {lifetimes.idle.days} days without. {hint}"
