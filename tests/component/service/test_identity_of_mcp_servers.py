"""Who has signed in, asked of the MCP Python SDK's server: without and with sessions, in JSON and in events."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import mcp_types as types
import pytest
from pydantic import SecretStr

from notion_oauth.sandbox.mcp import PERSON, WORKSPACE
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport
from tests.support import mcp_server
from tests.support.mcp_server import FIXED_TOKEN, McpServer

pytestmark = pytest.mark.anyio


async def fetch(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    assert params.arguments == {"id": "self"}
    return mcp_server.text(json.dumps({"self": {"workspace": WORKSPACE, "user": PERSON}}))


@pytest.mark.parametrize("json_response", [True, False])
@pytest.mark.parametrize("with_session", [True, False])
async def test_server_of_the_sdk(json_response: bool, with_session: bool) -> None:
    server = McpServer(lambda token: token == FIXED_TOKEN, None, json_response=json_response)
    try:
        server.tools.listed.append(types.Tool(name="notion-fetch", input_schema={"type": "object"}))
        setattr(server.tools, "_notion-fetch", fetch)
        if with_session:
            server.answer_next(400, on="tools/list")  # as a server of an earlier revision does
        client = OAuthClient(Transport(timeout=timedelta(seconds=5), server_url=server.url))
        found = await client.identify(SecretStr(FIXED_TOKEN), server.url)
        assert (found.workspace, found.user) == (WORKSPACE["name"], PERSON["name"])
        assert len(server.received("initialize")) == len(server.received("DELETE")) == with_session
        assert not [request for request in server.requests if request.status not in (200, 202, 400)]
    finally:
        server.stop()
