"""A browser: one cookie jar for all its tabs, which takes each Set-Cookie when its response arrives."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from tests.process.browsers.front import HOST, PUBLIC_URL, WORKER_HEADER, Front

STATUS = "/auth/status"
LOGIN = "/auth/login"
LOGOUT = "/auth/logout"
MAX_REDIRECTS = 10
RELOADS = 20  # of a page of the proxy that says that no worker answers
RELOAD_AFTER = 0.5  # seconds, and half as much again each time
LONGEST_WAIT = 10.0  # seconds
_TITLE = re.compile(r"<title>([^<]*)</title>")
_FIELD = re.compile(r'name="(ticket|csrf_token)" value="([^"]+)"')
_HEADERS = {
    "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Upgrade-Insecure-Requests": "1",
}


@dataclass(frozen=True)
class Page:
    """What a tab shows."""

    url: str
    status: int
    text: str

    @property
    def title(self) -> str:
        found = _TITLE.search(self.text)
        return unescape(found[1]).removesuffix(" \N{EN DASH} notion-oauth") if found else ""

    @property
    def connected(self) -> bool:
        return self.title.startswith("Connected to ")

    @property
    def offers_sign_in(self) -> bool:
        return 'id="login"' in self.text

    @property
    def from_gateway(self) -> bool:
        """Whether the proxy or the browser made the page, because no worker answered."""
        return self.status in (502, 504) and "notion-oauth</title>" not in self.text

    def field(self, name: str) -> str:
        """Return the value of a hidden field; empty without one."""
        return next((value for found, value in _FIELD.findall(self.text) if found == name), "")

    def __str__(self) -> str:
        """What a report may show: no query, which has codes and states."""
        paragraph = re.search(r"<p>([^<]*)</p>", self.text)
        return f"{self.status} {urlsplit(self.url).path} {self.title!r} {paragraph[1] if paragraph else ''}".strip()


@dataclass(frozen=True)
class Way:
    """How a request travels: `latency` is the time in seconds until the response arrives, after it was sent."""

    latency: float = 0.0
    worker: int | None = None
    impatient: bool = False


DIRECT = Way()


class Browser:
    """Loads pages as a browser does. Tabs are tasks that use the same browser."""

    def __init__(self, front: Front, address: str) -> None:
        self._front, self._address = front, address
        self._http = httpx.AsyncClient(
            transport=_Latency(front.transport(address)), base_url=PUBLIC_URL, headers=_HEADERS, timeout=60
        )

    async def close(self) -> None:
        await self._http.aclose()

    def restored(self) -> Browser:
        """Return a browser with a copy of the cookies, as another session that was restored from the disk."""
        other = Browser(self._front, self._address)
        for cookie in self._http.cookies.jar:
            other._http.cookies.jar.set_cookie(cookie)
        return other

    async def open(self, url: str, way: Way = DIRECT, *, form: Mapping[str, str] | None = None) -> Page:
        """Load a page, and follow its redirects. Each request sends the cookies of that moment."""
        url, site = urljoin(PUBLIC_URL, url), "same-origin" if url.startswith("/") else "cross-site"
        page = await self._request("GET" if form is None else "POST", url, site, way, form)
        for _ in range(MAX_REDIRECTS):
            location = self.location_of(page)
            if location is None:
                return page
            site = site if urlsplit(location).netloc == urlsplit(page.url).netloc else "cross-site"
            page = await self._request("GET", location, site, way, None)
        raise AssertionError("too many redirects")

    async def redirect(self, url: str, form: Mapping[str, str]) -> str | None:
        """Send a form and return where the response redirects to; None if it does not."""
        return self.location_of(await self._request("POST", url, "same-origin", DIRECT, form))

    async def patient(self, url: str, way: Way = DIRECT) -> Page:
        """As `open`; a person reloads a page which says that no worker answers."""
        page = await self.open(url, way)
        for reloads in range(RELOADS):
            if not page.from_gateway:
                break
            await asyncio.sleep(min(RELOAD_AFTER * 1.5**reloads, LONGEST_WAIT))
            page = await self.open(url, way)
        return page

    async def data(self, path: str) -> dict[str, Any]:
        """Return what a program is told that has the cookies of this browser."""
        response = await self._http.get(path, headers={"Accept": "application/json", "Sec-Fetch-Dest": "empty"})
        found: dict[str, Any] = response.json()
        return found

    async def enter(self, user: str) -> None:
        """Sign in to the application, as this user of it."""
        await self._http.get("/enter", params={"user": user})

    @staticmethod
    def location_of(page: Page) -> str | None:
        return page.text.removeprefix("Location: ") if page.text.startswith("Location: ") else None

    async def _request(self, method: str, url: str, site: str, way: Way, form: Mapping[str, str] | None) -> Page:
        headers = {"Sec-Fetch-Site": site}
        if way.worker is not None and urlsplit(url).hostname == HOST:
            headers[WORKER_HEADER] = str(way.worker)
        extensions = {"latency": way.latency, "impatient": way.impatient}
        try:
            response = await self._http.request(method, url, headers=headers, data=form, extensions=extensions)
        except httpx.RemoteProtocolError:  # a worker died within its response: the browser says so itself
            return Page(url, 502, "")
        text = f"Location: {urljoin(url, response.headers['location'])}" if response.is_redirect else response.text
        return Page(url, response.status_code, text)


class _Latency(httpx.AsyncBaseTransport):
    """Delays responses: the client applies a Set-Cookie when this returns."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        if latency := request.extensions.get("latency"):
            await asyncio.sleep(latency)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()
