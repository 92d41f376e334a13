"""The OpenAPI descriptions of the routes: responses, parameters and forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from notion_oauth.protocol.challenge import MAX_AGE_DIGITS
from notion_oauth.tokens.status import LoginStatus
from notion_oauth.web.sign_in_query import MAX_VALUE_LENGTH

_CLOSED = ConfigDict(extra="forbid")
_NOT_OVER_HTTP = ("storage", "storage_warnings")
_PAGE: dict[str, Any] = {"text/html": {"schema": {"type": "string"}}}


class Problem(BaseModel):
    """An error: its kind, what happened, and what to do next."""

    model_config = _CLOSED

    error: str
    message: str | None = None
    next: str | None = None


def _status_model(name: str, **more: Any) -> type[BaseModel]:
    """Return the status as JSON: the fields of LoginStatus. Without a login, all but `status` may be absent."""
    types = {**get_type_hints(LoginStatus), "warning": str | None}  # which pydantic knows; a WarningWithHint is a str
    found: dict[str, Any] = {
        field.name: (types[field.name], ... if field.name == "status" else None)
        for field in fields(LoginStatus)
        if field.name not in _NOT_OVER_HTTP
    }
    return create_model(name, __config__=_CLOSED, **(found | more))


StatusShown = _status_model("StatusShown")
Done = _status_model("Done", message=(str, Field(description="What was done.")))

_RETRY_AFTER = {"Retry-After": {"description": "Seconds to wait, if known.", "schema": {"type": "integer"}}}
_ERRORS: Mapping[int, str] = {
    400: "The request is invalid, or the redirect does not belong to a sign-in of this browser.",
    401: "Not signed in, not identified by the application, or not the operator.",
    403: "Sent by another site, not sent over https, or refused by the user or the server.",
    409: "The stored login is for another server than the configured one.",
    421: "The service does not answer to this host name.",
    429: "Too many requests from this address.",
    500: "The configuration is wrong, or the service cannot read or write its files.",
    503: "Another process has locked the stored login for too long.",
}


def _error(text: str) -> dict[str, Any]:
    return {"model": Problem, "description": text, "content": _PAGE, "headers": _RETRY_AFTER}


ERRORS: dict[int | str, dict[str, Any]] = {code: _error(text) for code, text in _ERRORS.items()}
SERVER_FAILED: dict[int | str, dict[str, Any]] = {502: _error("The authorization server has failed or refused.")}
STATUS: dict[int | str, dict[str, Any]] = {
    200: {"model": StatusShown, "description": "The status: JSON, or a page for a browser.", "content": _PAGE}
}
REDIRECT: dict[int | str, dict[str, Any]] = {
    303: {
        "description": "A redirect to the next page.",
        "headers": {"Location": {"description": "Its URL.", "required": True, "schema": {"type": "string"}}},
    }
}
RESULT: dict[int | str, dict[str, Any]] = {
    200: {"model": Done, "description": "What was done, and the resulting status: for programs."},
    **REDIRECT,
}


def _form(**described: str) -> dict[str, Any]:
    properties = {name: {"type": "string", "description": text} for name, text in described.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}}


_CSRF_TOKEN = "From the form on the service's own page."  # noqa: S105 - a description
OWN_FORM = _form(csrf_token=_CSRF_TOKEN)
OPERATOR_FORM = _form(csrf_token=_CSRF_TOKEN, secret="The operator's secret.")  # noqa: S106 - a description


def _query(*described: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """Query parameters. The routes parse them: FastAPI hides repeated ones, and its errors echo what was sent."""
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
            for name, text, schema in described
        ]
    }


_TEXT: dict[str, Any] = {"type": "string"}
_VALUES: dict[str, Any] = {
    "type": "string",
    "maxLength": MAX_VALUE_LENGTH,
    "pattern": r"^ *[!#-\[\]-~]+( +[!#-\[\]-~]+)* *$",
}
_SECONDS: dict[str, Any] = {"type": "integer", "minimum": 0, "exclusiveMaximum": 10**MAX_AGE_DIGITS}
SIGN_IN_QUERY = _query(
    ("scope", "Additional scopes, separated by spaces (RFC 6749 §3.3).", _VALUES),
    ("acr_values", "The required authentication strength, separated by spaces (RFC 9470 §3).", _VALUES),
    ("max_age", "Maximum seconds since the user last authenticated (RFC 9470 §3).", _SECONDS),
)
CALLBACK_QUERY = _query(
    ("state", "The sign-in that the redirect belongs to (RFC 6749 §4.1.2).", _TEXT),
    ("code", "The authorization code.", _TEXT),
    ("iss", "The authorization server that sent the redirect (RFC 9207).", _TEXT),
    ("error", "Why there is no code (RFC 6749 §4.1.2.1).", _TEXT),
    ("error_description", "The error as text.", _TEXT),
    ("error_uri", "A web page about the error.", _TEXT),
)
