"""The request and response types of the protocol functions, and parsing that all responses share."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

from notion_oauth.errors import Hint, OAuthError, ServerUnavailable, UnexpectedRedirect
from notion_oauth.protocol.compat import compat_hint

MAX_DESCRIPTION = 300  # characters of a server's text that are repeated
MAX_NAME = 100  # characters of the name of a person or a workspace
MIN_SECRET = 16  # characters; shorter values, such as "refresh_token", are not secret
_SECRET = frozenset({"client_secret", "code", "code_verifier", "refresh_token", "token", "assertion"})  # of any length
REGISTERED_ERRORS = frozenset(
    {
        # RFC 6749 §4.1.2.1 and §5.2
        *("invalid_request", "unauthorized_client", "access_denied", "unsupported_response_type", "invalid_scope"),
        *("server_error", "temporarily_unavailable", "invalid_client", "invalid_grant", "unsupported_grant_type"),
        # RFC 6750 §3.1, RFC 7009 §2.2.1, RFC 8707 §2, RFC 9470 §3
        *("invalid_token", "insufficient_scope", "unsupported_token_type", "invalid_target"),
        "insufficient_user_authentication",
        # RFC 7591 §3.2.2
        *("invalid_redirect_uri", "invalid_client_metadata", "invalid_software_statement"),
        "unapproved_software_statement",
        # OpenID Connect Core §3.1.2.6, and its Unmet Authentication Requirements, which RFC 9470 §5 uses
        *("interaction_required", "login_required", "account_selection_required", "consent_required"),
        *("invalid_request_uri", "invalid_request_object", "request_not_supported", "request_uri_not_supported"),
        *("registration_not_supported", "unmet_authentication_requirements"),
    }
)  # servers may send other codes too
_MARKUP = frozenset('<{["=')  # of pages, and of broken documents and forms, which may contain tokens
_ERROR_CODE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]{1,100}\Z")  # RFC 6749 §5.2, without spaces


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request. `repr` shows neither headers nor body: both contain secrets."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    json: Mapping[str, Any] | None = field(default=None, repr=False)
    only_headers: bool = False  # do not read the body of the response

    def content(self) -> bytes | None:
        """Return the encoded body, or None."""
        if self.form is not None:
            return urlencode(self.form, errors="replace").encode()
        if self.json is not None:
            return json.dumps(self.json).encode()
        return None

    def secrets(self) -> frozenset[str]:
        """Values of this request that may be secret: form fields, and the content of the Authorization header."""
        form = self.form or {}
        values = [value for name, value in form.items() if name in _SECRET or len(value) >= MIN_SECRET]
        if header := self.headers.get("Authorization", ""):
            encoded = header.partition(" ")[2]
            pair = base64.b64decode(encoded).decode()
            client_id, _, secret = pair.partition(":")
            values += [encoded, pair, secret, unquote_plus(secret)]
            values += [value for value in (client_id, unquote_plus(client_id)) if len(value) >= MIN_SECRET]
        return frozenset(value for value in values if value)

    def all_headers(self) -> dict[str, str]:
        """Return the headers, with Accept and Content-Type."""
        headers = {"Accept": "application/json", **self.headers}
        if self.form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        elif self.json is not None:
            headers["Content-Type"] = "application/json"
        return headers


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response with its whole body, unless only headers were requested. Header names are in lower case."""

    status: int
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    challenges: tuple[str, ...] = field(default=(), repr=False)  # the WWW-Authenticate field values, one per field line

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def is_error(self) -> bool:
        """Whether the response reports an error, by its status or, as some servers do, by an `error` in a 2xx."""
        return not self.ok or bool((self.members() or {}).get("error"))

    def json_object(self) -> dict[str, Any] | None:
        """Return the body as a JSON object; None for anything else."""
        try:
            value = parse_json(self.body)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def members(self) -> dict[str, Any] | None:
        """Return the body as a JSON object, or as the form that some token endpoints send in its place; else None."""
        document = self.json_object()
        if document is not None:
            return document
        try:
            pairs = parse_qsl(self.body.decode().strip(), keep_blank_values=True, strict_parsing=True)
        except ValueError:
            return None
        form = dict(pairs)
        return form if len(form) == len(pairs) and form.keys() & {"access_token", "error"} else None


def parse_json(content: bytes) -> Any:
    """Return the JSON value. Raises ValueError for invalid JSON.

    Text with half a surrogate pair counts as invalid (RFC 8259 §8.2, RFC 7493 §2.1): it cannot be encoded.
    """
    try:
        value = json.loads(content)
        if not content.isascii() or b"\\" in content:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def is_sendable(access_token: str) -> bool:
    """Return whether a token may stand in a header (RFC 6750 §2.1); other characters could inject a header."""
    return bool(access_token) and all("!" <= character <= "~" for character in access_token)


def form_of(fields: Mapping[str, str | None]) -> dict[str, str]:
    """Return the fields that have a value: a parameter without a value counts as omitted (RFC 6749 §3.2)."""
    return {name: value for name, value in fields.items() if value}


def printable(text: object, *, secrets: frozenset[str] = frozenset()) -> str | None:
    """Return a server's text, made safe for a terminal, a log and a page; None if nothing is left.

    Text that contains one of `secrets` is dropped as a whole: a server may repeat what it was sent.
    """
    if not isinstance(text, str) or any(secret in text for secret in secrets):
        return None
    clean = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(clean.split())[:MAX_DESCRIPTION] or None


def safe_name(value: object, *, secrets: frozenset[str] = frozenset()) -> str | None:
    """Return a name made safe to print, and not too long; None for anything else, and for one with a secret in it."""
    return (printable(value, secrets=secrets) or "")[:MAX_NAME].strip() or None


def error_code(value: object) -> str | None:
    """Return an error code as RFC 6749 §5.2 allows it; None for anything else."""
    return value if isinstance(value, str) and _ERROR_CODE.match(value) else None


def quoted(description: str | None) -> str:
    """`: "description"`, or an empty string."""
    return f': "{description}"' if description else ""


def host_of(url: str) -> str:
    """Host and port, for messages: the path and query of a URL can contain secrets."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or "the server"
    except ValueError:
        return "the server"


def raise_for_error(
    response: Response,
    request: Request,
    error_type: type[OAuthError],
    action: str,
    hint: Hint | None = None,
    *,
    default_code: str | None = None,
) -> NoReturn:
    """Raise the error for an unsuccessful response. `action` completes "could not ..." in the message.

    Raises `error_type`, with `hint`, for a 4xx with a final OAuth error code, and for a 2xx, with which some servers
    send errors; UnexpectedRedirect for a 3xx; and ServerUnavailable for everything else: 429, 5xx, pages and responses
    without a code are transient. With `default_code`, a 4xx without a code is final, too.
    """
    code, description = _error_and_description(response, request)
    host = host_of(response.url)
    if 300 <= response.status < 400:
        raise UnexpectedRedirect(
            f"{host} could not {action} (HTTP {response.status}, a redirect, which is not followed)."
        )
    transient = response.status in (408, 425, 429) or response.status >= 500
    reason = f"{code or f'HTTP {response.status}'}{quoted(description)}"
    code = code or default_code
    if code is None or transient or code in {"temporarily_unavailable", "server_error"}:
        raise ServerUnavailable(
            f"{host} could not {action} ({reason}).",
            retry_after=retry_after(response),
            not_processed=response.status in (429, 503),
        )
    message = f"{host} refused to {action} ({reason})."
    raise error_type(message, error=code, description=description, hint=hint or compat_hint(code, description))


def _error_and_description(response: Response, request: Request) -> tuple[str | None, str | None]:
    """Return the error code and the description of a response, without secrets of the request.

    A separate function, so that no local variable in a traceback holds a secret.
    """
    document, secrets = response.members(), request.secrets()
    code = error_code((document or {}).get("error"))
    repeats = code is not None and any(secret in code for secret in secrets)
    return None if repeats else code, printable(_words(response, document, code), secrets=secrets)


def _words(response: Response, document: dict[str, Any] | None, code: str | None) -> object:
    """Return the server's description of an error: of OAuth, else as APIs send it, else a short text without markup."""
    if document is None:
        text = response.body[: MAX_DESCRIPTION + 1].decode(errors="replace")
        return text if len(text) <= MAX_DESCRIPTION and not _MARKUP.intersection(text) else None
    found = [document.get(name) for name in ("error_description", "message", "detail", "title")]
    found += [] if code else [document.get("error")]
    inner = (each.get(name) for each in found if isinstance(each, dict) for name in ("error_description", "message"))
    return next((each for each in (*found, *inner) if isinstance(each, str) and each.strip()), None)


def retry_after(response: Response) -> float | None:
    """Retry-After in seconds (RFC 9110 §10.2.3); a date is counted from the Date of the response."""
    value = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    until, sent = http_date(value), http_date(response.headers.get("date", ""))
    return max(0.0, (until - sent).total_seconds()) if until and sent else None


def http_date(value: str) -> datetime | None:
    """Return an HTTP date in the format that senders must use (RFC 9110 §5.6.7); None for anything else."""
    try:
        return datetime.strptime(value, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return None
