"""A person who signs in: the steps, and what became of the sign-in."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.process.browsers.browser import DIRECT, LOGIN, LOGOUT, STATUS, Browser, Page, Way
from tests.process.browsers.world import World

WORKER_DIED = "the worker died that had sent the code"


class Lost(Exception):
    """A person is not signed in although all was done for it. The text is what the person saw."""


@dataclass
class Result:
    """What became of a sign-in: the person is signed in unless it was `lost`."""

    habit: str
    repeated: str = ""  # why the person had to sign in again, by design
    error_shown: str = ""  # an error page of a person who is signed in nevertheless
    lost: str = ""
    mixed_up: str = ""


class Person:
    """One person with one browser. `codes` are those that the practice server gave to this person."""

    def __init__(self, name: str, browser: Browser, world: World, random: Random) -> None:
        self.name, self.browser, self.world, self.random = name, browser, world, random
        self.codes: set[str] = set()
        self.excuse = ""  # why a repetition is by design
        self._came_back = math.inf  # when the first callback was sent

    async def connect(self, way: Way = DIRECT) -> Page:
        """Press Connect. Returns the consent page. Raises Lost for another page."""
        page = await self.browser.patient(LOGIN, way)
        if not page.field("ticket"):
            raise Lost(f"Connect: {page}")
        return page

    async def approve(self, consent: Page) -> str:
        """Approve, and return the URL of the callback."""
        return await self._decide(consent, "approve")

    async def decline(self, consent: Page) -> Page:
        return await self.come_back(await self._decide(consent, "deny"))

    async def _decide(self, consent: Page, decision: str) -> str:
        form = {"ticket": consent.field("ticket"), "decision": decision}
        location = await self.browser.redirect(consent.url.partition("?")[0], form)
        assert location is not None
        if code := code_of(location):
            self.codes.add(code)
        return location

    async def come_back(self, callback: str, way: Way = DIRECT) -> Page:
        """Follow the redirect of the practice server to the callback, and to the page after it."""
        self._came_back = min(self._came_back, time.monotonic())
        page = await self.browser.patient(callback, way)
        if "interrupted" in page.text and self.world.was_killed(self._came_back):
            self.excuse = self.excuse or WORKER_DIED
        return page

    async def sign_in(self) -> Page:
        """Sign in without any habit."""
        return await self.come_back(await self.approve(await self.connect()))

    async def status(self, way: Way = DIRECT) -> Page:
        return await self.browser.patient(STATUS, way)

    async def sign_out(self) -> Page:
        """Press "Sign out", again if no worker answered."""
        page = await self.status()
        while page.connected:
            page = await self.browser.open(LOGOUT, form={"csrf_token": page.field("csrf_token")})
            if page.from_gateway:
                page = await self.status()
        return page

    async def pause(self, longest: float) -> None:
        await asyncio.sleep(self.random.uniform(0, longest))

    def way(self, longest: float = 0.3) -> Way:
        """Return a network path with a random latency."""
        return Way(latency=self.random.uniform(0, longest))

    async def abandon(self, navigation: Coroutine[Any, Any, object], after: float) -> None:
        """Start to load a page, and leave it before its response arrives, if that takes longer."""
        task = asyncio.ensure_future(navigation)
        await asyncio.wait({task}, timeout=after)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def result(self, habit: str, steps: Coroutine[Any, Any, Page]) -> Result:
        """Follow the habit. Then press "Sign in again" if that is necessary by design."""
        result = Result(habit)
        try:
            page = await steps
        except Lost as lost:
            result.lost = str(lost)
        else:
            if page.connected:
                return result
            if (await self.status()).connected:
                result.error_shown = str(page)
                return result
            result.lost = str(page)
            if self.excuse == WORKER_DIED and not page.offers_sign_in:
                result.lost = f"no button to sign in again: {page}"
                return result
        if self.excuse:
            result.repeated, result.lost = self.excuse, await self._sign_in_again()
        return result

    async def _sign_in_again(self) -> str:
        """Sign in without any habit. Returns how that was lost too; empty if it was not."""
        seen = ""
        while self.excuse:  # again if another worker has died
            self.excuse, self._came_back = "", math.inf
            try:
                page = await self.sign_in()
            except Lost as lost:
                return f"also the second time: {lost}"
            seen = "" if page.connected else f"also the second time: {page}"
        return seen

    async def check(self, result: Result) -> None:
        """Compare the login with the person: sign out, and see whose grant the practice server is asked to end.

        Nobody else may use the service meanwhile.
        """
        if result.lost:
            return
        status = (await self.browser.data(STATUS)).get("status")
        if status != "authenticated":
            result.lost = f"signed in, and later {status}"
            return
        before = self.world.revocations
        page = await self.sign_out()
        revoked = self.world.revoked_since(before)
        own = self.world.grants_of(self.codes)
        if not revoked or not set(revoked) <= own:
            result.mixed_up = f"the login was {'of another person' if revoked else 'unknown to the server'}: {page}"


def code_of(callback: str) -> str:
    return parse_qs(urlsplit(callback).query).get("code", [""])[0]
