"""/healthz and /readyz: whether the service is alive, and whether it could keep a login now.

They are asked often, by machines, under whatever name those know: they look at no session, count nobody, and say
nothing beyond the names of what fails.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
from starlette.types import ASGIApp, Receive, Scope, Send

from notion_oauth.clock import uptime
from notion_oauth.errors import NotionOAuthError, StoreBusy
from notion_oauth.tokens.registrations import SHARED_PROFILE
from notion_oauth.web import responses
from notion_oauth.web.profiles.resolver import ProfileResolver
from notion_oauth.web.sessions.keys import session_key_available

ALIVE, READY = "/healthz", "/readyz"
PROBE_EVERY = 1.0  # seconds; however often it is asked, the disk is not written more often
LOCK_TRY = 0.5  # seconds; a lock that another holds for longer is one that can be locked


class Health:
    """Answers the two paths, under the public URL's own path too; passes on all others."""

    def __init__(
        self, app: ASGIApp, logins: ProfileResolver, *, prefix: str = "", uptime: Callable[[], float] = uptime
    ) -> None:
        self._app = app
        self._logins = logins
        self._alive = {ALIVE, prefix + ALIVE}
        self._paths = open_paths(prefix)
        self._uptime = uptime
        self._failing: tuple[str, ...] = ()
        self._good_until = float("-inf")
        self._probing = anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self._paths:
            return await self._app(scope, receive, send)
        if scope["method"] not in ("GET", "HEAD"):
            answer = responses.data({"error": "Method Not Allowed"}, status=405, headers={"Allow": "GET, HEAD"})
        elif scope["path"] in self._alive:
            answer = responses.data({"status": "ok"})
        else:
            failing = await self._probed()
            said: dict[str, Any] = {"status": "failing", "failing": failing} if failing else {"status": "ok"}
            answer = responses.data(said, status=503 if failing else 200)
        return await answer(scope, receive, send)

    async def _probed(self) -> tuple[str, ...]:
        """The names of what fails; looked at again once the last look is a second old."""
        async with self._probing:
            if self._uptime() >= self._good_until:
                self._failing = await self._probe()
                self._good_until = self._uptime() + PROBE_EVERY
            return self._failing

    async def _probe(self) -> tuple[str, ...]:
        failing = []
        try:
            await self._probe_store()
        except NotionOAuthError:
            failing.append("store")
        try:
            kept = session_key_available(self._logins.settings)
        except NotionOAuthError:
            kept = False
        return (*failing, *(() if kept else ("session_key",)))

    async def _probe_store(self) -> None:
        """All that a sign-in writes: the login, and under a lock the registration of the client that it begins with."""
        store, profile = self._logins.oauth.store, self._logins.sign_in_profile
        await store.ensure_writable(profile)
        for where in {profile, SHARED_PROFILE} if self._logins.settings.preregistered else {profile}:
            await store.load_registrations(where)
            with anyio.move_on_after(LOCK_TRY), suppress(StoreBusy):
                async with store.exclusive(where):
                    pass


def open_paths(prefix: str) -> frozenset[str]:
    """The paths that health checkers ask for, which know the service by an address of their own."""
    return frozenset(before + path for before in ("", prefix) for path in (ALIVE, READY))
