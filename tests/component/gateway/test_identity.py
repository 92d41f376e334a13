"""Who has signed in through a client is stored, as after a sign-in in a terminal."""

from __future__ import annotations

import anyio
import httpx
import pytest

from notion_oauth.gateway.sign_in import LoopbackSignIn
from notion_oauth.interactive.browser import Environment
from notion_oauth.sandbox import Sandbox
from notion_oauth.sandbox.mcp import PERSON, WORKSPACE
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings

pytestmark = pytest.mark.anyio


async def test_who_has_signed_in_is_stored(sandbox: Sandbox, settings: Settings) -> None:
    oauth = NotionOAuth(settings.model_copy(update={"server_url": sandbox.mcp_url}))
    async with anyio.create_task_group() as tasks, httpx.AsyncClient(trust_env=False, follow_redirects=True) as browser:
        offer = await LoopbackSignIn(oauth, tasks, environment=Environment({})).offer()
        assert offer.url is not None
        assert "You are signed in" in (await browser.get(offer.url)).text
    status = await oauth.status()
    assert (status.workspace, status.user) == (WORKSPACE["name"], PERSON["name"])
