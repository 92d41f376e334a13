"""The MCP server behind the gateways that are measured: the MCP Python SDK's, in a process of its own.

It names a practice authorization server, and accepts every token. `uvicorn benchmarks.mcp_upstream:app` with the issuer
in NOTION_OAUTH_ISSUER.
"""

from __future__ import annotations

import os

from mcp.server.mcpserver import MCPServer
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

ISSUER = os.environ.get("NOTION_OAUTH_ISSUER", "")
server = MCPServer("Upstream")


@server.tool()
def echo(word: str) -> str:
    """Return the word."""
    return word


async def metadata(request: Request) -> Response:
    return JSONResponse({"resource": str(request.url.replace(path="/mcp")), "authorization_servers": [ISSUER]})


app = server.streamable_http_app()
app.add_route("/.well-known/oauth-protected-resource/mcp", metadata)
