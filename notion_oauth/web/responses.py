"""Responses, including errors, as JSON or as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from notion_oauth import errors
from notion_oauth.pages import ERROR_TITLE, SECURE_HEADERS, page

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
    (errors.NotAuthenticated, 401),
    (errors.NotSignedIn, 401),
    (errors.StepUpRequired, 403),
    (errors.SignInRequired, 401),
    (errors.StoreBusy, 503),
    (errors.StorageError, 500),
    (errors.ConfigurationError, 500),
    (errors.NotionOAuthError, 502),  # all others: the authorization server has failed or refused
)


def data(content: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response that must not be cached."""
    return encoded_data(encode(content), status=status, headers=headers)


def encode(content: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(content), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def encoded_data(content: bytes, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """As `data`, for content that `encode` returned."""
    answer = Response(content, status, headers, "application/json")
    answer.raw_headers += _JSON_HEADERS  # encoded once
    return answer


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


def problem(error: errors.NotionOAuthError) -> dict[str, str | None]:
    """An error as JSON: its kind, what happened, and what to do next."""
    return {"error": error.code, "message": error.message, "next": error.hint}


def retry_after(error: errors.NotionOAuthError) -> dict[str, str]:
    """The Retry-After header, if the error says how long to wait."""
    seconds = getattr(error, "retry_after", None)
    return {} if seconds is None else {"Retry-After": f"{seconds:.0f}"}


def failure(request: Request, error: errors.NotionOAuthError, *, home: str = "") -> Response:
    """An error as a page or as JSON: what happened, and what to do next."""
    status = status_code(error)
    if wants_html(request):
        context = {"title": ERROR_TITLE, "message": error.message, "hint": error.hint, "home": home}
        return page("error.html", context, status=status, headers=retry_after(error))
    return data(problem(error), status=status, headers=retry_after(error))


def internal_error(request: Request) -> Response:
    """The response to any other exception. It shows nothing of the exception, which may contain secrets."""
    message, hint = "Internal server error.", "Try again in a moment. The service's log has the details."
    if wants_html(request):
        context = {"title": ERROR_TITLE, "message": message, "hint": hint, "home": ""}
        return page("error.html", context, status=500)
    return data({"error": "Internal Server Error", "message": message, "next": hint}, status=500)
