"""List the tools of Notion's MCP server, or call one, with the MCP Python SDK (package `mcp`, version 2).

    uv run examples/mcp_sdk.py
    uv run examples/mcp_sdk.py notion-fetch '{"id": "self"}'

Sign in first: `uv run notion-oauth login`. Needs the extra `httpx2`, and `mcp`.
"""

from __future__ import annotations

import asyncio
import json
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from notion_oauth import NotionOAuth, NotionOAuthError
from notion_oauth.auth.httpx2_auth import BearerAuth


async def main(tool: str | None = None, arguments: str = "{}") -> None:
    oauth = NotionOAuth()  # the login of the command notion-oauth
    timeout = httpx2.Timeout(30, read=300)  # a tool may take minutes
    async with (
        httpx2.AsyncClient(auth=BearerAuth(oauth), timeout=timeout) as http,
        # Uses version 2026-07-28 of MCP if the server has it, and otherwise `initialize`
        Client(streamable_http_client(oauth.settings.server_url, http_client=http)) as client,
    ):
        print(f"MCP {client.protocol_version}", file=sys.stderr)
        if tool is None:
            print(*(each.name for each in (await client.list_tools()).tools), sep="\n")
            return
        found = await client.call_tool(tool, json.loads(arguments))
    text = "\n".join(part.text for part in found.content if isinstance(part, TextContent))
    sys.exit(text) if found.is_error else print(text)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except* NotionOAuthError as errors:  # from a task of the SDK
        sys.exit(str(errors.exceptions[0]))
    except* json.JSONDecodeError:
        sys.exit('The arguments of a tool are JSON, such as \'{"id": "self"}\'.')
