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


class UnexpectedAnswer(Exception):
    """A browser did not get the expected answer."""


def sign_in_and_out(port: int, browsers: int) -> dict[str, Any]:
    """Run it in a new process. Returns how many signed in, the most at once, how many signed out, and the errors."""
    result: dict[str, Any] = measure("benchmarks.browsers", TIME_LIMIT, port=port, browsers=browsers)
    return result


class Crowd:
    """Run all browsers. Each waits for all others after its sign-in, so that all logins exist at the same time."""

    def __init__(self, port: int, browsers: int) -> None:
        self._port, self._browsers = port, browsers
        self._active = self.most_active = self._arrived = 0
        self._all_arrived = asyncio.Event()
        self.done: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()

    async def all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._browsers):
                tasks.create_task(self._one())

    async def _one(self) -> None:
        browser = Browser(self._port)
        self._active += 1
        self.most_active = max(self.most_active, self._active)
        signed_in = await self._attempt(browser.sign_in, "signed in")
        self._active -= 1
        self._arrived += 1
        if self._arrived == self._browsers:
            self._all_arrived.set()
        await self._all_arrived.wait()
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


async def run(port: int, browsers: int) -> dict[str, Any]:
    crowd = Crowd(port, browsers)
    await crowd.all()
    return {
        "signed_in": crowd.done["signed in"],
        "signed_out": crowd.done["signed out"],
        "at_once": crowd.most_active,
        "lost": crowd.lost,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(**json.loads(sys.argv[1])))))
