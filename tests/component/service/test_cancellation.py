"""A cancelled caller loses nothing: what the server has started is completed and stored."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

from notion_oauth.concurrency import run_shielded
from notion_oauth.errors import SignInRequired
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport
from tests.conftest import Posted
from tests.support.signing_in import begin, sign_in
from tests.support.stores import load_login

pytestmark = pytest.mark.anyio

Call = Callable[[], Coroutine[Any, Any, Any]]
Cancel = Callable[["Held", Call], Awaitable[None]]


class Held(httpx.AsyncHTTPTransport):
    """A network that holds the first response of the token endpoint until `deliver` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived, self.deliver = threading.Event(), threading.Event()  # a refresh runs in another thread

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if request.url.path == "/token" and not self.arrived.is_set():
            self.arrived.set()
            await wait_for(self.deliver)
        return response


async def wait_for(event: threading.Event) -> None:
    assert await anyio.to_thread.run_sync(event.wait, 10)


async def scope_cancelled(network: Held, call: Call) -> None:
    """As the time-outs and task groups of anyio cancel."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await wait_for(network.arrived)
        tasks.cancel_scope.cancel()
        await _deliver(network)


async def task_cancelled(network: Held, call: Call) -> None:
    """As the time-outs of asyncio and Ctrl-C cancel."""
    task = asyncio.create_task(call())
    await wait_for(network.arrived)
    task.cancel()
    await _deliver(network)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _deliver(network: Held) -> None:
    with anyio.CancelScope(shield=True):
        for _ in range(5):
            await asyncio.sleep(0)
        network.deliver.set()


WAYS = pytest.mark.parametrize("cancel", [scope_cancelled, task_cancelled])


def later() -> datetime:
    return datetime.now(UTC) + timedelta(hours=2)


def on_network(network: Held, settings: Settings) -> NotionOAuth:
    """A profile that uses the network, after its token has expired."""
    transport = Transport(timeout=timedelta(seconds=5), httpx_transport=network)
    return NotionOAuth(settings, client=OAuthClient(transport), clock=later)


@WAYS
async def test_refresh_of_a_cancelled_caller_is_stored(
    settings: Settings, sandbox: Sandbox, cancel: Cancel, grants_asked: Posted
) -> None:
    sandbox.options.reuse = "strict"  # the old refresh token, sent again, would end the login
    login = await sign_in(NotionOAuth(settings))
    network = Held()
    oauth = on_network(network, settings)
    await cancel(network, oauth.tokens.token)
    await oauth.tokens.wait_until_idle()
    stored = await load_login(oauth.store, "default")
    assert stored is not None
    assert stored.refresh_token != login.refresh_token
    assert sandbox.is_access_token_live(stored.access_token.get_secret_value())
    assert grants_asked() == ["authorization_code", "refresh_token"]
    await NotionOAuth(settings).refresh()
    assert sandbox.live_grants == 1


@WAYS
async def test_sign_in_of_a_cancelled_caller_is_stored(settings: Settings, sandbox: Sandbox, cancel: Cancel) -> None:
    pending, query = await begin(NotionOAuth(settings))
    network = Held()
    transport = Transport(timeout=timedelta(seconds=5), httpx_transport=network)
    oauth = NotionOAuth(settings, client=OAuthClient(transport))
    response = parse_authorization_response(query.multi_items())
    await cancel(network, lambda: oauth.complete_authorization(pending, response))
    assert (await oauth.status()).status == "authenticated"


@WAYS
async def test_sign_out_of_a_cancelled_caller_is_completed(
    settings: Settings, sandbox: Sandbox, cancel: Cancel
) -> None:
    await sign_in(NotionOAuth(settings))
    network = Held()
    await cancel(network, on_network(network, settings).sign_out)
    assert sandbox.live_grants == 0
    assert not settings.token_file.exists(), "no ended login stays in the file"


async def test_error_after_cancellation_is_not_reported_by_asyncio(settings: Settings, sandbox: Sandbox) -> None:
    """Warnings are errors, so an exception that is never retrieved would fail this test."""
    await sign_in(NotionOAuth(settings))
    sandbox.fail_next("/token", error="invalid_grant", times=2)
    network = Held()
    oauth = on_network(network, settings)
    await task_cancelled(network, oauth.tokens.token)
    await oauth.tokens.wait_until_idle()
    assert (await NotionOAuth(settings).status()).status == "unauthenticated"


@WAYS
async def test_lock_is_held_until_the_refresh_is_stored(settings: Settings, sandbox: Sandbox, cancel: Cancel) -> None:
    """Another process that waits for the lock finds the new tokens, not the used ones."""
    sandbox.options.reuse = "strict"
    await sign_in(NotionOAuth(settings))
    network = Held()
    others: list[str] = []

    async def another() -> None:
        await wait_for(network.arrived)
        others.append((await NotionOAuth(settings, clock=later).refresh()).access_token.get_secret_value())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(another)
        await cancel(network, on_network(network, settings).tokens.token)
    assert sandbox.is_access_token_live(others[0])
    assert sandbox.live_grants == 1


async def test_waiting_for_the_lock_can_be_cancelled(settings: Settings) -> None:
    await sign_in(NotionOAuth(settings))
    oauth = NotionOAuth(settings, clock=later)
    async with oauth.store.exclusive("default"):
        with anyio.move_on_after(0.05) as scope:
            await oauth.tokens.token()
    assert scope.cancelled_caught


async def test_error_of_shielded_work_reaches_the_caller() -> None:
    async def work() -> None:
        raise SignInRequired("ended")

    with pytest.raises(SignInRequired):
        await run_shielded(work)


async def test_cancelled_work_cancels_the_caller() -> None:
    """An event loop that shuts down cancels every task."""

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        await run_shielded(work)
