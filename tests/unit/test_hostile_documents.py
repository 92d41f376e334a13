"""Documents from careless or hostile servers, and what must not result from them."""

from __future__ import annotations

import base64
import json
import pickle
from typing import Any

import pytest
from pydantic import SecretStr

from notion_oauth import errors
from notion_oauth.errors import MetadataError, NotionOAuthError, ServerUnavailable, StoreDamaged, TokenRefused
from notion_oauth.files.token_file_format import decode_login, decode_registrations
from notion_oauth.models import ClientInformation, TokenResponse
from notion_oauth.protocol.authorization import check_authorization_response, parse_authorization_response
from notion_oauth.protocol.discovery import parse_authorization_server_metadata, parse_protected_resource_metadata
from notion_oauth.protocol.messages import Request, Response
from notion_oauth.protocol.registration import parse_registration_response
from notion_oauth.protocol.token import code_request, parse_token_response, refresh_request, token_set
from notion_oauth.protocol.urls import resource_covers, url_problem
from tests.unit.protocol.builders import DISCOVERY, ISSUER, NOW, SERVER, pending, tokens

REQUEST = Request("POST", f"{ISSUER}/token", form={"client_id": "c"})
HALF = "\ud800"  # half a surrogate pair: JSON can write it, UTF-8 cannot


def answer(document: object, status: int = 200) -> Response:
    return Response(status, f"{ISSUER}/token", {}, json.dumps(document).encode())


def issued(**fields: Any) -> TokenResponse:
    return parse_token_response(answer({"access_token": "a", "token_type": "bearer", **fields}), request=REQUEST)


@pytest.mark.parametrize("name", ["refresh_token", "scope", "unknown"])
def test_text_that_cannot_be_encoded_is_invalid_json(name: str) -> None:
    """RFC 8259 §8.2: half a surrogate pair; if stored, it would fail when the next refresh is encoded."""
    with pytest.raises(ServerUnavailable):
        issued(**{name: f"x{HALF}"})
    with pytest.raises(ServerUnavailable):
        parse_registration_response(answer({"client_id": f"x{HALF}"}, 201), request=REQUEST)
    with pytest.raises(MetadataError):
        parse_protected_resource_metadata(answer({"scopes_supported": [HALF]}), server_url=DISCOVERY.resource)
    with pytest.raises(StoreDamaged):
        decode_login(json.dumps({"access_token": "a", name: HALF}).encode(), "t")
    with pytest.raises(StoreDamaged):
        decode_registrations(json.dumps({"registrations": [{"client_id": HALF}]}).encode(), "t")


def test_surrogate_pairs_are_valid_json() -> None:
    parsed = issued(refresh_token="\U0001f511 ü", scope="日本")
    assert parsed.refresh_token is not None
    assert parsed.refresh_token.get_secret_value() == "\U0001f511 ü"
    assert refresh_request(tokens(refresh_token=parsed.refresh_token)).content()


def test_a_code_that_cannot_be_encoded_is_refused_by_the_server() -> None:
    response = parse_authorization_response([("state", "canary-state"), ("code", f"x{HALF}")])
    code = check_authorization_response(response, pending(), now=NOW)
    assert b"code=x%3F" in (code_request(pending(), code).content() or b"")


@pytest.mark.parametrize("scope", [["default"], {"a": 1}, 7, None, True])
def test_a_scope_of_the_wrong_type_loses_no_tokens(scope: object) -> None:
    """The refresh token that was sent is used up: the response must not be lost."""
    parsed = issued(scope=scope, refresh_token="r")
    assert parsed.scope is None
    assert parsed.refresh_token == SecretStr("r")


def test_an_empty_refresh_token_counts_as_missing() -> None:
    assert token_set(issued(refresh_token=""), pending(), requested_at=NOW).refresh_token is None


@pytest.mark.parametrize("client_id", ["c", "an-id-that-is-long-enough"])
@pytest.mark.parametrize("echoed", ["canary secret: 100%", "canary%20secret%3A%20100%25", "the pair", "the header"])
def test_an_echoed_client_secret_is_not_shown(echoed: str, client_id: str) -> None:
    client = ClientInformation(
        client_id=client_id,
        client_secret=SecretStr("canary secret: 100%"),
        token_endpoint_auth_method="client_secret_basic",
    )
    request = refresh_request(tokens(client=client))
    header = request.headers["Authorization"].removeprefix("Basic ")
    text = {"the pair": base64.b64decode(header).decode(), "the header": header}.get(echoed, echoed)
    refusal = answer({"error": "invalid_client", "error_description": f"Bad credentials {text}"}, 401)
    with pytest.raises(TokenRefused) as caught:
        parse_token_response(refusal, request=request)
    assert caught.value.description is None
    assert text not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example\\.notion.com/",  # a browser opens evil.example
        "https://mcp.notion.com\\@evil.example/",
        "https://mcp.notion.com/<script>",
        'https://mcp.notion.com/"onload="x',
        "https://mcp.notion.com/{x}|^`",
        "https://mcp.notion.com/\x7f",
    ],
)
def test_a_url_with_invalid_characters_is_not_used(url: str) -> None:
    """RFC 3986 §2, Appendix A."""
    assert url_problem(url) == "contains a character that is not allowed in a URL"


@pytest.mark.parametrize("resource", ["https://[::1", "https://h:99999", "nonsense", "", HALF, "https://h.example#x"])
def test_an_invalid_url_covers_nothing(resource: str) -> None:
    assert resource_covers(resource, "https://h.example/mcp") is False
    assert resource_covers("https://h.example", resource) is False


LOOPBACK = "http://127.0.0.1:8080"


@pytest.mark.spec("MCP §Communication Security", "Use only https endpoints, and http on loopback")
def test_an_https_resource_cannot_name_a_loopback_authorization_server() -> None:
    """Plain http is only for loopback; a remote server must not direct us to ports of this machine."""
    document = {"resource": DISCOVERY.resource, "authorization_servers": [LOOPBACK]}
    with pytest.raises(MetadataError, match="not https"):
        parse_protected_resource_metadata(answer(document), server_url=DISCOVERY.resource)
    local = {"resource": f"{LOOPBACK}/mcp", "authorization_servers": [LOOPBACK, ISSUER]}
    assert parse_protected_resource_metadata(answer(local), server_url=f"{LOOPBACK}/mcp") is not None


@pytest.mark.spec("MCP §Communication Security", "Use only https endpoints, and http on loopback")
@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint"])
def test_an_https_issuer_cannot_have_a_loopback_endpoint(name: str) -> None:
    document = {**SERVER.model_dump(mode="json"), name: f"{LOOPBACK}/x"}
    with pytest.raises(MetadataError, match=f"{name} .* not https"):
        parse_authorization_server_metadata(answer(document), issuer=ISSUER)
    local = {**document, "issuer": LOOPBACK}
    assert parse_authorization_server_metadata(answer(local), issuer=LOOPBACK) is not None


ERRORS = [
    errors.SignInRequired("m", error="invalid_grant"),
    errors.ServerUnavailable("m", retry_after=30.0),
    *(
        kind("m", error="e", description="d", hint="c")
        for kind in (errors.RegistrationRefused, errors.AuthorizationRefused, errors.TokenRefused)
    ),
    *(
        kind("m")
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, NotionOAuthError) and not issubclass(kind, errors.OAuthError)
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_can_be_pickled(error: NotionOAuthError) -> None:
    """A process pool pickles the errors of its workers; one that cannot be unpickled hangs or breaks the pool."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(again) is type(error)
    assert (vars(again), str(again), repr(again)) == (vars(error), str(error), repr(error))
