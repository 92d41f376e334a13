"""A client that declines to open the page of the sign-in, as Codex does without asking in `codex exec`."""

from __future__ import annotations

import pytest

from notion_oauth import create_gateway
from notion_oauth.service import NotionOAuth
from tests.component.gateway.talking import bearer, client_of, request

pytestmark = pytest.mark.anyio
PAGE = "https://page.example/"


@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_the_person_learns_the_address_of_the_page(signed_out: NotionOAuth, action: str) -> None:
    declined = {"sign-in": {"action": action}}
    call = request("tools/call", name="notion-sign-in", arguments={}, inputResponses=declined)
    async with client_of(create_gateway(signed_out, sign_in_url=PAGE), bearer(signed_out.settings)) as client:
        (content,) = (await client.send(call))["result"]["content"]
    assert content["text"] == f"The client did not open the sign-in page. Open it yourself: {PAGE}"
