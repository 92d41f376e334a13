"""The token endpoint: requests, responses and errors (RFC 6749 §2.3, §4.1.3, §5, §6; RFC 7009)."""

from __future__ import annotations

import base64
import copy
import json
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from notion_oauth.errors import NotionOAuthError, ServerUnavailable, SignInRequired, TokenRefused
from notion_oauth.models import ClientInformation
from notion_oauth.protocol.lifetime import expires_at
from notion_oauth.protocol.messages import Request, Response
from notion_oauth.protocol.revocation import check_revocation_response, revocation_requests
from notion_oauth.protocol.token import (
    NoUsableToken,
    code_request,
    parse_token_response,
    refresh_request,
    refreshed,
    token_set,
)
from tests.unit.protocol.builders import ISSUER, NOW, PUBLIC, REDIRECT_URI, pending, tokens

REQUEST = Request(
    "POST", f"{ISSUER}/token", form={"refresh_token": "canary-refresh-token", "client_id": "public-client"}
)
ALL_METHODS = ("client_secret_basic", "client_secret_post", "none")


def confidential(method: Any = None, secret: str = "canary-secret", client_id: str = "c") -> ClientInformation:
    return ClientInformation(client_id=client_id, client_secret=SecretStr(secret), token_endpoint_auth_method=method)


def answer(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Response(status, f"{ISSUER}/token", headers or {}, body)


@pytest.mark.spec("RFC 6749 §4.1.3", "Exchange the code with the redirect_uri of the authorization request")
@pytest.mark.spec("RFC 7636 §4.5", "Send the verifier with the code")
@pytest.mark.spec("RFC 8707 §2.2", "Name the resource in the token request")
@pytest.mark.spec("MCP §Resource Parameter Implementation", "Send resource in every authorization and token request")
def test_the_code_request_contains_all_parameters() -> None:
    request = code_request(pending(), SecretStr("canary-code"))
    assert request.form == {
        "grant_type": "authorization_code",
        "code": "canary-code",
        "redirect_uri": REDIRECT_URI,
        "code_verifier": "canary-verifier-" + "v" * 30,
        "resource": f"{ISSUER}/mcp",
        "client_id": "public-client",
    }
    assert "Authorization" not in request.headers


@pytest.mark.spec("RFC 6749 §6", "Refresh with grant_type=refresh_token, as the client that got the token")
@pytest.mark.spec("RFC 6749 §3.2", "Send no parameter without a value")
@pytest.mark.spec("MCP §Resource Parameter Implementation", "Send resource in every authorization and token request")
def test_a_refresh_contains_the_resource() -> None:
    assert refresh_request(tokens()).form == {
        "grant_type": "refresh_token",
        "refresh_token": "canary-refresh-token",
        "resource": f"{ISSUER}/mcp",
        "client_id": "public-client",
    }
    without = refresh_request(tokens(resource=None)).form
    assert without is not None
    assert "resource" not in without


@pytest.mark.parametrize("lacking", ["refresh_token", "client", "token_endpoint"])
def test_a_login_that_cannot_be_refreshed_requires_a_sign_in(lacking: str) -> None:
    with pytest.raises(SignInRequired):
        refresh_request(tokens(**{lacking: None}))


@pytest.mark.spec("RFC 6749 §2.3", "Use one authentication method in each request")
@pytest.mark.spec("RFC 6749 §2.3.1", "Credentials in the body are client_id and client_secret")
@pytest.mark.parametrize(
    ("client", "supported", "method"),
    [
        (PUBLIC, ALL_METHODS, "none"),
        (PUBLIC, (), "none"),
        (confidential("client_secret_basic"), ALL_METHODS, "basic"),
        (confidential("client_secret_post"), ALL_METHODS, "post"),
        (confidential("none"), ALL_METHODS, "none"),
        (confidential(), ALL_METHODS, "basic"),
        (confidential(), (), "basic"),
        (confidential(), ("client_secret_post", "none"), "post"),
        (confidential(), ("none",), "none"),
    ],
)
def test_a_client_authenticates_with_one_method(
    client: ClientInformation, supported: tuple[str, ...], method: str
) -> None:
    request = refresh_request(tokens(client=client, token_endpoint_auth_methods_supported=supported))
    form = request.form or {}
    assert ("Authorization" in request.headers) == (method == "basic")
    assert ("client_secret" in form) == (method == "post")
    assert ("client_id" in form) == (method != "basic"), "Notion refuses Basic together with a client_id in the body"


@pytest.mark.spec("RFC 6749 §2.3.1", "HTTP Basic carries client_id and secret, each form-encoded first")
@pytest.mark.parametrize(
    ("client_id", "secret", "pair"),
    [  # RFC 6749 §2.3.1: form-encoded before base64; Authlib and the MCP SDK do not decode a plus
        ("s6BhdRkqt3", "7Fjfp0ZBr1KtDRbnfVdmIw", "s6BhdRkqt3:7Fjfp0ZBr1KtDRbnfVdmIw"),
        ("a:b", "c:d", "a%3Ab:c%3Ad"),
        ("id", "100% & + ü/=", "id:100%25%20%26%20%2B%20%C3%BC%2F%3D"),
        ("https://app.example/client", "x", "https%3A%2F%2Fapp.example%2Fclient:x"),
    ],
)
def test_basic_credentials_are_form_encoded(client_id: str, secret: str, pair: str) -> None:
    client = confidential("client_secret_basic", secret, client_id)
    header = refresh_request(tokens(client=client)).headers["Authorization"]
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == pair


@pytest.mark.parametrize(
    ("sent", "understood"),
    [
        (3600, 3600),
        (3600.9, 3600),
        ("3600", 3600),
        (" 3600 ", 3600),
        (0, None),
        (-5, None),
        ("-5", None),
        (0.25, 1),
        (None, None),
        ("", None),
        ("soon", None),
        (True, None),
        (float("nan"), None),
        ([3600], None),
        ({"seconds": 1}, None),
        (10**30, 315_360_000),
        (10**400, 315_360_000),
        (float("inf"), 315_360_000),
    ],
)
def test_any_expires_in_is_parsed_or_ignored(sent: Any, understood: int | None) -> None:
    parsed = parse_token_response(
        answer({"access_token": "a", "token_type": "bearer", "expires_in": sent}), request=REQUEST
    )
    assert parsed.expires_in == understood
    absolute = expires_at(parsed.expires_in, requested_at=NOW)
    assert absolute == (None if understood is None else NOW + timedelta(seconds=understood))


@pytest.mark.spec("RFC 6749 §5.1", "An omitted scope is the requested one")
def test_a_login_contains_all_it_needs() -> None:
    parsed = parse_token_response(
        answer({"access_token": "a", "token_type": "bearer", "expires_in": 60, "refresh_token": "r"}), request=REQUEST
    )
    login = token_set(parsed, pending(), requested_at=NOW)
    assert login.expires_at == NOW + timedelta(seconds=60)
    assert (login.token_type, login.scope, login.issuer) == ("Bearer", "default", ISSUER)
    assert (login.token_endpoint, login.revocation_endpoint) == (f"{ISSUER}/token", f"{ISSUER}/token")
    assert login.authorized_at == login.updated_at == NOW


@pytest.mark.spec("RFC 6749 §6", "Keep the old refresh token if there is no new one")
def test_a_refresh_keeps_what_the_response_omits() -> None:
    parsed = parse_token_response(answer({"access_token": "new", "token_type": "Bearer"}), request=REQUEST)
    login = refreshed(tokens(), parsed, requested_at=NOW + timedelta(hours=2))
    assert login.access_token.get_secret_value() == "new"
    assert login.refresh_token == tokens().refresh_token, "RFC 6749 §6: without a new one the old one stays"
    assert login.expires_at is None
    assert login.authorized_at == NOW
    assert login.updated_at == NOW + timedelta(hours=2)


@pytest.mark.spec("RFC 6749 §5.2", "Identify an error by its code, with status 400 or 401")
@pytest.mark.parametrize("status", [400, 401, 403, 404])
@pytest.mark.parametrize(
    "code", ["invalid_grant", "invalid_client", "unauthorized_client", "invalid_target", "slow_down"]
)
def test_a_final_error_code_is_a_refusal(status: int, code: str) -> None:
    with pytest.raises(TokenRefused) as caught:
        parse_token_response(answer({"error": code, "error_description": "Grant not found"}, status), request=REQUEST)
    assert (caught.value.error, caught.value.description) == (code, "Grant not found")


@pytest.mark.spec("RFC 6749 §7.1", "Use no token of an unknown type")
@pytest.mark.spec("RFC 6750 §2.1", "Use no token that is not valid in a header")
@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"error": "invalid_grant"}, 500),
        ({"error": "invalid_grant"}, 503),
        ({"error": "invalid_grant"}, 429),
        ({"error": "temporarily_unavailable"}, 429),
        ({"error": "temporarily_unavailable"}, 400),
        ({"error": "server_error"}, 400),
        ({}, 400),
        ({"error": 7}, 400),
        ({"error": "has spaces"}, 400),
        (b"<html>Bad gateway</html>", 502),
        (b"<html>Forbidden by some proxy</html>", 403),
        (b"", 401),
        (b"<html>", 200),
        ([], 200),
        ({"access_token": None, "token_type": "bearer"}, 200),
        ({"access_token": "", "token_type": "bearer"}, 200),
        ({"access_token": "a", "token_type": "mac"}, 200),
        ({"access_token": "a", "token_type": 7}, 200),
        ({"error": {"code": 7}}, 200),
        ({"access_token": "a\r\nHost: evil", "token_type": "bearer"}, 200),
        ({"access_token": "ü", "token_type": "bearer"}, 200),
    ],
)
def test_every_other_failure_is_transient(document: Any, status: int) -> None:
    with pytest.raises(ServerUnavailable):
        parse_token_response(answer(document, status), request=REQUEST)


@pytest.mark.parametrize("beside", [{}, {"access_token": "a", "token_type": "bearer"}])
def test_an_error_in_a_200_is_that_error(beside: dict[str, str]) -> None:
    """GitHub's authorization server sends its errors like this."""
    with pytest.raises(TokenRefused, match="bad_refresh_token"):
        parse_token_response(answer({"error": "bad_refresh_token", **beside}), request=REQUEST)


@pytest.mark.parametrize(
    "odd",
    [
        {"token_type": None},
        {"token_type": ""},
        {"token_type": "bearer "},
        {"error": None},
        {"refresh_token": 7},
        {"scope": ["a", "b"]},
        {"expires_in": "soon"},
    ],
)
def test_odd_members_beside_good_tokens_lose_nothing(odd: dict[str, Any]) -> None:
    """Tokens are issued once. A missing type means Bearer."""
    parsed = parse_token_response(answer({"access_token": "a", "token_type": "bearer", **odd}), request=REQUEST)
    assert parsed.access_token.get_secret_value() == "a"
    assert parsed.refresh_token is None


@pytest.mark.parametrize(
    "odd",
    [
        {"access_token": None},
        {"access_token": "a\nb", "token_type": "bearer"},
        {"access_token": "a", "token_type": "mac"},
        {"access_token": "a", "error": "server_error"},
        {},
    ],
)
def test_new_refresh_token_beside_an_unusable_access_token_is_kept(odd: dict[str, Any]) -> None:
    with pytest.raises(NoUsableToken) as caught:
        parse_token_response(answer({"refresh_token": "new", **odd}), request=REQUEST)
    assert caught.value.refresh_token == SecretStr("new")
    assert "new" not in repr(caught.value)
    assert copy.copy(caught.value).refresh_token is None, "copies and pickles contain no secret"


@pytest.mark.parametrize(
    ("header", "seconds"), [("30", 30.0), (" 0 ", 0.0), ("-1", None), ("soon", None), ("9" * 30, None), ("", None)]
)
def test_retry_after_is_parsed(header: str, seconds: float | None) -> None:
    with pytest.raises(ServerUnavailable) as caught:
        parse_token_response(answer({}, 429, {"retry-after": header}), request=REQUEST)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("where", ["error", "error_description"])
def test_an_echoed_secret_is_not_repeated(where: str) -> None:
    document = {"error": "invalid_grant", "error_description": "no", where: "canary-refresh-token"}
    with pytest.raises(NotionOAuthError) as caught:
        parse_token_response(answer(document, 400), request=REQUEST)
    assert "canary" not in str(caught.value)


@pytest.mark.spec("RFC 7009 §2.1", "Send token, token_type_hint and client authentication")
def test_revocation_sends_the_refresh_token() -> None:
    (request,) = revocation_requests(tokens())
    assert request is not None
    assert request.form == {
        "token": "canary-refresh-token",
        "token_type_hint": "refresh_token",
        "client_id": "public-client",
    }
    (only_access,) = revocation_requests(tokens(refresh_token=None))
    assert only_access is not None
    assert (only_access.form or {})["token_type_hint"] == "access_token"
    assert revocation_requests(tokens(revocation_endpoint=None)) == ()


@pytest.mark.spec("RFC 7009 §2.2", "Treat any success as revoked, even for an unknown token")
@pytest.mark.spec("RFC 7009 §2.2.1", "Treat the token as valid after an error or a 503")
def test_any_2xx_means_revoked() -> None:
    check_revocation_response(answer(b"", 200), request=REQUEST)
    with pytest.raises(TokenRefused):
        check_revocation_response(answer({"error": "unsupported_token_type"}, 400), request=REQUEST)
    with pytest.raises(ServerUnavailable):
        check_revocation_response(answer(b"", 503), request=REQUEST)
