"""Dynamic client registration (RFC 7591)."""

from __future__ import annotations

from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic import SecretStr, ValidationError

from notion_oauth.errors import PREREGISTER, MetadataError, OAuthError, RegistrationRefused, ServerUnavailable
from notion_oauth.models import AuthMethod, AuthorizationServerMetadata, ClientInformation, ClientMetadata
from notion_oauth.protocol.lifetime import parse_time
from notion_oauth.protocol.messages import Request, Response, error_code, host_of, printable, raise_for_error
from notion_oauth.protocol.token import client_authentication
from notion_oauth.protocol.urls import is_loopback

# In order of preference. A program cannot keep a secret from the user of the machine (RFC 8252 §8.5), so none comes
# first. Servers of the MCP SDK list Basic too, but require a client_id in the body as well, which Notion's refuse.
_METHODS: tuple[AuthMethod, ...] = ("none", "client_secret_post", "client_secret_basic")
UNKNOWN_CLIENT = frozenset({"invalid_client", "unauthorized_client"})  # the MCP SDK's servers send the latter
_TRANSIENT = (408, 425, 429)
PROBE_CODE = "is-this-client-registered"  # no server issues it; in a server's log it explains the request


def client_metadata(
    *, client_name: str, redirect_uri: str, scope: str | None, methods: tuple[str, ...] = ("none",)
) -> ClientMetadata:
    """Return the metadata to register: a native client if the redirect URI is on loopback, otherwise a web client.

    It is a public client, unless `methods`, which the token endpoint supports, lack "none".
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
    """Return the document to publish at the URL that is the client's id (OAuth client ID metadata documents)."""
    metadata = client_metadata(client_name=client_name, redirect_uri=redirect_uri, scope=None)
    return metadata.model_copy(update={"client_id": client_id})


def require_registration(server: AuthorizationServerMetadata) -> str:
    """Return the registration endpoint. Raises MetadataError if the server has none."""
    if server.registration_endpoint is None:
        raise MetadataError(f"{server.issuer} offers no client registration that can be used.", hint=PREREGISTER)
    return server.registration_endpoint


def registration_request(server: AuthorizationServerMetadata, metadata: ClientMetadata) -> Request:
    """Return the registration request (RFC 7591 §3.1). Raises MetadataError if the server offers no registration."""
    return Request("POST", require_registration(server), json=metadata.model_dump(mode="json", exclude_none=True))


def parse_registration_response(response: Response, *, request: Request) -> ClientInformation:
    """Parse the registered client (RFC 7591 §3.2).

    Raises RegistrationRefused for an error code or an authentication method that is not supported, MetadataError
    if the endpoint does not exist, ServerUnavailable for a transient failure or invalid client information.
    """
    if response.status in (404, 405) and response.json_object() is None:
        message = f"{host_of(response.url)} has no client registration at the announced URL."
        raise MetadataError(message, hint=PREREGISTER)
    if response.is_error:
        action = "register this client"
        raise_for_error(response, request, RegistrationRefused, action, default_code="access_denied")
    document = _normalized(response.json_object())
    method = document.get("token_endpoint_auth_method")
    if method is not None and method not in get_args(AuthMethod):
        message = f"{host_of(response.url)} registered this client with the authentication method {printable(method)}"
        message = f"{message}, which is not supported."
        raise RegistrationRefused(message, error="invalid_client_metadata")
    try:
        return ClientInformation.model_validate(document)
    except ValidationError:
        raise ServerUnavailable(f"{host_of(response.url)} sent an invalid registration response.") from None


def _normalized(document: dict[str, Any] | None) -> dict[str, Any]:
    """Return the registered client without optional members that have no meaning; the end of a secret in seconds."""
    found = dict(document or {})
    end = parse_time(found.pop("client_secret_expires_at", None))
    for name in ("client_secret", "token_endpoint_auth_method"):
        if not isinstance(found.get(name), str | int) or not found[name]:
            found.pop(name, None)
    return {**found, "client_secret_expires_at": int(end.timestamp()) if end else 0}


def client_check_request(server: AuthorizationServerMetadata, client: ClientInformation, redirect_uri: str) -> Request:
    """Return a request that shows whether the server still recognises a client. Its code was never issued.

    A server that does not recognise the client shows an error page in the browser and never redirects, so the
    sign-in would wait in vain. The token endpoint authenticates the client first (RFC 6749 §4.1.3) and answers
    `invalid_client`.
    """
    headers, fields = client_authentication(client, server.token_endpoint_auth_methods_supported)
    form = {
        "grant_type": "authorization_code",
        "code": PROBE_CODE,
        "redirect_uri": redirect_uri,
        "code_verifier": PROBE_CODE.ljust(43, "-"),
    }
    return Request("POST", server.token_endpoint, headers=headers, form={**form, **fields})


def unregistered_client(client: ClientInformation) -> ClientInformation:
    """Return a client that no server has registered, which authenticates as `client` does."""
    secret = None if client.client_secret is None else SecretStr(PROBE_CODE)
    return client.model_copy(update={"client_id": PROBE_CODE, "client_secret": secret})


def is_client_unknown(response: Response) -> bool | None:
    """Return whether the response to such a request says that the client is unknown; None if it may mean that.

    Servers also say so with another code, an error of their own or a 404.
    """
    document = response.members() or {}
    code = error_code(document.get("error"))
    if code == "invalid_grant" or not (response.is_error and response.status < 500) or response.status in _TRANSIENT:
        return False
    if code in UNKNOWN_CLIENT or response.status == 401:
        return True
    texts = (str(document.get(name)) for name in ("error", "error_description", "message", "detail"))
    about_client = any("client" in text.lower() for text in texts)
    return None if about_client or code == "invalid_request" or response.status in (404, 422) else False


def answers_alike(response: Response, other: Response) -> bool:
    """Return whether two responses have the same status and error code."""
    codes = [(each.members() or {}).get("error") for each in (response, other)]
    return response.status == other.status and codes[0] == codes[1]


def is_about_scope(refused: RegistrationRefused) -> bool:
    """Return whether a server refused a registration because of the scope in it."""
    text = (refused.description or "").lower()
    return refused.error == "invalid_scope" or (refused.error == "invalid_client_metadata" and "scope" in text)


def is_about_redirect_uri(refused: OAuthError) -> bool:
    """Return whether a server refused a registration or a sign-in because of its redirect URI."""
    text = (refused.description or "").lower()
    named = refused.error in ("invalid_client_metadata", "invalid_request", "access_denied") and "redirect" in text
    return named or refused.error == "invalid_redirect_uri"
