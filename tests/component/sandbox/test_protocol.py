"""The practice server's metadata, registration, authorization and code exchange."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from notion_oauth.sandbox import Sandbox
from tests.support.person import Person, error_of


@pytest.fixture
def person(sandbox: Sandbox) -> Iterator[Person]:
    someone = Person(sandbox)
    with someone.http:
        yield someone


def test_the_metadata_is_like_notions(person: Person, sandbox: Sandbox) -> None:
    path = person.http.get("/.well-known/oauth-protected-resource/mcp").json()
    root = person.http.get("/.well-known/oauth-protected-resource").json()
    assert (path["resource"], root["resource"]) == (sandbox.mcp_url, sandbox.base_url)
    assert path["authorization_servers"] == [sandbox.issuer]
    assert path["scopes_supported"] == ["default"]
    server = person.http.get("/.well-known/oauth-authorization-server").json()
    assert server["issuer"] == sandbox.issuer
    assert server["revocation_endpoint"] == server["token_endpoint"] == f"{sandbox.base_url}/token"
    assert "S256" in server["code_challenge_methods_supported"]
    assert server["authorization_response_iss_parameter_supported"] is True
    assert person.http.get("/.well-known/openid-configuration").status_code == 404
    assert "practice server" in person.http.get("/").text


def test_metadata_can_be_missing_or_overridden(person: Person, sandbox: Sandbox) -> None:
    sandbox.options.serve_path_metadata = sandbox.options.serve_root_metadata = False
    assert person.http.get("/.well-known/oauth-protected-resource/mcp").status_code == 404
    assert person.http.get("/.well-known/oauth-protected-resource").status_code == 404
    sandbox.options.metadata_overrides = {"issuer": "https://evil.example", "scopes_supported": None}
    sandbox.options.offer_revocation = sandbox.options.announce_iss = False
    server = person.http.get("/.well-known/oauth-authorization-server").json()
    assert server["issuer"] == "https://evil.example"
    absent = {"scopes_supported", "revocation_endpoint", "authorization_response_iss_parameter_supported"}
    assert not absent & set(server)


def test_only_confidential_clients_get_a_secret(person: Person) -> None:
    public, confidential = person.register().json(), person.register(token_endpoint_auth_method=None).json()
    assert "client_secret" not in public
    assert confidential["client_secret"]
    assert confidential["token_endpoint_auth_method"] == "client_secret_basic"


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"redirect_uris": ["http://example.com/"]}, "invalid_redirect_uri"),
        ({"redirect_uris": []}, "invalid_redirect_uri"),
        ({"redirect_uris": "https://example.com/"}, "invalid_redirect_uri"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "invalid_client_metadata"),
        ({"client_uri": "no url"}, "invalid_client_metadata"),
    ],
)
def test_an_invalid_registration_is_refused(person: Person, metadata: dict[str, Any], error: str) -> None:
    assert error_of(person.register(**metadata))[:2] == (400, error)


def test_a_registration_without_json_is_refused(person: Person) -> None:
    answer = person.http.post("/register", content=b"{", headers={"Content-Type": "application/json"})
    assert error_of(answer)[:2] == (400, "invalid_client_metadata")


def test_the_redirect_carries_code_state_and_issuer(person: Person, sandbox: Sandbox) -> None:
    query = person.redirected(person.client_id())
    assert (query["state"], query["iss"]) == ("a state", sandbox.issuer)
    sandbox.options.announce_iss = False
    assert "iss" not in person.redirected(person.client_id())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"code_challenge": None, "code_challenge_method": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": "S512"}, "invalid_request"),
        ({"scope": "everything"}, "invalid_scope"),
        ({"resource": "https://other.example/"}, "invalid_target"),
        ({"response_type": "token"}, "unsupported_response_type"),
    ],
)
def test_an_invalid_authorization_request_is_redirected_with_its_error(
    person: Person, sandbox: Sandbox, changes: dict[str, str | None], error: str
) -> None:
    for sandbox.options.auto_consent in (True, False):
        query = person.redirected(person.client_id(), **changes)
        assert (query["error"], query["state"], query["iss"]) == (error, "a state", sandbox.issuer)


@pytest.mark.parametrize(
    "changes", [{"client_id": "unknown"}, {"redirect_uri": "https://evil.example/"}, {"redirect_uri": None}]
)
def test_an_unregistered_redirect_uri_gets_no_redirect(person: Person, changes: dict[str, str | None]) -> None:
    client_id = person.client_id()
    answer = person.authorize(**{"client_id": client_id, **changes})  # type: ignore[arg-type]
    assert answer.status_code == 400
    assert "This sign-in cannot continue" in answer.text


def test_a_loopback_port_may_differ_only_at_authorization(person: Person) -> None:
    client_id, other = person.client_id(), "http://127.0.0.1:5555/callback"
    code = person.redirected(client_id, redirect_uri=other)["code"]
    assert error_of(person.exchange(client_id, code))[1] == "invalid_grant"
    assert person.exchange(client_id, code, redirect_uri=other).status_code == 200
    assert person.authorize(client_id, redirect_uri="http://localhost:4321/callback").status_code == 400


def test_the_consent_page_asks_for_consent(person: Person, sandbox: Sandbox) -> None:
    sandbox.options.auto_consent = False
    page = person.authorize(person.client_id(client_name="<b>Bold</b>"))
    assert page.status_code == 200
    assert "&lt;b&gt;Bold" in page.text
    assert "is not Notion" in page.text
    assert page.headers["x-frame-options"] == "DENY"
    found = re.search(r'name="ticket" value="([^"]+)"', page.text)
    assert found
    data = {"ticket": found.group(1), "decision": "approve"}
    assert "code=" in person.http.post("/authorize", data=data).headers["location"]
    assert person.http.post("/authorize", data=data).status_code == 400, "a ticket is valid once"
    assert person.http.post("/authorize", data={"decision": "approve"}).status_code == 400


def test_a_user_can_decline(person: Person, sandbox: Sandbox) -> None:
    sandbox.options.auto_consent = False
    ticket = re.search(r'name="ticket" value="([^"]+)"', person.authorize(person.client_id()).text)
    assert ticket
    answer = person.http.post("/authorize", data={"ticket": ticket.group(1), "decision": "deny"})
    assert "error=access_denied" in answer.headers["location"]
    assert "iss=" in answer.headers["location"]


def test_the_token_response(person: Person, sandbox: Sandbox) -> None:
    client_id = person.client_id()
    answer = person.exchange(client_id, person.redirected(client_id)["code"])
    tokens = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert (tokens["token_type"], tokens["expires_in"], tokens["scope"]) == ("bearer", 3600, "default")
    assert tokens["resource"] == sandbox.mcp_url
    assert sandbox.is_access_token_live(tokens["access_token"])
    sandbox.options.access_token_lifetime = 0.5
    sandbox.options.token_response_overrides = {"scope": None, "extra": 1}
    changed = person.sign_in(client_id)
    assert (changed["expires_in"], changed["extra"], "scope" in changed) == (0.5, 1, False)


def test_a_wrong_verifier_does_not_consume_the_code(person: Person) -> None:
    client_id = person.client_id()
    code = person.redirected(client_id)["code"]
    assert error_of(person.exchange(client_id, code, code_verifier="w" * 43))[1] == "invalid_grant"
    assert person.exchange(client_id, code).status_code == 200


def test_a_code_used_twice_ends_its_grant(person: Person, sandbox: Sandbox) -> None:
    client_id = person.client_id()
    code = person.redirected(client_id)["code"]
    tokens = person.exchange(client_id, code).json()
    assert error_of(person.exchange(client_id, code))[:2] == (400, "invalid_grant")
    assert not sandbox.is_access_token_live(tokens["access_token"])
    assert person.refresh(client_id, tokens["refresh_token"]).status_code == 400
    assert sandbox.live_grants == 0


def test_a_code_is_valid_for_its_client_and_ten_minutes(person: Person, sandbox: Sandbox) -> None:
    first, second = person.client_id(), person.client_id()
    code = person.redirected(first)["code"]
    assert error_of(person.exchange(second, code))[1] == "invalid_grant"
    sandbox.advance(601)
    assert error_of(person.exchange(first, code))[1] == "invalid_grant"


def test_a_client_may_use_only_one_authentication_method(person: Person) -> None:
    client = person.register(token_endpoint_auth_method="client_secret_basic").json()
    code = person.redirected(client["client_id"])["code"]
    basic = base64.b64encode(f"{client['client_id']}:{client['client_secret']}".encode()).decode()
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": client["redirect_uris"][0],
        "code_verifier": person.verifier,
    }
    headers = {"Authorization": f"Basic {basic}"}
    both = person.http.post("/token", data={**form, "client_id": client["client_id"]}, headers=headers)
    assert error_of(both) == (400, "invalid_request", "Client used multiple authentication methods")
    assert error_of(person.http.post("/token", data={**form, "client_id": client["client_id"]}))[1] == "invalid_client"
    assert person.http.post("/token", data=form, headers=headers).status_code == 200


def test_deleted_and_expired_clients_are_not_found(person: Person, sandbox: Sandbox) -> None:
    client_id = person.client_id()
    tokens = person.sign_in(client_id)
    sandbox.forget_clients()
    refused = (401, "invalid_client", "Client not found")
    assert error_of(person.refresh(client_id, tokens["refresh_token"])) == refused
    late = person.client_id()
    sandbox.advance(90 * 86400 + 1)
    assert error_of(person.refresh(late, "a:b:c")) == refused
    sandbox.options.registration_lifetime = None
    assert error_of(person.refresh(late, "a:b:c"))[1] == "invalid_grant"


def test_unknown_grant_types_are_refused(person: Person) -> None:
    answer = person.http.post("/token", data={"grant_type": "password", "client_id": person.client_id()})
    assert error_of(answer)[:2] == (400, "unsupported_grant_type")


def test_the_repr_of_a_request_shows_no_values(person: Person, sandbox: Sandbox) -> None:
    client_id = person.client_id()
    person.sign_in(client_id)
    shown = repr(sandbox.requests)
    assert "POST /token" in shown
    assert "code_verifier" in shown
    assert person.verifier not in shown
    assert client_id not in shown
    assert httpx.URL(sandbox.base_url).port
