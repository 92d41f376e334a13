"""JSON-RPC messages: what the gateway reads of them, and those that it makes itself."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603
SERVER_ERROR = -32000

REVISION = "io.modelcontextprotocol/protocolVersion"  # in `_meta` of each request without a session (2026-07-28)
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
INITIALIZE, INITIALIZED, PING = "initialize", "notifications/initialized", "ping"
DISCOVER, LISTEN = "server/discover", "subscriptions/listen"
LIST_TOOLS, CALL_TOOL = "tools/list", "tools/call"
CANCELLED, TOOLS_CHANGED = "notifications/cancelled", "notifications/tools/list_changed"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"

# Requests that change nothing, or only the state of the session, so that they may be sent twice
READS = frozenset(
    (
        *(INITIALIZE, PING, DISCOVER, LISTEN, LIST_TOOLS, "prompts/list", "prompts/get", "completion/complete"),
        *("resources/list", "resources/read", "resources/templates/list", "resources/subscribe"),
        *("resources/unsubscribe", "logging/setLevel", "tasks/get", "tasks/list", "tasks/result", "tasks/cancel"),
    )
)
METHODS = READS | {CALL_TOOL}  # every request of a client in the known revisions, and every notification
NOTIFICATIONS = frozenset((INITIALIZED, CANCELLED, "notifications/progress", "notifications/roots/list_changed"))
MEMBERS = frozenset(("jsonrpc", "id", "method", "params", "result", "error"))

Id = str | int | float | None


class InvalidMessage(ValueError):
    """A text that is not a JSON-RPC message, or one that readers may understand differently.

    `code` is JSON-RPC's, and `id` that of the message, if it has one.
    """

    def __init__(self, text: str, code: int = INVALID_REQUEST, request_id: Id = None) -> None:
        super().__init__(text)
        self.code, self.id = code, request_id

    @property
    def response(self) -> bytes:
        """The response to the message."""
        return error(self.id, self.code, str(self))


@dataclass(frozen=True)
class Message:
    """A message of a client: its bytes, and the parsed document, which is not changed."""

    body: bytes = field(repr=False)
    document: Any = field(repr=False)

    @cached_property
    def is_batch(self) -> bool:
        return isinstance(self.document, list)

    @cached_property
    def method(self) -> str | None:
        """The method of a request or notification; None for a response or a batch."""
        method = None if self.is_batch else self.document.get("method")
        return method if isinstance(method, str) else None

    @property
    def is_request(self) -> bool:
        """Whether the sender expects a response: true also of a batch that contains a request."""
        members = self.document if self.is_batch else [self.document]
        return any(isinstance(member, dict) and "method" in member and "id" in member for member in members)

    @property
    def is_response(self) -> bool:
        return not self.is_batch and "method" not in self.document

    @property
    def id(self) -> Any:
        return None if self.is_batch else self.document.get("id")

    @cached_property
    def params(self) -> Mapping[str, Any]:
        params = None if self.is_batch else self.document.get("params")
        return params if isinstance(params, dict) else {}

    @property
    def meta(self) -> Mapping[str, Any]:
        meta = self.params.get("_meta")
        return meta if isinstance(meta, dict) else {}

    @property
    def revision(self) -> str | None:
        """The protocol revision of a request without a session; None in the revisions with sessions."""
        revision = self.meta.get(REVISION)
        return revision if isinstance(revision, str) and revision.isascii() and revision.isprintable() else None

    @property
    def tool(self) -> str | None:
        """The name of the called tool."""
        name = self.params.get("name") if self.method == CALL_TOOL else None
        return name if isinstance(name, str) else None


def parse(body: bytes, *, strict: bool = False) -> Message:
    """Return the message. Raises InvalidMessage, with `strict` also for one that readers may understand differently.

    Some take the last of two equal keys, some the first, and some ignore case. A strict message is serialised anew.
    """
    try:
        document = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise InvalidMessage("Parse error: this is not JSON.", PARSE_ERROR) from None
    members = document if isinstance(document, list) else [document]
    if not members or not all(isinstance(member, dict) and is_id(member.get("id")) for member in members):
        raise InvalidMessage("Invalid request: this is not a JSON-RPC message.")
    if not strict:
        return Message(body, document)
    message = Message(dumps(document), document)
    if doubt := _doubt(body, message):
        raise InvalidMessage(f"Invalid request: {doubt}.", request_id=message.id)
    return message


def is_id(value: object) -> bool:
    """Whether this can be the id of a message."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, str | int) and not isinstance(value, bool))


def _doubt(body: bytes, message: Message) -> str | None:
    """What readers may understand differently."""
    try:
        json.loads(body, object_pairs_hook=_without_duplicates)
    except _DuplicateKeyError:
        return "an object has the same key twice"
    members = message.document if message.is_batch else [message.document]
    if not all(member.keys() <= MEMBERS for member in members):
        return "this message has a member that JSON-RPC does not know"
    for known in (message.params, message.meta):
        if len({key.casefold() for key in known}) != len(known):
            return "an object has two keys that differ only in case"
    return None


class _DuplicateKeyError(Exception):
    pass


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise _DuplicateKeyError
    return document


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def dumps(document: Any) -> bytes:
    """Serialise on one line."""
    return json.dumps(document, separators=(",", ":")).encode()


def one_line(body: bytes) -> bytes:
    """Return a JSON text on one line. JSON allows line breaks between its tokens only, where a space means the same."""
    return body.strip().replace(b"\r", b" ").replace(b"\n", b" ")


def result(message: Message, content: dict[str, Any]) -> bytes:
    """A successful response. Revisions without sessions require its type."""
    if message.revision is not None:
        content = {"resultType": "complete", **content}
    return dumps({"jsonrpc": "2.0", "id": message.id, "result": content})


def error(request_id: Id, code: int, text: str) -> bytes:
    return dumps({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}})


def failure(message: Message, text: str) -> bytes:
    """The gateway's own error. For a tool it is a result, because only that reaches the model in every client."""
    if message.method == CALL_TOOL:
        return tool_result(message, text, is_error=True)
    if not message.is_batch:
        return error(message.id, SERVER_ERROR, text)
    ids = [member["id"] for member in message.document if "method" in member and "id" in member]
    return b"[%s]" % b",".join(error(each, SERVER_ERROR, text) for each in ids)


def tool_result(message: Message, text: str, *, is_error: bool = False) -> bytes:
    return result(message, {"content": [{"type": "text", "text": text}], "isError": is_error})


def notification(method: str, params: Mapping[str, Any] | None = None) -> bytes:
    return dumps({"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})})


def with_id(body: bytes, request_id: Id) -> bytes:
    """Return a response with the request's id in the place of null: servers that cannot read an id answer so."""
    document = read_object(body)
    return dumps({**document, "id": request_id}) if "error" in document and document.get("id") is None else body


def read_object(body: bytes) -> dict[str, Any]:
    """Return the parsed object; an empty one for anything else."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
