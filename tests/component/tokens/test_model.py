"""The token source against a model: any order of expiry, refresh, failure, sign-out, sign-in and crash."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from notion_oauth.errors import NotSignedIn, SignInRequired, TransientError
from notion_oauth.files.documents import FileDocuments
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.sandbox import RecordedRequest, Sandbox, SandboxOptions
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import TokenStore
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport
from tests.support.stores import HookedDocuments, load_login

T = TypeVar("T")
REDIRECT_URI = "http://127.0.0.1:4321/callback"


class Crash(BaseException):
    """The process dies here."""


class Dying(TokenStore):
    """Token files of a process that dies during the next save, before or after the file is replaced."""

    def __init__(self, path: Path) -> None:
        self.dies: str | None = None
        files = FileDocuments(path, lock_wait=timedelta(seconds=60))
        super().__init__(HookedDocuments(partial(self._die, "before"), files, after=partial(self._die, "after")))

    def _die(self, when: str, operation: str, profile: str, content: bytes | None) -> None:
        if operation == "write" and self.dies == when:
            raise Crash


class Lossy(httpx.ASGITransport):
    """A network that loses the next request to the token endpoint, or its response."""

    loses: str | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        loses = self.loses if request.url.path == "/token" else None
        if loses is not None:
            self.loses = None
        if loses == "request":
            raise httpx.ConnectError("lost on the way")
        response = await super().handle_async_request(request)
        if loses == "response":
            raise httpx.ReadError("lost on the way back")
        return response


class Engine(RuleBasedStateMachine):
    """Two processes share one file. The model tracks whether the grant is live and whether there is a login."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.ahead = timedelta()
        self.sandbox = Sandbox("http://127.0.0.1:9000", SandboxOptions(), clock=lambda: self.clock().timestamp())
        self.sandbox.observe(on_answer=self.note_grant)
        self.network = Lossy(self.sandbox.app)
        self.processes = [self.process(), self.process()]
        self.signed_in = False
        self.grant_lives = False
        self.authorized_at = self.refreshed_at = 0.0
        self.usable_refresh_tokens: set[str] = set()  # the last one that was issued, and the one before it

    def clock(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def process(self) -> NotionOAuth:
        path = Path(self.directory.name) / "tokens.json"
        client = OAuthClient(Transport(timeout=timedelta(seconds=5), httpx_transport=self.network), clock=self.clock)
        settings = Settings(server_url=self.sandbox.mcp_url, token_file=path, retry_for=0)
        return NotionOAuth(settings, store=Dying(path), client=client, clock=self.clock)

    def note_grant(self, request: RecordedRequest, status: int, body: bytes) -> None:
        """Note the refresh tokens of each new grant and of each refresh, even if the response is lost later."""
        if request.path != "/token" or status != 200 or "refresh_token" not in (document := json.loads(body)):
            return
        self.refreshed_at = self.clock().timestamp()
        used = {request.form["refresh_token"]} if "refresh_token" in request.form else set()
        self.usable_refresh_tokens = {document["refresh_token"], *used}
        if not used:
            self.authorized_at = self.refreshed_at

    def teardown(self) -> None:
        self.directory.cleanup()

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def until_idle() -> T:
            try:
                return await call()
            finally:
                for process in self.processes:
                    await process.tokens.wait_until_idle()

        return asyncio.run(until_idle())

    def check_use(self, which: int, call: Callable[[NotionOAuth], Coroutine[Any, Any, object]]) -> None:
        """The caller gets what the model says: a token, "not signed in", or "sign in again"."""
        try:
            self.run(lambda: call(self.processes[which]))
        except NotSignedIn:
            assert not self.signed_in
        except SignInRequired:
            assert not self.grant_lives, "a live login was reported as ended"
            self.signed_in = False
        else:
            assert self.signed_in

    @rule()
    def sign_in(self) -> None:
        async def complete() -> None:
            oauth = self.processes[0]
            started = await oauth.begin_authorization(REDIRECT_URI)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.sandbox.app)) as browser:
                response = await browser.get(started.url.get_secret_value())
            query = httpx.URL(response.headers["location"]).params
            await oauth.complete_authorization(started.pending, parse_authorization_response(query.multi_items()))

        self.run(complete)
        self.signed_in = self.grant_lives = True

    @rule(which=st.integers(0, 1))
    def sign_out(self, which: int) -> None:
        self.run(self.processes[which].sign_out)
        if self.signed_in:
            self.grant_lives = False
        self.signed_in = False

    @rule(minutes=st.sampled_from([1, 20, 57, 61, 60 * 24 * 7]))
    def pass_time(self, minutes: int) -> None:
        self.ahead += timedelta(minutes=minutes)

    @rule()
    def end_the_grant(self) -> None:
        self.sandbox.revoke_grants()
        self.grant_lives = False

    @rule(which=st.integers(0, 1))
    def use_a_token(self, which: int) -> None:
        self.check_use(which, lambda oauth: oauth.tokens.token())

    @rule(which=st.integers(0, 1))
    def replace_a_rejected_token(self, which: int) -> None:
        async def use(oauth: NotionOAuth) -> None:
            token = await oauth.tokens.token()
            self.sandbox.expire_access_tokens()
            token = await oauth.tokens.token(rejected=token)
            assert self.sandbox.is_access_token_live(token.get_secret_value())
            oauth.tokens.record_accepted(token)

        self.check_use(which, use)

    @rule(which=st.integers(0, 1))
    def refresh(self, which: int) -> None:
        self.check_use(which, lambda oauth: oauth.refresh())

    @precondition(lambda self: self.signed_in and self.grant_lives)
    @rule(
        which=st.integers(0, 1),
        failure=st.sampled_from(
            ["429", "500", "503", "lose request", "lose response", "garble", "die before saving", "die after saving"]
        ),
    )
    def fail_a_refresh(self, which: int, failure: str) -> None:
        oauth = self.processes[which]
        assert isinstance(oauth.store, Dying)
        if failure.startswith("die"):
            oauth.store.dies = failure.split()[1]
        elif failure.startswith("lose"):
            self.network.loses = failure.split()[1]
        elif failure.isdigit():
            self.sandbox.fail_next("/token", status=int(failure))
        else:
            self.sandbox.misbehave_next("/token", "garble")
        try:
            self.run(oauth.refresh)
        except (TransientError, Crash):
            pass
        except SignInRequired:
            assert self.sandbox.live_grants == 0, "a transient failure ended the login"
            self.grant_lives = self.signed_in = False
        else:
            raise AssertionError("it did not fail")
        if oauth.store.dies:
            self.processes[which] = self.process()

    @invariant()
    def grant_ends_by_age(self) -> None:
        """30 days after the last refresh, 180 days after the sign-in: the limits of the practice server."""
        now, options = self.clock().timestamp(), self.sandbox.options
        too_old = now >= self.authorized_at + options.refresh_token_lifetime
        if too_old or now >= self.refreshed_at + options.refresh_token_idle_lifetime:
            self.grant_lives = False

    @invariant()
    def live_login_is_not_lost(self) -> None:
        """While the grant is live, the refresh token in the file is one that the server accepts."""
        if not (self.signed_in and self.grant_lives):
            return
        stored = asyncio.run(load_login(self.processes[0].store, "default"))
        assert stored is not None
        assert stored.refresh_token is not None
        assert self.sandbox.live_grants == 1
        assert stored.refresh_token.get_secret_value() in self.usable_refresh_tokens

    @invariant()
    def dead_refresh_token_is_sent_at_most_twice(self) -> None:
        """A refusal is believed when the server repeats it."""
        refused = Counter(
            request.form.get("refresh_token")
            for request in self.sandbox.requests_to("/token", "POST")
            if request.status == 400 and request.form.get("grant_type") == "refresh_token"
        )
        assert max(refused.values(), default=0) <= 2


Engine.TestCase.settings = hypothesis_settings(max_examples=25, stateful_step_count=25, deadline=None)
TestEngine = pytest.mark.slow(Engine.TestCase)
