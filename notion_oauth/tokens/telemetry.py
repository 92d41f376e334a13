"""OpenTelemetry: a span for each conversation with a server, and counters of what became of it.

Only the API is used: which SDK collects, and where it sends to, is the application's choice. No attribute holds a
secret.
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
    AssertionGrant,
    AuthorizationServerMetadata,
    ClientInformation,
    ClientMetadata,
    Discovery,
    Introspection,
    PendingAuthorization,
    TokenSet,
)
from notion_oauth.observability.audit import Audit, Event, Fact
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
OTHER = "_OTHER"  # OpenTelemetry's word for what is none of the values that there are
MOST = {ISSUER: 16, PROFILE: 100}  # values of a label that the counters of a process tell apart
COUNTED: dict[str, set[str]] = {label: set() for label in MOST}  # those, as far as they have come
_COUNTERS: dict[Event, tuple[str, str, str]] = {
    "sign_in": ("notion_oauth.sign_ins", "{sign_in}", "Sign-ins that were completed."),
    "refresh": ("notion_oauth.refreshes", "{refresh}", "Refreshes that gave new tokens."),
}


class TracedTransport(Transport):
    """Tells the span under way what the server answered; of several answers the last."""

    async def send(self, request: Request) -> Response:
        response = await super().send(request)
        trace.get_current_span().set_attribute(STATUS_CODE, response.status)
        return response


class TracedClient(OAuthClient):
    """An OAuthClient with a span around each conversation, a child of whatever span its caller is in."""

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

    async def exchange_assertion(self, grant: AssertionGrant) -> TokenSet:
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
    """A span that ends with its block, and tells an error by its kind: nobody has looked a traceback through."""
    tracer = trace.get_tracer(NAME, __version__)
    known = {**_address(url or ""), ISSUER: issuer}
    with tracer.start_as_current_span(
        f"{NAME}.{name}",
        kind=SpanKind.CLIENT,
        attributes={key: value for key, value in known.items() if value is not None},
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except Exception as error:
            span.set_attributes({OUTCOME: "failure", ERROR_TYPE: _kind(error)})
            said = error.message if isinstance(error, NotionOAuthError) else None
            span.set_status(Status(StatusCode.ERROR, said))
            raise
        else:
            span.set_attribute(OUTCOME, "success")


def _address(url: str) -> dict[str, str | int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # from a file that another program wrote; the request will say so
        return {}
    return {"server.address": parts.hostname, "server.port": port}


def _kind(error: Exception) -> str:
    """The server's error code where it gave one, else our own code, else the name of the error's class."""
    code = getattr(error, "error", None)
    if isinstance(code, str):
        return _code(code)
    return error.code if isinstance(error, NotionOAuthError) else type(error).__name__


def _code(code: str) -> str:
    """A code that is registered: a visitor writes at a callback what they want, and a server may too."""
    return code if code in REGISTERED_ERRORS else OTHER


def _one_of_few(label: str, value: str) -> dict[str, str]:
    """The label with its value; beyond a few values, of which others could make any number, all others together."""
    seen = COUNTED[label]
    if len(seen) < MOST[label]:
        seen.add(value)
    return {label: value if value in seen else OTHER}


class CountedAudit(Audit):
    """An audit log that counts what it tells. Each label is kept for as long as the process lives: they have an end."""

    def __init__(self, profile: str | None) -> None:
        super().__init__(profile)
        meter = metrics.get_meter(NAME, __version__)
        self._counters = {
            event: meter.create_counter(name, unit=unit, description=text)
            for event, (name, unit, text) in _COUNTERS.items()
        }
        self._failures = meter.create_counter(
            "notion_oauth.failures", unit="{failure}", description="What was tried and did not succeed."
        )

    def _write(self, level: int, event: Event, outcome: str, facts: dict[str, Fact]) -> None:
        super()._write(level, event, outcome, facts)
        issuer, code = facts.get("issuer"), facts.get("error")
        about = {**self._labels(), **(_one_of_few(ISSUER, issuer) if issuer else {})}
        if outcome != "success":
            kind = _code(code) if code else facts.get("reason") or OTHER
            self._failures.add(1, {**about, EVENT: event, OUTCOME: outcome, ERROR_TYPE: kind})
        elif event in self._counters:
            self._counters[event].add(1, about)

    def _labels(self) -> dict[str, str]:
        """The profile, unless it is a browser session's own, of which there is no end."""
        named = self.profile is not None and not profile_names.VISITOR_PROFILE.match(self.profile)
        return _one_of_few(PROFILE, self.profile) if named and self.profile else {}
