"""The program of a subject's process: read one command, run it, print one line of JSON.

Every subject runs this code, so that only the client differs.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import statistics
import sys
import time
import warnings
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

PING = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
HEADERS = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
SETTLE = 0.3  # seconds between two batches, so that remaining work of one does not slow down the next

Login = dict[str, Any]  # the document of a token file; times in milliseconds since 1970
Result = dict[str, Any]


class BrowserNeeded(Exception):
    """The client gave up on its stored login and needs a user to sign in."""


class Subject(Protocol):
    """One client, as its users would use it."""

    @property
    def http(self) -> ModuleType:
        """The HTTP library that it uses: httpx or httpx2."""
        ...

    async def store(self, state: Path, login: Login) -> None:
        """Store a login where this client stores its logins."""
        ...

    def open(
        self, state: Path, login: Login, *, transport: Any, running: bool
    ) -> AbstractAsyncContextManager[Any, bool | None]:
        """An HTTP client that uses the stored login.

        `running` stands for a process that has held the login since it was issued, and knows its expiry from then.
        """
        ...


def main(subject: Subject) -> None:
    """Run the command in `argv` and print its result. The command names files; it never contains tokens."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    command = json.loads(sys.argv[1])
    action = {"store": _store, "request": _request, "cost": _cost, "concurrent": _concurrent}[command["action"]]
    print(json.dumps(asyncio.run(action(subject, command))), flush=True)


def _login(path: str) -> Login:
    login: Login = json.loads(Path(path).read_text())
    return login


def url_of(login: Login) -> str:
    """The MCP server of the login."""
    return str(login["resource"])


async def _store(subject: Subject, command: dict[str, Any]) -> Result:
    await subject.store(Path(command["state"]), _login(command["login"]))
    return {}


async def _request(subject: Subject, command: dict[str, Any]) -> Result:
    """One real request with the stored login. Waits for the runner's signal if several processes start together."""
    login = _login(command["login"])
    running = command.get("running", False)
    async with subject.open(Path(command["state"]), login, transport=None, running=running) as client:
        if command.get("together"):
            print("ready", flush=True)
            sys.stdin.readline()
        return {"failure": await _failure(client, url_of(login))}


async def _cost(subject: Subject, command: dict[str, Any]) -> Result:
    """Microseconds of a request with a fixed header and with the subject, alternating, without a network."""
    login, state = _login(command["login"]), Path(command["state"])
    await subject.store(state, login)
    transport = _transport(subject.http, login, seconds=0)
    fixed_times, own_times = [], []
    async with (
        _fixed(subject.http, login, transport) as fixed,
        subject.open(state, login, transport=transport, running=True) as own,
    ):
        for client in (fixed, own):  # caches are filled
            await _in_turn(client, url_of(login), command["requests"])
        for _ in range(command["rounds"]):
            fixed_times.append(await _in_turn(fixed, url_of(login), command["requests"]))
            own_times.append(await _in_turn(own, url_of(login), command["requests"]))
    added = [mine - theirs for mine, theirs in zip(own_times, fixed_times, strict=True)]
    return {
        "fixed": statistics.median(fixed_times),
        "own": statistics.median(own_times),
        "added": statistics.median(added),
        "quartiles": statistics.quantiles(added, n=4)[::2],
    }


async def _in_turn(client: Any, url: str, requests: int) -> float:
    started = time.perf_counter()
    for _ in range(requests):
        response = await client.post(url, content=PING, headers=HEADERS)
        if response.status_code != 200:
            raise RuntimeError(f"answered with {response.status_code}")
    return (time.perf_counter() - started) / requests * 1e6


async def _concurrent(subject: Subject, command: dict[str, Any]) -> Result:
    """Seconds for many requests at once, with a fixed header and with the subject, for each new login."""
    state = Path(command["state"])
    warm = _login(command["warm"])
    await subject.store(state / "warm", warm)
    async with subject.open(
        state / "warm", warm, transport=_transport(subject.http, warm, seconds=0), running=True
    ) as client:
        await _together(client, url_of(warm), command["requests"])  # imports, caches, the loop itself
    rounds = []
    for index, path in enumerate(command["logins"]):
        login = _login(path)
        await subject.store(state / str(index), login)
        seconds, expired = command["seconds"], command["expired"]
        transport = _transport(subject.http, login, seconds=seconds, expired=expired)
        sides = {
            "fixed": _fixed(subject.http, login, _transport(subject.http, login, seconds=seconds)),
            "own": subject.open(state / str(index), login, transport=transport, running=True),
        }
        found: Result = {}
        for side in sorted(sides, reverse=index % 2 == 0):  # alternate the order: the second one finds a warmer machine
            async with sides[side] as client:
                gc.collect()
                found[side], failures = await _together(client, url_of(login), command["requests"])
                await asyncio.sleep(SETTLE)
            if side == "own":
                found["failures"] = failures
        rounds.append(found)
    return {"rounds": rounds}


async def _together(client: Any, url: str, requests: int) -> tuple[float, list[str]]:
    started = time.perf_counter()
    failures = await asyncio.gather(*(_failure(client, url) for _ in range(requests)))
    return time.perf_counter() - started, [failure for failure in failures if failure]


async def _failure(client: Any, url: str) -> str | None:
    """The outcome of one request: None for success, otherwise the type of the error."""
    try:
        response = await client.post(url, content=PING, headers=HEADERS)
    except Exception as error:  # any exception of a client is its result
        return type(error).__name__
    return None if response.status_code == 200 else f"HTTP {response.status_code}"


def _fixed(http: ModuleType, login: Login, transport: Any) -> Any:
    headers = {"Authorization": f"Bearer {login['access_token']}"}
    return http.AsyncClient(headers=headers, transport=transport, trust_env=False)


def _transport(http: ModuleType, login: Login, *, seconds: float, expired: bool = False) -> Any:
    """An MCP server in this process that answers after `seconds`. Other requests go to the practice server.

    If the login has expired, its access token is rejected in the practice server's form.
    """
    resource = http.URL(url_of(login))
    challenge = f'Bearer error="invalid_token", resource_metadata="{_metadata_url(resource)}"'
    rejected = f"Bearer {login['access_token']}" if expired else None
    network = http.AsyncHTTPTransport(trust_env=False)

    async def answer(request: Any) -> Any:
        if request.url.path != resource.path:
            return await network.handle_async_request(request)
        if seconds:
            await asyncio.sleep(seconds)
        if request.headers.get("Authorization") in (None, rejected):
            return http.Response(401, headers={"WWW-Authenticate": challenge})
        return http.Response(200, content=b"{}")

    return http.MockTransport(answer)


def _metadata_url(resource: Any) -> Any:
    return resource.copy_with(path=f"/.well-known/oauth-protected-resource{resource.path}")


def write_whole(path: Path, content: str) -> None:
    """Write a file with mode 0600 in one step, as a careful user's storage would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text(content)
    temporary.replace(path)
