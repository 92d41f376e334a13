"""Our values in a browser session."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import HTTPConnection

from notion_oauth import profile_names
from notion_oauth.errors import ConfigurationError

Session = MutableMapping[str, Any]

KEY_PREFIX = "notion_oauth."  # begins our keys in a session: it may be that of an application with keys of its own
_CSRF = f"{KEY_PREFIX}csrf"
_NOTICE = f"{KEY_PREFIX}notice"
_PROFILE = f"{KEY_PREFIX}profile"
_SEEN = f"{KEY_PREFIX}seen"


def session_of(request: HTTPConnection) -> Session:
    """The session of a browser. Raises ConfigurationError where the application has none."""
    if "session" not in request.scope:
        raise ConfigurationError(
            "The sign-in needs sessions, and this application has none.",
            hint="Add starlette.middleware.sessions.SessionMiddleware to it, or use notion_oauth.app.create_app().",
        )
    return request.session


def csrf_token(session: Session) -> str:
    """This browser's proof that a form came from our own page; made on first use."""
    if not isinstance(session.get(_CSRF), str):
        session[_CSRF] = secrets.token_urlsafe(32)
    token: str = session[_CSRF]
    return token


def has_csrf(session: Session) -> bool:
    """Whether this browser was given a form."""
    return isinstance(session.get(_CSRF), str)


def csrf_valid(session: Session, sent: str | None) -> bool:
    """Whether it was this browser's own page that sent the form."""
    expected = session.get(_CSRF)
    return isinstance(expected, str) and sent is not None and hmac.compare_digest(expected.encode(), sent.encode())


def clear_session(session: Session) -> None:
    """Begin anew with what is ours in a session; the application's own stays."""
    for name in [name for name in session if name.startswith(KEY_PREFIX)]:
        del session[name]


def renew_csrf(session: Session) -> None:
    """Let forms that were shown before a sign-in count no longer: whoever planted the session has read their proof."""
    session.pop(_CSRF, None)


def session_profile(session: Session) -> str | None:
    """The profile that a browser session has for its own; None for none, and for what we have not put there."""
    name = session.get(_PROFILE)
    return name if isinstance(name, str) and profile_names.VISITOR_PROFILE.match(name) else None


def assign_profile(session: Session, profile: str) -> None:
    """Let the profile be the browser session's own, after a sign-in."""
    session[_PROFILE] = profile
    renew_csrf(session)


def remove_profile(session: Session) -> None:
    """Let the browser session have no profile any more."""
    session.pop(_PROFILE, None)


def mark_seen(session: Session, day: int) -> None:
    """Remember the day, as an ordinal number, so that the cookie is sent anew once a day, and lives as long again."""
    if session.get(_SEEN) != day:
        session[_SEEN] = day


def set_notice(session: Session, notice: str) -> None:
    """Leave a word for the next page: the name of a notice, never text."""
    session[_NOTICE] = notice


def pop_notice(session: Session) -> str | None:
    """The word that was left, once."""
    notice = session.pop(_NOTICE, None)
    return notice if isinstance(notice, str) else None
