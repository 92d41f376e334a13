"""The official MCP Python SDK over our tokens, against the practice server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from notion_oauth.auth.httpx2_auth import BearerAuth
from notion_oauth.errors import NotSignedIn
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from tests.conftest import Posted
from tests.support.signing_in import sign_in

pytestmark = pytest.mark.anyio


async def workspace_name(oauth: NotionOAuth) -> str:
    """The name of the workspace, requested from the MCP server through the SDK."""
    async with (
        httpx2.AsyncClient(auth=BearerAuth(oauth), trust_env=False) as client,
        streamable_http_client(oauth.settings.server_url, http_client=client) as (reading, writing),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()
        answer = await session.call_tool("notion-fetch", {"id": "self"})
    [content] = answer.content
    assert content.type == "text"
    return str(json.loads(content.text)["self"]["workspace"]["name"])


async def test_sdk_works_with_our_tokens(oauth: NotionOAuth) -> None:
    await sign_in(oauth)
    assert await workspace_name(oauth) == "Practice workspace"


async def test_sdk_continues_after_a_refused_token(oauth: NotionOAuth, sandbox: Sandbox, grants_asked: Posted) -> None:
    await sign_in(oauth)
    sandbox.expire_access_tokens()
    assert await workspace_name(oauth) == "Practice workspace"
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_sdk_sends_no_request_without_a_login(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    with pytest.RaisesGroup(NotSignedIn, flatten_subgroups=True, allow_unwrapped=True):
        await workspace_name(oauth)
    assert not sandbox.requests_to("/mcp")


@pytest.mark.slow
def test_missing_httpx2_is_reported_with_the_install_command(tmp_path: Path) -> None:
    code = "import sys; sys.modules['httpx2'] = None; import notion_oauth.auth.httpx2_auth"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "--extra httpx2" in done.stderr
