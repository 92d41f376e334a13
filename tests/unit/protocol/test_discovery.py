"""Metadata URLs and validation (RFC 9728, RFC 8414, MCP)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from notion_oauth.errors import MetadataError, MetadataNotJson, ServerUnavailable, UnexpectedRedirect
from notion_oauth.models import AuthorizationServerMetadata
from notion_oauth.protocol.discovery import (
    authorization_server_metadata_urls,
    parse_authorization_server_metadata,
    parse_protected_resource_metadata,
    protected_resource_metadata_urls,
    require_assertions,
    require_sign_in,
)
from notion_oauth.protocol.messages import Response
from notion_oauth.protocol.token import JWT_BEARER
from notion_oauth.protocol.urls import resource_covers, url_problem

SERVER = "https://mcp.notion.com/mcp"
RESOURCE: dict[str, Any] = {
    "resource": SERVER,
    "authorization_servers": ["https://mcp.notion.com"],
    "scopes_supported": ["default"],
    "bearer_methods_supported": ["header"],
    "resource_name": "Notion MCP (Beta)",
}
ISSUER = "https://mcp.notion.com"
METADATA: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "registration_endpoint": f"{ISSUER}/register",
    "revocation_endpoint": f"{ISSUER}/token",
    "response_types_supported": ["code"],
    "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
    "code_challenge_methods_supported": ["plain", "S256"],
}


def answer(document: object, status: int = 200) -> Response:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Response(status, "https://mcp.notion.com/.well-known/x", {}, body)


@pytest.mark.spec("RFC 9728 §3.1", "Insert the well-known string between host and path, and keep a query")
@pytest.mark.spec(
    "MCP §Authorization Server Discovery",
    "Otherwise request the well-known URL with the endpoint's path, then the one at the root",
)
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        # RFC 9728 §3.1: the well-known string is inserted between host and path
        (
            "https://resource.example.com/resource1",
            [
                "https://resource.example.com/.well-known/oauth-protected-resource/resource1",
                "https://resource.example.com/.well-known/oauth-protected-resource",
            ],
        ),
        ("https://resource.example.com", ["https://resource.example.com/.well-known/oauth-protected-resource"]),
        ("https://resource.example.com/", ["https://resource.example.com/.well-known/oauth-protected-resource"]),
        (
            "https://h.example:8443/a/b/?k=v",
            [
                "https://h.example:8443/.well-known/oauth-protected-resource/a/b?k=v",
                "https://h.example:8443/.well-known/oauth-protected-resource",
            ],
        ),
    ],
)
def test_well_known_urls_of_a_resource(url: str, expected: list[str]) -> None:
    assert list(protected_resource_metadata_urls(url)) == expected


@pytest.mark.spec("RFC 8414 §3", "Insert the well-known string between host and path")
@pytest.mark.spec(
    "MCP §Authorization Server Discovery",
    "Request a server's metadata at its two or three well-known URLs, in this order",
)
@pytest.mark.spec("MCP §Overview", "Read the metadata of RFC 8414 and of OpenID Connect Discovery")
@pytest.mark.parametrize(
    ("issuer", "expected"),
    [
        # RFC 8414 §3.1, in the order of MCP
        (
            "https://example.com",
            [
                "https://example.com/.well-known/oauth-authorization-server",
                "https://example.com/.well-known/openid-configuration",
            ],
        ),
        (
            "https://example.com/issuer1",
            [
                "https://example.com/.well-known/oauth-authorization-server/issuer1",
                "https://example.com/.well-known/openid-configuration/issuer1",
                "https://example.com/issuer1/.well-known/openid-configuration",
            ],
        ),
    ],
)
def test_well_known_urls_of_an_issuer(issuer: str, expected: list[str]) -> None:
    assert list(authorization_server_metadata_urls(issuer)) == expected


@pytest.mark.parametrize(
    ("resource", "url", "covered"),
    [
        (SERVER, SERVER, True),
        ("https://mcp.notion.com", SERVER, True),
        ("https://mcp.notion.com/", SERVER, True),
        ("https://MCP.Notion.com:443", SERVER, True),
        ("https://mcp.notion.com/mcp/", SERVER, True),
        ("https://mcp.notion.com/mc", SERVER, False),
        ("https://mcp.notion.com/mcp/more", SERVER, False),
        ("https://mcp.notion.com/mcp?tenant=1", SERVER, False),
        ("https://evil.example/mcp", SERVER, False),
        ("https://mcp.notion.com.evil.example/mcp", SERVER, False),
        ("https://mcp.notion.com:8443/mcp", SERVER, False),
        ("http://mcp.notion.com/mcp", SERVER, False),
        ("https://h.example/mcp", "https://h.example/mcp-other", False),
    ],
)
def test_resource_covers(resource: str, url: str, covered: bool) -> None:
    assert resource_covers(resource, url) is covered


@pytest.mark.spec("MCP §Communication Security", "Use only https endpoints, and http on loopback")
@pytest.mark.parametrize(
    ("url", "usable"),
    [
        ("https://mcp.notion.com/mcp", True),
        ("http://127.0.0.1:9000/mcp", True),
        ("http://127.8.9.1/mcp", True),
        ("http://[::1]:9000/mcp", True),
        ("http://localhost/mcp", True),
        ("http://mcp.notion.com/mcp", False),
        ("http://localhost.evil.example/", False),
        ("http://127.0.0.1.evil.example/", False),
        ("http://[::ffff:8.8.8.8]/", False),
        ("ftp://mcp.notion.com/", False),
        ("javascript:alert(1)", False),
        ("file:///etc/passwd", False),
        ("https://", False),
        ("https:///path", False),
        ("//mcp.notion.com/mcp", False),
        ("https://user:pass@mcp.notion.com/", False),
        ("https://mcp.notion.com/#fragment", False),
        ("https://mcp.notion.com/#", False),
        ("https://mcp.notion.com:port/", False),
        ("https://mcp.notion.com:99999/", False),
        ("https://[::1/", False),
        ("https://mcp.notion.com/a b", False),
        ("https://mcp.notion.com/\r\nHost: evil", False),
        ("https://mcp.not\u0456on.com/", False),  # a Cyrillic letter
        ("", False),
    ],
)
def test_url_problem(url: str, usable: bool) -> None:
    assert (url_problem(url) is None) is usable


def test_a_resource_document_is_parsed() -> None:
    metadata = parse_protected_resource_metadata(answer(RESOURCE), server_url=SERVER)
    assert metadata is not None
    assert metadata.resource == SERVER
    assert metadata.authorization_servers == (ISSUER,)
    assert metadata.scopes_supported == ("default",)


@pytest.mark.spec("MCP §Canonical Server URI", "Name the server as its metadata spells it, without an added slash")
def test_the_spelling_of_the_resource_is_kept() -> None:
    document = {**RESOURCE, "resource": "https://mcp.notion.com"}
    metadata = parse_protected_resource_metadata(answer(document), server_url=SERVER)
    assert metadata is not None
    assert metadata.resource == "https://mcp.notion.com", "no slash is added (RFC 8707 §2)"


@pytest.mark.parametrize("status", [404, 410])
def test_a_404_means_that_there_is_no_document(status: int) -> None:
    assert parse_protected_resource_metadata(answer({}, status), server_url=SERVER) is None
    assert parse_authorization_server_metadata(answer({}, status), issuer=ISSUER) is None


@pytest.mark.parametrize("status", [400, 401, 403, 405])
def test_another_4xx_is_no_document_and_is_reported(status: int) -> None:
    with pytest.raises(MetadataNotJson, match=f"HTTP {status}") as caught:
        parse_authorization_server_metadata(answer({}, status), issuer=ISSUER)
    assert caught.value.refused


@pytest.mark.parametrize("status", [204, 408, 429, 500, 502, 503])
def test_a_transient_failure_does_not_count_as_a_missing_document(status: int) -> None:
    with pytest.raises(ServerUnavailable, match=str(status)):
        parse_protected_resource_metadata(answer(RESOURCE, status), server_url=SERVER)


@pytest.mark.spec("RFC 9728 §3.3", "Use no document of another resource")
@pytest.mark.spec("RFC 8414 §2", "Accept only an issuer that is an https URL without query and fragment")
@pytest.mark.spec("MCP §Canonical Server URI", "Use no URI with a fragment")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resource": "https://evil.example/mcp"}, "another resource"),  # RFC 9728 §3.3
        ({"resource": "https://mcp.notion.com/other"}, "another resource"),
        ({"resource": "http://mcp.notion.com/mcp"}, "not https"),
        ({"resource": "https://mcp.notion.com/mcp#x"}, "fragment"),
        ({"resource": None}, "resource"),
        ({"authorization_servers": []}, "lists no authorization server"),
        ({"authorization_servers": {"issuer": "https://mcp.notion.com"}}, "authorization_servers"),
        ({"authorization_servers": ["http://mcp.notion.com"]}, "not https"),
        ({"authorization_servers": ["https://mcp.notion.com?x=1"]}, "query"),  # RFC 8414 §2
    ],
)
def test_an_invalid_resource_document_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        parse_protected_resource_metadata(answer({**RESOURCE, **changes}), server_url=SERVER)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object(body: bytes) -> None:
    with pytest.raises(MetadataNotJson, match="not a JSON object"):
        parse_protected_resource_metadata(answer(body), server_url=SERVER)
    with pytest.raises(MetadataNotJson, match="not a JSON object"):
        parse_authorization_server_metadata(answer(body), issuer=ISSUER)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_an_unexpected_redirect(status: int) -> None:
    with pytest.raises(UnexpectedRedirect, match="redirect"):
        parse_protected_resource_metadata(answer(RESOURCE, status), server_url=SERVER)


@pytest.mark.spec("RFC 9207 §2.3", "A server that does not announce iss may send none")
def test_a_server_document_is_parsed() -> None:
    metadata = parse_authorization_server_metadata(answer(METADATA), issuer=ISSUER)
    assert metadata is not None
    assert metadata.token_endpoint == f"{ISSUER}/token"
    assert metadata.authorization_response_iss_parameter_supported is False


@pytest.mark.spec("RFC 8414 §3.3", "Use no document of another issuer")
@pytest.mark.spec(
    "MCP §Authorization Server Discovery",
    "Use no document whose issuer is not identical to the requested one",
)
@pytest.mark.spec("MCP §Communication Security", "Use only https endpoints, and http on loopback")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"issuer": f"{ISSUER}//"}, "another issuer"),  # RFC 8414 §3.3: must be identical
        ({"issuer": f"{ISSUER}/tenant"}, "another issuer"),
        ({"issuer": f"{ISSUER}/?"}, "another issuer"),
        ({"issuer": "https://MCP.notion.com"}, "another issuer"),
        ({"issuer": "https://mcp.notion.com:443"}, "another issuer"),
        ({"issuer": None}, "issuer"),
        ({"authorization_endpoint": "http://mcp.notion.com/authorize"}, "authorization_endpoint .* not https"),
        ({"token_endpoint": "http://mcp.notion.com/token"}, "token_endpoint .* not https"),
        ({"token_endpoint": None}, "token_endpoint"),
        ({"token_endpoint": 7}, "token_endpoint"),
    ],
)
def test_an_invalid_server_document_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        parse_authorization_server_metadata(answer({**METADATA, **changes}), issuer=ISSUER)


@pytest.mark.spec(
    "MCP §Authorization Code Protection", "Refuse a server that lists no code_challenge_methods_supported"
)
@pytest.mark.parametrize("listed", [None, [], ["plain"]])
def test_pkce_must_be_listed(listed: list[str] | None) -> None:
    found = parse_authorization_server_metadata(
        answer({**METADATA, "code_challenge_methods_supported": listed}), issuer=ISSUER
    )
    assert found is not None
    with pytest.raises(MetadataError, match="PKCE"):
        require_sign_in(found)


@pytest.mark.spec("RFC 8414 §2", "The authorization endpoint may be missing if no grant needs it")
def test_a_server_without_authorization_endpoint_is_valid() -> None:
    changes = {"authorization_endpoint": None, "grant_types_supported": [JWT_BEARER]}
    found = parse_authorization_server_metadata(answer({**METADATA, **changes}), issuer=ISSUER)
    assert found is not None
    require_assertions(found)
    with pytest.raises(MetadataError, match="no authorization endpoint"):
        require_sign_in(found)


@pytest.mark.spec("RFC 8414 §2", "Without a list of grant types, that of RFC 7523 is not supported")
@pytest.mark.parametrize("listed", [None, [], ["authorization_code"]])
def test_assertions_must_be_listed(listed: list[str] | None) -> None:
    found = parse_authorization_server_metadata(answer({**METADATA, "grant_types_supported": listed}), issuer=ISSUER)
    assert found is not None
    with pytest.raises(MetadataError, match="assertion grant"):
        require_assertions(found)


@pytest.mark.parametrize("value", ["none", 7, {}, [None], ["a", 1]])
@pytest.mark.parametrize(
    "name",
    [
        "scopes_supported",
        "grant_types_supported",
        "revocation_endpoint_auth_methods_supported",
        "introspection_endpoint_auth_methods_supported",
    ],
)
def test_an_invalid_list_counts_as_missing(name: str, value: object) -> None:
    found = parse_authorization_server_metadata(answer({**METADATA, name: value}), issuer=ISSUER)
    assert found is not None
    assert getattr(found, name) is None


OPTIONAL = sorted(set(AuthorizationServerMetadata.model_fields) - {"issuer", "token_endpoint"})


@pytest.mark.parametrize("name", OPTIONAL)
def test_null_counts_as_missing(name: str) -> None:
    without = {key: value for key, value in METADATA.items() if key != name}
    found = parse_authorization_server_metadata(answer({**without, name: None}), issuer=ISSUER)
    assert found == parse_authorization_server_metadata(answer(without), issuer=ISSUER)
