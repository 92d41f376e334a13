"""Metadata URLs and validation (RFC 9728, RFC 8414, OpenID Connect Discovery 1.0, MCP)."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ValidationError

from notion_oauth.errors import SIGN_IN, Hint, MetadataError, MetadataNotJson, ServerUnavailable, UnexpectedRedirect
from notion_oauth.models import AuthorizationServerMetadata, ProtectedResourceMetadata, canonical_issuer
from notion_oauth.protocol.challenge import BearerChallenge, bearer_challenge
from notion_oauth.protocol.compat import UNLISTED_PKCE, UNLISTED_PKCE_HINT
from notion_oauth.protocol.messages import Request, Response, host_of, printable, retry_after
from notion_oauth.protocol.token import JWT_BEARER
from notion_oauth.protocol.urls import resource_covers, url_problem

M = TypeVar("M", bound=BaseModel)

_ENDPOINTS = ("authorization_endpoint", "token_endpoint")
_OPTIONAL_ENDPOINTS = ("registration_endpoint", "revocation_endpoint", "introspection_endpoint")


def protected_resource_metadata_urls(server_url: str, metadata_url: str | None = None) -> tuple[str, ...]:
    """Return the URL from the challenge, then the well-known URLs: with the resource's path, and at the root.

    RFC 9728 §3.1 and §5.1, in the order of MCP. A challenge's URL that may not be requested is ignored.
    """
    well_known = _with_and_without_path(server_url, "oauth-protected-resource")
    if metadata_url is None or url_problem(metadata_url) or _downgrades(metadata_url, server_url):
        return well_known
    return tuple(dict.fromkeys((metadata_url, *well_known)))


def authorization_server_metadata_urls(issuer: str) -> tuple[str, ...]:
    """Return the well-known URLs of an issuer, in the order of MCP (RFC 8414 §3.1, OpenID Discovery §4)."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    paths = [f"/.well-known/oauth-authorization-server{path}", f"/.well-known/openid-configuration{path}"]
    if path:
        paths.append(f"{path}/.well-known/openid-configuration")
    return tuple(urlunsplit((parts.scheme, parts.netloc, well_known, "", "")) for well_known in paths)


def _with_and_without_path(url: str, name: str) -> tuple[str, ...]:
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    root = urlunsplit((parts.scheme, parts.netloc, f"/.well-known/{name}", "", ""))
    if not path and not parts.query:
        return (root,)
    return (urlunsplit((parts.scheme, parts.netloc, f"/.well-known/{name}{path}", parts.query, "")), root)


def parse_protected_resource_metadata(response: Response, *, server_url: str) -> ProtectedResourceMetadata | None:
    """Parse a resource's metadata; None if there is no document at that URL (a 404).

    Raises MetadataError if the metadata is invalid, describes another resource (RFC 9728 §3.3) or lists no usable
    authorization server, MetadataNotJson for a response that is no document, ServerUnavailable for a transient failure.
    """
    metadata = _read(response, ProtectedResourceMetadata, "protected resource metadata")
    if metadata is None:
        return None
    if reason := url_problem(metadata.resource):
        raise MetadataError(f"The resource in {response.url} {reason}.")
    if not resource_covers(metadata.resource, server_url):
        raise MetadataError(f"{response.url} describes another resource, not {server_url}.")
    if not metadata.authorization_servers:
        raise MetadataError(f"{response.url} lists no authorization server.")
    problems = {issuer: _issuer_problem(issuer, server_url) for issuer in metadata.authorization_servers}
    usable = tuple(issuer for issuer, problem in problems.items() if problem is None)
    if not usable:
        raise MetadataError(f"An authorization server in {response.url} {next(iter(problems.values()))}.")
    return metadata.model_copy(update={"authorization_servers": usable})


def _issuer_problem(issuer: str, server_url: str) -> str | None:
    """Why an issuer cannot be used, or None. An issuer is a URL without query and fragment (RFC 8414 §2)."""
    if problem := url_problem(issuer):
        return problem
    if "?" in issuer:
        return "has a query"
    return _NOT_HTTPS if _downgrades(issuer, server_url) else None


_BY_ASSERTION = Hint("If you have an assertion, sign in", "login", {"assertion_file": "FILE"})
_NOT_HTTPS = "is not https (plain http is allowed only for a server on loopback)"


def _downgrades(url: str, source: str) -> bool:
    """Return whether an https source refers to an http URL, which can only be on loopback: on this machine."""
    return urlsplit(source).scheme == "https" and urlsplit(url).scheme != "https"


def parse_authorization_server_metadata(
    response: Response, *, issuer: str, compat: tuple[str, ...] = ()
) -> AuthorizationServerMetadata | None:
    """Parse an authorization server's metadata; None if there is no document at that URL (a 404).

    Raises MetadataError unless the document's issuer is identical to `issuer` (RFC 8414 §3.3) and the endpoints of a
    sign-in are https (http on loopback), MetadataNotJson for a response that is no document, ServerUnavailable for a
    transient failure. Against the RFC, an issuer without a path may have a final slash in one place and not in the
    other: servers do that, and both are one URL with the same well-known URLs. `compat` is what the user allows it.
    """
    metadata = _read(response, AuthorizationServerMetadata, "authorization server metadata")
    if metadata is None:
        return None
    if canonical_issuer(metadata.issuer) != canonical_issuer(issuer):
        found = printable(metadata.issuer)
        raise MetadataError(f"{response.url} describes another issuer, {found}, than {issuer}; it was not used.")
    for name in _ENDPOINTS:
        endpoint: str | None = getattr(metadata, name)
        if endpoint is not None and (problem := _endpoint_problem(endpoint, issuer)):
            raise MetadataError(f"The {name} of {issuer} {problem}.")
    unusable = [name for name in _OPTIONAL_ENDPOINTS if _endpoint_problem(getattr(metadata, name) or issuer, issuer)]
    return metadata.model_copy(update={**dict.fromkeys(unusable), "compat": compat})


def _endpoint_problem(endpoint: str, issuer: str) -> str | None:
    return url_problem(endpoint) or (_NOT_HTTPS if _downgrades(endpoint, issuer) else None)


def require_sign_in(server: AuthorizationServerMetadata) -> str:
    """Return the authorization endpoint of a server that supports a safe sign-in in a browser.

    Raises MetadataError if it has none (RFC 8414 §2), or does not list PKCE with S256 (MCP) and the user has not
    allowed that.
    """
    if server.authorization_endpoint is None:
        message = f"{server.issuer} has no authorization endpoint: you cannot sign in with a browser."
        raise MetadataError(message, hint=_BY_ASSERTION)
    if "S256" not in server.code_challenge_methods_supported and UNLISTED_PKCE not in server.compat:
        message = f"{server.issuer} does not list PKCE with S256, which a safe sign-in requires."
        raise MetadataError(message, hint=UNLISTED_PKCE_HINT)
    return server.authorization_endpoint


def require_any_grant(server: AuthorizationServerMetadata) -> None:
    """Raise MetadataError unless a login can start there: in a browser, otherwise with an assertion."""
    (require_sign_in if server.authorization_endpoint is not None else require_assertions)(server)


def require_assertions(server: AuthorizationServerMetadata) -> None:
    """Raise MetadataError unless the server lists the grant type of RFC 7523, which is no default (RFC 8414 §2)."""
    if JWT_BEARER not in (server.grant_types_supported or ()):
        raise MetadataError(f"{server.issuer} does not list the assertion grant ({JWT_BEARER}).", hint=SIGN_IN)


def base_url(server_url: str) -> str:
    """Return the authorization server of a resource without metadata: the resource's origin (MCP 2025-03-26)."""
    parts = urlsplit(server_url)
    return urlunsplit((parts.scheme, parts.netloc, "", "", ""))


def assumed_authorization_server(issuer: str, *, compat: tuple[str, ...] = ()) -> AuthorizationServerMetadata:
    """The endpoints of a server without metadata: /authorize, /token and /register at its origin (MCP 2025-03-26).

    PKCE is assumed: that revision requires it of every server.
    """
    return AuthorizationServerMetadata(
        issuer=issuer,
        authorization_endpoint=f"{issuer}/authorize",
        token_endpoint=f"{issuer}/token",
        registration_endpoint=f"{issuer}/register",
        token_endpoint_auth_methods_supported=("none", "client_secret_basic", "client_secret_post"),
        code_challenge_methods_supported=("S256",),
        compat=compat,
    )


def challenge_probe_request(server_url: str) -> Request:
    """Return a request without a token, to get the resource's challenge (RFC 9728 §5, MCP).

    A `ping` changes nothing if the server requires no token; a stream that it opens is not read.
    """
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    accept = {"Accept": "application/json, text/event-stream"}
    return Request("POST", server_url, headers=accept, json=message, only_headers=True)


def challenge_of(response: Response) -> BearerChallenge | None:
    """Return the Bearer challenge of a 401 or 403; None for any other response."""
    if response.status not in (401, 403):
        return None
    return bearer_challenge(response.challenges)


def _read(response: Response, model: type[M], kind: str) -> M | None:
    """Return the document at a metadata URL; None for a 404 or 410, which means that there is none."""
    if response.status in (404, 410):
        return None
    if 400 <= response.status < 500 and response.status not in (408, 425, 429):
        raise MetadataNotJson(f"{response.url} is no document: HTTP {response.status}.", refused=True)
    if 300 <= response.status < 400:
        raise UnexpectedRedirect(f"{response.url} answered with a redirect, which is not followed.")
    if response.status != 200:
        message = f"{host_of(response.url)} answered the metadata request with HTTP {response.status}."
        raise ServerUnavailable(message, retry_after=retry_after(response))
    document = response.json_object()
    if document is None:
        raise MetadataNotJson(f"{response.url} is not a JSON object.")
    optional = {name: value for name, value in document.items() if name in _OPTIONAL_ENDPOINTS}
    left_out = {name for name, value in optional.items() if not isinstance(value, str)}
    try:  # some servers write null or an empty text for omitted members
        return model.model_validate(
            {name: value for name, value in document.items() if value not in (None, "") and name not in left_out}
        )
    except ValidationError as error:
        raise MetadataError(f"{response.url} is no valid {kind}: {_first_problem(error)}.") from None


def _first_problem(error: ValidationError) -> str:
    """Return the first invalid field and why, without its value."""
    detail = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
