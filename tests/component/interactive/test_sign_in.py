"""`notion_oauth.sign_in`, as programs call it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import httpx
import pytest

import notion_oauth
from notion_oauth.sandbox import Sandbox
from tests.support.command_line import CommandLine

pytestmark = pytest.mark.anyio


async def test_sign_in_needs_no_console(
    oauth: notion_oauth.NotionOAuth,
    cli: CommandLine,
    opened: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("BROWSER", cli.environment["BROWSER"])
    tokens = await notion_oauth.sign_in(oauth)
    assert await oauth.tokens.token() == tokens.access_token
    output = capsys.readouterr()
    assert output.out == ""
    assert opened()[0] in output.err.splitlines()


async def test_bearer_auth_calls_sign_in_with_the_challenge(
    oauth: notion_oauth.NotionOAuth, sandbox: Sandbox, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROWSER", cli.environment["BROWSER"])
    auth = notion_oauth.BearerAuth(oauth, authorize=partial(notion_oauth.sign_in, oauth))
    async with httpx.AsyncClient(auth=auth, trust_env=False) as client:
        assert (await client.post(sandbox.mcp_url, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})).is_success
