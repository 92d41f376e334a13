"""The examples of RFC 8414 §3, RFC 9728 §3 and RFC 7591 §3.2."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from notion_oauth.errors import MetadataError, RegistrationRefused
from notion_oauth.models import AuthorizationServerMetadata
from notion_oauth.protocol.discovery import (
    authorization_server_metadata_urls,
    parse_authorization_server_metadata,
    parse_protected_resource_metadata,
    protected_resource_metadata_urls,
    require_sign_in,
)
from notion_oauth.protocol.messages import Response
from notion_oauth.protocol.registration import client_metadata, parse_registration_response, registration_request
from notion_oauth.protocol.token import client_authentication

SERVER: dict[str, Any] = {
    "issuer": "https://server.example.com",
    "authorization_endpoint": "https://server.example.com/authorize",
    "token_endpoint": "https://server.example.com/token",
    "token_endpoint_auth_methods_supported": ["client_secret_basic", "private_key_jwt"],
    "token_endpoint_auth_signing_alg_values_supported": ["RS256", "ES256"],
    "userinfo_endpoint": "https://server.example.com/userinfo",
    "jwks_uri": "https://server.example.com/jwks.json",
    "registration_endpoint": "https://server.example.com/register",
    "scopes_supported": ["openid", "profile", "email", "address", "phone", "offline_access"],
    "response_types_supported": ["code", "code token"],
    "service_documentation": "http://server.example.com/service_documentation.html",
    "ui_locales_supported": ["en-US", "en-GB", "en-CA", "fr-FR", "fr-CA"],
}
PKCE = {"code_challenge_methods_supported": ["S256"]}
RESOURCE: dict[str, Any] = {
    "resource": "https://resource.example.com",
    "authorization_servers": ["https://as1.example.com", "https://as2.example.net"],
    "bearer_methods_supported": ["header", "body"],
    "scopes_supported": ["profile", "email", "phone"],
    "resource_documentation": "https://resource.example.com/resource_documentation.html",
}
REGISTERED: dict[str, Any] = {
    "client_id": "s6BhdRkqt3",
    "client_secret": "cf136dc3c1fc93f31185e5885805d",
    "client_id_issued_at": 2893256800,
    "client_secret_expires_at": 2893276800,
    "redirect_uris": ["https://client.example.org/callback", "https://client.example.org/callback2"],
    "grant_types": ["authorization_code", "refresh_token"],
    "client_name": "My Example Client",
    "client_name#ja-Jpan-JP": "クライアント名",
    "token_endpoint_auth_method": "client_secret_basic",
    "logo_uri": "https://client.example.org/logo.png",
    "jwks_uri": "https://client.example.org/my_public_keys.jwks",
    "example_extension_parameter": "example_value",
}


def answer(document: object, status: int = 200) -> Response:
    return Response(status, "https://server.example.com/x", {}, json.dumps(document).encode())


@pytest.mark.spec("RFC 8414 §3", "Insert the well-known string between host and path")
@pytest.mark.parametrize(
    ("issuer", "url"),
    [
        ("https://example.com", "https://example.com/.well-known/oauth-authorization-server"),
        ("https://example.com/issuer1", "https://example.com/.well-known/oauth-authorization-server/issuer1"),
        ("https://example.com:8443/a/b", "https://example.com:8443/.well-known/oauth-authorization-server/a/b"),
    ],
)
def test_the_metadata_urls_of_a_server(issuer: str, url: str) -> None:
    assert authorization_server_metadata_urls(issuer)[0] == url


@pytest.mark.spec("RFC 8414 §3.1", "Remove a trailing slash of the issuer before the path is appended")
@pytest.mark.parametrize("issuer", ["https://example.com", "https://example.com/issuer1"])
def test_a_trailing_slash_of_an_issuer_is_removed(issuer: str) -> None:
    assert authorization_server_metadata_urls(f"{issuer}/") == authorization_server_metadata_urls(issuer)


@pytest.mark.spec("RFC 8414 §3.2", "Read the example, and ignore unknown members")
def test_the_example_of_a_server() -> None:
    metadata = parse_authorization_server_metadata(answer({**SERVER, **PKCE}), issuer=SERVER["issuer"])
    assert metadata is not None
    assert metadata.authorization_endpoint == SERVER["authorization_endpoint"]
    assert (metadata.token_endpoint, metadata.registration_endpoint) == (
        SERVER["token_endpoint"],
        SERVER["registration_endpoint"],
    )
    assert metadata.scopes_supported == tuple(SERVER["scopes_supported"])
    assert metadata.token_endpoint_auth_methods_supported == ("client_secret_basic", "private_key_jwt")
    assert metadata.revocation_endpoint is None


@pytest.mark.spec(
    "MCP §Authorization Code Protection", "Refuse a server that lists no code_challenge_methods_supported"
)
def test_the_example_without_pkce_is_refused() -> None:
    found = parse_authorization_server_metadata(answer(SERVER), issuer=SERVER["issuer"])
    assert found is not None
    with pytest.raises(MetadataError, match="PKCE"):
        require_sign_in(found)


@pytest.mark.spec("RFC 8414 §3.3", "Use no document of another issuer")
@pytest.mark.parametrize("issuer", ["https://server.example.com:8443", "https://server.example.com/issuer1"])
def test_the_example_is_refused_for_another_issuer(issuer: str) -> None:
    with pytest.raises(MetadataError, match="another issuer"):
        parse_authorization_server_metadata(answer({**SERVER, **PKCE}), issuer=issuer)


@pytest.mark.spec("RFC 8414 §2", "Without a list of authentication methods, the default is client_secret_basic")
def test_the_default_method_is_basic() -> None:
    document = {name: value for name, value in SERVER.items() if name != "token_endpoint_auth_methods_supported"}
    metadata = parse_authorization_server_metadata(answer({**document, **PKCE}), issuer=SERVER["issuer"])
    assert metadata is not None
    assert metadata.token_endpoint_auth_methods_supported == ("client_secret_basic",)


@pytest.mark.spec("RFC 8414 §2", "Accept only an issuer that is an https URL without query and fragment")
@pytest.mark.parametrize(
    ("issuer", "valid"),
    [
        ("https://server.example.com", True),
        ("https://server.example.com/issuer1", True),
        ("http://server.example.com", False),
        ("https://server.example.com?tenant=1", False),
        ("https://server.example.com#tenant", False),
        ("server.example.com", False),
    ],
)
def test_a_valid_issuer(issuer: str, valid: bool) -> None:
    response = answer({**RESOURCE, "authorization_servers": [issuer]})
    if valid:
        metadata = parse_protected_resource_metadata(response, server_url=RESOURCE["resource"])
        assert metadata is not None
        assert metadata.authorization_servers == (issuer,)
    else:
        with pytest.raises(MetadataError):
            parse_protected_resource_metadata(response, server_url=RESOURCE["resource"])


@pytest.mark.spec("RFC 9728 §3.1", "Insert the well-known string between host and path, and keep a query")
@pytest.mark.parametrize(
    ("resource", "url"),
    [
        ("https://resource.example.com", "https://resource.example.com/.well-known/oauth-protected-resource"),
        (
            "https://resource.example.com/resource1",
            "https://resource.example.com/.well-known/oauth-protected-resource/resource1",
        ),
        (
            "https://resource.example.com/a?b=c",
            "https://resource.example.com/.well-known/oauth-protected-resource/a?b=c",
        ),
    ],
)
def test_the_metadata_urls_of_a_resource(resource: str, url: str) -> None:
    assert protected_resource_metadata_urls(resource)[0] == url


@pytest.mark.spec("RFC 9728 §3.2", "Read the example, and ignore unknown members")
def test_the_example_of_a_resource() -> None:
    document = {**RESOURCE, "example_parameter": {"a": 1}}
    metadata = parse_protected_resource_metadata(answer(document), server_url="https://resource.example.com")
    assert metadata is not None
    assert metadata.resource == "https://resource.example.com"
    assert metadata.authorization_servers == ("https://as1.example.com", "https://as2.example.net")
    assert metadata.bearer_methods_supported == ("header", "body")
    assert metadata.scopes_supported == ("profile", "email", "phone")


@pytest.mark.spec("RFC 9728 §3.3", "Use no document of another resource")
@pytest.mark.parametrize(
    "server_url", ["https://resource.example.net", "https://resource.example.com:8443", "http://resource.example.com"]
)
def test_the_example_is_refused_for_another_resource(server_url: str) -> None:
    with pytest.raises(MetadataError, match="another resource"):
        parse_protected_resource_metadata(answer(RESOURCE), server_url=server_url)


METADATA = client_metadata(
    client_name="My Example Client", redirect_uri="https://client.example.org/callback", scope=None
)
REGISTRATION = registration_request(AuthorizationServerMetadata.model_validate(SERVER), METADATA)


@pytest.mark.spec("RFC 7591 §3.1", "POST the metadata as JSON")
def test_a_registration_is_json() -> None:
    assert (REGISTRATION.method, REGISTRATION.url) == ("POST", "https://server.example.com/register")
    assert REGISTRATION.all_headers()["Content-Type"] == "application/json"
    sent = json.loads(REGISTRATION.content() or b"")
    assert sent["redirect_uris"] == ["https://client.example.org/callback"]
    assert "scope" not in sent, "null is no value of a parameter"


@pytest.mark.spec(
    "RFC 7591 §3.2.1", "Read the client's id, its secret and the expiry of the secret, where 0 means never"
)
def test_the_example_of_a_registration() -> None:
    client = parse_registration_response(answer(REGISTERED, 201), request=REGISTRATION)
    assert (client.client_id, client.client_secret) == ("s6BhdRkqt3", SecretStr("cf136dc3c1fc93f31185e5885805d"))
    until = datetime.fromtimestamp(2893276800, UTC)
    assert not client.expired(until - timedelta(seconds=1))
    assert client.expired(until)


@pytest.mark.spec("RFC 7591 §3.2.1", "Use the client as registered by the server, not as requested")
def test_the_example_uses_the_registered_method() -> None:
    assert METADATA.token_endpoint_auth_method == "none"
    client = parse_registration_response(answer(REGISTERED, 201), request=REGISTRATION)
    headers, form = client_authentication(client, ("none", "client_secret_post"))
    assert headers["Authorization"].startswith("Basic ")
    assert form == {}


@pytest.mark.spec("RFC 7591 §3.2.2", "Report the error code and description")
@pytest.mark.parametrize(
    ("code", "description"),
    [
        ("invalid_redirect_uri", "The redirection URI http://sketchy.example.com is not allowed by this server."),
        (
            "invalid_client_metadata",
            (
                "The grant type 'authorization_code' must be registered along with the response type 'code' "
                "but found only 'implicit' instead."
            ),
        ),
        ("invalid_software_statement", None),
        ("unapproved_software_statement", None),
    ],
)
def test_the_errors_of_a_registration(code: str, description: str | None) -> None:
    document = {"error": code, **({"error_description": description} if description else {})}
    with pytest.raises(RegistrationRefused) as caught:
        parse_registration_response(answer(document, 400), request=REGISTRATION)
    assert (caught.value.error, caught.value.description) == (code, description)
    assert code in str(caught.value)
