"""The values that the service stores in a browser session."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import HTTPConnection

from notion_oauth import profile_names
from notion_oauth.errors import ConfigurationError

Session = MutableMapping[str, Any]

KEY_PREFIX = "notion_oauth."  # of all keys: the session may belong to an application, which has keys too
_CSRF = f"{KEY_PREFIX}csrf"
_NOTICE = f"{KEY_PREFIX}notice"
_PROFILE = f"{KEY_PREFIX}profile"
_SEEN = f"{KEY_PREFIX}seen"


def session_of(request: HTTPConnection) -> Session:
    """Return the browser session. Raises ConfigurationError if the application has no sessions."""
    if "session" not in request.scope:
        raise ConfigurationError(
            "Signing in requires sessions, and this application has none.",
            hint="Add starlette.middleware.sessions.SessionMiddleware to it, or use notion_oauth.app.create_app().",
        )
    return request.session


def csrf_token(session: Session) -> str:
    """Return the token that proves that a form came from the service's own page; created on first use."""
    if not isinstance(session.get(_CSRF), str):
        session[_CSRF] = secrets.token_urlsafe(32)
    token: str = session[_CSRF]
    return token


def has_csrf(session: Session) -> bool:
    """Return whether this browser has received a form."""
    return isinstance(session.get(_CSRF), str)


def csrf_valid(session: Session, sent: str | None) -> bool:
    """Return whether the form came from a page that this browser received."""
    expected = session.get(_CSRF)
    return isinstance(expected, str) and sent is not None and hmac.compare_digest(expected.encode(), sent.encode())


def clear_session(session: Session) -> None:
    """Remove the service's values from a session; the application's values stay."""
    for name in [name for name in session if name.startswith(KEY_PREFIX)]:
        del session[name]


def renew_csrf(session: Session) -> None:
    """Invalidate the forms shown before a sign-in: an attacker who planted the session knows their token."""
    session.pop(_CSRF, None)


def session_profile(session: Session) -> str | None:
    """Return the profile of a browser session; None if it has none, or if its value is no profile of a visitor."""
    name = session.get(_PROFILE)
    return name if isinstance(name, str) and profile_names.VISITOR_PROFILE.match(name) else None


def assign_profile(session: Session, profile: str) -> None:
    """Give the browser session this profile, after a sign-in."""
    session[_PROFILE] = profile
    renew_csrf(session)


def remove_profile(session: Session) -> None:
    """Remove the profile from the browser session. Its stored files stay."""
    session.pop(_PROFILE, None)


def mark_seen(session: Session, day: int) -> None:
    """Store the day, as an ordinal number: this sends the cookie again once a day, which extends its lifetime."""
    if session.get(_SEEN) != day:
        session[_SEEN] = day


def set_notice(session: Session, notice: str) -> None:
    """Store the name of a notice (never its text) for the next page."""
    session[_NOTICE] = notice


def pop_notice(session: Session) -> str | None:
    """Remove and return the name of the stored notice."""
    notice = session.pop(_NOTICE, None)
    return notice if isinstance(notice, str) else None
