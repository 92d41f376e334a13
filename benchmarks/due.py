"""One process with many logins that are due: the child of measurements/due.py."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import anyio

from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings

SAMPLE = 0.005  # seconds between two counts of the threads


async def _refresh_all(command: dict[str, Any]) -> dict[str, Any]:
    settings = Settings(**command["settings"], env_file=None)
    oauth = NotionOAuth(settings, profile=command["warm"])
    await oauth.tokens.token()  # loads all modules
    profiles = [oauth.for_profile(profile) for profile in command["profiles"]]
    threads, failed = [threading.active_count()], 0

    async def refresh(profile: NotionOAuth) -> None:
        nonlocal failed
        try:
            await profile.tokens.token()
        except Exception as error:  # counted: one failed login must not end the measurement
            print(type(error).__name__, error, file=sys.stderr)
            failed += 1

    async def count_threads() -> None:
        while True:
            threads.append(threading.active_count())
            await anyio.sleep(SAMPLE)

    started, cpu = time.perf_counter(), time.process_time()
    async with anyio.create_task_group() as counting:
        counting.start_soon(count_threads)
        async with anyio.create_task_group() as tasks:
            for profile in profiles:
                tasks.start_soon(refresh, profile)
        counting.cancel_scope.cancel()
    return {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - cpu,
        "threads": max(threads) - threads[0],
        "failed": failed,
    }


if __name__ == "__main__":
    print(json.dumps(anyio.run(_refresh_all, json.loads(sys.argv[1]))))
