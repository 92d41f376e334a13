"""The token, revocation and introspection endpoints: examples of RFC 6749, 6750 §4, 7009, 7662 and 8707."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import SecretStr

from notion_oauth.errors import ServerUnavailable, TokenRefused
from notion_oauth.models import ClientInformation
from notion_oauth.protocol.introspection import introspection_request, parse_introspection_response
from notion_oauth.protocol.messages import Request, Response
from notion_oauth.protocol.revocation import check_revocation_response, revocation_requests
from notion_oauth.protocol.token import client_authentication, code_request, parse_token_response, refresh_request
from notion_oauth.protocol.token import refreshed as with_new_tokens
from tests.unit.protocol.builders import NOW, pending, tokens

REQUEST = Request("POST", "https://server.example.com/token", form={"grant_type": "authorization_code"})
TOKEN: dict[str, Any] = {
    "access_token": "2YotnFZFEjr1zCsicMWpAA",
    "token_type": "Bearer",
    "expires_in": 3600,
    "refresh_token": "tGzv3JOkF0XG5Qx2TlKWIA",
    "example_parameter": "example_value",
}


def client(secret: str, *, client_id: str = "s6BhdRkqt3", method: Any = "client_secret_basic") -> ClientInformation:
    return ClientInformation(client_id=client_id, client_secret=SecretStr(secret), token_endpoint_auth_method=method)


def answer(document: object, status: int = 200) -> Response:
    return Response(status, REQUEST.url, {}, json.dumps(document).encode())


def body_of(request: Request | None) -> dict[str, list[str]]:
    """The form, decoded as a server decodes it."""
    assert request is not None
    assert request.all_headers()["Content-Type"] == "application/x-www-form-urlencoded"
    return parse_qs((request.content() or b"").decode("ascii"), strict_parsing=True)


@pytest.mark.spec("RFC 8414 §2", "Authenticate at each endpoint with a method that is listed for it")
@pytest.mark.parametrize(
    ("listed", "basic"), [(None, True), (("client_secret_post",), False), (("tls_client_auth",), True)]
)
def test_an_endpoint_may_list_other_methods(listed: tuple[str, ...] | None, basic: bool) -> None:
    methods = {
        "revocation_endpoint_auth_methods_supported": listed,
        "introspection_endpoint_auth_methods_supported": listed,
    }
    login = tokens(client=client("a secret"), introspection_endpoint="https://h.example/introspect").model_copy(
        update=methods
    )
    for request in (*revocation_requests(login), introspection_request(login)):
        assert request is not None
        assert ("Authorization" in request.headers, "client_secret" in (request.form or {})) == (basic, not basic)
    assert "Authorization" in refresh_request(login).headers


@pytest.mark.spec("RFC 6749 §2.3.1", "HTTP Basic carries client_id and secret, each form-encoded first")
@pytest.mark.parametrize(
    ("client_id", "secret", "credentials"),
    [
        ("s6BhdRkqt3", "7Fjfp0ZBr1KtDRbnfVdmIw", "czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3"),  # §2.3.1
        ("s6BhdRkqt3", "gX1fBat3bV", "czZCaGRSa3F0MzpnWDFmQmF0M2JW"),  # §4.1.3, RFC 7009 §2.1
        ("s6BhdRkqt3", "hsqEzQlUoHAE9px4FSr4yI", "czZCaGRSa3F0Mzpoc3FFelFsVW9IQUU5cHg0RlNyNHlJ"),  # RFC 8707 §2.2
        # a%3Ab:%20%25%26%2B%C2%A3%E2%82%AC, appendix B; a space may be a plus there, which not every server reads
        ("a:b", " %&+£€", "YSUzQWI6JTIwJTI1JTI2JTJCJUMyJUEzJUUyJTgyJUFD"),
    ],
)
def test_the_examples_of_basic_authentication(client_id: str, secret: str, credentials: str) -> None:
    headers, form = client_authentication(client(secret, client_id=client_id), ())
    assert headers == {"Authorization": f"Basic {credentials}"}
    assert form == {}


@pytest.mark.spec("RFC 6749 §2.3.1", "Credentials in the body are client_id and client_secret")
@pytest.mark.spec("RFC 6749 §6", "Refresh with grant_type=refresh_token, as the client that got the token")
def test_the_example_of_credentials_in_the_body() -> None:
    login = tokens(
        client=client("7Fjfp0ZBr1KtDRbnfVdmIw", method="client_secret_post"),
        refresh_token=SecretStr("tGzv3JOkF0XG5Qx2TlKWIA"),
        resource=None,
    )
    assert body_of(refresh_request(login)) == {
        "grant_type": ["refresh_token"],
        "refresh_token": ["tGzv3JOkF0XG5Qx2TlKWIA"],
        "client_id": ["s6BhdRkqt3"],
        "client_secret": ["7Fjfp0ZBr1KtDRbnfVdmIw"],
    }


@pytest.mark.spec("RFC 6749 §B", "Encode form values as UTF-8, a space as +, the rest as %HH")
def test_the_example_of_form_encoding() -> None:
    request = code_request(pending(), SecretStr(" %&+£€"))
    assert b"code=+%25%26%2B%C2%A3%E2%82%AC" in (request.content() or b"").split(b"&")


@pytest.mark.spec("RFC 6749 §4.1.3", "Exchange the code with the redirect_uri of the authorization request")
@pytest.mark.spec("RFC 8707 §2.2", "Name the resource in the token request")
@pytest.mark.parametrize(
    ("code", "redirect_uri", "resource"),
    [
        ("SplxlOBeZQQYbYS6WxSbIA", "https://client.example.com/cb", "https://api.example.com/app/"),  # RFC 6749 §4.1.3
        ("10esc29BWC2qZB0acc9v8zAv9ltc2pko105tQauZ", "https://client.example.org/cb", "https://cal.example.com/"),
    ],
)
def test_the_examples_of_a_code_exchange(code: str, redirect_uri: str, resource: str) -> None:
    began = pending(client=client("gX1fBat3bV"), redirect_uri=redirect_uri, resource=resource)
    request = code_request(began, SecretStr(code))
    assert request.method == "POST"
    assert request.headers["Authorization"] == "Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW"
    sent = body_of(request)
    assert (sent["grant_type"], sent["code"]) == (["authorization_code"], [code])
    assert (sent["redirect_uri"], sent["resource"]) == ([redirect_uri], [resource])


@pytest.mark.spec("RFC 6749 §4.1.4", "Read the token response to a code")
@pytest.mark.spec("RFC 6749 §5.1", "Ignore unknown members of a token response")
def test_the_example_of_a_token_response() -> None:
    parsed = parse_token_response(answer(TOKEN), request=REQUEST)
    assert parsed.access_token.get_secret_value() == "2YotnFZFEjr1zCsicMWpAA"
    assert parsed.refresh_token == SecretStr("tGzv3JOkF0XG5Qx2TlKWIA")
    assert (parsed.expires_in, parsed.scope) == (3600, None)


@pytest.mark.spec("RFC 6749 §7.1", "Use no token of an unknown type")
def test_the_token_type_of_the_example_is_unsupported() -> None:
    with pytest.raises(ServerUnavailable, match="bearer"):
        parse_token_response(answer({**TOKEN, "token_type": "example"}), request=REQUEST)


@pytest.mark.spec("RFC 6750 §4", "Read the example response")
def test_the_example_of_a_bearer_token() -> None:
    document = {**TOKEN, "access_token": "mF_9.B5f-4.1JqM"}
    assert parse_token_response(answer(document), request=REQUEST).access_token == SecretStr("mF_9.B5f-4.1JqM")


@pytest.mark.spec("RFC 6749 §5.2", "Identify an error by its code, with status 400 or 401")
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "invalid_request"),  # the example
        (401, "invalid_client"),
        (400, "invalid_grant"),
        (400, "unauthorized_client"),
        (400, "unsupported_grant_type"),
        (400, "invalid_scope"),
    ],
)
def test_the_errors_of_the_token_endpoint(status: int, code: str) -> None:
    with pytest.raises(TokenRefused) as caught:
        parse_token_response(answer({"error": code}, status), request=REQUEST)
    assert (caught.value.error, caught.value.description) == (code, None)


@pytest.mark.spec("RFC 6749 §6", "Replace the old refresh token by a new one")
def test_a_new_refresh_token_replaces_the_old_one() -> None:
    parsed = parse_token_response(answer(TOKEN), request=REQUEST)
    assert with_new_tokens(tokens(), parsed, requested_at=NOW).refresh_token == SecretStr("tGzv3JOkF0XG5Qx2TlKWIA")


@pytest.mark.spec("RFC 7009 §2.1", "Send token, token_type_hint and client authentication")
def test_the_example_of_a_revocation() -> None:
    login = tokens(client=client("gX1fBat3bV"), refresh_token=SecretStr("45ghiukldjahdnhzdauz"))
    (request,) = revocation_requests(login)
    assert body_of(request) == {"token": ["45ghiukldjahdnhzdauz"], "token_type_hint": ["refresh_token"]}
    assert request is not None
    assert request.headers["Authorization"] == "Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW"


@pytest.mark.spec("RFC 7009 §2.2", "Treat any success as revoked, even for an unknown token")
@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b'{"error": "invalid_request"}'])
def test_the_body_of_a_revocation_is_ignored(body: bytes) -> None:
    check_revocation_response(Response(200, REQUEST.url, {}, body), request=REQUEST)


@pytest.mark.spec("RFC 7662 §2.1", "Send token, token_type_hint and client authentication")
def test_the_example_of_an_introspection() -> None:
    login = tokens(
        client=client("gX1fBat3bV"),
        access_token=SecretStr("mF_9.B5f-4.1JqM"),
        introspection_endpoint="https://server.example.com/introspect",
    )
    request = introspection_request(login)
    assert body_of(request) == {"token": ["mF_9.B5f-4.1JqM"], "token_type_hint": ["access_token"]}
    assert request is not None
    assert (request.method, request.url) == ("POST", "https://server.example.com/introspect")
    assert request.headers["Authorization"] == "Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW"


ACTIVE = {
    "active": True,
    "client_id": "l238j323ds-23ij4",
    "username": "jdoe",
    "scope": "read write dolphin",
    "sub": "Z5O3upPC88QrAjx00dis",
    "aud": "https://protected.example.net/resource",
    "iss": "https://server.example.com/",
    "exp": 1419356238,
    "iat": 1419350238,
    "extension_field": "twenty-seven",
}


@pytest.mark.spec("RFC 7662 §2.2", "Read the examples, and ignore all other members for an inactive token")
def test_the_examples_of_an_introspection_response() -> None:
    active = parse_introspection_response(answer(ACTIVE), request=REQUEST)
    assert (active.active, active.scope, active.username) == (True, "read write dolphin", "jdoe")
    assert active.expires_at == datetime.fromtimestamp(1419356238, UTC)
    for document in ({"active": False}, {**ACTIVE, "active": False}):
        inactive = parse_introspection_response(answer(document), request=REQUEST)
        assert (inactive.active, inactive.scope, inactive.username, inactive.expires_at) == (False, None, None, None)
    for no_answer in ({}, {**ACTIVE, "active": "true"}, {"active": 1}):
        with pytest.raises(ServerUnavailable):
            parse_introspection_response(answer(no_answer), request=REQUEST)
