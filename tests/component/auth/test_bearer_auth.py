"""BearerAuth in httpx and httpx2, sync and async: which requests are sent again after a 401, and which get no token."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Route

from notion_oauth.auth import httpx2_auth, httpx_auth
from notion_oauth.cli.background_server import served
from notion_oauth.sandbox import RecordedRequest, Sandbox
from notion_oauth.service import NotionOAuth
from tests.conftest import Posted
from tests.support.signing_in import sign_in

pytestmark = pytest.mark.anyio

PING = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}'
JSON = {"Content-Type": "application/json"}
Post = Callable[..., Coroutine[Any, Any, int]]


STREAM = object()  # a body that can be read only once, such as an upload or a pipe


async def stream_body() -> AsyncIterator[bytes]:
    yield PING


@pytest.fixture(params=["httpx", "httpx, sync", "httpx2", "httpx2, sync"])
def post(request: pytest.FixtureRequest, oauth: NotionOAuth) -> Post:
    """Sends a body to a URL; returns the status of the response."""
    library, _, kind = request.param.partition(", ")
    http: Any = {"httpx": httpx, "httpx2": httpx2}[library]
    bearer: Any = {"httpx": httpx_auth, "httpx2": httpx2_auth}[library].BearerAuth(oauth)
    options = {"auth": bearer, "trust_env": False, "follow_redirects": True}

    async def send_async(url: str, content: Any) -> int:
        content = stream_body() if content is STREAM else content
        async with http.AsyncClient(**options) as client:
            status: int = (await client.post(url, content=content, headers=JSON)).status_code
            return status

    async def send_sync(url: str, content: Any) -> int:
        content = iter([PING]) if content is STREAM else content
        with http.Client(**options) as client:
            status: int = client.post(url, content=content, headers=JSON).status_code
            return status

    return send_sync if kind else send_async


def at_resource(sandbox: Sandbox, before: int) -> list[RecordedRequest]:
    """The requests to the resource after the first `before` requests of all kinds."""
    return [request for request in sandbox.requests[before:] if request.path == "/mcp"]


async def test_request_with_a_replayable_body_is_sent_again(
    oauth: NotionOAuth, sandbox: Sandbox, post: Post, grants_asked: Posted
) -> None:
    await sign_in(oauth)
    before = len(sandbox.requests)
    sandbox.expire_access_tokens()
    assert await post(sandbox.mcp_url, PING) == 200
    assert [request.json for request in at_resource(sandbox, before)] == [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    ] * 2
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_stream_is_not_sent_again_but_the_next_request_has_a_new_token(
    oauth: NotionOAuth, sandbox: Sandbox, post: Post, grants_asked: Posted
) -> None:
    await sign_in(oauth)
    before = len(sandbox.requests)
    sandbox.expire_access_tokens()
    assert await post(sandbox.mcp_url, STREAM) == 401
    assert len(at_resource(sandbox, before)) == 1
    assert await post(sandbox.mcp_url, STREAM) == 200
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_token_stored_by_another_program_is_tried_before_a_refresh(
    oauth: NotionOAuth, sandbox: Sandbox, post: Post, grants_asked: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the store reports no change: a file system may report changes late, or with a resolution of seconds."""
    sandbox.options.reuse, sandbox.options.access_token_survives_refresh = "strict", False
    older = (await sign_in(oauth)).access_token
    monkeypatch.setattr(oauth.store, "version", lambda profile: "unchanged")
    assert await oauth.tokens.token() == older
    newer = (await NotionOAuth(oauth.settings).refresh()).access_token
    before = len(sandbox.requests)
    assert await post(sandbox.mcp_url, PING) == 200
    sent = [request.headers["authorization"].split()[1] for request in at_resource(sandbox, before)]
    assert sent == [older.get_secret_value(), newer.get_secret_value()]
    assert sandbox.live_grants == 1
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_request_redirected_to_the_resource_gets_no_token(
    oauth: NotionOAuth, sandbox: Sandbox, post: Post, grants_asked: Posted
) -> None:
    """Otherwise any site could have requests of its choice sent with the token."""

    async def redirect(request: Request) -> RedirectResponse:
        return RedirectResponse(sandbox.mcp_url, 307)

    await sign_in(oauth)
    before = len(sandbox.requests)
    with served(Starlette(routes=[Route("/", redirect, methods=["POST"])])) as elsewhere:
        assert await post(elsewhere, PING) == 401
    [request] = at_resource(sandbox, before)
    assert "authorization" not in request.headers
    assert grants_asked() == ["authorization_code"]
