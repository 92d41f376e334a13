"""Fetch several Notion pages at once, with httpx and asyncio.

    uv run examples/script_async.py PAGE ...

PAGE is the ID or URL of a page; `self` is the signed-in user. Sign in first: `uv run notion-oauth login`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

import httpx

from notion_oauth import BearerAuth, NotionOAuth, NotionOAuthError

VERSION = "2025-11-25"  # of MCP
HEADERS = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": VERSION}
CLIENT = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "script_async.py", "version": "1"}}


async def main(pages: list[str]) -> None:
    oauth = NotionOAuth()  # the login of the command notion-oauth
    url = oauth.settings.server_url
    async with httpx.AsyncClient(auth=BearerAuth(oauth), headers=HEADERS, timeout=60) as client:
        started = (await client.post(url, json=request("initialize", CLIENT))).raise_for_status()
        if session := started.headers.get("Mcp-Session-Id"):
            client.headers["Mcp-Session-Id"] = session
        await client.post(url, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
        calls = [request("tools/call", {"name": "notion-fetch", "arguments": {"id": page}}) for page in pages]
        for response in await asyncio.gather(*(client.post(url, json=call) for call in calls)):
            print(text(result(response)))


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
        asyncio.run(main(sys.argv[1:] or ["self"]))
    except (NotionOAuthError, httpx.HTTPError, RuntimeError) as error:
        sys.exit(str(error))
