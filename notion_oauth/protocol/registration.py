"""Dynamic client registration (RFC 7591)."""

from __future__ import annotations

from typing import get_args
from urllib.parse import urlsplit

from pydantic import ValidationError

from notion_oauth.errors import MetadataError, RegistrationRefused, ServerUnavailable
from notion_oauth.models import AuthMethod, AuthorizationServerMetadata, ClientInformation, ClientMetadata
from notion_oauth.protocol.messages import Request, Response, host_of, printable, raise_for_error
from notion_oauth.protocol.token import client_authentication
from notion_oauth.protocol.urls import is_loopback

# A program on somebody's machine keeps no secret from its user (RFC 8252 §8.5): it asks for none where it may.
# Else in the body: the MCP SDK's servers list Basic too, but want a client_id beside it, which Notion's refuse.
_METHODS: tuple[AuthMethod, ...] = ("none", "client_secret_post", "client_secret_basic")
PROBE_CODE = "is-this-client-registered"  # nobody issues such a code; it tells a server's operator what we want


_BY_HAND = "Ask its operator for a client, and set NOTION_OAUTH_CLIENT_ID (and NOTION_OAUTH_CLIENT_SECRET)."


def client_metadata(
    *, client_name: str, redirect_uri: str, scope: str | None, methods: tuple[str, ...] = ("none",)
) -> ClientMetadata:
    """What to register: native where it is redirected to on loopback, else a web client.

    A public one, unless `methods`, which the server's token endpoint supports, ask for a secret.
    """
    native = is_loopback(urlsplit(redirect_uri).hostname)
    return ClientMetadata(
        client_name=client_name,
        redirect_uris=(redirect_uri,),
        token_endpoint_auth_method=next((method for method in _METHODS if method in methods), "none"),
        application_type="native" if native else "web",
        scope=scope,
    )


def client_metadata_document(*, client_id: str, client_name: str, redirect_uri: str) -> ClientMetadata:
    """What a client says of itself at the URL that is its id (OAuth client ID metadata documents)."""
    metadata = client_metadata(client_name=client_name, redirect_uri=redirect_uri, scope=None)
    return metadata.model_copy(update={"client_id": client_id})


def require_registration(server: AuthorizationServerMetadata) -> str:
    """The registration endpoint. Raises MetadataError where the server registers nobody."""
    if server.registration_endpoint is None:
        raise MetadataError(f"{server.issuer} registers no clients.", hint=_BY_HAND)
    return server.registration_endpoint


def registration_request(server: AuthorizationServerMetadata, metadata: ClientMetadata) -> Request:
    """The registration of a client (RFC 7591 §3.1). Raises MetadataError where the server offers none."""
    return Request("POST", require_registration(server), json=metadata.model_dump(mode="json", exclude_none=True))


def parse_registration_response(response: Response, *, request: Request) -> ClientInformation:
    """Read the client that the server made (RFC 7591 §3.2).

    Raises RegistrationRefused for an error code, or for a client that cannot authenticate in the way that it was given;
    MetadataError where there is no such endpoint, ServerUnavailable for a passing failure or an answer that is no
    client information.
    """
    if response.status in (404, 405) and response.json_object() is None:
        raise MetadataError(f"{host_of(response.url)} has no client registration where it should be.", hint=_BY_HAND)
    if not response.ok:
        raise_for_error(response, request, RegistrationRefused, "register this client")
    document = response.json_object()
    method = (document or {}).get("token_endpoint_auth_method")
    if isinstance(method, str) and method not in get_args(AuthMethod):
        message = f"{host_of(response.url)} made this client one that authenticates by {printable(method)}"
        raise RegistrationRefused(f"{message}, which it cannot do.", error="invalid_client_metadata", hint=_BY_HAND)
    try:
        return ClientInformation.model_validate(document)
    except ValidationError:
        message = f"{host_of(response.url)} answered the registration with something that is no client information."
        raise ServerUnavailable(message) from None


def probe_request(server: AuthorizationServerMetadata, client: ClientInformation, redirect_uri: str) -> Request:
    """Ask whether the server still knows a client, with a code that is none.

    A server that has forgotten the client shows the person an error page and never redirects: nobody would
    tell us. The token endpoint authenticates the client first (RFC 6749 §4.1.3) and answers `invalid_client`.
    """
    headers, fields = client_authentication(client, server.token_endpoint_auth_methods_supported)
    form = {
        "grant_type": "authorization_code",
        "code": PROBE_CODE,
        "redirect_uri": redirect_uri,
        "code_verifier": PROBE_CODE.ljust(43, "-"),
    }
    return Request("POST", server.token_endpoint, headers=headers, form={**form, **fields})


def is_client_unknown(response: Response) -> bool:
    """Whether the answer to a probe says that the client is unknown. Any other answer does not."""
    document = response.json_object() or {}
    return response.status in (400, 401) and document.get("error") == "invalid_client"
