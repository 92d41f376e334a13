"""The two workers: uvicorn processes that share a directory of logins and the session keys."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import anyio
import anyio.to_thread

from tests.process.browsers.front import PUBLIC_URL, wait_until_listening
from tests.support.paths import ROOT
from tests.support.servers import free_port

Kind = Literal["visitors", "users"]
_APPS = {"visitors": "main:app", "users": "tests.process.browsers.application:app"}


class Workers:
    """Starts, kills and restarts the workers. One of them is always left, except during a restart of both."""

    def __init__(self, kind: Kind, directory: Path, server_url: str) -> None:
        self._app, self._directory, self._server_url = _APPS[kind], directory, server_url
        self._keys = [secrets.token_hex(32)]
        self._application_key = secrets.token_hex(32)
        self.ports = (free_port(), free_port())
        self._processes: list[subprocess.Popen[bytes]] = []
        self._one_at_a_time = anyio.Lock()
        self.kills: list[float] = []  # times on the monotonic clock
        self.restarts = 0

    def start(self) -> None:
        self._processes = [self._spawn(number) for number in (0, 1)]
        for process, port in zip(self._processes, self.ports, strict=True):
            wait_until_listening(process, port)

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()

    async def kill(self, number: int) -> None:
        """Kill a worker, and start it again."""
        async with self._one_at_a_time:
            self._processes[number].kill()
            self.kills.append(time.monotonic())
            await anyio.to_thread.run_sync(self._processes[number].wait)
            self._processes[number] = self._spawn(number)
            await anyio.to_thread.run_sync(wait_until_listening, self._processes[number], self.ports[number])

    async def restart(self, *, keep_keys: bool = True) -> None:
        """Restart both with a new session key, before the others or, without `keep_keys`, in the place of them."""
        async with self._one_at_a_time:
            self._keys = [secrets.token_hex(32), *(self._keys if keep_keys else ())]
            self.restarts += 1
            await anyio.to_thread.run_sync(self.stop)
            await anyio.to_thread.run_sync(self.start)

    def killed_between(self, started: float, ended: float) -> bool:
        return any(started - 0.5 <= time <= ended for time in self.kills)

    def log(self) -> str:
        """Return the logs of the workers and of nginx."""
        return "".join(file.read_text(errors="replace") for file in sorted(self._directory.glob("*.log")))

    def _spawn(self, number: int) -> subprocess.Popen[bytes]:
        command: Sequence[str] = (
            *(sys.executable, "-m", "uvicorn", self._app, "--port", str(self.ports[number])),
            *("--no-proxy-headers", "--no-access-log"),
        )
        with (self._directory / f"worker-{number}.log").open("ab") as log:
            return subprocess.Popen(command, cwd=self._directory, env=self._environment(), stdout=log, stderr=log)

    def _environment(self) -> dict[str, str]:
        unset = (name for name in os.environ if name.startswith("NOTION_OAUTH_") or name.lower().endswith("_proxy"))
        environment = {name: value for name, value in os.environ.items() if name not in set(unset)}
        return {
            **environment,
            "PYTHONPATH": str(ROOT),
            "APPLICATION_KEY": self._application_key,
            "NOTION_OAUTH_SERVER_URL": self._server_url,
            "NOTION_OAUTH_TOKEN_FILE": str(self._directory / "store" / "tokens.json"),
            "NOTION_OAUTH_PUBLIC_URL": PUBLIC_URL,
            "NOTION_OAUTH_TRUSTED_PROXIES": "127.0.0.1",
            "NOTION_OAUTH_TIMEOUT": "5",  # a repeated callback waits for twice as long for a worker that has died
            "NOTION_OAUTH_SECRET_KEY": ",".join(self._keys),
        }
