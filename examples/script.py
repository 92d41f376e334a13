"""List the tools of Notion's MCP server, or call one, with httpx.

    uv run examples/script.py
    uv run examples/script.py notion-fetch '{"id": "self"}'

Sign in first: `uv run notion-oauth login`.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import httpx

from notion_oauth import BearerAuth, NotionOAuth, NotionOAuthError

VERSION = "2025-11-25"  # of MCP
HEADERS = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": VERSION}
CLIENT = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "script.py", "version": "1"}}


def main(tool: str | None = None, arguments: str = "{}") -> None:
    oauth = NotionOAuth()  # the login of the command notion-oauth
    url = oauth.settings.server_url
    with httpx.Client(auth=BearerAuth(oauth), headers=HEADERS, timeout=60) as client:
        started = client.post(url, json=request("initialize", CLIENT)).raise_for_status()
        if session := started.headers.get("Mcp-Session-Id"):
            client.headers["Mcp-Session-Id"] = session
        client.post(url, json={"jsonrpc": "2.0", "method": "notifications/initialized"}).raise_for_status()
        if tool is None:
            tools = result(client.post(url, json=request("tools/list", {})))["tools"]
            print(*(each["name"] for each in tools), sep="\n")
        else:
            call = request("tools/call", {"name": tool, "arguments": json.loads(arguments)})
            print(text(result(client.post(url, json=call))))


def request(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def result(response: httpx.Response) -> Any:
    """The result in a response, which is JSON or a stream of events."""
    body = response.raise_for_status().text
    events = re.findall(r"^data:\s*(\{.*)$", body, re.MULTILINE)
    answer = next(each for each in map(json.loads, events or [body]) if each.get("id") == 1)
    if "error" in answer:
        raise RuntimeError(answer["error"]["message"])
    return answer["result"]


def text(found: dict[str, Any]) -> str:
    """The text in the result of a tool."""
    joined = "\n".join(part.get("text", "") for part in found["content"])
    if found.get("isError"):
        raise RuntimeError(joined)
    return joined


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (NotionOAuthError, httpx.HTTPError, RuntimeError) as error:
        sys.exit(str(error))
    except json.JSONDecodeError:
        sys.exit('The arguments of a tool are JSON, such as \'{"id": "self"}\'.')
