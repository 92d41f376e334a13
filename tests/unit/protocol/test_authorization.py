"""The authorization request and response (RFC 6749 §4.1, RFC 7636, RFC 8707, RFC 9207), and registration."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr

from notion_oauth.errors import (
    AuthorizationExpired,
    AuthorizationRefused,
    AuthorizationResponseError,
    IssuerMismatch,
    MetadataError,
    RegistrationRefused,
    ServerUnavailable,
    StateMismatch,
)
from notion_oauth.models import Discovery, PendingAuthorization
from notion_oauth.protocol.authorization import (
    authorization_request,
    check_authorization_response,
    parse_authorization_response,
)
from notion_oauth.protocol.messages import Response
from notion_oauth.protocol.registration import client_metadata, parse_registration_response, registration_request
from tests.unit.protocol.builders import DISCOVERY, ISSUER, NOW, PUBLIC, REDIRECT_URI, SERVER, pending

ANNOUNCED = pending(authorization_response_iss_parameter_supported=True)
SILENT = pending(authorization_response_iss_parameter_supported=False)


def request_query(
    verifier: str, discovery: Discovery = DISCOVERY, scope: str | None = "default"
) -> dict[str, list[str]]:
    authorization = authorization_request(
        discovery,
        PUBLIC,
        redirect_uri=REDIRECT_URI,
        state=SecretStr("s"),
        code_verifier=SecretStr(verifier),
        now=NOW,
        scope=scope,
    )
    return parse_qs(urlsplit(authorization.url.get_secret_value()).query)


@pytest.mark.spec("RFC 7636 §B", "Compute the example")
@pytest.mark.spec("MCP §Authorization Code Protection", "Use S256")
def test_the_code_challenge_of_rfc_7636_appendix_b() -> None:
    query = request_query("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
    assert query["code_challenge"] == ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"]
    assert query["code_challenge_method"] == ["S256"]


@pytest.mark.spec("RFC 6749 §4.1.1", "Send response_type, client_id, redirect_uri, scope and state")
@pytest.mark.spec("MCP §Resource Parameter Implementation", "Send resource in every authorization and token request")
@pytest.mark.spec("RFC 8707 §2.1", "Name the resource in the authorization request")
def test_the_authorization_request_contains_all_parameters() -> None:
    query = request_query("v" * 43)
    assert query["response_type"] == ["code"]
    assert query["client_id"] == ["public-client"]
    assert query["redirect_uri"] == [REDIRECT_URI]
    assert query["resource"] == ["https://mcp.notion.com/mcp"]
    assert query["scope"] == ["default"]
    assert query["prompt"] == ["consent"]


def test_no_scope_is_requested_if_the_resource_lists_none() -> None:
    assert "scope" not in request_query("v" * 43, scope=None)


@pytest.mark.spec("RFC 6749 §3.1", "Keep the query of the authorization endpoint")
def test_an_endpoint_with_a_query_keeps_it() -> None:
    server = SERVER.model_copy(update={"authorization_endpoint": f"{ISSUER}/authorize?tenant=1"})
    query = request_query("v" * 43, DISCOVERY.model_copy(update={"server": server}))
    assert query["tenant"] == ["1"]
    assert query["response_type"] == ["code"]


def check(query: dict[str, str], waiting: PendingAuthorization, *, later: timedelta = timedelta()) -> str:
    response = parse_authorization_response(list(query.items()))
    return check_authorization_response(response, waiting, now=NOW + later).get_secret_value()


@pytest.mark.spec("RFC 6749 §4.1.2", "Read the code of the response, and ignore unknown parameters")
def test_a_valid_response_returns_the_code() -> None:
    assert check({"state": "canary-state", "code": "c", "unknown": "ignored"}, SILENT) == "c"


@pytest.mark.spec("MCP §Open Redirection", "Reject a response without the state of its sign-in, or with another")
@pytest.mark.parametrize("state", ["", "canary-statf", "canary-state ", "CANARY-STATE", "ünïcode", "\ud800"])
def test_another_state_is_refused(state: str) -> None:
    with pytest.raises(StateMismatch):
        check({"state": state, "code": "c", "iss": ISSUER}, SILENT)


@pytest.mark.spec(
    "MCP §Authorization Response Validation", "Accept or reject by the table of announced and received iss"
)
@pytest.mark.spec(
    "MCP §Authorization Response Validation", "Compare the decoded iss as a string, without normalisation"
)
@pytest.mark.spec(
    "MCP §Authorization Response Validation", "Neither act on nor show the error of a response with another iss"
)
@pytest.mark.spec("RFC 9207 §2.4", "Reject a response of another issuer, or one without an announced iss")
@pytest.mark.parametrize(
    ("waiting", "iss", "accepted"),
    [
        # The table of RFC 9207 §2.4 as MCP has it
        (ANNOUNCED, ISSUER, True),
        (ANNOUNCED, None, False),
        (SILENT, ISSUER, True),
        (SILENT, None, True),
        # Compared as strings, without normalisation
        (ANNOUNCED, f"{ISSUER}/", False),
        (ANNOUNCED, "https://mcp.notion.com:443", False),
        (ANNOUNCED, "https://MCP.notion.com", False),
        (ANNOUNCED, "https%3A%2F%2Fmcp.notion.com", False),
        (SILENT, "https://evil.example", False),
    ],
)
def test_the_issuer_is_checked_in_success_and_error_responses(
    waiting: PendingAuthorization, iss: str | None, accepted: bool
) -> None:
    query = {"state": "canary-state", **({"iss": iss} if iss else {})}
    if accepted:
        assert check({**query, "code": "c"}, waiting) == "c"
        with pytest.raises(AuthorizationRefused):
            check({**query, "error": "server_error"}, waiting)
    else:
        for rest in ({"code": "c"}, {"error": "access_denied", "error_description": "call +1 555"}):
            with pytest.raises(IssuerMismatch) as caught:
                check({**query, **rest}, waiting)
            assert "555" not in str(caught.value), "the text of an unchecked response is not shown"


def test_an_error_is_reported_only_after_the_state_is_checked() -> None:
    with pytest.raises(StateMismatch) as caught:
        check({"state": "wrong", "error": "access_denied", "error_description": "call +1 555"}, SILENT)
    assert "555" not in str(caught.value)


@pytest.mark.spec("RFC 6749 §4.1.2.1", "Report the error of a response without a code")
@pytest.mark.parametrize(
    "error",
    [  # RFC 6749 §4.1.2.1, RFC 8707 §2, OpenID
        "invalid_request",
        "unauthorized_client",
        "access_denied",
        "unsupported_response_type",
        "invalid_scope",
        "server_error",
        "temporarily_unavailable",
        "invalid_target",
        "login_required",
        "consent_required",
    ],
)
def test_every_error_code_is_reported(error: str) -> None:
    with pytest.raises(AuthorizationRefused) as caught:
        check({"state": "canary-state", "error": error, "error_description": "why\x1b[2J not"}, SILENT)
    assert caught.value.error == error
    assert caught.value.description == "why [2J not"
    assert error in str(caught.value)


def test_an_invalid_error_code_is_not_repeated() -> None:
    with pytest.raises(AuthorizationRefused) as caught:
        check({"state": "canary-state", "error": "<b>call me</b> now"}, SILENT)
    assert "call me" not in str(caught.value)


def test_neither_code_nor_error_is_refused() -> None:
    with pytest.raises(AuthorizationResponseError, match="neither"):
        check({"state": "canary-state", "code": ""}, SILENT)


@pytest.mark.spec("RFC 6749 §3.1", "Accept no repeated parameter")
@pytest.mark.parametrize("name", ["state", "code", "iss", "error", "error_description"])
def test_a_repeated_parameter_is_refused(name: str) -> None:
    with pytest.raises(AuthorizationResponseError, match=f"{name} twice"):
        parse_authorization_response([(name, "a"), (name, "a")])


def test_a_sign_in_expires_after_ten_minutes() -> None:
    query = {"state": "canary-state", "code": "c"}
    assert check(query, SILENT, later=timedelta(minutes=9, seconds=59)) == "c"
    with pytest.raises(AuthorizationExpired):
        check(query, SILENT, later=timedelta(minutes=10))
    with pytest.raises(AuthorizationExpired):
        check(query, SILENT, later=-timedelta(days=365))


@pytest.mark.spec("MCP §Refresh Tokens", "List refresh_token among the grant types")
@pytest.mark.spec("MCP §Dynamic Client Registration", "Send application_type: native for loopback, web for other hosts")
@pytest.mark.spec("RFC 7591 §2", "Register only what is used: redirect URIs, grant and response types, no secret")
@pytest.mark.parametrize(
    ("redirect_uri", "kind"),
    [
        ("http://127.0.0.1:1/callback", "native"),
        ("http://localhost:8000/auth/callback", "native"),
        ("https://notion.example/auth/callback", "web"),
    ],
)
def test_the_metadata_of_a_public_client(redirect_uri: str, kind: str) -> None:
    metadata = client_metadata(client_name="mine", redirect_uri=redirect_uri, scope="a b")
    sent = registration_request(SERVER, metadata).json
    assert sent == {
        "client_name": "mine",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": kind,
        "scope": "a b",
    }


def test_a_server_without_registration_is_reported() -> None:
    metadata = client_metadata(client_name="mine", redirect_uri=REDIRECT_URI, scope=None)
    with pytest.raises(MetadataError, match="offers no client registration"):
        registration_request(SERVER.model_copy(update={"registration_endpoint": None}), metadata)


REGISTRATION = registration_request(SERVER, client_metadata(client_name="m", redirect_uri=REDIRECT_URI, scope=None))


@pytest.mark.spec(
    "RFC 7591 §3.2.1", "Read the client's id, its secret and the expiry of the secret, where 0 means never"
)
@pytest.mark.parametrize(
    ("body", "secret"),
    [
        (b'{"client_id": "c"}', None),
        (b'{"client_id": "c", "client_secret": "", "client_secret_expires_at": null}', None),
        (b'{"client_id": "c", "client_secret": "s", "client_secret_expires_at": 0}', "s"),
    ],
)
def test_a_registered_client_is_parsed(body: bytes, secret: str | None) -> None:
    client = parse_registration_response(Response(201, f"{ISSUER}/register", {}, body), request=REGISTRATION)
    assert client.client_id == "c"
    assert (client.client_secret.get_secret_value() if client.client_secret else None) == secret
    assert not client.expired(NOW)


@pytest.mark.spec(
    "RFC 7591 §3.2.1", "Read the client's id, its secret and the expiry of the secret, where 0 means never"
)
def test_an_expired_client_secret_is_recognised() -> None:
    body = f'{{"client_id": "c", "client_secret": "s", "client_secret_expires_at": {int(NOW.timestamp())}}}'.encode()
    client = parse_registration_response(Response(201, f"{ISSUER}/register", {}, body), request=REGISTRATION)
    assert client.expired(NOW)
    assert not client.expired(NOW - timedelta(seconds=1))


@pytest.mark.spec("RFC 7591 §3.2.2", "Report the error code and description")
def test_a_refused_registration_reports_the_reason() -> None:
    body = b'{"error": "invalid_redirect_uri", "error_description": "not that one"}'
    with pytest.raises(RegistrationRefused, match="not that one") as caught:
        parse_registration_response(Response(400, f"{ISSUER}/register", {}, body), request=REGISTRATION)
    assert caught.value.error == "invalid_redirect_uri"


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"client_id": ""}', b'{"client_id": [7]}', b"<html>"])
def test_an_invalid_registration_response_is_transient(body: bytes) -> None:
    with pytest.raises(ServerUnavailable):
        parse_registration_response(Response(201, f"{ISSUER}/register", {}, body), request=REGISTRATION)
