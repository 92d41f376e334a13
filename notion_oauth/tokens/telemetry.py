"""OpenTelemetry: a span for each operation at a server, and counters of the outcomes.

Uses the API alone: the application chooses the SDK and the exporter. No attribute holds a secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from opentelemetry import metrics, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from pydantic import SecretStr

from notion_oauth import __version__, profile_names
from notion_oauth.errors import NotionOAuthError
from notion_oauth.models import (
    AssertionRequest,
    AuthorizationServerMetadata,
    ClientInformation,
    ClientMetadata,
    Discovery,
    Introspection,
    PendingAuthorization,
    TokenSet,
)
from notion_oauth.observability.audit import Audit, Event, FieldValue
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.protocol.messages import REGISTERED_ERRORS, Request, Response
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport

NAME = "notion_oauth"
ISSUER = "notion_oauth.issuer"
OUTCOME = "notion_oauth.outcome"
PROFILE = "notion_oauth.profile"
EVENT = "notion_oauth.event"
ERROR_TYPE = "error.type"
STATUS_CODE = "http.response.status_code"
OTHER = "_OTHER"  # OpenTelemetry's value for all other values
MAX_LABEL_VALUES = {ISSUER: 16, PROFILE: 100}  # distinct values of a label in the counters of a process
LABEL_VALUES: dict[str, set[str]] = {label: set() for label in MAX_LABEL_VALUES}  # those in use so far
_COUNTERS: dict[Event, tuple[str, str, str]] = {
    "sign_in": ("notion_oauth.sign_ins", "{sign_in}", "Sign-ins that were completed."),
    "refresh": ("notion_oauth.refreshes", "{refresh}", "Refreshes that gave new tokens."),
}


class TracedTransport(Transport):
    """Sets the status code of the last response on the current span."""

    async def send(self, request: Request) -> Response:
        response = await super().send(request)
        trace.get_current_span().set_attribute(STATUS_CODE, response.status)
        return response


class TracedClient(OAuthClient):
    """An OAuthClient with a span around each operation, as a child of the caller's span."""

    async def challenge(self, server_url: str) -> BearerChallenge | None:
        with _span("challenge", server_url):
            return await super().challenge(server_url)

    async def discover(self, server_url: str, **how: Any) -> Discovery:
        with _span("discover", server_url) as span:
            found = await super().discover(server_url, **how)
            span.set_attribute(ISSUER, found.server.issuer)
            return found

    async def register(self, server: AuthorizationServerMetadata, metadata: ClientMetadata) -> ClientInformation:
        with _span("register", server.registration_endpoint, server.issuer):
            return await super().register(server, metadata)

    async def is_client_registered(
        self, server: AuthorizationServerMetadata, client: ClientInformation, redirect_uri: str
    ) -> bool:
        with _span("knows", server.token_endpoint, server.issuer):
            return await super().is_client_registered(server, client, redirect_uri)

    async def exchange(self, pending: PendingAuthorization, code: SecretStr) -> TokenSet:
        with _span("exchange", pending.token_endpoint, pending.issuer):
            return await super().exchange(pending, code)

    async def exchange_assertion(self, grant: AssertionRequest) -> TokenSet:
        with _span("exchange", grant.token_endpoint, grant.issuer):
            return await super().exchange_assertion(grant)

    async def refresh(self, tokens: TokenSet) -> TokenSet:
        with _span("refresh", tokens.token_endpoint, tokens.issuer):
            return await super().refresh(tokens)

    async def introspect(self, tokens: TokenSet) -> Introspection | None:
        with _span("introspect", tokens.introspection_endpoint, tokens.issuer):
            return await super().introspect(tokens)

    async def revoke(self, tokens: TokenSet) -> bool:
        with _span("revoke", tokens.revocation_endpoint, tokens.issuer):
            return await super().revoke(tokens)


@contextmanager
def _span(name: str, url: str | None, issuer: str | None = None) -> Iterator[Span]:
    """A span around the block. Records only the type of an error, because a traceback could hold a secret."""
    tracer = trace.get_tracer(NAME, __version__)
    attributes = {**_address(url or ""), ISSUER: issuer}
    with tracer.start_as_current_span(
        f"{NAME}.{name}",
        kind=SpanKind.CLIENT,
        attributes={key: value for key, value in attributes.items() if value is not None},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            span.set_attributes({OUTCOME: "failure", ERROR_TYPE: _error_type(error)})
            description = error.message if isinstance(error, NotionOAuthError) else None
            span.set_status(Status(StatusCode.ERROR, description))
            raise
        else:
            span.set_attribute(OUTCOME, "success")


def _address(url: str) -> dict[str, str | int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # a stored URL of another program; sending the request reports the error
        return {}
    return {"server.address": parts.hostname, "server.port": port}


def _error_type(error: Exception) -> str:
    """Return the server's error code if it sent one, else this package's code, else the name of the error's class."""
    code = getattr(error, "error", None)
    if isinstance(code, str):
        return _known_code(code)
    return error.code if isinstance(error, NotionOAuthError) else type(error).__name__


def _known_code(code: str) -> str:
    """Return a registered error code, else OTHER: a visitor at the callback or a server can send any text as a code."""
    return code if code in REGISTERED_ERRORS else OTHER


def _limited_label(label: str, value: str) -> dict[str, str]:
    """The label with its value, or with OTHER beyond MAX_LABEL_VALUES, because others could create any number."""
    values = LABEL_VALUES[label]
    if len(values) < MAX_LABEL_VALUES[label]:
        values.add(value)
    return {label: value if value in values else OTHER}


class CountedAudit(Audit):
    """An audit log that also counts. Label values are limited, because OpenTelemetry keeps each of them for ever."""

    def __init__(self, profile: str | None) -> None:
        super().__init__(profile)
        meter = metrics.get_meter(NAME, __version__)
        self._counters = {
            event: meter.create_counter(name, unit=unit, description=text)
            for event, (name, unit, text) in _COUNTERS.items()
        }
        self._failures = meter.create_counter(
            "notion_oauth.failures", unit="{failure}", description="Attempts that did not succeed."
        )

    def _write(self, level: int, event: Event, outcome: str, fields: dict[str, FieldValue]) -> None:
        super()._write(level, event, outcome, fields)
        issuer, code = fields.get("issuer"), fields.get("error")
        labels = {**self._labels(), **(_limited_label(ISSUER, issuer) if issuer else {})}
        if outcome != "success":
            error_type = _known_code(code) if code else fields.get("reason") or OTHER
            self._failures.add(1, {**labels, EVENT: event, OUTCOME: outcome, ERROR_TYPE: error_type})
        elif event in self._counters:
            self._counters[event].add(1, labels)

    def _labels(self) -> dict[str, str]:
        """Return the profile, unless it is one of a browser session, whose number has no limit."""
        is_named = self.profile is not None and not profile_names.VISITOR_PROFILE.match(self.profile)
        return _limited_label(PROFILE, self.profile) if is_named and self.profile else {}
