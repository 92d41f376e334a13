"""A program with a login: its tasks request a token and use it, until standard input ends or the program is killed.

    python -m tests.process.chaos.worker NAME FILE TASKS SEED CLOCK LOCK_WAIT

Its settings come from the environment. It writes each event to FILE as a line of JSON, with fingerprints instead of
tokens. Each request has a number in the header `X-Sender`. The file CLOCK says how many seconds its clock is ahead.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpcore
import httpx
from pydantic import SecretStr

from notion_oauth.auth.httpx_auth import BearerAuth
from notion_oauth.clock import Clock
from notion_oauth.errors import (
    NotionOAuthError,
    NotSignedIn,
    SignInRequired,
    StorageError,
    StoreBusy,
    TransientError,
)
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import load_settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.transport.connections import ConnectionPool
from tests.process.chaos.fingerprints import fingerprint
from tests.process.chaos.machine_clock import machine_clock

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
PAUSE = (0.02, 0.15)  # seconds between two uses
CANCELLED = 0.05  # share of the uses that are cancelled halfway
requested_at: ContextVar[float] = ContextVar("requested_at")


class EventFile:
    """Events are written at once, so that they outlive the process."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, kind: str, **details: Any) -> None:
        os.write(self._descriptor, json.dumps({"kind": kind, "at": time.time(), **details}).encode() + b"\n")


def number_requests(name: str, record: Callable[..., None]) -> None:
    """Put the sender into every request, and record its outcome."""
    numbers = itertools.count(1)
    _number_requests_of_the_program(name, numbers, record)
    _number_requests_for_tokens(name, numbers, record)


def _number_requests_of_the_program(name: str, numbers: Iterator[int], record: Callable[..., None]) -> None:
    send = httpx.AsyncHTTPTransport.handle_async_request

    async def recorded(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        sender = request.headers["X-Sender"] = f"{name}.{next(numbers)}"
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if request.url.path == "/mcp":
            record("received", sender=sender, requested=requested_at.get(), token=fingerprint(token))
        with _recorded_failure(sender, record):
            response = await send(self, request)
            await response.aread()
        record("answered", sender=sender, status=response.status_code)
        return response

    httpx.AsyncHTTPTransport.handle_async_request = recorded  # type: ignore[method-assign]


def _number_requests_for_tokens(name: str, numbers: Iterator[int], record: Callable[..., None]) -> None:
    send = ConnectionPool.send

    async def recorded(self: ConnectionPool, request: httpcore.Request) -> httpcore.Response:
        sender = f"{name}.{next(numbers)}"
        request.headers.append((b"X-Sender", sender.encode()))
        if request.url.target == b"/token":
            record("started", sender=sender)
        with _recorded_failure(sender, record):
            response = await send(self, request)
            try:
                content = await response.aread()
            finally:
                await response.aclose()
        record("answered", sender=sender, status=response.status)
        return httpcore.Response(response.status, headers=response.headers, content=content)

    ConnectionPool.send = recorded  # type: ignore[method-assign]


@contextmanager
def _recorded_failure(sender: str, record: Callable[..., None]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        record("unanswered", sender=sender, error=type(error).__name__)
        raise


class Worker:
    """Tasks that share a login with those of other processes."""

    def __init__(self, record: EventFile, rng: random.Random, clock: Clock, lock_wait: timedelta) -> None:
        self._record, self._rng = record, rng
        settings = load_settings()
        self._oauth = NotionOAuth(settings, store=JsonFileStore(settings.token_file, lock_wait=lock_wait), clock=clock)
        self._url = self._oauth.settings.server_url
        self._stopping = False

    async def run(self, tasks: int) -> None:
        self._record("ready")
        async with anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(self._use_token if number % 2 else self._use_bearer_auth)
            await anyio.to_thread.run_sync(sys.stdin.read)
            self._stopping = True

    async def _use_bearer_auth(self) -> None:
        async with httpx.AsyncClient(auth=BearerAuth(self._oauth), trust_env=False, timeout=30) as client:

            async def use() -> None:
                await client.post(self._url, json=PING)

            await self._repeat(use)

    async def _use_token(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:

            async def accepted(token: SecretStr) -> bool:
                headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
                response = await client.post(self._url, json=PING, headers=headers)
                return response.status_code != httpx.codes.UNAUTHORIZED

            async def use() -> None:
                token = await self._oauth.tokens.token()
                if not await accepted(token):
                    requested_at.set(time.time())
                    another = await self._oauth.tokens.token(rejected=token)
                    if another == token:
                        self._record("error", message="a refused token was returned again")
                    await accepted(another)

            await self._repeat(use)

    async def _repeat(self, use: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping:
            requested_at.set(time.time())
            timeout = self._rng.uniform(0, 0.05) if self._rng.random() < CANCELLED else None
            try:
                with anyio.move_on_after(timeout):
                    await use()
            except (NotSignedIn, SignInRequired) as error:
                self._record("lost", requested=requested_at.get(), error=type(error).__name__, message=error.message)
                await self._wait_for_sign_in()
            except (TransientError, httpx.TransportError) as error:  # a server closes connections of a stopped client
                self._record("transient", error=type(error).__name__)
            except StorageError as error:
                kind = "busy" if isinstance(error, StoreBusy) else "storage"
                self._record(kind, requested=requested_at.get(), message=f"{type(error).__name__}: {error}")
            except NotionOAuthError as error:
                self._record("error", message=f"{type(error).__name__}: {error}")
            await anyio.sleep(self._rng.uniform(*PAUSE))

    async def _wait_for_sign_in(self) -> None:
        while not self._stopping and (await self._oauth.status()).status == "unauthenticated":
            await anyio.sleep(PAUSE[0])


def main() -> None:
    name, path, tasks, seed, clock, lock_wait = sys.argv[1:]
    record = EventFile(path)
    number_requests(name, record)
    logging.getLogger("notion_oauth").setLevel(logging.ERROR)  # transient failures are expected
    rng = random.Random(f"{seed} {name}")  # noqa: S311 - no secret
    worker = Worker(record, rng, machine_clock(Path(clock)), timedelta(seconds=float(lock_wait)))
    anyio.run(worker.run, int(tasks))


if __name__ == "__main__":
    main()
