"""The request and the response that protocol functions build and read, and what all answers have in common."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import unquote_plus, urlencode, urlsplit

from notion_oauth.errors import OAuthError, ServerUnavailable

MAX_DESCRIPTION = 300  # characters of a server's own text that we repeat
MIN_SECRET = 16  # characters; shorter values, such as "refresh_token", are words that may be repeated
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
)  # the codes that there are; whoever sends one may send any other as well
_ERROR_CODE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]{1,100}\Z")  # RFC 6749 §5.2, and no spaces: it is a code


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request. Headers and body hold secrets, so neither is shown by `repr`."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    json: Mapping[str, Any] | None = field(default=None, repr=False)
    only_headers: bool = False  # of the answer are wanted; its body is not read

    def content(self) -> bytes | None:
        """The encoded body; None where there is none."""
        if self.form is not None:
            return urlencode(self.form, errors="replace").encode()
        if self.json is not None:
            return json.dumps(self.json).encode()
        return None

    def secrets(self) -> frozenset[str]:
        """What was sent and could be a secret: fields of the form, and what the Authorization header holds."""
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
        """The headers with the content type that the body has."""
        headers = {"Accept": "application/json", **self.headers}
        if self.form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        elif self.json is not None:
            headers["Content-Type"] = "application/json"
        return headers


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response, read to its end where its body was wanted. Header names are in lower case."""

    status: int
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    challenges: tuple[str, ...] = field(default=(), repr=False)  # the values of WWW-Authenticate, each by itself

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json_object(self) -> dict[str, Any] | None:
        """The body as a JSON object; None for anything else."""
        try:
            value = parse_json(self.body)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None


def parse_json(content: bytes) -> Any:
    """The value that the bytes stand for. Raises ValueError for all that is no JSON.

    Text with half a surrogate pair is none (RFC 8259 §8.2, RFC 7493 §2.1): it could be sent nowhere.
    """
    try:
        value = json.loads(content)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def form_of(fields: Mapping[str, str | None]) -> dict[str, str]:
    """The fields that have a value: a parameter without one counts as left out (RFC 6749 §3.2)."""
    return {name: value for name, value in fields.items() if value}


def printable(text: object, *, secrets: frozenset[str] = frozenset()) -> str | None:
    """A server's own text, made safe for a terminal, a log and a page; None where nothing usable is left.

    Text that repeats one of `secrets` is dropped whole: a server that echoes what it was sent must not
    make us print it.
    """
    if not isinstance(text, str) or any(secret in text for secret in secrets):
        return None
    clean = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(clean.split())[:MAX_DESCRIPTION] or None


def error_code(value: object) -> str | None:
    """An error code as RFC 6749 §5.2 allows it; None for anything else."""
    return value if isinstance(value, str) and _ERROR_CODE.match(value) else None


def quoted(description: str | None) -> str:
    """`: "the server's words"`, or nothing."""
    return f': "{description}"' if description else ""


def host_of(url: str) -> str:
    """Host and port, for messages: a URL's path and query can hold what nobody should see."""
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or "the server"
    except ValueError:
        return "the server"


def raise_for_error(response: Response, request: Request, refused: type[OAuthError], doing: str) -> NoReturn:
    """Raise the error that an unsuccessful answer stands for.

    Raises `refused` where the answer is a 4xx with an OAuth error code that is final, ServerUnavailable
    for everything else: 429, 5xx, pages, redirects and 4xx without a code are passing.
    """
    code, description = _said(response, request)
    host = host_of(response.url)
    passing = response.status == 429 or not 400 <= response.status < 500
    if code is None or passing or code in {"temporarily_unavailable", "server_error"}:
        redirects = ", a redirect, which is not followed" if 300 <= response.status < 400 else ""
        said = f"{code or ''}{quoted(description)}".strip() or f"HTTP {response.status}{redirects}"
        raise ServerUnavailable(
            f"{host} could not {doing} just now ({said}).",
            retry_after=retry_after(response),
            not_processed=response.status in (429, 503),
        )
    raise refused(f"{host} refused to {doing} ({code}{quoted(description)}).", error=code, description=description)


def _said(response: Response, request: Request) -> tuple[str | None, str | None]:
    """The error code and the description of an answer, without what was sent and could be a secret.

    A function of its own: whoever reports an error with the local variables on its way finds no secret in them.
    """
    document, secrets = response.json_object() or {}, request.secrets()
    code = error_code(document.get("error"))
    repeats = code is not None and any(secret in code for secret in secrets)
    return None if repeats else code, printable(document.get("error_description"), secrets=secrets)


def retry_after(response: Response) -> float | None:
    """The seconds of a Retry-After header (RFC 9110 §10.2.3); a date is counted from the answer's own Date."""
    value = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    until, sent = http_date(value), http_date(response.headers.get("date", ""))
    return max(0.0, (until - sent).total_seconds()) if until and sent else None


def http_date(value: str) -> datetime | None:
    """A date of HTTP in the form that senders must use (RFC 9110 §5.6.7); None for anything else."""
    try:
        return datetime.strptime(value, "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
    except ValueError:
        return None
