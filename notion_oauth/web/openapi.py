"""What the OpenAPI document says of the routes: their answers, and what they are asked with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from notion_oauth.protocol.challenge import MAX_AGE_DIGITS
from notion_oauth.tokens.status import LoginStatus
from notion_oauth.web.sign_in_query import MAX_WORDS

_CLOSED = ConfigDict(extra="forbid")
_NEVER_SHOWN = ("storage", "storage_warning")  # to those who come over HTTP
_PAGE: dict[str, Any] = {"text/html": {"schema": {"type": "string"}}}


class Problem(BaseModel):
    """An error: its kind, what happened, and what to do next."""

    model_config = _CLOSED

    error: str
    message: str | None = None
    next: str | None = None


def _shown(name: str, **more: Any) -> type[BaseModel]:
    """The status as JSON: the fields of Status itself, of which one without a login has but some."""
    kinds = get_type_hints(LoginStatus)
    shown: dict[str, Any] = {
        field.name: (kinds[field.name], ... if field.name == "status" else None)
        for field in fields(LoginStatus)
        if field.name not in _NEVER_SHOWN
    }
    return create_model(name, __config__=_CLOSED, **(shown | more))


StatusShown = _shown("StatusShown")
Done = _shown("Done", message=(str, Field(description="What was done.")))

_WAIT = {"Retry-After": {"description": "Seconds to wait, where that is known.", "schema": {"type": "integer"}}}
_REFUSED: Mapping[int, str] = {
    400: "A request that is none, or a redirect that does not belong to a sign-in of this browser.",
    401: "Not signed in, or the application or the operator's gate does not know who is asking.",
    403: "Sent by another site, not over https, or refused by the person or the server.",
    409: "The stored login is of another server than the one that is set.",
    421: "The service does not answer to that host name.",
    429: "This address has asked too often.",
    500: "The service is set up wrongly, or cannot read or write what it keeps.",
    503: "The stored login is in use by another for too long.",
}


def _refusal(text: str) -> dict[str, Any]:
    return {"model": Problem, "description": text, "content": _PAGE, "headers": _WAIT}


REFUSALS: dict[int | str, dict[str, Any]] = {code: _refusal(text) for code, text in _REFUSED.items()}
SERVER_FAILED: dict[int | str, dict[str, Any]] = {
    502: _refusal("The server that tokens come from has failed, or has refused.")
}
STATUS: dict[int | str, dict[str, Any]] = {
    200: {"model": StatusShown, "description": "The status: JSON, or a page for a browser.", "content": _PAGE}
}
_ON: dict[str, Any] = {
    "description": "On to the next page.",
    "headers": {"Location": {"description": "Where it is.", "required": True, "schema": {"type": "string"}}},
}
DONE: dict[int | str, dict[str, Any]] = {
    200: {"model": Done, "description": "What was done, and the status then: for programs."},
    303: _ON,
}
SENT_ON: dict[int | str, dict[str, Any]] = {303: _ON}


def _form(**described: str) -> dict[str, Any]:
    properties = {name: {"type": "string", "description": text} for name, text in described.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}}


_PROOF = "From the form on the service's own page."
OWN_FORM = _form(csrf_token=_PROOF)
OPERATOR_FORM = _form(csrf_token=_PROOF, secret="The operator's secret.")  # noqa: S106 - says what it is


def _query(*described: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """Parameters that the routes read themselves: they see what comes twice, and FastAPI's own refusal repeats it."""
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
            for name, text, schema in described
        ]
    }


_TEXT: dict[str, Any] = {"type": "string"}
_WORDS: dict[str, Any] = {"type": "string", "maxLength": MAX_WORDS, "pattern": r"^ *[!#-\[\]-~]+( +[!#-\[\]-~]+)* *$"}
_SECONDS: dict[str, Any] = {"type": "integer", "minimum": 0, "exclusiveMaximum": 10**MAX_AGE_DIGITS}
ASKED_FOR = _query(
    ("scope", "With spaces between (RFC 6749 §3.3).", _WORDS),
    ("acr_values", "How strong a sign-in is to be, with spaces between (RFC 9470 §3).", _WORDS),
    ("max_age", "Seconds since the person proved who they are, at most (RFC 9470 §3).", _SECONDS),
)
REDIRECT = _query(
    ("state", "Which sign-in it belongs to (RFC 6749 §4.1.2).", _TEXT),
    ("code", "What is exchanged for tokens.", _TEXT),
    ("iss", "Which authorization server has sent it (RFC 9207).", _TEXT),
    ("error", "Why there is no code (RFC 6749 §4.1.2.1).", _TEXT),
    ("error_description", "The same in words.", _TEXT),
    ("error_uri", "A page about it.", _TEXT),
)
