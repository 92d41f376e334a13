"""A program with a login: tasks that ask for a token and use it, until standard input ends or the program is killed.

    python -m tests.process.chaos.worker NAME JOURNAL TASKS SEED

Its settings come from the environment. What it meets goes to the journal, a line of JSON for each event, with
fingerprints in the place of tokens. Each request that leaves it is numbered in the header `X-Asker`.
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
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.to_thread
import httpx
from pydantic import SecretStr

from notion_oauth.auth.httpx_auth import BearerAuth
from notion_oauth.errors import NotionOAuthError, NotSignedIn, SignInRequired, TransientError
from notion_oauth.service import NotionOAuth
from notion_oauth.transport.connections import CheckedTransport
from tests.process.chaos.fingerprints import fingerprint

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
PAUSE = (0.02, 0.15)  # seconds between two uses
IMPATIENT = 0.05  # of the uses are given up halfway
asked_at: ContextVar[float] = ContextVar("asked_at")


class Journal:
    """Lines that outlive the process: each is written at once."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, what: str, **details: Any) -> None:
        os.write(self._descriptor, json.dumps({"what": what, "at": time.time(), **details}).encode() + b"\n")


def number_requests(name: str, journal: Journal) -> None:
    """Let every request say who sends it, and the journal what became of it."""
    numbers = itertools.count(1)
    for network in (httpx.AsyncHTTPTransport, CheckedTransport):  # a program's own requests, and ours for tokens
        _number(network, name, numbers, journal)


def _number(network: type[httpx.AsyncBaseTransport], name: str, numbers: Iterator[int], journal: Journal) -> None:
    send = network.handle_async_request

    async def seen(self: httpx.AsyncBaseTransport, request: httpx.Request) -> httpx.Response:
        asker = request.headers["X-Asker"] = f"{name}.{next(numbers)}"
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if request.url.path == "/mcp":
            journal("handed", asker=asker, asked=asked_at.get(), token=fingerprint(token))
        try:
            answer = await send(self, request)
            await answer.aread()
        except BaseException as error:
            journal("unanswered", asker=asker, error=type(error).__name__)
            raise
        journal("answered", asker=asker, status=answer.status_code)
        return answer

    network.handle_async_request = seen  # type: ignore[method-assign]


class Worker:
    """Tasks that share a login with those of other processes."""

    def __init__(self, journal: Journal, chance: random.Random) -> None:
        self._journal, self._chance = journal, chance
        self._oauth = NotionOAuth()
        self._url = self._oauth.settings.server_url
        self._stopping = False

    async def run(self, tasks: int) -> None:
        self._journal("ready")
        async with anyio.create_task_group() as group:
            for number in range(tasks):
                group.start_soon(self._by_hand if number % 2 else self._by_bearer_auth)
            await anyio.to_thread.run_sync(sys.stdin.read)
            self._stopping = True

    async def _by_bearer_auth(self) -> None:
        async with httpx.AsyncClient(auth=BearerAuth(self._oauth), trust_env=False, timeout=30) as client:

            async def use() -> None:
                await client.post(self._url, json=PING)

            await self._again_and_again(use)

    async def _by_hand(self) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:

            async def taken(token: SecretStr) -> bool:
                headers = {"Authorization": f"Bearer {token.get_secret_value()}"}
                answer = await client.post(self._url, json=PING, headers=headers)
                return answer.status_code != httpx.codes.UNAUTHORIZED

            async def use() -> None:
                token = await self._oauth.tokens.token()
                if not await taken(token):
                    asked_at.set(time.time())
                    another = await self._oauth.tokens.token(rejected=token)
                    if another == token:
                        self._journal("wrong", message="a token that was refused has been handed out again")
                    await taken(another)

            await self._again_and_again(use)

    async def _again_and_again(self, use: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping:
            asked_at.set(time.time())
            patience = self._chance.uniform(0, 0.05) if self._chance.random() < IMPATIENT else None
            try:
                with anyio.move_on_after(patience):
                    await use()
            except (NotSignedIn, SignInRequired) as error:
                self._journal("lost", asked=asked_at.get(), error=type(error).__name__, message=error.message)
                await self._signed_in_again()
            except TransientError as error:
                self._journal("passing", error=type(error).__name__)
            except (NotionOAuthError, httpx.HTTPError) as error:
                self._journal("wrong", message=f"{type(error).__name__}: {error}")
            await anyio.sleep(self._chance.uniform(*PAUSE))

    async def _signed_in_again(self) -> None:
        while not self._stopping and (await self._oauth.status()).status == "unauthenticated":
            await anyio.sleep(PAUSE[0])


def main() -> None:
    name, path, tasks, seed = sys.argv[1:]
    journal = Journal(path)
    number_requests(name, journal)
    logging.getLogger("notion_oauth").setLevel(logging.ERROR)  # passing failures are what this is about
    anyio.run(Worker(journal, random.Random(f"{seed} {name}")).run, int(tasks))  # noqa: S311 - no secret


if __name__ == "__main__":
    main()
