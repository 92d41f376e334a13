"""BearerAuth in httpx and httpx2, blocking and not: what is sent again on a 401, and where no token ever goes."""

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


STREAM = object()  # a body that can be read once, as those of uploads and pipes


async def piecewise() -> AsyncIterator[bytes]:
    yield PING


@pytest.fixture(params=["httpx", "httpx, blocking", "httpx2", "httpx2, blocking"])
def post(request: pytest.FixtureRequest, oauth: NotionOAuth) -> Post:
    """Sends a body to a URL; the status of the answer."""
    library, _, kind = request.param.partition(", ")
    http: Any = {"httpx": httpx, "httpx2": httpx2}[library]
    bearer: Any = {"httpx": httpx_auth, "httpx2": httpx2_auth}[library].BearerAuth(oauth)
    options = {"auth": bearer, "trust_env": False, "follow_redirects": True}

    async def awaited(url: str, content: Any) -> int:
        content = piecewise() if content is STREAM else content
        async with http.AsyncClient(**options) as client:
            status: int = (await client.post(url, content=content, headers=JSON)).status_code
            return status

    async def blocking(url: str, content: Any) -> int:
        content = iter([PING]) if content is STREAM else content
        with http.Client(**options) as client:
            status: int = client.post(url, content=content, headers=JSON).status_code
            return status

    return blocking if kind else awaited


def at_resource(sandbox: Sandbox, before: int) -> list[RecordedRequest]:
    """The requests to the resource that came after so many of all kinds."""
    return [request for request in sandbox.requests[before:] if request.path == "/mcp"]


async def test_a_whole_body_is_sent_again(
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


async def test_a_stream_is_not_sent_again_and_the_next_request_has_another_token(
    oauth: NotionOAuth, sandbox: Sandbox, post: Post, grants_asked: Posted
) -> None:
    await sign_in(oauth)
    before = len(sandbox.requests)
    sandbox.expire_access_tokens()
    assert await post(sandbox.mcp_url, STREAM) == 401
    assert len(at_resource(sandbox, before)) == 1
    assert await post(sandbox.mcp_url, STREAM) == 200
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_a_token_that_another_has_stored_is_tried_before_any_refresh(
    oauth: NotionOAuth, sandbox: Sandbox, post: Post, grants_asked: Posted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the store's stamp says: a file system may tell of changes late, or count its time in seconds."""
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


async def test_who_is_redirected_to_the_resource_brings_no_token(
    oauth: NotionOAuth, sandbox: Sandbox, post: Post, grants_asked: Posted
) -> None:
    """Else any site could have requests of its own choice made with it."""

    async def redirect(request: Request) -> RedirectResponse:
        return RedirectResponse(sandbox.mcp_url, 307)

    await sign_in(oauth)
    before = len(sandbox.requests)
    with served(Starlette(routes=[Route("/", redirect, methods=["POST"])])) as elsewhere:
        assert await post(elsewhere, PING) == 401
    [request] = at_resource(sandbox, before)
    assert "authorization" not in request.headers
    assert grants_asked() == ["authorization_code"]
