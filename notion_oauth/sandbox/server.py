"""The authorization server: Authlib's grants and endpoints, on top of State."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    InvalidClientError,
    InvalidRequestError,
    InvalidScopeError,
    JsonRequest,
    OAuth2Error,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant, RefreshTokenGrant
from authlib.oauth2.rfc6749.util import extract_basic_authorization
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7591 import ClientRegistrationEndpoint
from authlib.oauth2.rfc7591.errors import InvalidClientMetadataError, InvalidRedirectURIError
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9207 import IssuerParameter

from notion_oauth.sandbox.assertions import AUTH_METHODS, AssertionGrant, IdentityProvider
from notion_oauth.sandbox.introspection import Introspection
from notion_oauth.sandbox.messages import AuthlibResponse, FormRequest, JsonBody, Message
from notion_oauth.sandbox.options import overridden
from notion_oauth.sandbox.state import LOOPBACK, Client, Code, Grant, State

USER = "practice-user"


class InvalidTargetError(OAuth2Error):
    """The `resource` is not one of this server's (RFC 8707 §2)."""

    error = "invalid_target"
    description = "The resource parameter does not match this server's resource"


class _Tokens(dict[str, Any]):
    """A token response whose `repr` shows no secret: Authlib logs it."""

    def __repr__(self) -> str:
        return f"<token response with {', '.join(self)}>"


class _CodeGrant(AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS
    server: Server

    def validate_authorization_request(self) -> Any:
        redirect_uri = super().validate_authorization_request()
        data = self.request.payload.data
        client: Client = self.request.client
        if not data.get("code_challenge") and client.client_secret is None:
            raise InvalidRequestError("Missing 'code_challenge'", redirect_uri=redirect_uri)
        self.server.check_resource(data.get("resource"), redirect_uri)
        return redirect_uri

    def save_authorization_code(self, code: str, request: Any) -> None:
        state, data = self.server.state, request.payload.data
        state.codes[code] = Code(
            code=code,
            client_id=request.client.client_id,
            redirect_uri=data["redirect_uri"],
            scope=request.scope or "default",
            resource=data.get("resource"),
            code_challenge=data.get("code_challenge"),
            code_challenge_method=data.get("code_challenge_method"),
            expires_at=state.clock() + state.options.authorization_code_lifetime,
        )

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        found = self.server.state.find_code(code, client)
        self.server.check_resource(self.request.payload.data.get("resource"))
        return found

    def delete_authorization_code(self, authorization_code: Code) -> None:
        """Do not delete it: a second use ends its grant (RFC 6749 §4.1.2)."""

    def authenticate_user(self, authorization_code: Code) -> str:
        return USER


class _RefreshGrant(RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS
    INCLUDE_NEW_REFRESH_TOKEN = True
    server: Server

    def authenticate_refresh_token(self, refresh_token: str) -> Grant:
        self.server.check_resource(self.request.payload.data.get("resource"))
        return self.server.state.use_refresh_token(refresh_token, self.request.client)

    def authenticate_user(self, refresh_token: Grant) -> str:
        return USER

    def revoke_old_credential(self, refresh_token: Grant) -> None:
        """Nothing to do: State rotates refresh tokens."""


class _Revocation(RevocationEndpoint):
    CLIENT_AUTH_METHODS = AUTH_METHODS
    server: Server

    def query_token(self, token_string: str, token_type_hint: str | None) -> Grant | None:
        state = self.server.state
        return state.grant_of_refresh_token(token_string) or state.grant_of_access_token(token_string)

    def revoke_token(self, token: Grant, request: Any) -> None:
        sent = request.form["token"]
        if sent in token.access_tokens:
            del token.access_tokens[sent]
        else:
            self.server.state.end(token, "OAuth grant revoked")


class _Registration(ClientRegistrationEndpoint):
    server: Server

    def authenticate_token(self, request: Any) -> bool:
        return True  # open registration, as at Notion

    def get_server_metadata(self) -> dict[str, Any]:
        return {}

    def extract_client_metadata(self, request: Any) -> dict[str, Any]:
        sent = request.payload.data
        if not isinstance(sent, dict):
            raise InvalidClientMetadataError("The body is not a JSON object")
        uris = sent.get("redirect_uris")
        if (
            not isinstance(uris, list)
            or not uris
            or not all(isinstance(uri, str) and _is_redirect_uri(uri) for uri in uris)
        ):
            raise InvalidRedirectURIError("Redirect URIs must be https, or http on loopback")
        metadata: dict[str, Any] = super().extract_client_metadata(request)
        if metadata["token_endpoint_auth_method"] not in AUTH_METHODS:
            raise InvalidClientMetadataError("Unsupported token_endpoint_auth_method")
        return metadata

    def generate_client_info(self, request: Any) -> dict[str, Any]:
        now = int(self.server.state.clock())
        info: dict[str, Any] = {"client_id": secrets.token_urlsafe(12), "client_id_issued_at": now}
        if request.payload.data.get("token_endpoint_auth_method") != "none":
            info.update(client_secret=secrets.token_urlsafe(24), client_secret_expires_at=0)
        return info

    def save_client(self, client_info: Any, client_metadata: Any, request: Any) -> Client:
        state = self.server.state
        client = Client(client_info["client_id"], client_info.get("client_secret"), client_metadata, state.clock())
        state.clients[client.client_id] = client
        return client


def _is_redirect_uri(uri: str) -> bool:
    parts = urlsplit(uri)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)


class _Issuer(IssuerParameter):
    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def get_issuer(self) -> str | None:
        return self._server.issuer if self._server.state.options.announce_iss else None


class Server(AuthorizationServer):
    """Authlib's authorization server, with refresh tokens that rotate as Notion's do."""

    def __init__(self, state: State, issuer: str, resources: tuple[str, ...]) -> None:
        super().__init__()
        self.state, self.issuer, self._resources = state, issuer, resources
        self.identity_provider = IdentityProvider(issuer, state.clock)
        self.register_token_generator("default", self._token)
        self.register_grant(_CodeGrant, [CodeChallenge(required=True)])
        self.register_grant(_RefreshGrant)
        self.register_grant(AssertionGrant)
        self.register_endpoint(Introspection)
        self.register_endpoint(_Revocation)
        self.register_endpoint(_Registration)
        _Issuer(self)(self)

    def validate_requested_scope(self, scope: str | None) -> None:
        if not set((scope or "").split()) <= set(self.state.options.scopes):
            raise InvalidScopeError

    def check_resource(self, resource: str | None, redirect_uri: str | None = None) -> None:
        """Raise InvalidTargetError unless `resource` is omitted or identical to one of this server's (RFC 8707 §2)."""
        if resource not in (None, *self._resources, *self.state.options.other_resources):
            raise InvalidTargetError(redirect_uri=redirect_uri)

    def authenticate_client(self, request: Any, methods: Any, endpoint: str = "token") -> Any:
        basic_id, _ = extract_basic_authorization(request.headers)
        body_id = request.payload.data.get("client_id")
        if basic_id and body_id:
            raise InvalidRequestError("Client used multiple authentication methods")
        if self.state.find_client(basic_id or body_id) is None:
            raise InvalidClientError("Client not found", status_code=401)
        return super().authenticate_client(request, methods, endpoint)

    def query_client(self, client_id: str) -> Client | None:
        return self.state.find_client(client_id)

    def _token(self, **_: Any) -> dict[str, Any]:
        return _Tokens()  # filled in save_token, where the request is known

    def save_token(self, token: dict[str, Any], request: Any) -> None:
        """Issue the tokens, and put them into the response that Authlib sends."""
        state = self.state
        code: Code | None = request.authorization_code
        if code is not None:
            grant = state.start_grant(request.client.client_id, code.scope)
            code.grant_id = grant.grant_id
        else:
            grant = request.refresh_token or state.start_grant(request.client.client_id, "default")
        access, refresh = state.issue(grant)
        lifetime = state.options.access_token_lifetime
        answer = {
            "access_token": access,
            "token_type": "bearer",
            "expires_in": int(lifetime) if lifetime == int(lifetime) else lifetime,
            "refresh_token": refresh,
            "scope": grant.scope,
        }
        if request.payload.grant_type == AssertionGrant.GRANT_TYPE:
            del answer["refresh_token"]
        if resource := request.payload.data.get("resource"):
            answer["resource"] = resource
        token.update(overridden(answer, state.options.token_response_overrides))

    def create_oauth2_request(self, request: Message) -> OAuth2Request:
        return FormRequest(request)

    def create_json_request(self, request: Message) -> JsonRequest:
        result = JsonRequest(request.method, request.url, request.headers)
        result.payload = JsonBody(request.json)
        return result

    def handle_response(self, status: int, body: Any, headers: Any) -> AuthlibResponse:
        return AuthlibResponse(status, body, headers)

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: there are no listeners."""
