"""The examples of RFC 6749 §4.1, RFC 7636, RFC 8252, RFC 8707 and RFC 9207."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from pydantic import SecretStr

from notion_oauth.errors import AuthorizationRefused, AuthorizationResponseError, IssuerMismatch, StateMismatch
from notion_oauth.models import AuthorizationRequest, AuthorizationServerMetadata, ClientInformation, Discovery
from notion_oauth.protocol.authorization import (
    authorization_request,
    check_authorization_response,
    parse_authorization_response,
)
from notion_oauth.protocol.challenge import BearerChallenge, bearer_challenge
from notion_oauth.protocol.registration import client_metadata
from notion_oauth.protocol.urls import is_loopback, url_problem
from notion_oauth.service import NotionOAuth
from tests.support.signing_in import REDIRECT_URI
from tests.unit.protocol.builders import NOW, pending

CLIENT = ClientInformation(client_id="s6BhdRkqt3")
VERIFIER = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"


def request(
    endpoint: str = "https://server.example.com/authorize",
    *,
    redirect_uri: str = "https://client.example.com/cb",
    state: str = "xyz",
    verifier: str = VERIFIER,
    resource: str = "https://api.example.com/app/",
    scope: str | None = None,
    challenge: BearerChallenge | None = None,
) -> AuthorizationRequest:
    server = AuthorizationServerMetadata(
        issuer="https://server.example.com",
        authorization_endpoint=endpoint,
        token_endpoint="https://h.example/token",
        code_challenge_methods_supported=("S256",),
    )
    return authorization_request(
        Discovery(resource=resource, scopes=None, server=server),
        CLIENT,
        redirect_uri=redirect_uri,
        state=SecretStr(state),
        code_verifier=SecretStr(verifier),
        now=NOW,
        scope=scope,
        challenge=challenge,
    )


def query_of(authorization: AuthorizationRequest) -> dict[str, list[str]]:
    return parse_qs(urlsplit(authorization.url.get_secret_value()).query, strict_parsing=True)


def answered(location: str, **known: Any) -> str:
    """The code that the redirect to `location` returns to a sign-in with these fields."""
    response = parse_authorization_response(parse_qsl(urlsplit(location).query, keep_blank_values=True))
    return check_authorization_response(response, pending(**known), now=NOW).get_secret_value()


@pytest.mark.spec("RFC 6749 §4.1.1", "Send response_type, client_id, redirect_uri, scope and state")
def test_the_example_of_an_authorization_request() -> None:
    query = query_of(request(scope="calendar contacts"))
    assert query["response_type"] == ["code"]
    assert query["client_id"] == ["s6BhdRkqt3"]
    assert query["state"] == ["xyz"]
    assert query["redirect_uri"] == ["https://client.example.com/cb"]
    assert query["scope"] == ["calendar contacts"]  # RFC 6749 §3.3: a space between them


@pytest.mark.spec("RFC 6749 §4.1.2", "Read the code of the response, and ignore unknown parameters")
@pytest.mark.parametrize("more", ["", "&example=1", "&example=1&example=2"])
def test_the_example_of_an_authorization_response(more: str) -> None:
    location = f"https://client.example.com/cb?code=SplxlOBeZQQYbYS6WxSbIA&state=xyz{more}"
    assert answered(location, state=SecretStr("xyz")) == "SplxlOBeZQQYbYS6WxSbIA"
    with pytest.raises(StateMismatch):
        answered(location, state=SecretStr("xyZ"))


@pytest.mark.spec("RFC 6749 §4.1.2.1", "Report the error of a response without a code")
def test_the_example_of_an_error_response() -> None:
    with pytest.raises(AuthorizationRefused) as caught:
        answered("https://client.example.com/cb?error=access_denied&state=xyz", state=SecretStr("xyz"))
    assert caught.value.error == "access_denied"


@pytest.mark.spec("RFC 6749 §3.1", "Treat a parameter without a value as omitted")
def test_a_parameter_without_a_value_counts_as_missing() -> None:
    location = "https://client.example.com/cb?code=c&state=xyz&error=&iss="
    assert answered(location, state=SecretStr("xyz")) == "c"
    with pytest.raises(AuthorizationResponseError, match="neither"):
        answered("https://client.example.com/cb?code=&state=xyz", state=SecretStr("xyz"))


@pytest.mark.spec("RFC 7636 §B", "Compute the example")
@pytest.mark.spec("RFC 7636 §4.3", "Send code_challenge and its method with the authorization request")
def test_the_example_of_appendix_b() -> None:
    octets = bytes.fromhex("7418dfb49799e0254ffa607dd8adbbba16d4254d69d6bff05b58055853848d79")
    assert base64.urlsafe_b64encode(octets).decode().rstrip("=") == VERIFIER
    query = query_of(request(verifier=VERIFIER))
    assert query["code_challenge"] == ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"]
    assert query["code_challenge_method"] == ["S256"]


@pytest.mark.spec("RFC 7636 §4.2", "Compute the challenge from the verifier's SHA-256, base64url without padding")
@pytest.mark.parametrize("verifier", ["a" * 43, "Z" * 128, "-._~" * 12, "0123456789" * 5])
def test_a_code_challenge_is_base64url_without_padding(verifier: str) -> None:
    """RFC 7636 appendix A: `+` and `/` become `-` and `_`, and `=` is removed."""
    digest = base64.b64encode(hashlib.sha256(verifier.encode()).digest()).decode()
    (challenge,) = query_of(request(verifier=verifier))["code_challenge"]
    assert challenge == digest.replace("+", "-").replace("/", "_").rstrip("=")
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", challenge)


@pytest.mark.anyio
@pytest.mark.spec("RFC 7636 §4.1", "Generate a verifier of 43 to 128 unreserved characters, a new one each time")
async def test_a_verifier_is_long_and_unique(oauth: NotionOAuth) -> None:
    authorizations = [(await oauth.begin_authorization(REDIRECT_URI)).pending for _ in range(3)]
    verifiers = {each.code_verifier.get_secret_value() for each in authorizations}
    assert len(verifiers) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", verifier) for verifier in verifiers)


@pytest.mark.spec("RFC 8252 §7.3", "Recognise both loopback addresses, with any port")
@pytest.mark.parametrize(
    "redirect_uri",
    ["http://127.0.0.1:51004/oauth2redirect/example-provider", "http://[::1]:61023/oauth2redirect/example-provider"],
)
def test_the_examples_of_loopback_redirects(redirect_uri: str) -> None:
    assert is_loopback(urlsplit(redirect_uri).hostname)
    assert url_problem(redirect_uri) is None
    metadata = client_metadata(client_name="mine", redirect_uri=redirect_uri, scope=None)
    assert (metadata.application_type, metadata.redirect_uris) == ("native", (redirect_uri,))


@pytest.mark.spec("RFC 8707 §2.1", "Name the resource in the authorization request")
@pytest.mark.spec("RFC 8707 §2", "resource is an absolute URI without a fragment")
def test_the_example_of_a_resource() -> None:
    authorization = request(
        "https://authorization-server.example.com/as/authorization.oauth2",
        redirect_uri="https://client.example.org/cb",
        state="tNwzQ87pC6llebpmac_IDeeq-mCR2wLDYljHUZUAWuI",
        resource="https://cal.example.com/",
        scope="calendar",
    )
    assert "resource=https%3A%2F%2Fcal.example.com%2F" in authorization.url.get_secret_value().split("&")
    assert authorization.pending.resource == "https://cal.example.com/", "the slash of the metadata is kept"
    for no_resource in ("cal.example.com", "/cal", "https://cal.example.com/#today"):
        assert url_problem(no_resource)


@pytest.mark.spec(
    "MCP §Authorization Response Validation",
    "Record the issuer with the verifier and the state, before the redirect",
)
def test_the_issuer_is_recorded_with_verifier_and_state() -> None:
    pending = request(state="xyz", verifier=VERIFIER).pending
    assert pending.issuer == "https://server.example.com"
    assert (pending.state.get_secret_value(), pending.code_verifier.get_secret_value()) == ("xyz", VERIFIER)


HONEST = "https://honest.as.example"


@pytest.mark.spec("RFC 9207 §2.1", "Read the iss of the example")
@pytest.mark.parametrize("announced", [True, False])
def test_the_example_of_a_response_with_iss(announced: bool) -> None:
    state = "ZWVlNDBlYzA1NjdkMDNhYjg3ZjUxZjAyNGQzMTM2NzI"
    code = "x1848ZT64p4IirMPT0R-X3141MFPTuBX-VFL_cvaplMH58"
    location = f"https://client.example/cb?code={code}&state={state}&iss=https%3A%2F%2Fhonest.as.example"
    known = {"state": SecretStr(state), "authorization_response_iss_parameter_supported": announced}
    assert answered(location, issuer=HONEST, **known) == code
    with pytest.raises(IssuerMismatch):
        answered(location, issuer="https://another.as.example", **known)


@pytest.mark.spec("RFC 9207 §2.2", "Read the iss of the example of an error")
def test_the_example_of_an_error_with_iss() -> None:
    state = "N2JjNGJhY2JiZjRhYzA3MGJkMzNmMDE5OWJhZmJhZjA"
    location = f"https://client.example/cb?error=access_denied&state={state}&iss=https%3A%2F%2Fhonest.as.example"
    known = {"state": SecretStr(state), "authorization_response_iss_parameter_supported": True}
    with pytest.raises(AuthorizationRefused):
        answered(location, issuer=HONEST, **known)
    with pytest.raises(IssuerMismatch):
        answered(location, issuer="https://another.as.example", **known)


@pytest.mark.spec("RFC 9470 §4", "Request the acr_values and max_age of the challenge")
@pytest.mark.parametrize(
    ("challenge", "expected"),
    [
        ('acr_values="myACR"', {"acr_values": ["myACR"]}),
        ('acr_values="one two", max_age="5"', {"acr_values": ["one two"], "max_age": ["5"]}),
        ("max_age=0", {"max_age": ["0"]}),  # sign in again, however recent the last sign-in is
        ("max_age=soon", {}),
    ],
)
def test_acr_values_and_max_age_of_a_challenge_are_requested(challenge: str, expected: dict[str, list[str]]) -> None:
    value = f'Bearer error="insufficient_user_authentication", {challenge}'
    query = query_of(request(challenge=bearer_challenge([value])))
    assert {name: query[name] for name in ("acr_values", "max_age") if name in query} == expected
