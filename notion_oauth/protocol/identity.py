"""Who has signed in: as a token response says it, or as Notion's MCP tool `notion-fetch` does."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

from notion_oauth.errors import MetadataError
from notion_oauth.models import Identity
from notion_oauth.protocol.messages import Request, Response, parse_json, safe_name

TOOL = "notion-fetch"
MAX_PAGES = 5  # of a list of tools
STATELESS, WITH_SESSION = "2026-07-28", "2025-11-25"  # revisions of MCP: without a handshake, and with one
_FINAL = (401, 403, 429)  # HTTP errors that a handshake does not change
_CLIENT = {"name": "notion-oauth", "version": "1"}

_Steps = Generator[Request, Response, dict[str, Any] | None]


def identity_in_token_response(document: Mapping[str, Any]) -> Identity:
    """Return what a token response says about the user and the workspace. Notion's two APIs do so in different ways."""
    user = _member(_member(document, "owner"), "user")
    tokens = [document.get("access_token"), document.get("refresh_token")]
    return _identity(
        {"name": document.get("workspace_name"), "id": document.get("workspace_id")},
        {"id": document.get("user_id"), **user, "email": _member(user, "person").get("email")},
        secrets=frozenset(each for each in tokens if isinstance(each, str) and each),
    )


def identity_requests(server_url: str, access_token: str) -> Generator[Request, Response, Identity]:
    """Yield the requests that find out who has signed in; each takes its response. Return the answer, maybe empty.

    The tool is called only if the server lists it. A server that wants a session gets one, and its end. Raises
    MetadataError if there is no MCP server at the URL.
    """
    messages = _Messages(server_url, access_token)
    if (yield from messages.has_tool()):
        result = yield from messages.call("tools/call", {"name": TOOL, "arguments": {"id": "self"}})
        yield from messages.end_session()
        return _identity_in_result(result or {}, access_token)
    yield from messages.end_session()
    return Identity()


class _Messages:
    """The requests to an MCP server over Streamable HTTP, in the newest revision that it understands."""

    def __init__(self, url: str, access_token: str) -> None:
        self._url = url
        self._authorization = {"Authorization": f"Bearer {access_token}"}
        self._session: dict[str, str] | None = None  # headers; None for the revision without sessions

    def has_tool(self) -> Generator[Request, Response, bool]:
        page = yield from self._first_tools()
        for _ in range(MAX_PAGES):
            tools = page.get("tools") if page is not None else None
            if isinstance(tools, list) and any(isinstance(each, dict) and each.get("name") == TOOL for each in tools):
                return True
            if page is None or not isinstance(cursor := page.get("nextCursor"), str):
                return False
            page = yield from self.call("tools/list", {"cursor": cursor})
        return False

    def _first_tools(self) -> _Steps:
        response = yield self._request("tools/list", {})
        found = _result(response)
        if found is not None or response.status in _FINAL or response.status >= 500:
            return found
        version = {"protocolVersion": WITH_SESSION, "capabilities": {}, "clientInfo": _CLIENT}
        self._session = {}
        response = yield self._request("initialize", version)
        if (found := _result(response)) is None:
            if response.status in (404, 405) and "jsonrpc" not in _parsed(response.body):
                raise MetadataError(f"There is no MCP server at {self._url} (HTTP {response.status}).")
            return None
        agreed = found.get("protocolVersion")
        headers = {"MCP-Protocol-Version": agreed, "Mcp-Session-Id": response.headers.get("mcp-session-id")}
        self._session = {name: value for name, value in headers.items() if isinstance(value, str)}
        yield self._request("notifications/initialized", None)
        return (yield from self.call("tools/list", {}))

    def call(self, method: str, parameters: dict[str, Any]) -> _Steps:
        return _result((yield self._request(method, parameters)))

    def end_session(self) -> Generator[Request, Response, None]:
        if self._session and "Mcp-Session-Id" in self._session:
            yield Request("DELETE", self._url, headers={**self._authorization, **self._session}, only_headers=True)

    def _request(self, method: str, parameters: dict[str, Any] | None) -> Request:
        """Return a request; a notification, whose answer has no body, without parameters."""
        headers = {**self._authorization, "Accept": "application/json, text/event-stream"}
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if parameters is None:
            return Request(
                "POST", self._url, headers={**headers, **(self._session or {})}, json=message, only_headers=True
            )
        if self._session is None:
            headers |= {"MCP-Protocol-Version": STATELESS, "Mcp-Method": method}
            headers |= {"Mcp-Name": parameters["name"]} if "name" in parameters else {}
            meta = {"protocolVersion": STATELESS, "clientInfo": _CLIENT, "clientCapabilities": {}}
            prefixed = {f"io.modelcontextprotocol/{name}": value for name, value in meta.items()}
            parameters = {**parameters, "_meta": prefixed}
        else:
            headers |= self._session
        return Request("POST", self._url, headers=headers, json={**message, "id": 1, "params": parameters})


def _result(response: Response) -> dict[str, Any] | None:
    """Return the result in a response, which is JSON or a stream of events; None for an error."""
    if not response.ok:
        return None
    streamed = response.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/event-stream"
    messages = _events(response.body) if streamed else iter([response.body])
    for message in map(_parsed, messages):
        if message.get("id") == 1 and isinstance(result := message.get("result"), dict):
            return result
    return None


def _events(body: bytes) -> Iterator[bytes]:
    """Yield the data of each server-sent event."""
    lines: list[bytes] = []
    for line in (*body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"), b""):
        if line.startswith(b"data:"):
            lines.append(line.removeprefix(b"data:").removeprefix(b" "))
        elif not line and lines:
            yield b"\n".join(lines)
            lines = []


def _identity_in_result(result: dict[str, Any], access_token: str) -> Identity:
    """Return the identity in the result of the tool: a text that is JSON."""
    content = result.get("content")
    texts = (each.get("text") for each in content if isinstance(each, dict)) if isinstance(content, list) else ()
    document = _member(next((_parsed(text.encode()) for text in texts if isinstance(text, str)), {}), "self")
    return _identity(_member(document, "workspace"), _member(document, "user"), secrets=frozenset({access_token}))


def _identity(workspace: Mapping[str, Any], user: Mapping[str, Any], *, secrets: frozenset[str]) -> Identity:
    values = {
        "workspace": workspace.get("name"),
        "workspace_id": workspace.get("id"),
        "user": user.get("name"),
        "user_id": user.get("id"),
        "email": user.get("email"),
    }
    found = Identity(**{name: safe_name(value, secrets=secrets) for name, value in values.items()})
    if found.user is not None and "@" in found.user:  # an e-mail address, which is not shown wherever a name is
        return found.model_copy(update={"user": None, "email": found.email or found.user})
    return found


def _member(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        document = parse_json(content)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
