"""Where the metadata lies and what makes it usable (RFC 9728, RFC 8414, OpenID Connect Discovery 1.0, MCP)."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ValidationError

from notion_oauth.errors import SIGN_IN, MetadataError, MetadataNotFound, ServerUnavailable, UnexpectedRedirect
from notion_oauth.models import AuthorizationServerMetadata, ProtectedResourceMetadata
from notion_oauth.protocol.challenge import BearerChallenge, bearer_challenge
from notion_oauth.protocol.messages import Request, Response, host_of, retry_after
from notion_oauth.protocol.token import JWT_BEARER
from notion_oauth.protocol.urls import resource_covers, url_problem

M = TypeVar("M", bound=BaseModel)

_ENDPOINTS = (
    *("authorization_endpoint", "token_endpoint", "registration_endpoint"),
    *("revocation_endpoint", "introspection_endpoint"),
)


def protected_resource_metadata_urls(server_url: str, challenged: str | None = None) -> tuple[str, ...]:
    """The URL that a challenge names, then the well-known ones: with the resource's path, and the root one.

    RFC 9728 §3.1 and §5.1, in the order of MCP. One that must not be asked counts as not named.
    """
    well_known = _with_and_without_path(server_url, "oauth-protected-resource")
    if challenged is None or url_problem(challenged) or _weaker(challenged, than=server_url):
        return well_known
    return tuple(dict.fromkeys((challenged, *well_known)))


def authorization_server_metadata_urls(issuer: str) -> tuple[str, ...]:
    """The well-known URLs of an issuer, in the order that MCP asks for (RFC 8414 §3.1, OpenID Discovery §4)."""
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
    """Read a resource's metadata; None where there is none at that URL (a 4xx).

    Raises MetadataError where the document is no metadata, is that of another resource (RFC 9728 §3.3) or
    names no authorization server that may be used, NoDocument where it is none at all, ServerUnavailable for a passing
    failure.
    """
    metadata = _read(response, ProtectedResourceMetadata, "protected resource metadata")
    if metadata is None:
        return None
    if reason := url_problem(metadata.resource):
        raise MetadataError(f"The resource that {response.url} names {reason}.")
    if not resource_covers(metadata.resource, server_url):
        raise MetadataError(f"{response.url} speaks for another resource, not for {server_url}.")
    if not metadata.authorization_servers:
        raise MetadataError(f"{response.url} names no authorization server.")
    reasons = {issuer: _why_no_issuer(issuer, server_url) for issuer in metadata.authorization_servers}
    usable = tuple(issuer for issuer, reason in reasons.items() if reason is None)
    if not usable:
        raise MetadataError(f"An authorization server that {response.url} names {next(iter(reasons.values()))}.")
    return metadata.model_copy(update={"authorization_servers": usable})


def _why_no_issuer(issuer: str, server_url: str) -> str | None:
    """Why a resource's authorization server cannot be used: it is a URL without query and fragment (RFC 8414 §2)."""
    if reason := url_problem(issuer):
        return reason
    if "?" in issuer:
        return "has a query"
    return _NOT_HTTPS if _weaker(issuer, than=server_url) else None


_BY_ASSERTION = "For whoever holds an assertion: notion-oauth login --assertion-file FILE"
_NOT_HTTPS = "is not https (plain http is for a server on loopback alone)"


def _check_not_weaker(what: str, url: str, *, than: str) -> None:
    """Raise MetadataError where an https server sends us to plain http.

    That is loopback: it would make us knock on the doors of this machine.
    """
    if _weaker(url, than=than):
        raise MetadataError(f"{what} {_NOT_HTTPS}.")


def _weaker(url: str, *, than: str) -> bool:
    return urlsplit(than).scheme == "https" and urlsplit(url).scheme != "https"


def parse_authorization_server_metadata(
    response: Response, *, issuer: str, presumed: bool = False
) -> AuthorizationServerMetadata | None:
    """Read an authorization server's metadata; None where there is none at that URL (a 4xx).

    Raises MetadataError unless `issuer` is the one asked for, to the letter (RFC 8414 §3.3), and all endpoints are
    https (http on loopback); NoDocument where it is none at all, ServerUnavailable for a passing failure. An issuer
    that was only `presumed` is taken as the document spells it.
    """
    metadata = _read(response, AuthorizationServerMetadata, "authorization server metadata")
    if metadata is None:
        return None
    # What no document has named may end in a slash: its well-known URLs are the same then
    if metadata.issuer != issuer and not (presumed and metadata.issuer == f"{issuer}/"):
        raise MetadataError(f"{response.url} speaks for another issuer than {issuer}; it was not used.")
    for name in _ENDPOINTS:
        endpoint: str | None = getattr(metadata, name)
        if endpoint is not None and (reason := url_problem(endpoint)):
            raise MetadataError(f"The {name} of {issuer} {reason}.")
        if endpoint is not None:
            _check_not_weaker(f"The {name} of {issuer}", endpoint, than=issuer)
    return metadata


def require_sign_in(server: AuthorizationServerMetadata) -> str:
    """The authorization endpoint, of a server through which people can sign in safely.

    Raises MetadataError where there is none (RFC 8414 §2), or the server does not list PKCE with S256 (MCP).
    """
    if server.authorization_endpoint is None:
        raise MetadataError(f"{server.issuer} signs nobody in: it has no authorization endpoint.", hint=_BY_ASSERTION)
    if "S256" not in server.code_challenge_methods_supported:
        raise MetadataError(f"{server.issuer} does not list PKCE with S256, without which a sign-in is not safe.")
    return server.authorization_endpoint


def require_any_grant(server: AuthorizationServerMetadata) -> None:
    """Raise MetadataError unless a login can begin there: through a browser, else by an assertion."""
    (require_sign_in if server.authorization_endpoint is not None else require_assertions)(server)


def require_assertions(server: AuthorizationServerMetadata) -> None:
    """Raise MetadataError unless the server lists RFC 7523's grant, which is not a default one (RFC 8414 §2)."""
    if JWT_BEARER not in (server.grant_types_supported or ()):
        raise MetadataError(f"{server.issuer} does not list the grant for assertions ({JWT_BEARER}).", hint=SIGN_IN)


def base_url(server_url: str) -> str:
    """The authorization server of a resource that publishes no metadata: its own origin (MCP 2025-03-26)."""
    parts = urlsplit(server_url)
    return urlunsplit((parts.scheme, parts.netloc, "", "", ""))


def assumed_authorization_server(issuer: str) -> AuthorizationServerMetadata:
    """A server that publishes no metadata either: /authorize, /token and /register of its origin (MCP 2025-03-26).

    PKCE is presumed, for that revision asks it of every server.
    """
    return AuthorizationServerMetadata(
        issuer=issuer,
        authorization_endpoint=f"{issuer}/authorize",
        token_endpoint=f"{issuer}/token",
        registration_endpoint=f"{issuer}/register",
        token_endpoint_auth_methods_supported=("none", "client_secret_basic", "client_secret_post"),
        code_challenge_methods_supported=("S256",),
    )


def probe_request(server_url: str) -> Request:
    """Ask the resource for something without a token, for its challenge's sake (RFC 9728 §5, MCP).

    A `ping` changes nothing where the server lets anybody in, and a stream that it then opens is not read.
    """
    message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    accept = {"Accept": "application/json, text/event-stream"}
    return Request("POST", server_url, headers=accept, json=message, only_headers=True)


def challenge_of(response: Response) -> BearerChallenge | None:
    """The challenge of an answer that lets nobody in without a token; None for any other answer."""
    if response.status not in (401, 403):
        return None
    return bearer_challenge(response.challenges)


def _read(response: Response, model: type[M], kind: str) -> M | None:
    """The document at a well-known URL; None for a 4xx, which says that there is none."""
    if 400 <= response.status < 500 and response.status not in (408, 425, 429):
        return None
    if 300 <= response.status < 400:
        raise UnexpectedRedirect(f"{response.url} answers with a redirect, and none is followed.")
    if response.status != 200:
        message = f"{host_of(response.url)} answered HTTP {response.status} to discovery."
        raise ServerUnavailable(message, retry_after=retry_after(response))
    document = response.json_object()
    if document is None:
        raise MetadataNotFound(f"{response.url} is not a JSON object.")
    try:  # some servers write null for what they leave out
        return model.model_validate({name: value for name, value in document.items() if value is not None})
    except ValidationError as error:
        raise MetadataError(f"{response.url} is no {kind}: {_first(error)}.") from None


def _first(error: ValidationError) -> str:
    """Which field is wrong and why, without its value."""
    detail = error.errors(include_input=False, include_url=False)[0]
    return f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
