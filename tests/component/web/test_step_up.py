"""The parameters of /auth/login, and the client metadata document."""

from __future__ import annotations

from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from pydantic import SecretStr

from notion_oauth.app import create_app
from notion_oauth.sandbox import Sandbox
from notion_oauth.settings import Settings
from tests.support.visiting import PUBLIC, Visitor

DOCUMENT = "/auth/client-metadata.json"


@pytest.fixture
def public(settings: Settings) -> Settings:
    return settings.model_copy(update={"public_url": PUBLIC, "secret_key": SecretStr("k" * 40)})


def authorization_query(visitor: Visitor, query: str) -> dict[str, list[str]]:
    """The query that is sent to the authorization endpoint."""
    started = visitor.get(f"/auth/login?{query}")
    assert started.is_redirect, started.text
    return parse_qs(urlsplit(started.headers["location"]).query)


@pytest.fixture(params=["on loopback", "on the internet"])
def visitor(request: pytest.FixtureRequest, settings: Settings, public: Settings) -> Visitor:
    if request.param == "on loopback":
        return Visitor(create_app(settings), "http://127.0.0.1:8000", client="127.0.0.1")
    return Visitor(create_app(public))


def test_scopes_are_requested_in_addition_to_granted_ones(visitor: Visitor, sandbox: Sandbox) -> None:
    visitor.sign_in()
    sandbox.options.scopes = ("default", "read", "write")
    assert authorization_query(visitor, "scope=write+read")["scope"] == ["default write read"]


def test_plain_sign_in_requests_scopes_granted_before(visitor: Visitor, sandbox: Sandbox) -> None:
    sandbox.options.scopes = ("default", "read", "write")
    sandbox.options.resource_metadata_overrides = {"scopes_supported": ["default"]}
    visitor.sign_in()
    visitor.sign_in("?scope=write")
    assert authorization_query(visitor, "")["scope"] == ["default write"]


def test_acr_values_and_max_age_are_requested(visitor: Visitor) -> None:
    query = authorization_query(visitor, "acr_values=myACR&max_age=300")
    assert (query["acr_values"], query["max_age"], query["scope"]) == (["myACR"], ["300"], ["default"])


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("scope=%22%3E%3Cscript%3Ecanary", "scope"),
        ("scope=", "scope"),
        ("acr_values=canary%0Ab", "acr_values"),
        ("max_age=-1", "max_age"),
        ("max_age=canary", "max_age"),
        ("max_age=", "max_age"),
        ("max_age=12345678901", "max_age"),
        ("max_age=%D9%A1", "max_age"),  # a digit outside of ASCII
        ("max_age=1.0", "max_age"),
        ("scope=canary&scope=read", "scope"),
        (f"scope={'canary+' * 72}", "scope"),
        (f"acr_values={'canary' * 84}", "acr_values"),
    ],
)
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
def test_invalid_parameter_is_refused(visitor: Visitor, sandbox: Sandbox, query: str, name: str, accept: str) -> None:
    """The error names the parameter, as HTML and as JSON, and does not echo its value."""
    answer = visitor.get(f"/auth/login?{query}", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (400, accept)
    assert name in answer.text
    assert "canary" not in answer.text
    assert "<script" not in answer.text
    assert "--" not in answer.text.partition("<main")[2], "no command line options on a page"
    if accept == "application/json":
        problem = answer.json()
        assert set(problem) == {"error", "message", "next"}
        assert problem["error"] == "BadRequest"
        assert problem["message"].startswith(name)
        assert problem["next"]
    assert not sandbox.requests


def test_longest_parameters_fit_into_the_cookie(visitor: Visitor, sandbox: Sandbox) -> None:
    scope = "".join(map(chr, range(0x23, 0x5B))) * 10
    sandbox.options.scopes = ("default", scope[:500])
    visitor.sign_in(f"?{urlencode({'scope': scope[:500], 'acr_values': scope[:500]})}")
    assert visitor.status()["status"] == "authenticated"


def test_other_parameters_are_ignored(visitor: Visitor) -> None:
    assert authorization_query(visitor, "max_age=7&other=1&other=2")["max_age"] == ["7"]


def test_client_metadata_document(public: Settings, sandbox: Sandbox) -> None:
    settings = public.model_copy(update={"client_metadata_url": PUBLIC + DOCUMENT, "client_name": "Mine"})
    visitor = Visitor(create_app(settings))
    answer = visitor.get(DOCUMENT)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "client_id": PUBLIC + DOCUMENT,
        "client_name": "Mine",
        "redirect_uris": [f"{PUBLIC}/auth/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": "web",
    }
    assert "set-cookie" not in answer.headers
    sandbox.options.client_metadata_documents = {PUBLIC + DOCUMENT: answer.json()}
    visitor.sign_in()
    assert visitor.status()["status"] == "authenticated"
    assert not sandbox.requests_to("/register")


def test_client_metadata_document_below_a_path(public: Settings) -> None:
    visitor = Visitor(create_app(public.model_copy(update={"public_url": f"{PUBLIC}/notion"})))
    assert visitor.get(f"/notion{DOCUMENT}").json()["client_id"] == f"{PUBLIC}/notion{DOCUMENT}"


def test_no_client_metadata_document_on_loopback(settings: Settings) -> None:
    visitor = Visitor(create_app(settings), "http://127.0.0.1:8000", client="127.0.0.1")
    assert visitor.get(DOCUMENT).status_code == 404
