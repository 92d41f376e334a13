"""OpenTelemetry: spans and counters if telemetry is enabled, and no import of it otherwise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import SecretStr
from starlette.middleware.sessions import SessionMiddleware

from notion_oauth.app import create_app
from notion_oauth.errors import AuthorizationRefused, NotionOAuthError, SignInRequired, TransientError
from notion_oauth.models import AuthorizationResponse
from notion_oauth.router import create_router
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.tokens.telemetry import ISSUER, LABEL_VALUES, MAX_LABEL_VALUES, PROFILE
from notion_oauth.web.access_logs import protect_span
from tests.support.signing_in import begin, sign_in
from tests.unit.protocol.builders import tokens

pytestmark = pytest.mark.anyio


@cache
def collectors() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    """One for each process: OpenTelemetry's providers can be set only once."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    return exporter, reader


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter, _ = collectors()
    exporter.clear()
    for seen in LABEL_VALUES.values():
        seen.clear()  # each test uses another server and profile
    yield exporter
    exporter.clear()


@pytest.fixture
def traced(settings: Settings, spans: InMemorySpanExporter, request: pytest.FixtureRequest) -> NotionOAuth:
    """With a separate profile: counters belong to the process, and are not reset between tests."""
    name = f"p{abs(hash(request.node.name))}"
    return NotionOAuth(settings.model_copy(update={"telemetry": True}), profile=name)


def counted(profile: str | None) -> dict[str, list[tuple[float, dict[str, Any]]]]:
    """The counters of a profile, with their other attributes."""
    _, reader = collectors()
    data = reader.get_metrics_data()
    found: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    attributes = dict(point.attributes or {})
                    if attributes.pop("notion_oauth.profile", None) == profile:
                        found.setdefault(metric.name, []).append((cast("NumberDataPoint", point).value, attributes))
    return found


def named(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    [*_, span] = [span for span in spans.get_finished_spans() if span.name == f"notion_oauth.{name}"]
    return span


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_each_exchange_has_a_span(traced: NotionOAuth, sandbox: Sandbox, spans: InMemorySpanExporter) -> None:
    await sign_in(traced)
    await traced.refresh()
    await traced.sign_out()
    names = [span.name for span in spans.get_finished_spans()]
    assert names == [
        f"notion_oauth.{name}" for name in ("challenge", "discover", "register", "exchange", "refresh", "revoke")
    ]
    port = int(sandbox.base_url.rpartition(":")[2])
    challenge, *exchanges = spans.get_finished_spans()
    assert attributes(challenge)["http.response.status_code"] == 401
    for span in exchanges:
        assert span.kind is SpanKind.CLIENT
        assert span.status.status_code is StatusCode.UNSET
        assert attributes(span) == {
            "notion_oauth.issuer": sandbox.issuer,
            "notion_oauth.outcome": "success",
            "http.response.status_code": 201 if span.name.endswith("register") else 200,
            "server.address": "127.0.0.1",
            "server.port": port,
        }


async def test_a_refusal_is_reported_by_its_error_code(
    traced: NotionOAuth, sandbox: Sandbox, spans: InMemorySpanExporter
) -> None:
    await sign_in(traced)
    sandbox.revoke_grants()
    with pytest.raises(SignInRequired):
        await traced.refresh()
    span = named(spans, "refresh")
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "invalid_grant"
    assert attributes(span)["notion_oauth.outcome"] == "failure"
    assert attributes(span)["http.response.status_code"] == 400
    assert span.events == (), "a traceback is not exported"
    assert counted(traced.profile)["notion_oauth.failures"] == [
        (
            1,
            {
                "notion_oauth.event": "refresh",
                "notion_oauth.outcome": "login_ended",
                "notion_oauth.issuer": sandbox.issuer,
                "error.type": "invalid_grant",
            },
        )
    ]


async def test_a_transient_failure_is_reported_by_its_type(
    traced: NotionOAuth, sandbox: Sandbox, spans: InMemorySpanExporter
) -> None:
    await sign_in(traced)
    sandbox.misbehave_next("/token", "drop")
    with pytest.raises(TransientError):
        await traced.refresh()
    assert attributes(named(spans, "refresh"))["error.type"] == "NetworkError"
    assert "http.response.status_code" not in attributes(named(spans, "refresh"))
    [(count, about)] = counted(traced.profile)["notion_oauth.failures"]
    assert (count, about["error.type"], about["notion_oauth.event"]) == (1, "NetworkError", "refresh")


@pytest.mark.usefixtures("spans")
async def test_browser_profiles_are_counted_without_a_label(settings: Settings, sandbox: Sandbox) -> None:
    """Each label value stays in memory until the process ends, and each browser has another profile."""
    traced = NotionOAuth(settings.model_copy(update={"telemetry": True}))
    for letter in "ab":
        await sign_in(traced.for_profile("web-" + letter * 32))
        assert counted("web-" + letter * 32) == {}
    here = {"notion_oauth.issuer": sandbox.issuer}
    assert (2, here) in counted(None)["notion_oauth.sign_ins"]


@pytest.mark.parametrize(
    ("sent", "reported"),
    [
        ("access_denied", "access_denied"),
        ("unmet_authentication_requirements", "unmet_authentication_requirements"),
        ("login_required", "login_required"),
        ("made-up", "_OTHER"),
        ("access_denied2", "_OTHER"),
    ],
)
async def test_a_callback_cannot_add_a_label_value(
    traced: NotionOAuth, sandbox: Sandbox, sent: str, reported: str
) -> None:
    pending, _ = await begin(traced)
    response = AuthorizationResponse(state=pending.state, error=sent, iss=sandbox.issuer)
    with pytest.raises(AuthorizationRefused) as refused:
        await traced.complete_authorization(pending, response)
    assert refused.value.error == sent
    [(count, about)] = counted(traced.profile)["notion_oauth.failures"]
    assert (count, about["error.type"]) == (1, reported)


async def test_a_server_cannot_add_a_label_value(
    traced: NotionOAuth, sandbox: Sandbox, spans: InMemorySpanExporter
) -> None:
    await sign_in(traced)
    sandbox.fail_next("/token", error="invalid_made_up", status=400)
    with pytest.raises(NotionOAuthError):
        await traced.refresh()
    assert attributes(named(spans, "refresh"))["error.type"] == "_OTHER"
    [(_, about)] = counted(traced.profile)["notion_oauth.failures"]
    assert about["error.type"] == "_OTHER"


def test_the_number_of_issuer_labels_is_limited(traced: NotionOAuth) -> None:
    """An MCP server can name another issuer at each sign-in."""
    for number in range(MAX_LABEL_VALUES[ISSUER] + 5):
        traced.audit.failed("sign_in", NotionOAuthError("It failed."), issuer=f"https://{number}.example")
    failures = counted(traced.profile)["notion_oauth.failures"]
    issuers = {about["notion_oauth.issuer"] for _, about in failures}
    assert "_OTHER" in issuers
    assert len(issuers) <= MAX_LABEL_VALUES[ISSUER] + 1
    assert sum(count for count, _ in failures) == MAX_LABEL_VALUES[ISSUER] + 5


@pytest.mark.usefixtures("spans")
def test_the_number_of_profile_labels_is_limited(settings: Settings) -> None:
    oauth = NotionOAuth(settings.model_copy(update={"telemetry": True}))
    for number in range(MAX_LABEL_VALUES[PROFILE] + 5):
        oauth.for_profile(f"user-{number}").audit.succeeded("refresh", issuer="https://of-many.example")
    counts = [
        point for profile in ("user-0", f"user-{MAX_LABEL_VALUES[PROFILE] - 1}", "_OTHER") for point in points(profile)
    ]
    assert counts == [1, 1, 5]
    assert points(f"user-{MAX_LABEL_VALUES[PROFILE]}") == []


def points(profile: str) -> list[float]:
    """The number of refreshes of this profile with the issuer of the test above."""
    here = {"notion_oauth.issuer": "https://of-many.example"}
    return [count for count, about in counted(profile).get("notion_oauth.refreshes", []) if about == here]


async def test_sign_ins_and_refreshes_are_counted(traced: NotionOAuth, sandbox: Sandbox) -> None:
    login = await sign_in(traced)
    for _ in range(3):
        login = await traced.refresh()
    await NotionOAuth(traced.settings, profile=traced.profile).tokens.token(rejected=SecretStr("another"))
    assert counted(traced.profile) == {
        "notion_oauth.sign_ins": [(1, {"notion_oauth.issuer": sandbox.issuer})],
        "notion_oauth.refreshes": [(3, {"notion_oauth.issuer": sandbox.issuer})],
    }
    assert login.refresh_token is not None


async def test_a_refresh_span_is_a_child_of_the_callers_span(traced: NotionOAuth, spans: InMemorySpanExporter) -> None:
    """Although it runs in another thread."""
    await sign_in(traced)
    with trace.get_tracer("tests").start_as_current_span("caller") as caller:
        await traced.refresh()
    parent = named(spans, "refresh").parent
    assert parent is not None
    assert parent.span_id == caller.get_span_context().span_id


async def test_telemetry_contains_no_secret(traced: NotionOAuth, sandbox: Sandbox, spans: InMemorySpanExporter) -> None:
    login = await sign_in(traced)
    assert login.refresh_token is not None
    echo = login.refresh_token.get_secret_value()
    sandbox.fail_next("/token", error="invalid_request", description=f"{echo} is bad", status=400)
    with pytest.raises(NotionOAuthError):
        await traced.refresh()
    renewed = await traced.refresh()
    await traced.sign_out()
    exported = "".join(span.to_json() for span in spans.get_finished_spans()) + repr(counted(traced.profile))
    sent = {value for request in sandbox.requests for value in request.form.values() if len(value) > 20}
    hidden = {each.access_token.get_secret_value() for each in (login, renewed)} | sent - {sandbox.mcp_url}
    hidden -= {value for value in sent if value.startswith("http")}
    assert len(hidden) >= 4
    assert not [secret for secret in hidden if secret in exported]


@pytest.mark.parametrize("endpoint", ["https://[::1", "https://h:99999/", "not a URL"])
async def test_an_invalid_address_is_omitted(traced: NotionOAuth, spans: InMemorySpanExporter, endpoint: str) -> None:
    with pytest.raises(NotionOAuthError):
        await traced.client.refresh(tokens(token_endpoint=endpoint))
    assert attributes(named(spans, "refresh"))["notion_oauth.outcome"] == "failure"


def app_with_router(oauth: NotionOAuth) -> FastAPI:
    app = FastAPI()
    app.include_router(create_router(oauth))
    app.add_middleware(SessionMiddleware, secret_key="k" * 32)
    return app


@pytest.mark.parametrize("make_app", [lambda oauth: create_app(oauth=oauth), app_with_router], ids=["ours", "theirs"])
async def test_the_fastapi_span_of_a_callback_has_no_query(
    traced: NotionOAuth, spans: InMemorySpanExporter, make_app: Callable[[NotionOAuth], FastAPI]
) -> None:
    app = make_app(traced)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as browser:
        await browser.get("/auth/status?x=1")
        assert [span.name for span in spans.get_finished_spans()][-1:] == ["GET /auth/status"], "FastAPI traces"
        refused = await browser.get("/auth/callback?code=canary-code&state=canary-state")
    assert refused.status_code == 400
    assert "canary" not in "".join(span.to_json() for span in spans.get_finished_spans())


@pytest.mark.parametrize("path", ["/auth/callback/", "/AUTH/CALLBACK", "/auth/callbak"])
async def test_the_fastapi_span_of_a_misspelt_callback_has_no_query(
    traced: NotionOAuth, spans: InMemorySpanExporter, path: str
) -> None:
    network = httpx.ASGITransport(create_app(oauth=traced))
    async with httpx.AsyncClient(transport=network, base_url="http://127.0.0.1") as browser:
        await browser.get(f"{path}?code=canary-code&state=canary-state")
    assert "canary" not in "".join(span.to_json() for span in spans.get_finished_spans())


def test_the_query_is_removed_from_other_spans(spans: InMemorySpanExporter) -> None:
    url = "http://127.0.0.1/auth/callback"
    urls = {"url.full": f"{url}?code=x", "http.url": f"{url}?code=x", "http.target": "/auth/callback?code=x"}
    with trace.get_tracer("tests").start_as_current_span("GET", attributes=urls):
        protect_span()
    [span] = spans.get_finished_spans()
    assert attributes(span) == {"url.full": url, "http.url": url, "http.target": "/auth/callback"}


async def test_without_telemetry_fastapi_writes_no_span(oauth: NotionOAuth, spans: InMemorySpanExporter) -> None:
    network = httpx.ASGITransport(create_app(oauth=oauth))
    async with httpx.AsyncClient(transport=network, base_url="http://127.0.0.1") as browser:
        await browser.get("/auth/status")
    assert spans.get_finished_spans() == ()


@pytest.mark.slow
def test_without_telemetry_opentelemetry_is_not_imported() -> None:
    code = """
import sys
from notion_oauth import BearerAuth
from notion_oauth.cli.commands import rare_commands
BearerAuth()
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
from notion_oauth import create_app
create_app()  # FastAPI imports the API by itself
assert "notion_oauth.tokens.telemetry" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_telemetry_without_its_package_has_an_install_hint() -> None:
    code = """
import sys
sys.modules["opentelemetry"] = None
from notion_oauth import NotionOAuth, Settings
from notion_oauth.errors import ConfigurationError
try:
    NotionOAuth(Settings(telemetry=True))
except ConfigurationError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "uv sync --extra otel" in output
