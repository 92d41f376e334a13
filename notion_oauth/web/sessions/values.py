"""The values that the service stores in a browser session."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from starlette.requests import HTTPConnection

from notion_oauth import profile_names
from notion_oauth.errors import ConfigurationError

Session = MutableMapping[str, Any]

KEY_PREFIX = "notion_oauth."  # of all keys: the session may belong to an application, which has keys too
_PROFILE = f"{KEY_PREFIX}profile"
_SIGNED_IN_AT = f"{KEY_PREFIX}signed_in_at"
_SEEN = f"{KEY_PREFIX}seen"
_OLD_PENDING = f"{KEY_PREFIX}pending"
_OF_EARLIER_VERSIONS = (f"{KEY_PREFIX}csrf", f"{KEY_PREFIX}notice")  # cookies have replaced them


def session_of(request: HTTPConnection) -> Session:
    """Return the browser session. Raises ConfigurationError if the application has no sessions."""
    if "session" not in request.scope:
        raise ConfigurationError(
            "Signing in requires sessions, and this application has none.",
            hint="Add starlette.middleware.sessions.SessionMiddleware to it, or use notion_oauth.app.create_app().",
        )
    return request.session


def clear_session(session: Session) -> None:
    """Remove the service's values from a session; the application's values stay."""
    for name in [name for name in session if name.startswith(KEY_PREFIX)]:
        del session[name]


def session_profile(session: Session) -> str | None:
    """Return the profile of a browser session; None if it has none, or if its value is no profile of a visitor."""
    name = session.get(_PROFILE)
    return name if isinstance(name, str) and profile_names.VISITOR_PROFILE.match(name) else None


def signed_in_at(session: Session) -> int:
    """When the last login of the session was signed in, in milliseconds since 1970; 0 if that is unknown."""
    at = session.get(_SIGNED_IN_AT)
    return at if isinstance(at, int) else 0


def assign_profile(session: Session, profile: str, signed_in_at: int, day: int) -> None:
    """Give the browser session this profile, after a sign-in on this day (see `mark_seen`)."""
    session.update({_PROFILE: profile, _SIGNED_IN_AT: signed_in_at, _SEEN: day})
    for name in _OF_EARLIER_VERSIONS:
        session.pop(name, None)


def remove_profile(session: Session) -> None:
    """Remove the profile from the browser session. Its stored files stay."""
    session.pop(_PROFILE, None)


def old_pending(session: Session, name: str) -> str | None:
    """Return an encrypted pending sign-in that an earlier version has stored in the session."""
    stored = session.get(_OLD_PENDING)
    found = stored.get(name) if isinstance(stored, dict) else None
    return found if isinstance(found, str) else None


def remove_old_pending(session: Session, name: str) -> None:
    if old_pending(session, name) is not None:
        session[_OLD_PENDING] = {key: value for key, value in session[_OLD_PENDING].items() if key != name}


def mark_seen(session: Session, day: int) -> None:
    """Store the day, as an ordinal number: this sends the cookie again once a day, which extends its lifetime."""
    if session.get(_SEEN) != day:
        session[_SEEN] = day
