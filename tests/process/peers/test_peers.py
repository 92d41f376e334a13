"""The whole life of a login at authorization servers that are not ours."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import httpx2
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from notion_oauth.auth.httpx2_auth import BearerAuth
from notion_oauth.errors import AuthorizationRefused, IssuerMismatch, SignInRequired
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.tokens.revocation import SignOut
from tests.process.peers.authlib_server import serve_authlib
from tests.process.peers.mcp_sdk_server import serve_mcp_sdk
from tests.process.peers.peer import PERSON, SCOPE, Peer
from tests.support.signing_in import age, begin, sign_in

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

ONE_REFRESH = ["authorization_code", "refresh_token"]
SERVERS: dict[str, Callable[[], AbstractContextManager[Peer]]] = {"mcp_sdk": serve_mcp_sdk, "authlib": serve_authlib}
AUTH_METHODS = {"mcp_sdk": "client_secret_post", "authlib": "client_secret_basic"}

PRINT_A_DIGEST = """
import hashlib, sys, anyio
from notion_oauth import NotionOAuth
print("ready", flush=True)
sys.stdin.readline()
print(hashlib.sha256(anyio.run(NotionOAuth().tokens.token).get_secret_value().encode()).hexdigest())
"""


@pytest.fixture(params=list(SERVERS))
def which(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def peer(which: str) -> Iterator[Peer]:
    with SERVERS[which]() as running:
        yield running


@pytest.fixture
def settings(peer: Peer, tmp_path: Path) -> Settings:
    return Settings(server_url=peer.mcp_url, token_file=tmp_path / ".notion-tokens.json", timeout=5.0, retry_for=0)


async def whoami(oauth: NotionOAuth) -> str:
    """The user that the MCP server reports, through the SDK's client."""
    async with (
        httpx2.AsyncClient(auth=BearerAuth(oauth), trust_env=False) as client,
        streamable_http_client(oauth.settings.server_url, http_client=client) as (reading, writing),
        ClientSession(reading, writing) as session,
    ):
        await session.initialize()
        answer = await session.call_tool("whoami", {})
    [content] = answer.content
    assert content.type == "text"
    return content.text


async def status_for(peer: Peer, token: str) -> int:
    """The HTTP status of the MCP server for a token."""
    async with httpx.AsyncClient(trust_env=False) as client:
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
        return (await client.post(peer.mcp_url, json=ping, headers=headers)).status_code


async def test_sign_in_and_use(oauth: NotionOAuth, peer: Peer, which: str) -> None:
    login = await sign_in(oauth)
    assert (login.issuer, login.resource, login.scope) == (peer.issuer, peer.mcp_url, SCOPE)
    assert login.client is not None
    assert login.client.token_endpoint_auth_method == AUTH_METHODS[which]
    assert login.client.client_secret is not None
    assert await whoami(oauth) == PERSON
    assert peer.issued == ["authorization_code"]
    status = await oauth.status()
    assert status.status == "authenticated"
    assert 3500 < (status.expires_in_seconds or 0) <= 3600


async def test_an_issuer_may_have_a_trailing_slash(tmp_path: Path) -> None:
    """As in the SDK's examples; issuers must still be identical."""
    with serve_mcp_sdk(issuer_path="/") as peer:
        oauth = NotionOAuth(Settings(server_url=peer.mcp_url, token_file=tmp_path / "tokens.json", retry_for=0))
        assert (await sign_in(oauth)).issuer == peer.issuer
        assert peer.issuer.endswith("/")
        assert await oauth.sign_out() is SignOut.REVOKED


async def test_an_expired_token_is_refreshed(oauth: NotionOAuth, settings: Settings, peer: Peer) -> None:
    await sign_in(oauth)
    for times in (1, 2):  # each time with the latest refresh token
        age(settings.token_file, minutes=120)
        assert await whoami(oauth) == PERSON
        assert peer.issued == ["authorization_code", *["refresh_token"] * times]


async def test_a_rejected_token_is_refreshed(oauth: NotionOAuth, peer: Peer) -> None:
    await sign_in(oauth)
    peer.expire_access_tokens()
    assert await whoami(oauth) == PERSON
    assert peer.issued == ONE_REFRESH


async def test_concurrent_sources_refresh_once(oauth: NotionOAuth, settings: Settings, peer: Peer) -> None:
    await sign_in(oauth)
    age(settings.token_file, minutes=120)
    found = await asyncio.gather(*(NotionOAuth(settings).tokens.token() for _ in range(5)))
    assert len({token.get_secret_value() for token in found}) == 1
    assert peer.issued == ONE_REFRESH
    assert peer.live_grants == 1


async def test_concurrent_processes_refresh_once(oauth: NotionOAuth, settings: Settings, peer: Peer) -> None:
    await sign_in(oauth)
    age(settings.token_file, minutes=120)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        "NOTION_OAUTH_SERVER_URL": settings.server_url,
        "NOTION_OAUTH_TOKEN_FILE": str(settings.token_file),
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", PRINT_A_DIGEST],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    outputs = [worker.communicate(timeout=60)[0] for worker in workers]
    assert outputs[0] == outputs[1] != ""
    assert peer.issued == ONE_REFRESH
    assert await whoami(oauth) == PERSON


async def test_using_a_copy_of_the_tokens_ends_the_login(
    oauth: NotionOAuth, settings: Settings, peer: Peer, tmp_path: Path
) -> None:
    """These servers end a grant at the second use of a refresh token, which the tests above avoid."""
    await sign_in(oauth)
    copied = settings.model_copy(update={"token_file": tmp_path / "copy.json"})
    shutil.copy(settings.token_file, copied.token_file)
    await oauth.refresh()
    with pytest.raises(SignInRequired) as caught:
        await NotionOAuth(copied).refresh()
    assert caught.value.error == "invalid_grant"
    assert peer.live_grants == 0
    with pytest.raises(SignInRequired):
        await oauth.refresh()


async def test_sign_out_ends_the_grant(oauth: NotionOAuth, settings: Settings, peer: Peer) -> None:
    login = await sign_in(oauth)
    token = login.access_token.get_secret_value()
    assert await status_for(peer, token) == 200
    assert await oauth.sign_out() is SignOut.REVOKED
    assert peer.live_grants == 0
    assert await status_for(peer, token) == 401
    assert not settings.token_file.exists()


async def test_a_new_sign_in_reuses_the_client(oauth: NotionOAuth, peer: Peer) -> None:
    first = await sign_in(oauth)
    await oauth.sign_out()
    second = await sign_in(oauth)
    assert first.client == second.client
    assert len(peer.clients) == 1
    assert await whoami(oauth) == PERSON


async def test_an_unknown_client_is_registered_again(oauth: NotionOAuth, peer: Peer) -> None:
    first = await sign_in(oauth)
    peer.clients.clear()
    with pytest.raises(SignInRequired) as caught:
        await oauth.refresh()
    assert (caught.value.error, caught.value.reason) == ("invalid_client", "client_forgotten")
    second = await sign_in(oauth)
    assert first.client != second.client
    assert len(peer.clients) == 1
    assert await whoami(oauth) == PERSON
    assert (await oauth.refresh()).refresh_token not in (first.refresh_token, second.refresh_token)


async def test_an_ended_login_is_stored_without_tokens(oauth: NotionOAuth, settings: Settings, peer: Peer) -> None:
    login = await sign_in(oauth)
    peer.end_grants()
    with pytest.RaisesGroup(SignInRequired, flatten_subgroups=True, allow_unwrapped=True):
        await whoami(oauth)
    stored = settings.token_file.read_text()
    assert login.refresh_token is not None
    assert login.refresh_token.get_secret_value() not in stored
    status = await NotionOAuth(settings).status()
    assert (status.status, status.ended_reason) == ("unauthenticated", "ended")
    await sign_in(oauth)
    assert await whoami(oauth) == PERSON


async def test_a_declined_sign_in_stores_nothing(oauth: NotionOAuth, peer: Peer) -> None:
    peer.consents = False
    with pytest.raises(AuthorizationRefused) as caught:
        await sign_in(oauth)
    assert caught.value.error == "access_denied"
    assert (await oauth.status()).status == "unauthenticated"
    assert peer.issued == []


@pytest.mark.parametrize("which", ["authlib"])
async def test_every_authorization_response_contains_iss(oauth: NotionOAuth, peer: Peer) -> None:
    """RFC 9207: on success and on error; a response without it is rejected."""
    pending, query = await begin(oauth)
    assert query["iss"] == peer.issuer
    with pytest.raises(IssuerMismatch):
        await oauth.complete_authorization(pending, parse_authorization_response(query.remove("iss").multi_items()))
    peer.consents = False
    _, query = await begin(oauth)
    assert (query["error"], query["iss"]) == ("access_denied", peer.issuer)
