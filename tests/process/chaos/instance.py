"""An instance with many logins in a database: its tasks use one login after another until standard input ends.

    python -m tests.process.chaos.instance NAME FILE LOGINS TASKS SEED LEASE

Its settings come from the environment. It writes each use of a token to FILE, with a fingerprint instead of the token.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from datetime import timedelta

import anyio
import anyio.to_thread
import httpx
from pydantic import SecretStr

from notion_oauth.errors import NotionOAuthError, NotSignedIn, SignInRequired
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import load_settings
from notion_oauth.stores.factory import database_for, encryption_for
from notion_oauth.stores.sql_documents import DatabaseStore
from notion_oauth.web.profiles.logins import Logins
from tests.process.chaos.fingerprints import fingerprint
from tests.process.chaos.worker import PING, EventFile, number_requests, requested_at

PAUSE = (0.1, 0.5)  # seconds between two uses
IN_MEMORY = 2 / 3  # share of the logins that the instance remembers


class Instance:
    def __init__(self, record: EventFile, rng: random.Random, logins: int, lease: timedelta) -> None:
        self._record, self._rng, self._count = record, rng, logins
        settings = load_settings()
        database = database_for(settings)
        assert database is not None
        oauth = NotionOAuth(settings, store=DatabaseStore(database, lease=lease, encryption=encryption_for(settings)))
        self._url = settings.server_url
        self._logins = Logins(oauth, max_logins=max(1, round(logins * IN_MEMORY)))
        self._stopping = False

    async def run(self, tasks: int) -> None:
        self._record("ready")
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client, anyio.create_task_group() as group:
            for _ in range(tasks):
                group.start_soon(self._use_logins, client)
            await anyio.to_thread.run_sync(sys.stdin.read)
            self._stopping = True
        await self._logins.wait_until_idle()

    async def _use_logins(self, client: httpx.AsyncClient) -> None:
        while not self._stopping:
            login, requested = self._rng.randrange(self._count), time.time()
            requested_at.set(requested)
            try:
                await self._use(client, login)
            except (NotSignedIn, SignInRequired) as error:
                self._record("lost", login=login, requested=requested, message=f"{type(error).__name__}: {error}")
            except (NotionOAuthError, httpx.TransportError) as error:  # the server ends connections of a stopped client
                self._record("failed", error=type(error).__name__, message=str(error))
            await anyio.sleep(self._rng.uniform(*PAUSE))

    async def _use(self, client: httpx.AsyncClient, login: int) -> None:
        tokens = self._logins.for_profile(f"user-{login}").tokens
        requested = time.time()
        token = await tokens.token()
        if await self._send(client, login, token, requested) == httpx.codes.UNAUTHORIZED:
            requested = time.time()
            await self._send(client, login, await tokens.token(rejected=token), requested)

    async def _send(self, client: httpx.AsyncClient, login: int, token: SecretStr, requested: float) -> int:
        secret = token.get_secret_value()
        response = await client.post(self._url, json=PING, headers={"Authorization": f"Bearer {secret}"})
        times = {"requested": requested, "answered": time.time()}
        self._record("used", login=login, token=fingerprint(secret), status=response.status_code, **times)
        return response.status_code


def main() -> None:
    name, path, logins, tasks, seed, lease = sys.argv[1:]
    number_requests(name, lambda kind, **details: None)
    logging.getLogger("notion_oauth").setLevel(logging.ERROR)  # transient failures are expected
    rng = random.Random(f"{seed} {name}")  # noqa: S311 - no secret
    instance = Instance(EventFile(path), rng, int(logins), timedelta(seconds=float(lease)))
    anyio.run(instance.run, int(tasks))


if __name__ == "__main__":
    main()
