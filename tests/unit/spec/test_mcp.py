"""What MCP's authorization requires of discovery, scopes and clients, and its examples."""

from __future__ import annotations

import pytest

from notion_oauth.protocol import scopes
from notion_oauth.protocol.discovery import (
    assumed_authorization_server,
    authorization_server_metadata_urls,
    base_url,
    protected_resource_metadata_urls,
)
from notion_oauth.protocol.registration import client_metadata_document

SERVER = "https://mcp.example.com/mcp"
WELL_KNOWN = (
    "https://mcp.example.com/.well-known/oauth-protected-resource/mcp",
    "https://mcp.example.com/.well-known/oauth-protected-resource",
)


@pytest.mark.spec("MCP §Authorization Server Discovery", "Request the URL of the challenge first")
@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("https://metadata.example.com/mcp", ("https://metadata.example.com/mcp", *WELL_KNOWN)),
        (WELL_KNOWN[1], (WELL_KNOWN[1], WELL_KNOWN[0])),  # no URL is requested twice
        (None, WELL_KNOWN),
        ("http://metadata.example.com/mcp", WELL_KNOWN),
        ("http://127.0.0.1:8080/mcp", WELL_KNOWN),  # named by a remote server
        ("/mcp", WELL_KNOWN),
        ("https://user:pass@metadata.example.com/", WELL_KNOWN),
    ],
)
def test_the_url_of_the_challenge_comes_first(named: str | None, expected: tuple[str, ...]) -> None:
    assert protected_resource_metadata_urls(SERVER, named) == expected


@pytest.mark.spec("MCP 2025-03-26 §Authorization Base URL", "Use the origin if the resource has no metadata")
@pytest.mark.parametrize(
    ("server_url", "base"),
    [
        ("https://api.example.com/v1/mcp", "https://api.example.com"),  # the example
        ("https://api.example.com:8443/mcp?tenant=1", "https://api.example.com:8443"),
        ("http://127.0.0.1:9000/mcp", "http://127.0.0.1:9000"),
    ],
)
def test_the_base_url_is_the_origin(server_url: str, base: str) -> None:
    assert base_url(server_url) == base
    assert authorization_server_metadata_urls(base)[0] == f"{base}/.well-known/oauth-authorization-server"


@pytest.mark.spec(
    "MCP 2025-03-26 §Fallbacks for Servers without Metadata Discovery",
    "Otherwise use /authorize, /token and /register of that origin",
)
def test_the_endpoints_of_a_server_without_metadata() -> None:
    server = assumed_authorization_server("https://api.example.com")
    assert server.authorization_endpoint == "https://api.example.com/authorize"
    assert server.token_endpoint == "https://api.example.com/token"
    assert server.registration_endpoint == "https://api.example.com/register"
    assert server.issuer == "https://api.example.com"


@pytest.mark.spec(
    "MCP §Scope Selection Strategy", "Request the challenge's scope, otherwise all that the resource lists"
)
@pytest.mark.spec("MCP §Scope Selection Strategy", "Assume no relation between those two")
@pytest.mark.parametrize(
    ("challenged", "listed", "expected"),
    [
        ("files:read", ("files:read", "files:write"), "files:read"),  # a part
        ("files:read files:write", ("files:read",), "files:read files:write"),  # more
        ("admin", ("files:read",), "admin"),  # neither
        (None, ("files:read", "files:write"), "files:read files:write"),
        (None, (), None),
        (None, None, None),
    ],
)
def test_the_selected_scope(challenged: str | None, listed: tuple[str, ...] | None, expected: str | None) -> None:
    assert scopes.select_scope(challenge_scope=challenged, resource=listed, server=None) == expected


@pytest.mark.spec("MCP §Refresh Tokens", "Add offline_access if the authorization server lists it")
@pytest.mark.parametrize(
    ("server", "expected"),
    [(("openid", "offline_access"), "files:read offline_access"), (("openid",), "files:read"), (None, "files:read")],
)
def test_offline_access_is_requested_if_listed(server: tuple[str, ...] | None, expected: str) -> None:
    assert scopes.select_scope(challenge_scope="files:read", resource=None, server=server) == expected


@pytest.mark.spec("MCP §Step-Up Authorization Flow", "Request the previous scope together with the challenged one")
@pytest.mark.parametrize(
    ("before", "challenged", "expected"),
    [
        ("files:read", "files:write", "files:read files:write"),
        ("files:read files:write", "files:write", "files:read files:write"),
        (None, "files:write", "files:write"),
        ("files:read", None, "files:read"),
        (None, None, None),
    ],
)
def test_a_step_up_keeps_the_previous_scope(before: str | None, challenged: str | None, expected: str | None) -> None:
    assert scopes.union(before, challenged) == expected


@pytest.mark.spec(
    "MCP §Client ID Metadata Documents", "Contain client_id (the document's URL), client_name and redirect_uris"
)
def test_a_client_metadata_document() -> None:
    url = "https://app.example.com/oauth/client-metadata.json"
    document = client_metadata_document(
        client_id=url, client_name="Example MCP Client", redirect_uri="http://127.0.0.1:3000/callback"
    ).model_dump(mode="json", exclude_none=True)
    assert document["client_id"] == url
    assert document["client_name"] == "Example MCP Client"
    assert document["redirect_uris"] == ["http://127.0.0.1:3000/callback"]
    assert document["token_endpoint_auth_method"] == "none"
