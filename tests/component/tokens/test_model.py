"""The refresh engine against a model: any order of expiry, refresh, failure, sign-out, sign-in and crash."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from notion_oauth.errors import NotSignedIn, SignInRequired, TransientError
from notion_oauth.models import TokenSet
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.sandbox import Sandbox, SandboxOptions
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport

T = TypeVar("T")
REDIRECT_URI = "http://127.0.0.1:4321/callback"


class Crash(BaseException):
    """The process dies here."""


class Dying(JsonFileStore):
    """A store whose process dies in the middle of the next save, before or after the file was replaced."""

    dies: str | None = None

    async def save(self, profile: str, tokens: TokenSet) -> None:
        if self.dies == "before":
            raise Crash
        await super().save(profile, tokens)
        if self.dies == "after":
            raise Crash


class Lossy(httpx.ASGITransport):
    """A network that loses the next request to the token endpoint, or the answer to it."""

    loses: str | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        loses = self.loses if request.url.path == "/token" else None
        if loses is not None:
            self.loses = None
        if loses == "request":
            raise httpx.ConnectError("lost on the way")
        answer = await super().handle_async_request(request)
        if loses == "answer":
            raise httpx.ReadError("lost on the way back")
        return answer


class Engine(RuleBasedStateMachine):
    """Two processes over one file. The model knows whether the grant lives and whether anybody is signed in."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ahead = timedelta()
        self.sandbox = Sandbox("http://127.0.0.1:9000", SandboxOptions(), clock=lambda: self.clock().timestamp())
        self.network = Lossy(self.sandbox.app)
        self.processes = [self.process(), self.process()]
        self.signed_in = False
        self.grant_lives = False
        self.refresh_tokens_sent: list[str] = []

    def clock(self) -> datetime:
        return datetime.now(UTC) + self.ahead

    def process(self) -> NotionOAuth:
        path = Path(self.folder.name) / "tokens.json"
        client = OAuthClient(Transport(timeout=timedelta(seconds=5), network=self.network), clock=self.clock)
        settings = Settings(server_url=self.sandbox.mcp_url, token_file=path, retry_for=0)
        return NotionOAuth(settings, store=Dying(path), client=client, clock=self.clock)

    def teardown(self) -> None:
        self.folder.cleanup()

    def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def then_settled() -> T:
            try:
                return await call()
            finally:
                for process in self.processes:
                    await process.tokens.wait_until_idle()

        return asyncio.run(then_settled())

    def check_use(self, which: int, call: Callable[[NotionOAuth], Coroutine[Any, Any, object]]) -> None:
        """Whatever a caller gets is what the model says: a token, "not signed in", or "sign in again"."""
        try:
            self.run(lambda: call(self.processes[which]))
        except NotSignedIn:
            assert not self.signed_in
        except SignInRequired:
            assert not self.grant_lives, "a living login was called dead"
            self.signed_in = False
        else:
            assert self.signed_in

    @rule()
    def somebody_signs_in(self) -> None:
        async def sign_in() -> None:
            oauth = self.processes[0]
            begun = await oauth.begin_authorization(REDIRECT_URI)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.sandbox.app)) as browser:
                answer = await browser.get(begun.url.get_secret_value())
            query = httpx.URL(answer.headers["location"]).params
            await oauth.complete_authorization(begun.pending, parse_authorization_response(query.multi_items()))

        self.run(sign_in)
        self.signed_in = self.grant_lives = True

    @rule(which=st.integers(0, 1))
    def somebody_signs_out(self, which: int) -> None:
        self.run(self.processes[which].sign_out)
        if self.signed_in:
            self.grant_lives = False
        self.signed_in = False

    @rule(minutes=st.sampled_from([1, 20, 57, 61, 60 * 24 * 7]))
    def time_passes(self, minutes: int) -> None:
        self.ahead += timedelta(minutes=minutes)

    @rule()
    def the_server_ends_the_grant(self) -> None:
        self.sandbox.revoke_grants()
        self.grant_lives = False

    @rule(which=st.integers(0, 1))
    def a_token_is_used(self, which: int) -> None:
        self.check_use(which, lambda oauth: oauth.tokens.token())

    @rule(which=st.integers(0, 1))
    def the_server_refuses_a_token_and_another_is_asked_for(self, which: int) -> None:
        async def use(oauth: NotionOAuth) -> None:
            token = await oauth.tokens.token()
            self.sandbox.expire_access_tokens()
            token = await oauth.tokens.token(rejected=token)
            assert self.sandbox.is_access_token_live(token.get_secret_value())

        self.check_use(which, use)

    @rule(which=st.integers(0, 1))
    def it_is_refreshed(self, which: int) -> None:
        self.check_use(which, lambda oauth: oauth.refresh())

    @precondition(lambda self: self.signed_in and self.grant_lives)
    @rule(
        which=st.integers(0, 1),
        failure=st.sampled_from(
            ["429", "500", "503", "lose request", "lose answer", "garble", "die before saving", "die after saving"]
        ),
    )
    def a_refresh_fails(self, which: int, failure: str) -> None:
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
            assert self.grant_over(), "a passing failure was taken for the end"
            self.grant_lives = self.signed_in = False
        else:
            raise AssertionError("it did not fail")
        if oauth.store.dies:
            self.processes[which] = self.process()

    def grant_over(self) -> bool:
        return self.sandbox.live_grants == 0

    @invariant()
    def the_model_knows_when_a_grant_dies_of_age(self) -> None:
        """30 days without a refresh, 180 after the sign-in: the practice server's own count."""
        if self.grant_lives and self.ages_out():
            self.grant_lives = False

    def ages_out(self) -> bool:
        now = self.clock().timestamp()
        options = self.sandbox.options
        return all(
            grant.ended
            or now >= grant.authorized_at + options.refresh_token_lifetime
            or now >= grant.refreshed_at + options.refresh_token_idle_lifetime
            for grant in self.sandbox._state.grants.values()
        )

    @invariant()
    def no_living_login_is_lost(self) -> None:
        """As long as the server keeps the grant, what is stored can be refreshed: nothing but the file is needed."""
        if not (self.signed_in and self.grant_lives):
            return
        stored = asyncio.run(self.processes[0].store.load("default"))
        assert stored is not None
        assert stored.refresh_token is not None
        [grant] = [grant for grant in self.sandbox._state.grants.values() if grant.ended is None]
        assert stored.refresh_token.get_secret_value() in (grant.current, grant.previous)

    @invariant()
    def a_dead_refresh_token_is_sent_once_at_most(self) -> None:
        refused = [
            request.form.get("refresh_token")
            for request in self.sandbox.requests_to("/token", "POST")
            if request.status == 400 and request.form.get("grant_type") == "refresh_token"
        ]
        assert len(refused) == len(set(refused))


Engine.TestCase.settings = hypothesis_settings(max_examples=25, stateful_step_count=25, deadline=None)
TestEngine = Engine.TestCase
