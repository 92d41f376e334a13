"""The routes: metadata, registration, authorization, tokens, and the protected /mcp."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

from authlib.oauth2.rfc6749 import OAuth2Error
from authlib.oauth2.rfc7523.jwt_bearer import JWT_BEARER_GRANT_TYPE
from authlib.oauth2.rfc8414 import AuthorizationServerMetadata
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from notion_oauth.sandbox import mcp
from notion_oauth.sandbox.assertions import AUTH_METHODS, IdentityProvider
from notion_oauth.sandbox.messages import AuthlibResponse, Message
from notion_oauth.sandbox.options import overridden
from notion_oauth.sandbox.pages import consent_page, text_page
from notion_oauth.sandbox.recording import json_of, pairs_of
from notion_oauth.sandbox.server import USER, Server
from notion_oauth.sandbox.state import State

_RESOURCE = "/.well-known/oauth-protected-resource"
_NO_STORE = {"Cache-Control": "no-store"}


class Routes:
    """Translates HTTP to the authorization server and back."""

    def __init__(self, base_url: str, state: State) -> None:
        self._base_url, self._state = base_url, state
        self._resources = (f"{base_url}/mcp", base_url)
        self._server = Server(state, base_url, self._resources)
        self._awaiting_consent: dict[str, Message] = {}  # authorization requests, by the ticket of the consent page

    @property
    def identity_provider(self) -> IdentityProvider:
        return self._server.identity_provider

    def app(self) -> Starlette:
        routes = [
            Route("/", self._home),
            Route(f"{_RESOURCE}/mcp", self._path_metadata),
            Route(_RESOURCE, self._root_metadata),
            Route("/.well-known/oauth-authorization-server", self._metadata),
            Route("/register", self._register, methods=["POST"]),
            Route("/authorize", self._authorize, methods=["GET"]),
            Route("/authorize", self._decide, methods=["POST"]),
            Route("/token", self._token, methods=["POST"]),
            Route("/introspect", self._introspect, methods=["POST"]),
            Route("/mcp", self._mcp, methods=["POST"]),
        ]
        return Starlette(routes=routes)

    async def _home(self, request: Request) -> Response:
        return text_page("notion-oauth practice server", f"The MCP server is at {self._base_url}/mcp.")

    async def _path_metadata(self, request: Request) -> Response:
        return self._resource_metadata(self._resources[0], served=self._state.options.serve_path_metadata)

    async def _root_metadata(self, request: Request) -> Response:
        return self._resource_metadata(self._resources[1], served=self._state.options.serve_root_metadata)

    def _resource_metadata(self, resource: str, *, served: bool) -> Response:
        """RFC 9728 §3.2."""
        if not served:
            return PlainTextResponse("Not Found", 404)
        document = {
            "resource": resource,
            "authorization_servers": [self._base_url],
            "scopes_supported": list(self._state.options.scopes),
            "bearer_methods_supported": ["header"],
            "resource_name": "Practice MCP server",
        }
        return JSONResponse(overridden(document, self._state.options.resource_metadata_overrides))

    async def _metadata(self, request: Request) -> Response:
        """RFC 8414 §3.2. Authlib validates the document before the overrides of a test are applied."""
        options = self._state.options
        document: dict[str, Any] = {
            "issuer": self._base_url,
            "authorization_endpoint": f"{self._base_url}/authorize",
            "token_endpoint": f"{self._base_url}/token",
            "registration_endpoint": f"{self._base_url}/register",
            "scopes_supported": list(self._state.options.scopes),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token", JWT_BEARER_GRANT_TYPE],
            "client_id_metadata_document_supported": True,
            "token_endpoint_auth_methods_supported": AUTH_METHODS,
            "code_challenge_methods_supported": ["plain", "S256"],
        }
        if options.offer_revocation:
            document["revocation_endpoint"] = f"{self._base_url}/token"  # as at Notion
        if options.offer_introspection:
            document["introspection_endpoint"] = f"{self._base_url}/introspect"
        if options.announce_iss:
            document["authorization_response_iss_parameter_supported"] = True
        https = {name: _as_https(value) for name, value in document.items()}  # Authlib accepts only https
        AuthorizationServerMetadata(https).validate()
        return JSONResponse(overridden(document, options.metadata_overrides))

    async def _register(self, request: Request) -> Response:
        message = await _message(request)
        with self._state.lock:
            return _response(self._server.create_endpoint_response("client_registration", message))

    async def _authorize(self, request: Request) -> Response:
        message = await _message(request)
        with self._state.lock:
            if self._state.options.auto_consent or not self._is_valid(message):
                return self._authorization_response(message, USER)
            ticket = secrets.token_urlsafe(24)
            self._awaiting_consent[ticket] = message
            parameters = dict(message.pairs)
            client = self._state.find_client(parameters["client_id"])
            name = client.metadata.get("client_name", "A program without a name") if client else ""
        host = urlsplit(parameters["redirect_uri"]).netloc
        return consent_page(client=name, scope=parameters.get("scope") or "default", host=host, ticket=ticket)

    async def _decide(self, request: Request) -> Response:
        """Handle the user's decision. The ticket proves that it comes from this server's consent page."""
        form = dict(pairs_of(await request.body()))
        message = self._awaiting_consent.pop(form.get("ticket", ""), None)
        if message is None:
            return text_page("This page has expired", "Start the sign-in again.", status=400)
        with self._state.lock:
            return self._authorization_response(message, USER if form.get("decision") == "approve" else None)

    def _is_valid(self, message: Message) -> bool:
        """Return whether the authorization request is valid, so that the consent page may be shown."""
        try:
            self._server.get_consent_grant(message).validate_authorization_request()
        except OAuth2Error:
            return False
        return True

    def _authorization_response(self, message: Message, user: str | None) -> Response:
        try:
            grant = self._server.get_consent_grant(message)
            response = self._server.create_authorization_response(grant.request, user, grant)
        except OAuth2Error as error:
            response = self._server.handle_error_response(message, error)
            if response.location is not None and self._state.options.announce_iss:
                response.location += f"&iss={self._base_url}"
        if response.location is None:  # no redirect to an unregistered URI (RFC 6749 §4.1.2.1)
            reason = response.body.get("error_description") or response.body["error"]
            return text_page("This sign-in cannot continue", f"{reason}.", status=400)
        return RedirectResponse(response.location, 302, {**_NO_STORE, "Referrer-Policy": "no-referrer"})

    async def _token(self, request: Request) -> Response:
        message = await _message(request)
        form = dict(message.pairs)
        revoke = self._state.options.offer_revocation and "grant_type" not in form and "token" in form
        with self._state.lock:
            if revoke:
                return _response(self._server.create_endpoint_response("revocation", message))
            return _response(self._server.create_token_response(message))

    async def _introspect(self, request: Request) -> Response:
        message = await _message(request)
        with self._state.lock:
            return _response(self._server.create_endpoint_response("introspection", message))

    async def _mcp(self, request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin not in (None, self._base_url):
            return JSONResponse({"error": "Invalid Origin"}, 403)
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        with self._state.lock:
            grant = self._state.grant_of_access_token(token) if scheme.lower() == "bearer" else None
        if grant is None:
            challenge = (
                f'Bearer realm="OAuth", resource_metadata="{self._base_url}{_RESOURCE}/mcp", error="invalid_token"'
            )
            error = {"error": "invalid_token", "error_description": "Missing or invalid access token"}
            return JSONResponse(error, 401, {"WWW-Authenticate": challenge})
        status, content = mcp.handle_message(json_of(await request.body()))
        return Response(status_code=status) if content is None else JSONResponse(content, status)


def _as_https(value: Any) -> Any:
    return value.replace("http:", "https:", 1) if isinstance(value, str) else value


async def _message(request: Request) -> Message:
    body = await request.body()
    pairs = [*request.query_params.multi_items(), *pairs_of(body)]
    return Message(request.method, str(request.url), request.headers, pairs, json_of(body))


def _response(response: AuthlibResponse) -> Response:
    return JSONResponse(response.body, response.status, {**response.headers, **_NO_STORE})
