"""Responses, including errors, as JSON or as a page."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from notion_oauth import errors
from notion_oauth.pages import SECURE_HEADERS, error_page, explained_page
from notion_oauth.web.sign_in_query import QUERY as SIGN_IN_QUERY

_LOG = logging.getLogger(__name__)
_JSON_HEADERS = [
    (name.lower().encode(), value.encode()) for name, value in {**SECURE_HEADERS, "Vary": "Accept"}.items()
]
_STATUS_CODES: tuple[tuple[type[errors.NotionOAuthError], int], ...] = (
    (errors.AuthorizationResponseError, 400),
    (errors.AuthorizationRefused, 403),
    (errors.RequestForbidden, 403),
    (errors.InsecureRequest, 403),
    (errors.BadRequest, 400),
    (errors.HostNotAllowed, 421),
    (errors.TooManyRequests, 429),
    (errors.ResourceMismatch, 409),
    (errors.UserNotIdentified, 401),
    (errors.NotSignedIn, 401),
    (errors.StepUpRequired, 403),
    (errors.SignInRequired, 401),
    (errors.StoreBusy, 503),
    (errors.LockLost, 503),
    (errors.StoreUnavailable, 503),
    (errors.StorageError, 500),
    (errors.ConfigurationError, 500),
    (errors.NotionOAuthError, 502),  # all others: the authorization server has failed or refused
)


_ON_STATUS_PAGE = ("login", "refresh", "logout")  # it has a button for each of these commands
_SIGN_IN_OPTIONS = {"profile", "new_client", *SIGN_IN_QUERY}  # each sign-in checks whether the client is registered


def data(content: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response that must not be cached."""
    return encoded_data(encode(content), status=status, headers=headers)


def encode(content: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(content), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def encoded_data(content: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """As `data`, for content that `encode` returned."""
    response = Response(content, status, headers, "application/json")
    response.raw_headers += _JSON_HEADERS  # encoded once
    return response


def redirect(url: str) -> Response:
    """A redirect to another page, with GET and without a referrer."""
    return RedirectResponse(url, 303, SECURE_HEADERS)


def wants_html(request: Request) -> bool:
    """Whether a browser requests a page. Programs that send no Accept header get JSON."""
    accept = request.headers.get("accept", "")
    return "text/html" in accept and "application/json" not in accept


def status_code(error: errors.NotionOAuthError) -> int:
    """The HTTP status of an error."""
    return next(code for kind, code in _STATUS_CODES if isinstance(error, kind))


def next_step(hint: errors.Hint, *, login: str = "") -> str:
    """The hint for a page or a program over HTTP: never a command, an option or a profile.

    `login` is the path of the sign-in, if it is known.
    """
    if path := _sign_in_path(hint, login):
        return hint.instead_of_command(f"at {path}")  # without a full stop, which a reader could take for a part of it
    return hint.instead_of_command(f"on the {'page' if _has_button(hint) else 'machine'} of the service.")


def _has_button(hint: errors.Hint) -> bool:
    return hint.command in _ON_STATUS_PAGE and {*hint.options} <= _SIGN_IN_OPTIONS


def _sign_in_path(hint: errors.Hint, login: str) -> str:
    """The path of the sign-in that the hint asks for, with the scopes that it names; empty if there is no such path."""
    if not login or hint.command != "login" or not _has_button(hint):
        return ""
    query = {name: value for name, value in hint.options.items() if name in SIGN_IN_QUERY}
    return f"{login}{'&' if '?' in login else '?'}{urlencode(query)}" if query else login


def problem(error: errors.NotionOAuthError, *, login: str = "") -> dict[str, Any]:
    """An error as JSON: its kind, what happened, and what to do next. `login` is the path of the sign-in, if known."""
    return {"error": error.code, "message": error.message, "next": next_step(error.hint, login=login)}


def public_error(error: errors.NotionOAuthError) -> errors.NotionOAuthError:
    """The error for users who do not own this machine: no path, key, setting or profile. The log has the full error."""
    if not isinstance(error, errors.StorageError):
        return error
    _LOG.error("A request failed: %s", error)
    return type(error)("The service cannot store logins.", hint="Contact the service's operator.")


def retry_after(error: errors.NotionOAuthError) -> dict[str, str]:
    """The Retry-After header, if the error says how long to wait."""
    seconds = getattr(error, "retry_after", None)
    return {} if seconds is None else {"Retry-After": f"{seconds:.0f}"}


def failure(
    request: Request, error: errors.NotionOAuthError, *, home: str = "", login: str = "", server: str = "", **more: Any
) -> Response:
    """An error as a page or as JSON: what happened, and what to do next.

    `home` and `login` are paths for buttons, `server` is the name of the MCP server that `login` signs in to. `more` is
    for the page alone: see `error_page`.
    """
    status, headers = status_code(error), retry_after(error)
    if not wants_html(request):
        return data(problem(error, login=login), status=status, headers=headers)
    sign_in = _sign_in_path(error.hint, login)
    hint = f"{error.hint.text}." if sign_in else next_step(error.hint)
    if isinstance(error, errors.TransientError) and request.method == "GET":  # of a sign-in: the status asks no server
        sign_in = login
    return explained_page(error, hint, status=status, headers=headers, home=home, login=sign_in, server=server, **more)


def internal_error(request: Request) -> Response:
    """The response to any other exception. It shows nothing of the exception, which may contain secrets."""
    message, hint = "Internal server error.", "Try again in a moment. The service's log has the details."
    if wants_html(request):
        return error_page(message, hint, status=500)
    return data({"error": "Internal Server Error", "message": message, "next": hint}, status=500)
