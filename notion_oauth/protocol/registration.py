"""Dynamic client registration (RFC 7591)."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import ValidationError

from notion_oauth.errors import MetadataError, RegistrationRefused, ServerUnavailable
from notion_oauth.models import AuthorizationServerMetadata, ClientInformation, ClientMetadata
from notion_oauth.protocol.message import Request, Response, host_of, refuse
from notion_oauth.protocol.urls import is_loopback


def client_metadata(*, client_name: str, redirect_uri: str, scopes: tuple[str, ...] | None) -> ClientMetadata:
    """What to register: a public client; native where it is redirected to on loopback, else a web client."""
    native = is_loopback(urlsplit(redirect_uri).hostname)
    return ClientMetadata(
        client_name=client_name,
        redirect_uris=(redirect_uri,),
        application_type="native" if native else "web",
        scope=" ".join(scopes) if scopes else None,
    )


def registration_request(server: AuthorizationServerMetadata, metadata: ClientMetadata) -> Request:
    """The registration of a client (RFC 7591 §3.1). Raises MetadataError where the server offers none."""
    if server.registration_endpoint is None:
        raise MetadataError(f"{server.issuer} offers no client registration.", cure="Ask its operator for a client.")
    return Request("POST", server.registration_endpoint, json=metadata.model_dump(mode="json", exclude_none=True))


def parse_registration_response(response: Response, *, request: Request) -> ClientInformation:
    """Read the client that the server made (RFC 7591 §3.2).

    Raises RegistrationRefused for an error code, ServerUnavailable for a passing failure or an answer that
    is no client information.
    """
    if not response.ok:
        refuse(response, request, RegistrationRefused, "register this client")
    try:
        return ClientInformation.model_validate(response.json_object())
    except ValidationError:
        message = f"{host_of(response.url)} answered the registration with something that is no client information."
        raise ServerUnavailable(message) from None
