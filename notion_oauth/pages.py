"""HTML pages from templates, and the security headers of every response."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from fastapi import Response
from fastapi.responses import HTMLResponse

from notion_oauth import errors
from notion_oauth.humanize import format_duration, format_short_time
from notion_oauth.observability.context import REQUEST_ID

ERROR_TITLE = "Something went wrong"
SECURE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("notion_oauth"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"span": format_duration, "utc": format_short_time, "rfc3339": datetime.isoformat}
    environment.globals |= {"style": _constant("style.css"), "script": _constant("page.js")}
    return environment


@cache
def _constant(name: str) -> str:
    return files("notion_oauth").joinpath("templates", name).read_text()


def _digest(name: str) -> str:
    return base64.b64encode(hashlib.sha256(_constant(name).encode()).digest()).decode()


@cache
def _content_security_policy() -> str:
    return (
        f"default-src 'none'; style-src 'sha256-{_digest('style.css')}'; script-src 'sha256-{_digest('page.js')}'; "
        "img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )


def render(template: str, context: Mapping[str, Any]) -> str:
    """The HTML of a page. All values in the context are escaped."""
    return _environment().get_template(template).render(**context)


def page(
    template: str, context: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An HTML response. Its policy allows the constant style and script, images in `data:` URLs, and own forms."""
    policy = {"Content-Security-Policy": _content_security_policy(), "Vary": "Accept"}
    return HTMLResponse(render(template, context), status, {**SECURE_HEADERS, **policy, **(headers or {})})


@dataclass(frozen=True)
class Explanation:
    """An error in words for people. `{server}` is replaced by the server's name.

    `text` is empty if the error's own message and hint say it best. `button` starts a sign-in. `temporary`: the same
    may succeed later.
    """

    title: str
    text: str = ""
    button: str = "Sign in again"
    temporary: bool = False


DECLINED = Explanation(
    "The sign-in was declined",
    "{server} says that access was not allowed. Perhaps you did not agree, or your workspace does not let its "
    "members connect tools. Nothing was connected or changed.",
    "Try again",
)
_EXPLANATIONS: tuple[tuple[type[errors.NotionOAuthError], Explanation], ...] = (
    (
        errors.AuthorizationExpired,
        Explanation(
            "That took too long",
            "A sign-in must be finished within ten minutes, to keep it safe. Nothing was connected or changed.",
            "Start again",
            temporary=True,
        ),
    ),
    (
        errors.StateMismatch,
        Explanation(
            "This sign-in cannot be finished here",
            "It may be finished already, or another browser has started it. Nothing was changed.",
            "Start again",
        ),
    ),
    (errors.AuthorizationResponseError, Explanation("The sign-in was not finished", button="Start again")),
    (errors.AuthorizationRefused, Explanation("{server} refused the sign-in")),
    (errors.OAuthError, Explanation("{server} refused the request")),
    (
        errors.NetworkError,
        Explanation(
            "{server} did not answer",
            "That usually passes within minutes, and nothing was lost. If it stays so, check the network connection.",
            "Try again",
            temporary=True,
        ),
    ),
    (
        errors.NewTokenRejected,
        Explanation("{server} did not accept its own token", button="Try again", temporary=True),
    ),
    (errors.UnexpectedRedirect, Explanation("{server} answered with something else", button="Try again")),
    (
        errors.ServerUnavailable,
        Explanation(
            "{server} cannot answer now",
            "That usually passes within minutes, and nothing was lost. Try again in a moment.",
            "Try again",
            temporary=True,
        ),
    ),
    (errors.StepUpRequired, Explanation("{server} asks for more", button="Sign in again")),
    (errors.SignInRequired, Explanation("Sign in again")),
    (errors.ResourceMismatch, Explanation("This login is for another server")),
    (errors.NotSignedIn, Explanation("You are not signed in", button="Sign in")),
    (errors.TooManyRequests, Explanation("One moment, please", temporary=True)),
    (errors.RequestForbidden, Explanation("Nothing was changed")),
    (errors.HostNotAllowed, Explanation("The service does not answer at this address")),
    (errors.InsecureRequest, Explanation("The service does not answer at this address")),
    (errors.StoreBusy, Explanation("One moment, please", temporary=True)),
    (errors.StorageError, Explanation("The login cannot be read or stored")),
    (errors.ConfigurationError, Explanation("The service is not set up correctly")),
    (errors.MetadataError, Explanation("{server} is not set up correctly")),
)


_ABOUT_REQUESTS = (
    errors.RequestForbidden,
    errors.BadRequest,
    errors.TooManyRequests,
    errors.HostNotAllowed,
    errors.InsecureRequest,
    errors.UserNotIdentified,
    errors.ConfigurationError,
)


def explain(error: errors.NotionOAuthError) -> Explanation:
    """The error in words for people."""
    if isinstance(error, errors.AuthorizationRefused) and error.error == "access_denied":
        return DECLINED
    return next((found for kind, found in _EXPLANATIONS if isinstance(error, kind)), Explanation(ERROR_TITLE))


_NOTHING_MORE = {
    "about_login": False,
    "temporary": False,
    "cause": "",
    "notice": "",
    "home": "",
    "login": "",
    "button": "Sign in",
    "logout": "",
}


def error_page(
    message: str,
    hint: str = "",
    *,
    status: int,
    title: str = ERROR_TITLE,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """An error for a person. `about_login`: a picture shows that the login does not work, for now if `temporary`.

    `home` and `login` are the paths of its buttons, if it has them, and `button` is the label of `login`. `cause` says
    to someone who helps what the message leaves out. With `logout`, there is a form to sign out.
    """
    context = {"title": title, "message": message, "hint": hint, "reference": REQUEST_ID.get(), **_NOTHING_MORE, **more}
    return page("error.html", context, status=status, headers=headers)


def explained_page(
    error: errors.NotionOAuthError,
    hint: str,
    *,
    status: int,
    server: str = "",
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    """An error of this package for a person. `server` is the name of the MCP server; `more` is as for `error_page`."""
    found = explain(error)
    name = server or "the server"
    if found.text:
        message, cause = _sentence(found.text, name), f"{error.code}: {error.message}"
        if error.hint.command is None or more.get("login"):  # the text, or the button, says what to do
            hint = ""
    else:
        message, cause = error.message, error.code
    return error_page(
        message,
        hint,
        status=status,
        title=_sentence(found.title, name),
        headers=headers,
        **{
            "about_login": not isinstance(error, _ABOUT_REQUESTS),
            "temporary": found.temporary,
            "button": found.button,
            "cause": cause,
            **more,
        },
    )


def _sentence(text: str, server: str) -> str:
    text = text.replace("{server}", server)
    return text[:1].upper() + text[1:]
