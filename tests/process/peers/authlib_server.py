"""An authorization server on Flask, as in Authlib's documentation: confidential clients, and an issuer with a path.

It shares no code with the practice server. Its MCP server is the SDK's, at another origin.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2 import OAuth2Error
from authlib.oauth2.rfc6749 import ClientMixin, list_to_scope, scope_to_list
from authlib.oauth2.rfc6749.grants import AuthorizationCodeGrant, RefreshTokenGrant
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7591 import ClientRegistrationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9207 import IssuerParameter
from flask import Flask, Response, jsonify, request
from starlette.types import ASGIApp
from werkzeug.serving import WSGIRequestHandler, make_server

from notion_oauth.cli.background_server import served_by_factory
from tests.process.peers.mcp_sdk_server import mcp_app
from tests.process.peers.peer import ACCESS_TOKEN_LIFETIME, PERSON, SCOPE, Grant, Peer

TENANT = "/tenant"
AUTH_METHODS = ["client_secret_basic"]
GRANT_TYPES = ["authorization_code", "refresh_token"]


class InvalidTarget(OAuth2Error):
    """RFC 8707 §2, which Authlib does not implement."""

    error = "invalid_target"


@dataclass
class Client(ClientMixin):
    client_id: str
    client_secret: str
    metadata: dict[str, Any]

    def get_client_id(self) -> str:
        return self.client_id

    def get_default_redirect_uri(self) -> str | None:
        return None

    def get_allowed_scope(self, scope: str) -> str:
        return str(list_to_scope([each for each in scope_to_list(scope) if each == SCOPE]))

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri in self.metadata["redirect_uris"]

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == self.client_secret

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return bool(method == self.metadata["token_endpoint_auth_method"])

    def check_response_type(self, response_type: str) -> bool:
        return response_type in self.metadata["response_types"]

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.metadata["grant_types"]


@dataclass
class Code:
    client_id: str
    redirect_uri: str
    scope: str
    resource: str
    code_challenge: str
    code_challenge_method: str

    def get_redirect_uri(self) -> str:
        return self.redirect_uri

    def get_scope(self) -> str:
        return self.scope


class Server(AuthorizationServer):
    """Authlib's authorization server, with the state that its grants and endpoints use."""

    def __init__(self, app: Flask, peer: Peer) -> None:
        self.peer = peer
        self.codes: dict[str, Code] = {}
        super().__init__(app, query_client=peer.clients.get, save_token=self._save)

    def _save(self, token: dict[str, Any], request: Any) -> None:
        """Issue the tokens to the grant that is refreshed, or to a new one for a code."""
        grant: Grant | None = request.refresh_token
        if grant is None:
            code: Code = request.authorization_code
            grant = self.peer.start_grant(code.client_id, code.scope, code.resource)
        self.peer.issue(grant, request.payload.grant_type, token["access_token"], token["refresh_token"])

    def check_resource(self, sent: str | None, redirect_uri: str | None = None) -> None:
        """MCP clients always send the resource."""
        if sent != self.peer.mcp_url:
            raise InvalidTarget("There is no such resource here", redirect_uri=redirect_uri)


class CodeGrant(AuthorizationCodeGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS
    server: Server

    def validate_authorization_request(self) -> Any:
        redirect_uri = super().validate_authorization_request()
        self.server.check_resource(self.request.payload.data.get("resource"), redirect_uri)
        return redirect_uri

    def save_authorization_code(self, code: str, request: Any) -> None:
        sent = request.payload.data
        self.server.codes[code] = Code(
            client_id=request.client.client_id,
            redirect_uri=request.payload.redirect_uri,
            scope=request.payload.scope,
            resource=sent["resource"],
            code_challenge=sent["code_challenge"],
            code_challenge_method=sent["code_challenge_method"],
        )

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        found = self.server.codes.get(code)
        if found is None or found.client_id != client.client_id:
            return None
        self.server.check_resource(self.request.form.get("resource"))
        return found

    def delete_authorization_code(self, authorization_code: Code) -> None:
        self.server.codes = {code: each for code, each in self.server.codes.items() if each is not authorization_code}

    def authenticate_user(self, authorization_code: Code) -> str:
        return PERSON


class RefreshGrant(RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = AUTH_METHODS
    INCLUDE_NEW_REFRESH_TOKEN = True
    server: Server

    def authenticate_refresh_token(self, refresh_token: str) -> Grant | None:
        self.server.check_resource(self.request.form.get("resource"))
        return self.server.peer.grant_of_refresh_token(refresh_token)

    def authenticate_user(self, refresh_token: Grant) -> str:
        return PERSON

    def revoke_old_credential(self, refresh_token: Grant) -> None:
        """Nothing to do: only the last refresh token of a grant is valid."""


class Revocation(RevocationEndpoint):
    CLIENT_AUTH_METHODS = AUTH_METHODS
    server: Server

    def query_token(self, token_string: str, token_type_hint: str | None) -> Grant | None:
        peer = self.server.peer
        return peer.grant_of_refresh_token(token_string) or peer.grant_of_access_token(token_string)

    def revoke_token(self, token: Grant, request: Any) -> None:
        token.ended = True


class Registration(ClientRegistrationEndpoint):
    server: Server

    def authenticate_token(self, request: Any) -> bool:
        return True  # open registration

    def get_server_metadata(self) -> dict[str, Any]:
        return {"token_endpoint_auth_methods_supported": AUTH_METHODS}  # Authlib refuses other methods

    def generate_client_secret(self, request: Any) -> str:
        """With characters that a secret may contain (RFC 6749 Appendix A.2) and a wrong encoding would change."""
        return f"{super().generate_client_secret(request)} +%20:/=~"

    def save_client(self, client_info: dict[str, Any], client_metadata: dict[str, Any], request: Any) -> Client:
        client = Client(client_info["client_id"], client_info["client_secret"], client_metadata)
        self.server.peer.clients[client.client_id] = client
        return client


class Issuer(IssuerParameter):
    def __init__(self, server: Server) -> None:
        self._server = server
        super().__call__(server)

    def get_issuer(self) -> str:
        return self._server.peer.issuer


def authorization_server(peer: Peer) -> Flask:
    """The endpoints below the issuer's path, and the metadata at the URL of RFC 8414 §3.1."""
    app = Flask("authlib_server")
    app.config["OAUTH2_REFRESH_TOKEN_GENERATOR"] = True
    app.config["OAUTH2_TOKEN_EXPIRES_IN"] = dict.fromkeys(GRANT_TYPES, ACCESS_TOKEN_LIFETIME)
    server = Server(app, peer)
    server.register_grant(CodeGrant, [CodeChallenge(required=True)])
    server.register_grant(RefreshGrant)
    server.register_endpoint(Revocation)
    server.register_endpoint(Registration)
    server.register_extension(Issuer)
    one_at_a_time = threading.Lock()

    @app.get(f"/.well-known/oauth-authorization-server{TENANT}")
    def metadata() -> Response:
        return jsonify(
            issuer=peer.issuer,
            authorization_endpoint=f"{peer.issuer}/authorize",
            token_endpoint=f"{peer.issuer}/token",
            registration_endpoint=f"{peer.issuer}/clients",
            revocation_endpoint=f"{peer.issuer}/revoke",
            response_types_supported=["code"],
            grant_types_supported=GRANT_TYPES,
            token_endpoint_auth_methods_supported=AUTH_METHODS,
            code_challenge_methods_supported=["S256"],
            authorization_response_iss_parameter_supported=True,
        )

    @app.get(f"{TENANT}/authorize")
    def authorize() -> Any:
        try:
            grant = server.get_consent_grant(end_user=PERSON)
        except OAuth2Error as error:
            return server.handle_error_response(request, error)
        return server.create_authorization_response(grant_user=PERSON if peer.consents else None, grant=grant)

    @app.post(f"{TENANT}/token")
    def token() -> Any:
        with one_at_a_time:
            return server.create_token_response()

    @app.post(f"{TENANT}/clients")
    def clients() -> Any:
        return server.create_endpoint_response(Registration.ENDPOINT_NAME)

    @app.post(f"{TENANT}/revoke")
    def revoke() -> Any:
        with one_at_a_time:
            return server.create_endpoint_response(Revocation.ENDPOINT_NAME)

    return app


class _Handler(WSGIRequestHandler):
    """Logs nothing, and reports https as if behind a proxy: Authlib refuses plain http, even on loopback."""

    def make_environ(self) -> Any:
        return {**super().make_environ(), "wsgi.url_scheme": "https"}

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - Werkzeug's own name
        pass


@contextmanager
def serve_authlib() -> Generator[Peer]:
    """Serve the authorization server and the MCP server at different origins."""
    peer = Peer()
    server = make_server("127.0.0.1", 0, authorization_server(peer), threaded=True, request_handler=_Handler)
    peer.issuer = f"http://127.0.0.1:{server.server_port}{TENANT}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="authlib", daemon=True)
    thread.start()

    def build(base_url: str) -> ASGIApp:
        peer.mcp_url = f"{base_url}/mcp"
        return mcp_app(peer)

    try:
        with served_by_factory(build):
            yield peer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
