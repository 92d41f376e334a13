"""Very many browsers that sign in and out at once, in a separate process: `python -m benchmarks.browsers JSON`.

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

TIME_LIMIT = 1800  # seconds for all of them
HOST = "notion.example"
PAGE, JSON = {"Accept": "text/html"}, {"Accept": "application/json"}
_CSRF = re.compile(rb'name="csrf_token" value="([^"]+)"')


class Lost(Exception):
    """A browser did not get the expected answer."""


def sign_in_and_out(port: int, browsers: int) -> dict[str, Any]:
    """Run it in a new process. Returns how many signed in, the most at once, how many signed out, and the errors."""
    result: dict[str, Any] = measure("benchmarks.browsers", TIME_LIMIT, port=port, browsers=browsers)
    return result


class Crowd:
    """Run all browsers. Each waits for all others after its sign-in, so that all logins exist at the same time."""

    def __init__(self, port: int, browsers: int) -> None:
        self._port, self._browsers = port, browsers
        self._under_way = self.most_under_way = self._arrived = 0
        self._all_arrived = asyncio.Event()
        self.done: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    async def all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._browsers):
                tasks.create_task(self._one())

    async def _one(self) -> None:
        browser = Browser(self._port)
        self._under_way += 1
        self.most_under_way = max(self.most_under_way, self._under_way)
        signed_in = await self._tried(browser.sign_in, "signed in")
        self._under_way -= 1
        self._arrived += 1
        if self._arrived == self._browsers:
            self._all_arrived.set()
        await self._all_arrived.wait()
        if signed_in:
            await self._tried(browser.sign_out, "signed out")

    async def _tried(self, what: Any, name: str) -> bool:
        try:
            await what()
        except (Lost, OSError, EOFError) as error:
            self.lost[f"{name}: {error if isinstance(error, Lost) else type(error).__name__}"] += 1
            return False
        self.done[name] += 1
        return True


class Browser:
    """One browser session of a service behind a proxy that ends TLS."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._cookie = ""

    async def sign_in(self) -> None:
        begun = await self._asks("GET", "/auth/login", PAGE, expects=303)
        there = urlsplit(begun.headers["location"])
        if there.port is None:
            raise Lost("sent to no practice server")
        asked = f"{there.path}?{there.query}"
        consented = await ask(there.port, "GET", asked, {"Host": there.netloc}, expects=302)
        back = urlsplit(consented.headers["location"])
        await self._asks("GET", f"{back.path}?{back.query}", PAGE, expects=303)
        await self._is("authenticated")

    async def sign_out(self) -> None:
        found = _CSRF.search((await self._asks("GET", "/", PAGE)).body)
        if found is None:
            raise Lost("a page without a form")
        form = urlencode({"csrf_token": found[1].decode()}).encode()
        await self._asks("POST", "/auth/logout", PAGE, form, expects=303)
        await self._is("unauthenticated")

    async def _is(self, status: str) -> None:
        found = json.loads((await self._asks("GET", "/auth/status", JSON)).body)["status"]
        if found != status:
            raise Lost(f"{found}, and not {status}")

    async def _asks(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, expects: int = 200
    ) -> Answer:
        own = {"Host": HOST, "X-Forwarded-Proto": "https", "Content-Type": "application/x-www-form-urlencoded"}
        sent = {**own, **headers, **({"Cookie": self._cookie} if self._cookie else {})}
        answer = await ask(self._port, method, path, sent, body, expects=expects)
        if set_cookie := answer.headers.get("set-cookie"):
            self._cookie = set_cookie.partition(";")[0]
        return answer


class Answer:
    """The complete response."""

    def __init__(self, received: bytes) -> None:
        head, _, self.body = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = first.split(" ")[1] if " " in first else "nothing"
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def ask(
    port: int, method: str, path: str, headers: Mapping[str, str], body: bytes = b"", *, expects: int
) -> Answer:
    """One request over a new connection. Raises Lost for another status, OSError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        lines = [f"{name}: {value}" for name, value in {**headers, "Content-Length": str(len(body))}.items()]
        writer.write("\r\n".join([f"{method} {path} HTTP/1.1", *lines, "Connection: close", "", ""]).encode() + body)
        answer = Answer(await reader.read(-1))
    finally:
        writer.close()
    if answer.status != str(expects):
        raise Lost(f"{answer.status} for {method} {path.partition('?')[0]}")
    return answer


async def run(port: int, browsers: int) -> dict[str, Any]:
    crowd = Crowd(port, browsers)
    await crowd.all()
    return {
        "signed_in": crowd.done["signed in"],
        "signed_out": crowd.done["signed out"],
        "at_once": crowd.most_under_way,
        "lost": crowd.lost,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(**json.loads(sys.argv[1])))))
