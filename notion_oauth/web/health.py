"""/healthz and /readyz: whether the service runs, and whether it could store a login now.

Health checkers call these often, under any host name: the responses use no session, count towards no rate limit, and
contain only the names of failed checks.
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
CACHE_SECONDS = 1.0  # more frequent requests do not write to the disk again
LOCK_TIMEOUT = 0.5  # seconds; if another process holds the lock for longer, locking works and the check passes


class Health:
    """Answers both paths, with and without the public URL's path in front; passes on all other requests."""

    def __init__(
        self,
        app: ASGIApp,
        resolver: ProfileResolver,
        *,
        prefix: str = "",
        uptime: Callable[[], float] = uptime,
        lock_timeout: float = LOCK_TIMEOUT,
    ) -> None:
        self._app = app
        self._resolver = resolver
        self._alive = {ALIVE, prefix + ALIVE}
        self._paths = open_paths(prefix)
        self._uptime = uptime
        self._lock_timeout = lock_timeout
        self._failing: tuple[str, ...] = ()
        self._cached_until = float("-inf")
        self._check_lock = anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self._paths:
            return await self._app(scope, receive, send)
        if scope["method"] not in ("GET", "HEAD"):
            response = responses.data({"error": "Method Not Allowed"}, status=405, headers={"Allow": "GET, HEAD"})
        elif scope["path"] in self._alive:
            response = responses.data({"status": "ok"})
        else:
            failing = await self._failing_checks()
            body: dict[str, Any] = {"status": "failing", "failing": failing} if failing else {"status": "ok"}
            response = responses.data(body, status=503 if failing else 200)
        return await response(scope, receive, send)

    async def _failing_checks(self) -> tuple[str, ...]:
        """Return the names of the checks that fail, at most CACHE_SECONDS old."""
        async with self._check_lock:
            if self._uptime() >= self._cached_until:
                self._failing = await self._run_checks()
                self._cached_until = self._uptime() + CACHE_SECONDS
            return self._failing

    async def _run_checks(self) -> tuple[str, ...]:
        failing = []
        try:
            await self._check_store()
        except NotionOAuthError:
            failing.append("store")
        try:
            has_key = session_key_available(self._resolver.oauth.settings)
        except NotionOAuthError:
            has_key = False
        return (*failing, *(() if has_key else ("session_key",)))

    async def _check_store(self) -> None:
        """All that a sign-in writes: the login, and, under a lock, the registration of its client."""
        store, profile = self._resolver.oauth.store, self._resolver.sign_in_profile
        await store.check_writable(profile)
        if store.has_leases:  # which are rows: nothing more to check, and sign-ins need not wait
            return
        for name in {profile, SHARED_PROFILE} if self._resolver.oauth.settings.preregistered else {profile}:
            await store.load_registrations(name)
            with anyio.move_on_after(self._lock_timeout), suppress(StoreBusy):
                async with store.exclusive(name):
                    pass


def open_paths(prefix: str) -> frozenset[str]:
    """Return the paths that are answered under any host name: health checkers use an address of the machine."""
    return frozenset(before + path for before in ("", prefix) for path in (ALIVE, READY))
