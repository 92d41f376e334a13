"""Very many browsers that sign in and out, in a separate process: `python -m benchmarks.browsers JSON`.

Each keeps its session cookie, follows the redirects of a sign-in by itself, and opens a connection for each request.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from benchmarks.children import measure
from benchmarks.servers import Server

TIME_LIMIT = 1800  # seconds for all of them
HOST = "notion.example"
REQUESTS = 3  # of a sign-in: /auth/login, /auth/callback, /auth/status
PAGE, JSON = {"Accept": "text/html"}, {"Accept": "application/json"}
_CSRF = re.compile(rb'name="csrf_token" value="([^"]+)"')


class UnexpectedAnswer(Exception):
    """A browser did not get the expected answer."""


def sign_in_and_out(server: Server, browsers: int, *, at_once: int) -> dict[str, Any]:
    """Run it in a new process; `at_once` browsers sign in at the same time.

    Returns how many signed in, the most at once, how many signed out, the errors, and the seconds of processor time
    that all sign-ins and all sign-outs took the server.
    """
    command = {"port": server.port, "pid": server.pid, "browsers": browsers, "at_once": at_once}
    result: dict[str, Any] = measure("benchmarks.browsers", TIME_LIMIT, **command)
    return result


def request_bare(server: Server, browsers: int) -> float:
    """Send as many requests as sign-ins have to a bare route, over new connections, from a new process.

    Returns the seconds of processor time that they took the server.
    """
    command = {"port": server.port, "pid": server.pid, "browsers": browsers, "bare": True}
    return float(measure("benchmarks.browsers", TIME_LIMIT, **command)["sign_in_seconds"])


class Crowd:
    """Run all browsers. Each waits for all others after its sign-in, so that all logins exist at the same time."""

    def __init__(self, server: Server, browsers: int, at_once: int) -> None:
        self._server, self._browsers = server, browsers
        self._room = asyncio.Semaphore(at_once)
        self.signed_in_after = 0.0  # seconds of the server's processor time
        self._active = self.most_active = self._arrived = 0
        self._all_arrived = asyncio.Event()
        self.done: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    async def all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._browsers):
                tasks.create_task(self._one())

    async def _one(self) -> None:
        browser = Browser(self._server.port)
        async with self._room:
            self._active += 1
            self.most_active = max(self.most_active, self._active)
            signed_in = await self._attempt(browser.sign_in, "signed in")
            self._active -= 1
        self._arrived += 1
        if self._arrived == self._browsers:
            self.signed_in_after = self._server.processor_seconds()
            self._all_arrived.set()
        await self._all_arrived.wait()
        async with self._room:
            if signed_in:
                await self._attempt(browser.sign_out, "signed out")

    async def _attempt(self, action: Any, name: str) -> bool:
        try:
            await action()
        except (UnexpectedAnswer, OSError, EOFError) as error:
            self.lost[f"{name}: {error if isinstance(error, UnexpectedAnswer) else type(error).__name__}"] += 1
            return False
        self.done[name] += 1
        return True


class Browser:
    """One browser session of a service behind a proxy that ends TLS."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cookies: dict[str, str] = {}

    async def sign_in(self) -> None:
        login = await self._request("GET", "/auth/login", PAGE, expected=303)
        consent = urlsplit(login.headers["location"])
        if consent.port is None:
            raise UnexpectedAnswer("sent to no practice server")
        target = f"{consent.path}?{consent.query}"
        redirect = await request(consent.port, "GET", target, {"Host": consent.netloc}, expected=302)
        back = urlsplit(redirect.headers["location"])
        await self._request("GET", f"{back.path}?{back.query}", PAGE, expected=303)
        await self._check_status("authenticated")

    async def sign_out(self) -> None:
        found = _CSRF.search((await self._request("GET", "/", PAGE)).body)
        if found is None:
            raise UnexpectedAnswer("a page without a form")
        form = urlencode({"csrf_token": found[1].decode()}).encode()
        await self._request("POST", "/auth/logout", PAGE, form, expected=303)
        await self._check_status("unauthenticated")

    async def _check_status(self, status: str) -> None:
        found = json.loads((await self._request("GET", "/auth/status", JSON)).body)["status"]
        if found != status:
            raise UnexpectedAnswer(f"{found}, and not {status}")

    async def _request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, expected: int = 200
    ) -> Answer:
        defaults = {"Host": HOST, "X-Forwarded-Proto": "https", "Content-Type": "application/x-www-form-urlencoded"}
        sent = {**defaults, **headers, **self._cookie_header()}
        answer = await request(self._port, method, path, sent, body, expected=expected)
        for set_cookie in answer.set_cookies:
            name, _, value = set_cookie.partition(";")[0].partition("=")
            self._cookies[name] = value
        return answer

    def _cookie_header(self) -> dict[str, str]:
        cookies = [f"{name}={value}" for name, value in self._cookies.items() if value not in ("", "null")]
        return {"Cookie": "; ".join(cookies)} if cookies else {}


class Answer:
    """The complete response."""

    def __init__(self, received: bytes) -> None:
        head, _, self.body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = first.split(" ")[1] if " " in first else "nothing"
        found = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        self.headers = dict(found)
        self.set_cookies = [value for name, value in found if name == "set-cookie"]


async def request(
    port: int, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, expected: int
) -> Answer:
    """One request over a new connection. Raises UnexpectedAnswer for another status, OSError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = [f"{name}: {value}" for name, value in {**headers, "Content-Length": str(len(body))}.items()]
        writer.write("\r\n".join([f"{method} {path} HTTP/1.1", *lines, "Connection: close", "", ""]).encode() + body)
        answer = Answer(await reader.read(-1))
    finally:
        writer.close()
    if answer.status != str(expected):
        raise UnexpectedAnswer(f"{answer.status} for {method} {path.partition('?')[0]}")
    return answer


async def run(server: Server, browsers: int, at_once: int) -> dict[str, Any]:
    crowd = Crowd(server, browsers, at_once)
    started = server.processor_seconds()
    await crowd.all()
    return {
        "signed_in": crowd.done["signed in"],
        "signed_out": crowd.done["signed out"],
        "at_once": crowd.most_active,
        "lost": crowd.lost,
        "sign_in_seconds": crowd.signed_in_after - started,
        "sign_out_seconds": server.processor_seconds() - crowd.signed_in_after,
    }


async def run_bare(server: Server, browsers: int) -> dict[str, Any]:
    started = server.processor_seconds()
    for _ in range(browsers * REQUESTS):
        await request(server.port, "GET", "/auth/status", {"Host": f"127.0.0.1:{server.port}"}, expected=200)
    return {"sign_in_seconds": server.processor_seconds() - started}


def main() -> None:
    command = json.loads(sys.argv[1])
    server, browsers = Server(command["port"], command["pid"]), command["browsers"]
    work = run_bare(server, browsers) if command.get("bare") else run(server, browsers, command["at_once"])
    print(json.dumps(asyncio.run(work)))


if __name__ == "__main__":
    main()
