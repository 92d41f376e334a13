"""OpenTelemetry: a span for each operation at a server, and counters of the outcomes.

Uses the API alone: the application chooses the SDK and the exporter. No attribute holds a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

from opentelemetry import metrics, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from notion_oauth import __version__, profile_names
from notion_oauth.errors import NotionOAuthError
from notion_oauth.observability.audit import Audit, Event, FieldValue
from notion_oauth.protocol.messages import REGISTERED_ERRORS, Request, Response
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


@contextmanager
def span(name: str, url: str | None, issuer: str | None = None, /) -> Iterator[Callable[[str], object]]:
    """Open a client span around an operation. It records only the type of an error: a traceback could hold a secret."""
    tracer = trace.get_tracer(NAME, __version__)
    attributes = {**_address(url or ""), ISSUER: issuer}
    with tracer.start_as_current_span(
        f"{NAME}.{name}",
        kind=SpanKind.CLIENT,
        attributes={key: value for key, value in attributes.items() if value is not None},
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield partial(current.set_attribute, ISSUER)
        except Exception as error:
            current.set_attributes({OUTCOME: "failure", ERROR_TYPE: _error_type(error)})
            description = error.message if isinstance(error, NotionOAuthError) else None
            current.set_status(Status(StatusCode.ERROR, description))
            raise
        else:
            current.set_attribute(OUTCOME, "success")


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
