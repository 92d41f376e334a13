"""Signing in when a client asks for it: on loopback with one browser tab, or on the page of a service."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import filelock
from anyio.abc import TaskGroup, TaskStatus

from notion_oauth.errors import Hint, NotionOAuthError, OAuthError, StorageError
from notion_oauth.files import atomic
from notion_oauth.interactive.browser import Browser, Environment, detect_environment
from notion_oauth.models import PENDING_LIFETIME
from notion_oauth.profile_names import add_suffix, profile_file
from notion_oauth.protocol.messages import parse_json
from notion_oauth.protocol.registration import UNKNOWN_CLIENT, is_about_redirect_uri
from notion_oauth.service import NotionOAuth

THEN = "Sign in there. The tools of the server then appear; some clients show them only after a restart."
SIGN_IN = Hint("sign in", "login")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class SignInOffer:
    """How a person can sign in: the text for the client, and the URL of a page that the client may open itself.

    With `browser`, the page is opened here if the client does not. `failed`: there is no way now.
    """

    text: str
    url: str | None = None
    browser: Browser | None = None
    failed: bool = False

    async def open(self) -> str:
        """Open the page, if there is a browser. Returns the text for the client."""
        if self.browser is None or self.url is None:
            return self.text
        opened = await anyio.to_thread.run_sync(self.browser.open, self.url, abandon_on_cancel=True)
        return self.text if opened else f"No browser could be opened. Open this page: {self.url}"


class PageSignIn:
    """Signing in on the page at this URL; without one, on the machine of the server."""

    def __init__(self, url: str | None, *, render_hint: Callable[[Hint], str] = str) -> None:
        self._url, self._render_hint = url, render_hint

    async def offer(self) -> SignInOffer:
        if self._url is None:
            return SignInOffer(f"On the machine of this server, {self._render_hint(SIGN_IN)}")
        return SignInOffer(f"Open this page. {THEN} {self._url}", self._url)


class LoopbackSignIn:
    """Signing in with a browser on this machine. Opens one tab in ten minutes, however many processes are asked.

    The redirect is received in `tasks`. `render_hint` returns a hint with the command as the user can run it.
    """

    def __init__(
        self,
        oauth: NotionOAuth,
        tasks: TaskGroup,
        *,
        render_hint: Callable[[Hint], str] = str,
        environment: Environment | None = None,
    ) -> None:
        self._oauth, self._tasks, self._render_hint = oauth, tasks, render_hint
        self._environment = environment or detect_environment()
        self._starting = anyio.Lock()
        self._file = add_suffix(profile_file(oauth.settings.token_file, oauth.profile), ".sign-in")
        self._claim = filelock.FileLock(add_suffix(self._file, ".lock"), mode=0o600, timeout=0, thread_local=False)
        self._options: dict[str, Any] = {}  # what the next attempt does otherwise, as `sign_in` would

    async def offer(self) -> SignInOffer:
        """Begin a sign-in, unless one has begun. Raises what `NotionOAuth.begin_authorization` raises."""
        async with self._starting:
            page = _Page.read(self._file)  # of an earlier attempt, perhaps
            if not self._claim.is_locked and await anyio.to_thread.run_sync(self._take_claim):
                try:
                    url = await self._tasks.start(self._receive)
                except BaseException:
                    self._claim.release()
                    raise
                if page is not None and page.opened_at is not None:
                    await anyio.to_thread.run_sync(_Page(url, page.opened_at).write, self._file)
                    return SignInOffer(f"The sign-in page of before does not work any more. Open this one: {url}")
                page = _Page(url, None)
                opens_at = time.time() if isinstance(self._environment.browser(), Browser) else None
                await anyio.to_thread.run_sync(_Page(url, opens_at).write, self._file)
            else:
                page = _Page.read(self._file)
            if page is None:
                return SignInOffer("Another program is about to open the sign-in page. Sign in there.")
            return self._offer(page)

    def _offer(self, page: _Page) -> SignInOffer:
        browser = self._environment.browser()
        if page.opened_at is not None:
            minutes = max(1, round((time.time() - page.opened_at) / 60))
            text = f"The sign-in page was opened {minutes} minute{'s' * (minutes > 1)} ago. {THEN}"
            return SignInOffer(f"{text} If the page is not open, open it: {page.url}")
        if isinstance(browser, Browser):
            return SignInOffer(f"The sign-in page is open in your browser. {THEN}", page.url, browser)
        text = f"{browser} Open this page in a browser of the machine that the gateway runs on: {page.url}\n"
        return SignInOffer(f"{text}Or, in a terminal there, {self._render_hint(SIGN_IN)}", page.url)

    def _take_claim(self) -> bool:
        """Claim the sign-in for this process; false if another has claimed it. Ends with the process."""
        try:
            atomic.prepare_lock_file(Path(self._claim.lock_file))
            self._claim.acquire()
        except (filelock.Timeout, OSError, StorageError):
            return False
        return True

    async def _receive(self, *, task_status: TaskStatus[str]) -> None:
        """Receive the redirect, and store the tokens."""
        from notion_oauth.interactive import loopback  # with FastAPI, which takes as long as the rest of a start

        oauth = self._oauth
        registered = await oauth.registered_redirect_uris()
        host = self._options.get("host") or loopback.registered_host(registered)
        with loopback.bind_redirect_uri(registered, None, host) as (listeners, redirect_uri):
            started = await oauth.begin_authorization(redirect_uri, new_client="new_client" in self._options)
            receiver = loopback.Receiver(partial(oauth.complete_authorization, started.pending))
            async with loopback.serve(receiver, listeners, own_user=self._environment.tells_users_apart):
                task_status.started(started.url.get_secret_value())
                with anyio.move_on_after(PENDING_LIFETIME.total_seconds()):
                    await receiver.wait_until_done()
        try:
            receiver.result()
        except NotionOAuthError as error:
            _LOG.warning("The sign-in failed: %s", error.message)
            if isinstance(error, OAuthError) and is_about_redirect_uri(error):
                other = {loopback.HOST: loopback.LOCALHOST, loopback.LOCALHOST: loopback.HOST}
                self._options = {"host": other[host]}
            elif isinstance(error, OAuthError) and error.error in UNKNOWN_CLIENT:
                self._options = {"new_client": True}
        else:
            with suppress(StorageError):
                await anyio.to_thread.run_sync(atomic.delete_file, self._file)
            self._tasks.start_soon(self._identify)
        self._claim.release()

    async def _identify(self) -> None:
        """Store who has signed in, for `status`. The sign-in has succeeded, and does not wait for it."""
        with suppress(NotionOAuthError):
            await self._oauth.identify()


@dataclass(frozen=True)
class _Page:
    """The page of the sign-in in progress, and when a browser tab was last opened: in seconds since 1970, or never.

    It is stored for other processes, and until ten minutes after the tab was opened.
    """

    url: str
    opened_at: float | None

    def write(self, file: Path) -> None:
        with suppress(StorageError):
            atomic.write_file(file, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, file: Path) -> _Page | None:
        try:
            document = atomic.read_file(file, parse_json)
        except (StorageError, ValueError):
            return None
        if not isinstance(document, dict) or not isinstance(document.get("url"), str):
            return None
        opened_at = document.get("opened_at")
        recent = isinstance(opened_at, int | float) and 0 <= time.time() - opened_at < PENDING_LIFETIME.total_seconds()
        return cls(document["url"], opened_at if recent else None)
