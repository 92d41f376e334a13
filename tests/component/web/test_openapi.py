"""Every response, to any request, is one that the OpenAPI document describes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from notion_oauth.app import create_app
from notion_oauth.errors import SignInRequired
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.support.visiting import PUBLIC, Visitor

HOME = "http://localhost"
JSON = {"Accept": "application/json"}
LOCAL = ("GET /auth/status", "GET /auth/login", "GET /auth/callback", "POST /auth/refresh", "POST /auth/logout")
OPERATED = (*LOCAL, "POST /auth/operator", "POST /auth/lock", "GET /auth/client-metadata.json")
# Refuses valid requests too, unless the browser has started a sign-in
IN_A_BROWSER = {"GET /auth/callback"}
HEADERS = (
    *("Accept", "Authorization", "Content-Type", "Cookie", "Forwarded", "Host", "Origin", "Range", "Referer"),
    *("Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"),
    "X-Request-ID",
)
WORDS = (
    "text/html",
    "application/json",
    "cross-site",
    "same-origin",
    "image",
    "document",
    "https",
    "null",
    "127.0.0.1",
)
same_each_time = hypothesis_settings(
    max_examples=8,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def operation(app: FastAPI, route: str) -> Any:
    """A route in the application's OpenAPI document."""
    document = schemathesis.openapi.from_dict(app.openapi())
    document.app = app
    method, _, path = route.partition(" ")
    return document[path][method]


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings.model_copy(update={"rate_limit": "0"}))


@pytest.fixture
def operated(settings: Settings) -> FastAPI:
    keys = {"secret_key": SecretStr("k" * 40), "operator_secret": SecretStr("correct-horse-battery")}
    off = {"rate_limit": "0", "status_rate_limit": "0"}
    return create_app(settings.model_copy(update={"public_url": PUBLIC, **keys, **off}))


@pytest.mark.parametrize(
    ("changes", "opened"),
    [
        ({}, {"/openapi.json"}),
        ({"public_url": PUBLIC}, set()),
        ({"public_url": PUBLIC, "api_docs": True}, {"/openapi.json", "/docs", "/redoc"}),
        ({"public_url": f"{PUBLIC}/path", "api_docs": True}, {"/openapi.json", "/docs", "/redoc"}),
    ],
)
def test_documents_are_closed_on_a_public_url(settings: Settings, changes: dict[str, Any], opened: set[str]) -> None:
    app = create_app(settings.model_copy(update={"secret_key": SecretStr("k" * 40), **changes}))
    visitor = Visitor(app, PUBLIC) if changes else Visitor(app, HOME, client="127.0.0.1")
    answers = {path: visitor.get(path) for path in ("/openapi.json", "/docs", "/redoc")}
    assert {path for path, answer in answers.items() if answer.status_code == 200} == opened
    for path in opened - {"/openapi.json"}:
        policy = answers[path].headers["content-security-policy"]
        assert "default-src 'none'" in policy
        for url in re.findall(r'<script[^>]* src="([^"]+)"', answers[path].text):
            assert urlsplit(url).hostname in policy
        [document] = {*re.findall(r"""["']([^"']*/openapi.json)["']""", answers[path].text)}
        assert visitor.get(document).status_code == 200


def test_every_route_is_documented(app: FastAPI, operated: FastAPI) -> None:
    for application, routes in ((app, LOCAL), (operated, OPERATED)):
        paths = application.openapi()["paths"].items()
        assert sorted(routes) == sorted(f"{method.upper()} {path}" for path, item in paths for method in item)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "mode"),
    [
        (route, mode)
        for route in LOCAL
        for mode in GenerationMode
        # has no parameters that could be wrong
        if (route, mode) != ("GET /auth/status", GenerationMode.NEGATIVE)
    ],
)
def test_local_service_responds_as_documented(app: FastAPI, route: str, mode: GenerationMode) -> None:
    excluded: list[Any] = [positive_data_acceptance] if route in IN_A_BROWSER else []

    @same_each_time
    @given(case=operation(app, route).as_strategy(generation_mode=mode))
    def answered(case: Case[Any]) -> None:
        case.call_and_validate(base_url=HOME, excluded_checks=excluded)

    answered()


@pytest.mark.parametrize("route", OPERATED)
def test_operator_service_responds_to_others_as_documented(operated: FastAPI, route: str) -> None:
    excluded: list[Any] = [positive_data_acceptance] if route in IN_A_BROWSER else []

    @same_each_time
    @given(case=operation(operated, route).as_strategy(generation_mode=GenerationMode.POSITIVE))
    def answered(case: Case[Any]) -> None:
        case.call_and_validate(base_url=PUBLIC, excluded_checks=excluded)

    answered()


values = st.one_of(st.sampled_from(WORDS), st.text(st.characters(max_codepoint=0xFF, exclude_categories=["Cc"])))


@pytest.mark.parametrize("route", OPERATED)
def test_any_header_and_body_gets_a_documented_response(app: FastAPI, operated: FastAPI, route: str) -> None:
    local = route in LOCAL
    found = operation(app if local else operated, route)
    method, _, path = route.partition(" ")
    client = TestClient(
        app if local else operated,
        base_url=HOME if local else PUBLIC,
        follow_redirects=False,
        raise_server_exceptions=False,
    )

    @same_each_time
    @given(headers=st.dictionaries(st.sampled_from(HEADERS), values, max_size=5), body=st.binary(max_size=300))
    def answered(headers: dict[str, str], body: bytes) -> None:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        answer = client.request(method, path, headers=raw, content=body)
        found.Case().validate_response(answer, excluded_checks=[positive_data_acceptance])
        client.cookies.clear()

    answered()


def test_framework_validation_error_is_never_returned(app: FastAPI, operated: FastAPI) -> None:
    """It would echo the invalid value."""
    for application in (app, operated):
        for item in application.openapi()["paths"].values():
            assert not [method for method, found in item.items() if "422" in found["responses"]]
        assert "HTTPValidationError" not in application.openapi()["components"]["schemas"]


@pytest.fixture
def visitor(app: FastAPI) -> Iterator[Visitor]:
    with Visitor(app, HOME, client="127.0.0.1") as visitor:
        yield visitor


def test_whole_sign_in_responds_as_documented(app: FastAPI, visitor: Visitor, sandbox: Sandbox) -> None:
    def documented(route: str, answer: Any, status: int) -> Any:
        assert answer.status_code == status, answer.text
        operation(app, route).Case().validate_response(answer)
        return answer

    def status() -> str:
        found: str = documented("GET /auth/status", visitor.get("/auth/status", headers=JSON), 200).json()["status"]
        return found

    def posted(what: str, headers: dict[str, str], code: int) -> Any:
        answer = visitor.post(f"/auth/{what}", data={"csrf_token": visitor.csrf_token()}, headers=headers)
        return documented(f"POST /auth/{what}", answer, code)

    assert status() == "unauthenticated"
    documented("GET /auth/login", visitor.get("/auth/login"), 303)
    documented("GET /auth/callback", visitor.get(visitor.consent(), headers=JSON), 200)
    documented("GET /auth/callback", visitor.get(visitor.consent()), 303)
    assert status() == "authenticated"
    documented("GET /auth/status", visitor.get("/auth/status"), 200)
    assert posted("refresh", JSON, 200).json()["message"] == "The token was refreshed."
    posted("refresh", {}, 303)
    token = visitor.csrf_token()
    posted("logout", {}, 303)
    again = visitor.post("/auth/logout", data={"csrf_token": token}, headers=JSON)
    assert documented("POST /auth/logout", again, 200).json()["message"] == "You were not signed in."


def test_ended_login_is_reported_as_documented(
    app: FastAPI, visitor: Visitor, sandbox: Sandbox, oauth: NotionOAuth
) -> None:
    visitor.sign_in()
    sandbox.revoke_grants()
    with pytest.raises(SignInRequired):
        anyio.run(oauth.refresh)
    answer = visitor.get("/auth/status", headers=JSON)
    assert answer.json()["ended_reason"]
    operation(app, "GET /auth/status").Case().validate_response(answer)


@pytest.mark.parametrize(("base_url", "code"), [(HOME, 429), ("http://elsewhere.example", 421)])
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_refusals_are_documented(settings: Settings, base_url: str, code: int, accept: str) -> None:
    app = create_app(settings.model_copy(update={"rate_limit": "1/hour"}))
    visitor = Visitor(app, base_url, client="127.0.0.1")
    visitor.get("/auth/callback")
    answer = visitor.get("/auth/callback", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (code, accept)
    operation(app, "GET /auth/callback").Case().validate_response(answer)
