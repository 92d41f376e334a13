"""A small MCP server over Streamable HTTP: enough to initialize, list tools and call one."""

from __future__ import annotations

import json
from typing import Any

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
WORKSPACE = {"id": "00000000-0000-4000-8000-000000000001", "name": "Practice workspace"}
PERSON = {
    "id": "00000000-0000-4000-8000-000000000002",
    "name": "Practice person",
    "type": "person",
    "email": "practice@example.com",
}
TOOL = {
    "name": "notion-fetch",
    "description": "Fetch an entity by its id; `self` returns the signed-in user and the workspace.",
    "inputSchema": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
    "annotations": {"readOnlyHint": True},
}


def handle_message(message: Any) -> tuple[int, dict[str, Any] | None]:
    """Return the HTTP status and the JSON-RPC response to one message; None for a notification."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0" or not isinstance(message.get("method"), str):
        return 400, _error(None, -32600, "Invalid Request")
    if "id" not in message:
        return 202, None
    params = message.get("params")
    result = _result(message["method"], params if isinstance(params, dict) else {})
    if result is None:
        return 200, _error(message["id"], -32601, "Method not found")
    return 200, {"jsonrpc": "2.0", "id": message["id"], "result": result}


def _error(request_id: Any, code: int, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}}


def _result(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    if method == "initialize":
        requested = params.get("protocolVersion")
        return {
            "protocolVersion": requested if requested in VERSIONS else VERSIONS[0],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "notion-oauth practice server", "version": "1"},
        }
    if method == "ping":
        return {}
    if method == "tools/list":
        return {"tools": [TOOL]}
    return _call(params) if method == "tools/call" else None


def _call(params: dict[str, Any]) -> dict[str, Any]:
    arguments = params.get("arguments")
    entity = arguments.get("id") if isinstance(arguments, dict) else None
    if params.get("name") == TOOL["name"] and entity == "self":
        text, failed = json.dumps({"self": {"workspace": WORKSPACE, "user": PERSON}}), False
    else:
        text, failed = "This practice server supports only the tool notion-fetch with the id self.", True
    return {"content": [{"type": "text", "text": text}], "isError": failed}
