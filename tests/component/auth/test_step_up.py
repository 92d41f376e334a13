"""A resource that requires more than a valid token: scopes (RFC 6750 §3.1), or a newer sign-in (RFC 9470)."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import httpx
import httpx2
import pytest

from notion_oauth.auth import httpx2_auth, httpx_auth
from notion_oauth.auth.flow import FAILURE_COOLDOWN, REPEAT_COOLDOWN
from notion_oauth.errors import AuthorizationRefused, NetworkError, NotSignedIn, StepUpRequired
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from tests.conftest import Posted
from tests.support.signing_in import sign_in

pytestmark = pytest.mark.anyio
THREADS, ROUNDS = 6, 3
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
SCOPE = 'Bearer error="insufficient_scope", scope="default"'
FRESH = 'Bearer error="insufficient_user_authentication", acr_values="myACR other", max_age="300"'


class Person:
    """A user who consents at once. `asked` lists the challenges."""

    def __init__(self, oauth: NotionOAuth) -> None:
        self.oauth = oauth
        self.asked: list[BearerChallenge | None] = []

    async def sign_in(self, challenge: BearerChallenge | None) -> None:
        self.asked.append(challenge)
        await sign_in(self.oauth, challenge=challenge)


class Undecided(Person):
    """A user who consents once `agreed` is set."""

    def __init__(self, oauth: NotionOAuth) -> None:
        super().__init__(oauth)
        self.agreed = threading.Event()

    async def sign_in(self, challenge: BearerChallenge | None) -> None:
        self.asked.append(challenge)
        while not self.agreed.is_set():
            await anyio.sleep(0.01)
        await sign_in(self.oauth, challenge=challenge)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Makes threads switch very often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def person(oauth: NotionOAuth) -> Person:
    return Person(oauth)


class Uptime:
    """A clock that only tests advance, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def uptime() -> Uptime:
    return Uptime()


def in_a_thread(function: Callable[[], Awaitable[None]]) -> tuple[Any, ...]:
    """Arguments for `start_soon` that run a blocking coroutine function in a thread."""
    return (anyio.to_thread.run_sync, anyio.run, function)


async def wait_until_awaited(bearer: Any, number: int) -> None:
    """Wait until exactly `number` requests wait for the sign-in in progress; 0 means that none is in progress."""
    while (0 if (call := bearer.sign_ins.current()) is None else call.waiting or -1) != number:
        await anyio.sleep(0.01)


def refuse(sandbox: Sandbox, challenge: str, *, status: int = 403, times: int = 1) -> None:
    sandbox.fail_next("/mcp", status=status, headers={"WWW-Authenticate": challenge}, times=times)


async def post(kind: str, bearer: Any, sandbox: Sandbox, **options: Any) -> Any:
    """Send one request through one of the four kinds of client."""
    library: Any = httpx if kind.startswith("httpx ") else httpx2
    if kind.endswith("async"):
        async with library.AsyncClient(auth=bearer, trust_env=False) as client:
            return await client.post(sandbox.mcp_url, **options)
    with library.Client(auth=bearer, trust_env=False) as client:
        return client.post(sandbox.mcp_url, **options)


KINDS = ["httpx async", "httpx sync", "httpx2 async", "httpx2 sync"]
BACKENDS = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
NEEDS = pytest.mark.parametrize("need", ["a login", "a scope"])


def bearer_auth(kind: str, oauth: NotionOAuth, **options: Any) -> Any:
    return (httpx_auth if kind.startswith("httpx ") else httpx2_auth).BearerAuth(oauth, **options)


@contextmanager
def authorizations(sandbox: Sandbox) -> Iterator[list[dict[str, str]]]:
    """The queries of the authorization requests during the block."""
    seen: list[dict[str, str]] = []
    before = len(sandbox.requests_to("/authorize"))
    yield seen
    seen += [request.query for request in sandbox.requests_to("/authorize")[before:]]


@pytest.mark.parametrize("kind", KINDS)
class TestWithoutAuthorize:
    """A background program gets an error that names the command to run; no browser is opened."""

    @pytest.mark.spec("MCP §Step-Up Authorization Flow", "Without a user, fail at once and name the command to run")
    async def test_missing_scope_raises_step_up_required(self, oauth: NotionOAuth, sandbox: Sandbox, kind: str) -> None:
        await sign_in(oauth)
        refuse(sandbox, 'Bearer error="insufficient_scope", scope="files:write x\'$(id)"')
        with pytest.raises(StepUpRequired, match="files:write") as caught:
            await post(kind, bearer_auth(kind, oauth), sandbox, json=PING)
        assert caught.value.scope == "files:write x'$(id)"
        assert "notion-oauth login --scope 'files:write x'\"'\"'$(id)'" in str(caught.value.hint), "quoted for a shell"

    async def test_sign_in_too_old_or_too_weak_raises_step_up_required(
        self, oauth: NotionOAuth, sandbox: Sandbox, kind: str, grants_asked: Posted
    ) -> None:
        await sign_in(oauth)
        refuse(sandbox, FRESH, status=401)
        with pytest.raises(StepUpRequired) as caught:
            await post(kind, bearer_auth(kind, oauth), sandbox, json=PING)
        assert (caught.value.acr_values, caught.value.max_age) == ("myACR other", 300)
        assert "--acr-values 'myACR other' --max-age 300" in str(caught.value.hint)
        assert grants_asked() == ["authorization_code"], "a refresh would not help"

    async def test_login_is_unchanged_after_a_step_up_challenge(
        self, oauth: NotionOAuth, sandbox: Sandbox, kind: str
    ) -> None:
        login = await sign_in(oauth)
        refuse(sandbox, SCOPE)
        with pytest.raises(StepUpRequired):
            await post(kind, bearer_auth(kind, oauth), sandbox, json=PING)
        assert await oauth.tokens.token() == login.access_token
        assert (await post(kind, bearer_auth(kind, oauth), sandbox, json=PING)).status_code == 200

    async def test_token_repeated_in_a_challenge_is_not_shown(
        self, oauth: NotionOAuth, sandbox: Sandbox, kind: str
    ) -> None:
        token = (await sign_in(oauth)).access_token.get_secret_value()
        refuse(sandbox, f'Bearer error="insufficient_scope", scope="files {token}"')
        with pytest.raises(StepUpRequired) as caught:
            await post(kind, bearer_auth(kind, oauth), sandbox, json=PING)
        assert token not in f"{caught.value} {vars(caught.value)}"

    async def test_other_403_is_returned_to_the_caller(self, oauth: NotionOAuth, sandbox: Sandbox, kind: str) -> None:
        await sign_in(oauth)
        for challenge in ('Bearer error="invalid_token"', 'DPoP error="insufficient_scope"', ""):
            refuse(sandbox, challenge)
            assert (await post(kind, bearer_auth(kind, oauth), sandbox, json=PING)).status_code == 403

    async def test_newer_login_of_another_program_is_tried_first(
        self, oauth: NotionOAuth, sandbox: Sandbox, kind: str
    ) -> None:
        """The user has run the command meanwhile: the new login is used."""
        await sign_in(oauth)
        bearer = bearer_auth(kind, oauth)
        assert (await post(kind, bearer, sandbox, json=PING)).status_code == 200
        again = NotionOAuth(oauth.settings)
        flow = bearer.sync_auth_flow(httpx.Request("POST", sandbox.mcp_url, json=PING))
        if kind == "httpx sync":
            first = next(flow)
            await sign_in(again)
            refused = httpx.Response(403, headers={"WWW-Authenticate": SCOPE}, request=first, content=b"")
            second = flow.send(refused)
            token = (await oauth.tokens.token()).get_secret_value()
            assert second.headers["Authorization"] == f"Bearer {token}"


@pytest.mark.parametrize("kind", KINDS)
class TestWithAuthorize:
    """A program with `authorize` requests the granted scopes and the missing ones."""

    async def test_request_without_a_login_starts_a_sign_in(
        self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str
    ) -> None:
        with authorizations(sandbox) as asked:
            answer = await post(kind, bearer_auth(kind, oauth, authorize=person.sign_in), sandbox, json=PING)
        assert answer.json()["result"] == {}
        assert len(asked) == 1
        assert person.asked[0] is not None
        assert person.asked[0].resource_metadata, "the challenge of the first request, which had no token"

    @pytest.mark.spec("MCP §Step-Up Authorization Flow", "Send the request again with the new token")
    async def test_missing_scope_is_requested_with_the_granted_ones(
        self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str
    ) -> None:
        sandbox.options.scopes = ("default", "read", "write")
        sandbox.options.resource_metadata_overrides = {"scopes_supported": ["default"]}
        await sign_in(oauth)
        sandbox.options.resource_metadata_overrides = {}
        refuse(sandbox, 'Bearer error="insufficient_scope", scope="write read"')
        with authorizations(sandbox) as asked:
            answer = await post(kind, bearer_auth(kind, oauth, authorize=person.sign_in), sandbox, json=PING)
        assert answer.status_code == 200
        assert [query["scope"] for query in asked] == ["default write read"]

    async def test_newer_sign_in_is_requested_as_challenged(
        self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str
    ) -> None:
        await sign_in(oauth)
        refuse(sandbox, FRESH, status=401)
        with authorizations(sandbox) as asked:
            answer = await post(kind, bearer_auth(kind, oauth, authorize=person.sign_in), sandbox, json=PING)
        assert answer.status_code == 200
        assert [(query["acr_values"], query["max_age"]) for query in asked] == [("myACR other", "300")]

    @pytest.mark.spec("MCP §Step-Up Authorization Flow", "Remember step-ups that did not help")
    async def test_user_is_asked_once_for_the_same_requirement(
        self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str
    ) -> None:
        await sign_in(oauth)
        bearer = bearer_auth(kind, oauth, authorize=person.sign_in)
        refuse(sandbox, SCOPE, times=10)
        for _ in range(3):
            with pytest.raises(StepUpRequired):
                await post(kind, bearer, sandbox, json=PING)
        assert len(person.asked) == 1

    @pytest.mark.spec("MCP §Step-Up Authorization Flow", "Limit the number of step-ups for one request")
    async def test_at_most_three_sign_ins_for_one_request(
        self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str
    ) -> None:
        await sign_in(oauth)
        for number in range(10):
            refuse(sandbox, f'Bearer error="insufficient_scope", scope="default", acr_values="{number}"')
        with pytest.raises(StepUpRequired):
            await post(kind, bearer_auth(kind, oauth, authorize=person.sign_in), sandbox, json=PING)
        assert len(person.asked) == 3

    async def test_declined_sign_in_fails_the_request(self, oauth: NotionOAuth, sandbox: Sandbox, kind: str) -> None:
        async def decline(challenge: BearerChallenge | None) -> None:
            raise AuthorizationRefused("The sign-in was declined.", error="access_denied")

        with pytest.raises(AuthorizationRefused):
            await post(kind, bearer_auth(kind, oauth, authorize=decline), sandbox, json=PING)

    async def test_expired_token_is_refreshed_without_a_sign_in(
        self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str
    ) -> None:
        await sign_in(oauth)
        sandbox.expire_access_tokens()
        answer = await post(kind, bearer_auth(kind, oauth, authorize=person.sign_in), sandbox, json=PING)
        assert answer.status_code == 200
        assert not person.asked

    async def test_ended_grant_starts_a_sign_in(
        self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str
    ) -> None:
        await sign_in(oauth)
        sandbox.revoke_grants()
        answer = await post(kind, bearer_auth(kind, oauth, authorize=person.sign_in), sandbox, json=PING)
        assert answer.status_code == 200
        assert len(person.asked) == 1


@pytest.mark.slow
async def test_waiting_requests_share_one_sign_in(oauth: NotionOAuth, sandbox: Sandbox, person: Person) -> None:
    async def slowly(challenge: BearerChallenge | None) -> None:
        await anyio.sleep(0.3)  # long enough for all of them to be refused
        await person.sign_in(challenge)

    answers: list[int] = []
    async with httpx.AsyncClient(auth=httpx_auth.BearerAuth(oauth, authorize=slowly), trust_env=False) as client:

        async def ask() -> None:
            answers.append((await client.post(sandbox.mcp_url, json=PING)).status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(25):
                tasks.start_soon(ask)
    assert answers == [200] * 25
    assert len(person.asked) == 1


@pytest.mark.parametrize("needs", [["read"] * 10, ["read", "write"] * 5], ids=["one requirement", "two requirements"])
async def test_concurrent_step_ups_share_one_sign_in(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person, needs: list[str]
) -> None:
    sandbox.options.scopes = ("default", "read", "write")
    await sign_in(oauth)
    for need in needs:
        refuse(sandbox, f'Bearer error="insufficient_scope", scope="{need}"')

    async def slowly(challenge: BearerChallenge | None) -> None:
        while len(sandbox.requests_to("/mcp")) < 1 + len(needs):  # the first was sent before the sign-in
            await anyio.sleep(0.01)
        await person.sign_in(challenge)

    answers: list[int] = []
    async with httpx.AsyncClient(auth=httpx_auth.BearerAuth(oauth, authorize=slowly), trust_env=False) as client:

        async def ask() -> None:
            answers.append((await client.post(sandbox.mcp_url, json=PING)).status_code)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for _ in needs:
                    tasks.start_soon(ask)
    assert answers == [200] * len(needs)
    assert len(person.asked) == 1, "its result served all of them"


async def test_another_requirement_starts_a_second_sign_in(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person
) -> None:
    sandbox.options.scopes = ("default", "read", "write")
    await sign_in(oauth)
    refuse(sandbox, 'Bearer error="insufficient_scope", scope="read"')
    refuse(sandbox, 'Bearer error="insufficient_scope", scope="write"')

    async def slowly(challenge: BearerChallenge | None) -> None:
        while len(sandbox.requests_to("/mcp")) < 3:
            await anyio.sleep(0.01)
        if not person.asked:  # the second request is refused once more, with the new token
            refuse(sandbox, 'Bearer error="insufficient_scope", scope="other"')
        url = f"{sandbox.base_url}/.well-known/oauth-protected-resource/mcp"  # so that /mcp is not asked for it
        more = BearerChallenge(error="insufficient_scope", scope="read write", resource_metadata=url)
        await person.sign_in(more)

    bearer = httpx_auth.BearerAuth(oauth, authorize=slowly)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, "httpx async", bearer, sandbox)
            tasks.start_soon(post, "httpx async", bearer, sandbox)
    assert len(person.asked) == 2


async def test_changed_error_description_is_no_new_requirement(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person
) -> None:
    await sign_in(oauth)
    bearer = httpx_auth.BearerAuth(oauth, authorize=person.sign_in)
    for number in range(6):
        refuse(sandbox, f'Bearer error="insufficient_scope", scope="default", error_description="{number}"')
    for _ in range(3):
        with pytest.raises(StepUpRequired):
            await post("httpx async", bearer, sandbox, json=PING)
    assert len(person.asked) == 1


async def test_resource_that_refuses_every_token_causes_one_sign_in(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person
) -> None:
    bearer = httpx_auth.BearerAuth(oauth, authorize=person.sign_in)
    sandbox.fail_next("/mcp", status=401, times=100)
    for _ in range(3):
        assert (await post("httpx async", bearer, sandbox, json=PING)).status_code == 401
    assert len(person.asked) == 1


async def test_declined_sign_in_is_not_repeated_during_the_cooldown(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    asked: list[object] = []

    async def decline(challenge: BearerChallenge | None) -> None:
        asked.append(challenge)
        raise AuthorizationRefused("The sign-in was declined.", error="access_denied")

    bearer = httpx_auth.BearerAuth(oauth, authorize=decline)
    for _ in range(4):
        with pytest.raises(AuthorizationRefused):
            await post("httpx async", bearer, sandbox, json=PING)
    assert len(asked) == 1


async def test_sign_in_is_cancelled_when_no_request_waits(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    ended, began = threading.Event(), threading.Event()

    async def forever(challenge: BearerChallenge | None) -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post, "httpx async", httpx_auth.BearerAuth(oauth, authorize=forever), sandbox)
        await anyio.to_thread.run_sync(began.wait)
        tasks.cancel_scope.cancel()
    assert await anyio.to_thread.run_sync(ended.wait, 30)


@BACKENDS
@NEEDS
@pytest.mark.parametrize("kind", ["httpx async", "httpx sync"])
async def test_sign_in_continues_while_one_request_waits(
    oauth: NotionOAuth, sandbox: Sandbox, need: str, kind: str
) -> None:
    """The user must not see a second browser tab."""
    person, statuses = Undecided(oauth), []
    if need == "a scope":
        await sign_in(oauth)
        refuse(sandbox, SCOPE, times=2)
    bearer = httpx_auth.BearerAuth(oauth, authorize=person.sign_in)
    first_scope = anyio.CancelScope()

    async def send_first() -> None:
        with first_scope:
            await post("httpx async", bearer, sandbox, json=PING)

    async def send_second() -> None:
        statuses.append((await post(kind, bearer, sandbox, json=PING)).status_code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_first)
        try:
            with anyio.fail_after(30):
                await wait_until_awaited(bearer, 1)
                tasks.start_soon(*in_a_thread(send_second) if kind == "httpx sync" else (send_second,))
                await wait_until_awaited(bearer, 2)
                first_scope.cancel()
                await wait_until_awaited(bearer, 1)
        finally:
            person.agreed.set()
    assert statuses == [200]
    assert len(person.asked) == 1


@BACKENDS
@NEEDS
async def test_abandoned_sign_in_can_be_started_again(oauth: NotionOAuth, sandbox: Sandbox, need: str) -> None:
    """The request was cancelled, and the user has neither consented nor declined."""
    person = Undecided(oauth)
    bearer = httpx_auth.BearerAuth(oauth, authorize=person.sign_in)
    if need == "a scope":
        await sign_in(oauth)
        refuse(sandbox, SCOPE, times=2)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(post, "httpx async", bearer, sandbox, json=PING))
            await wait_until_awaited(bearer, 1)
            tasks.cancel_scope.cancel()
        await wait_until_awaited(bearer, 0)
        person.agreed.set()
        assert (await post("httpx async", bearer, sandbox, json=PING)).status_code == 200
    assert len(person.asked) == 2


@BACKENDS
async def test_request_during_the_cancellation_of_a_sign_in_starts_another(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person
) -> None:
    ending, asked = threading.Event(), 0

    async def authorize(challenge: BearerChallenge | None) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            try:
                await anyio.sleep_forever()
            finally:
                ending.set()
                with anyio.CancelScope(shield=True):
                    await wait_until_awaited(bearer, 1)
        await person.sign_in(challenge)

    bearer = httpx_auth.BearerAuth(oauth, authorize=authorize)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(post, "httpx async", bearer, sandbox, json=PING))
            await wait_until_awaited(bearer, 1)
            tasks.cancel_scope.cancel()
        while not ending.is_set():
            await anyio.sleep(0.01)
        assert (await post("httpx async", bearer, sandbox, json=PING)).status_code == 200
    assert len(person.asked) == 1


@NEEDS
@pytest.mark.parametrize("failure", [NetworkError("No answer."), OSError("no browser")], ids=["ours", "another"])
async def test_failed_sign_in_is_repeated_after_the_cooldown(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person, uptime: Uptime, need: str, failure: Exception
) -> None:
    """Without a cooldown, a loop of requests would open a browser each second."""
    if need == "a scope":
        await sign_in(oauth)
    failed: list[object] = []

    async def fail_once(challenge: BearerChallenge | None) -> None:
        if not failed:
            failed.append(challenge)
            raise failure
        await person.sign_in(challenge)

    bearer = httpx_auth.BearerAuth(oauth, authorize=fail_once, uptime=uptime)
    for seconds in (0, 1, FAILURE_COOLDOWN - 2):
        uptime.advance(seconds)
        if need == "a scope":
            refuse(sandbox, SCOPE)
        with pytest.raises(type(failure), match=str(failure)):
            await post("httpx async", bearer, sandbox, json=PING)
    assert not person.asked
    uptime.advance(1)
    if need == "a scope":
        refuse(sandbox, SCOPE)
    assert (await post("httpx async", bearer, sandbox, json=PING)).status_code == 200
    assert len(person.asked) == 1


async def test_declined_requirement_is_asked_again_after_its_cooldown(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person, uptime: Uptime
) -> None:
    await sign_in(oauth)
    declined: list[object] = []

    async def decline_once(challenge: BearerChallenge | None) -> None:
        if not declined:
            declined.append(challenge)
            raise AuthorizationRefused("The sign-in was declined.", error="access_denied")
        await person.sign_in(challenge)

    bearer = httpx_auth.BearerAuth(oauth, authorize=decline_once, uptime=uptime)
    refuse(sandbox, SCOPE, times=4)
    for seconds, expected in ((0, AuthorizationRefused), (FAILURE_COOLDOWN, StepUpRequired), (1, StepUpRequired)):
        uptime.advance(seconds)
        with pytest.raises(expected):
            await post("httpx async", bearer, sandbox, json=PING)
    uptime.advance(REPEAT_COOLDOWN)
    assert (await post("httpx async", bearer, sandbox, json=PING)).status_code == 200
    assert len(person.asked) == 1


@BACKENDS
@pytest.mark.parametrize("kind", ["httpx async", "httpx sync"])
async def test_all_waiting_requests_get_the_error_of_the_sign_in(
    oauth: NotionOAuth, sandbox: Sandbox, kind: str
) -> None:
    asked: list[object] = []
    outcomes: list[object] = []

    async def fail(challenge: BearerChallenge | None) -> None:
        asked.append(challenge)
        if len(asked) == 1:
            await wait_until_awaited(bearer, THREADS)
        raise OSError("no browser")

    async def ask() -> None:
        try:
            await post(kind, bearer, sandbox, json=PING)
        except OSError as error:
            outcomes.append(str(error))

    bearer = httpx_auth.BearerAuth(oauth, authorize=fail)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(THREADS):
                tasks.start_soon(*in_a_thread(ask) if kind == "httpx sync" else (ask,))
    assert outcomes == ["no browser"] * THREADS
    assert len(asked) == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_forked_process_starts_its_own_sign_in(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    """The child process cannot receive the result of its parent's sign-in."""
    await sign_in(oauth)
    refuse(sandbox, SCOPE, times=2)
    code = """
import os, threading, anyio, httpx
from notion_oauth import BearerAuth, NotionOAuth

asking, done = threading.Event(), threading.Event()

async def authorize(challenge):
    asking.set()
    if os.getpid() == parent:
        await anyio.to_thread.run_sync(done.wait)
    raise OSError("asked")

def ask():
    with httpx.Client(auth=bearer, trust_env=False) as client:
        try:
            client.post(NotionOAuth().settings.server_url)
        except OSError:
            return 0
    return 1

parent, bearer = os.getpid(), BearerAuth(NotionOAuth(), authorize=authorize)
first = threading.Thread(target=ask)
first.start()
asking.wait()
if os.fork() == 0:
    os._exit(ask())
code = os.waitstatus_to_exitcode(os.wait()[1])
done.set()
first.join()
os._exit(code)
"""
    environment = {
        **os.environ,
        "NOTION_OAUTH_SERVER_URL": oauth.settings.server_url,
        "NOTION_OAUTH_TOKEN_FILE": str(oauth.settings.token_file),
    }
    done = await anyio.run_process([sys.executable, "-c", code], env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


async def test_waiting_requests_use_the_login_of_a_sign_in_that_failed_late(
    oauth: NotionOAuth, sandbox: Sandbox
) -> None:
    """For example, the login was stored, but printing the message failed."""

    async def sign_in_and_fail(challenge: BearerChallenge | None) -> None:
        await wait_until_awaited(bearer, 2)
        await sign_in(oauth, challenge=challenge)
        raise BrokenPipeError

    outcomes: list[object] = []

    async def ask() -> None:
        try:
            outcomes.append((await post("httpx async", bearer, sandbox, json=PING)).status_code)
        except BrokenPipeError:
            outcomes.append("failed")

    bearer = httpx_auth.BearerAuth(oauth, authorize=sign_in_and_fail)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
    assert sorted(map(str, outcomes)) == ["200", "failed"]


@pytest.mark.parametrize("kind", KINDS)
async def test_authorize_may_use_the_same_auth(oauth: NotionOAuth, sandbox: Sandbox, kind: str) -> None:
    """Its requests never wait for a sign-in, which would be itself."""
    failed: list[NotSignedIn] = []

    async def send_first_then_sign_in(challenge: BearerChallenge | None) -> None:
        try:
            await post(kind, bearer, sandbox, json=PING)
        except NotSignedIn as error:
            failed.append(error)
        await sign_in(oauth, challenge=challenge)

    bearer = bearer_auth(kind, oauth, authorize=send_first_then_sign_in)
    with anyio.fail_after(60):
        assert (await post(kind, bearer, sandbox, json=PING)).status_code == 200
    assert len(failed) == 1


async def test_hint_names_the_profile(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    work = NotionOAuth(oauth.settings, profile="work")
    await sign_in(work)
    refuse(sandbox, SCOPE)
    with pytest.raises(StepUpRequired) as caught:
        await post("httpx async", httpx_auth.BearerAuth(work), sandbox, json=PING)
    assert "--profile work" in str(caught.value.hint)


async def test_second_challenge_in_the_header_is_found(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    await sign_in(oauth)
    refuse(sandbox, f'Bearer resource_metadata="{sandbox.base_url}/x", {SCOPE}')
    with pytest.raises(StepUpRequired):
        await post("httpx async", httpx_auth.BearerAuth(oauth), sandbox, json=PING)


async def test_stream_is_not_sent_again_after_a_sign_in(oauth: NotionOAuth, sandbox: Sandbox, person: Person) -> None:
    async def body() -> Any:
        yield b"{}"

    async with httpx.AsyncClient(
        auth=httpx_auth.BearerAuth(oauth, authorize=person.sign_in), trust_env=False
    ) as client:
        assert (await client.post(sandbox.mcp_url, content=body())).status_code == 401
        assert len(person.asked) == 1, "the next request finds a login"


async def test_without_authorize_no_request_is_sent(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    with pytest.raises(NotSignedIn):
        await post("httpx async", httpx_auth.BearerAuth(oauth), sandbox, json=PING)
    assert not sandbox.requests


def test_threads_share_the_sign_in_of_a_step_up(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person, hasty_threads: None
) -> None:
    anyio.run(sign_in, oauth)
    bearer = httpx_auth.BearerAuth(oauth, authorize=person.sign_in)
    refused = {"WWW-Authenticate": SCOPE}
    outcomes: list[object] = []

    def ask(barrier: threading.Barrier, before: str) -> None:
        request = httpx.Request("POST", sandbox.mcp_url, json=PING)
        flow = bearer.sync_auth_flow(request)
        try:
            sent = next(flow)
            barrier.wait()
            while sent.headers["Authorization"] == before:
                sent = flow.send(httpx.Response(403, headers=refused, request=sent))
            outcomes.append(200)
        except Exception as error:  # what the caller would get
            outcomes.append(error)

    for _ in range(ROUNDS):
        bearer = httpx_auth.BearerAuth(oauth, authorize=person.sign_in)
        before = f"Bearer {anyio.run(oauth.tokens.token).get_secret_value()}"
        barrier = threading.Barrier(THREADS)
        threads = [threading.Thread(target=ask, args=(barrier, before)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == [200] * (ROUNDS * THREADS)
    assert len(person.asked) == ROUNDS
