"""A resource that asks for more than a valid token: scopes (RFC 6750 §3.1), or a fresher sign-in (RFC 9470)."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.to_thread
import httpx
import httpx2
import pytest

from notion_oauth import auth, auth_httpx2
from notion_oauth.errors import AuthorizationRefused, NotSignedIn, StepUpRequired
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from tests.conftest import Posted
from tests.engine.signing_in import sign_in

pytestmark = pytest.mark.anyio
THREADS, ROUNDS = 6, 3
PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
SCOPE = 'Bearer error="insufficient_scope", scope="default"'
FRESH = 'Bearer error="insufficient_user_authentication", acr_values="myACR other", max_age="300"'


class Person:
    """Agrees at once; notes what they were asked."""

    def __init__(self, oauth: NotionOAuth) -> None:
        self.oauth = oauth
        self.asked: list[BearerChallenge | None] = []

    async def sign_in(self, challenge: BearerChallenge | None) -> None:
        self.asked.append(challenge)
        await sign_in(self.oauth, challenge=challenge)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    """Threads that take turns in the middle of everything."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(2e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def person(oauth: NotionOAuth) -> Person:
    return Person(oauth)


def refuse(sandbox: Sandbox, challenge: str, *, status: int = 403, times: int = 1) -> None:
    sandbox.fail_next("/mcp", status=status, headers={"WWW-Authenticate": challenge}, times=times)


async def post(kind: str, bearer: Any, sandbox: Sandbox, **options: Any) -> Any:
    """One request through one of the four clients that BearerAuth serves."""
    library: Any = httpx if kind.startswith("httpx ") else httpx2
    if kind.endswith("async"):
        async with library.AsyncClient(auth=bearer, trust_env=False) as client:
            return await client.post(sandbox.mcp_url, **options)
    with library.Client(auth=bearer, trust_env=False) as client:
        return client.post(sandbox.mcp_url, **options)


KINDS = ["httpx async", "httpx sync", "httpx2 async", "httpx2 sync"]


def bearer_auth(kind: str, oauth: NotionOAuth, **options: Any) -> Any:
    return (auth if kind.startswith("httpx ") else auth_httpx2).BearerAuth(oauth, **options)


@contextmanager
def authorizations(sandbox: Sandbox) -> Iterator[list[dict[str, str]]]:
    """What the authorization endpoint is asked for meanwhile."""
    seen: list[dict[str, str]] = []
    before = len(sandbox.requests_to("/authorize"))
    yield seen
    seen += [request.query for request in sandbox.requests_to("/authorize")[before:]]


@pytest.mark.parametrize("kind", KINDS)
class TestWithoutAPerson:
    """A program in the background: an error that says what to run, and never a browser."""

    @pytest.mark.spec("MCP §Step-Up Authorization Flow", "Without a person, give up at once and say what to run")
    async def test_a_scope_that_is_missing(self, oauth: NotionOAuth, sandbox: Sandbox, kind: str) -> None:
        await sign_in(oauth)
        refuse(sandbox, 'Bearer error="insufficient_scope", scope="files:write x\'$(id)"')
        with pytest.raises(StepUpRequired, match="files:write") as caught:
            await post(kind, bearer_auth(kind, oauth), sandbox, json=PING)
        assert caught.value.scope == "files:write x'$(id)"
        assert "notion-oauth login --scope 'files:write x'\"'\"'$(id)'" in caught.value.cure, "quoted for a shell"

    async def test_a_sign_in_that_is_too_old_or_too_weak(
        self, oauth: NotionOAuth, sandbox: Sandbox, kind: str, grants_asked: Posted
    ) -> None:
        await sign_in(oauth)
        refuse(sandbox, FRESH, status=401)
        with pytest.raises(StepUpRequired) as caught:
            await post(kind, bearer_auth(kind, oauth), sandbox, json=PING)
        assert (caught.value.acr_values, caught.value.max_age) == ("myACR other", 300)
        assert "--acr-values 'myACR other' --max-age 300" in caught.value.cure
        assert grants_asked() == ["authorization_code"], "a refresh would not help"

    async def test_the_login_stays_as_good_as_it_was(self, oauth: NotionOAuth, sandbox: Sandbox, kind: str) -> None:
        login = await sign_in(oauth)
        refuse(sandbox, SCOPE)
        with pytest.raises(StepUpRequired):
            await post(kind, bearer_auth(kind, oauth), sandbox, json=PING)
        assert await oauth.tokens.token() == login.access_token
        assert (await post(kind, bearer_auth(kind, oauth), sandbox, json=PING)).status_code == 200

    async def test_another_403_is_the_caller_s(self, oauth: NotionOAuth, sandbox: Sandbox, kind: str) -> None:
        await sign_in(oauth)
        for challenge in ('Bearer error="invalid_token"', 'DPoP error="insufficient_scope"', ""):
            refuse(sandbox, challenge)
            assert (await post(kind, bearer_auth(kind, oauth), sandbox, json=PING)).status_code == 403

    async def test_a_new_sign_in_elsewhere_is_tried_first(
        self, oauth: NotionOAuth, sandbox: Sandbox, kind: str
    ) -> None:
        """Somebody has run the command meanwhile: what they have agreed to is used."""
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
class TestWithAPerson:
    """A program with `authorize`: it asks, with the union of what was agreed to and what is missing."""

    async def test_nobody_is_signed_in(self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str) -> None:
        with authorizations(sandbox) as asked:
            answer = await post(kind, bearer_auth(kind, oauth, authorize=person.sign_in), sandbox, json=PING)
        assert answer.json()["result"] == {}
        assert len(asked) == 1
        assert person.asked[0] is not None
        assert person.asked[0].resource_metadata, "the challenge of the first request, which had no token"

    @pytest.mark.spec("MCP §Step-Up Authorization Flow", "Send the request again with the new token")
    async def test_a_scope_that_is_missing_is_asked_for_beside_the_others(
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

    async def test_a_fresher_sign_in_is_asked_for_as_the_resource_wants_it(
        self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str
    ) -> None:
        await sign_in(oauth)
        refuse(sandbox, FRESH, status=401)
        with authorizations(sandbox) as asked:
            answer = await post(kind, bearer_auth(kind, oauth, authorize=person.sign_in), sandbox, json=PING)
        assert answer.status_code == 200
        assert [(query["acr_values"], query["max_age"]) for query in asked] == [("myACR other", "300")]

    @pytest.mark.spec("MCP §Step-Up Authorization Flow", "Remember what was asked for in vain")
    async def test_the_same_thing_is_not_asked_twice(
        self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str
    ) -> None:
        await sign_in(oauth)
        bearer = bearer_auth(kind, oauth, authorize=person.sign_in)
        refuse(sandbox, SCOPE, times=10)
        for _ in range(3):
            with pytest.raises(StepUpRequired):
                await post(kind, bearer, sandbox, json=PING)
        assert len(person.asked) == 1

    @pytest.mark.spec("MCP §Step-Up Authorization Flow", "Ask a few times at most for one request")
    async def test_a_resource_that_always_wants_more_gets_three_sign_ins(
        self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str
    ) -> None:
        await sign_in(oauth)
        for number in range(10):
            refuse(sandbox, f'Bearer error="insufficient_scope", scope="default", acr_values="{number}"')
        with pytest.raises(StepUpRequired):
            await post(kind, bearer_auth(kind, oauth, authorize=person.sign_in), sandbox, json=PING)
        assert len(person.asked) == 3

    async def test_a_refusal_of_the_person_ends_it(self, oauth: NotionOAuth, sandbox: Sandbox, kind: str) -> None:
        async def decline(challenge: BearerChallenge | None) -> None:
            raise AuthorizationRefused("The sign-in was declined.", error="access_denied")

        with pytest.raises(AuthorizationRefused):
            await post(kind, bearer_auth(kind, oauth, authorize=decline), sandbox, json=PING)

    async def test_a_token_that_is_over_is_refreshed_and_nobody_is_asked(
        self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str
    ) -> None:
        await sign_in(oauth)
        sandbox.expire_access_tokens()
        answer = await post(kind, bearer_auth(kind, oauth, authorize=person.sign_in), sandbox, json=PING)
        assert answer.status_code == 200
        assert not person.asked

    async def test_a_grant_that_has_ended_is_made_anew(
        self, oauth: NotionOAuth, sandbox: Sandbox, person: Person, kind: str
    ) -> None:
        await sign_in(oauth)
        sandbox.revoke_grants()
        answer = await post(kind, bearer_auth(kind, oauth, authorize=person.sign_in), sandbox, json=PING)
        assert answer.status_code == 200
        assert len(person.asked) == 1


async def test_however_many_requests_wait_one_browser_is_opened(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person
) -> None:
    async def slowly(challenge: BearerChallenge | None) -> None:
        await anyio.sleep(0.3)  # long enough for all of them to have been refused
        await person.sign_in(challenge)

    answers: list[int] = []
    async with httpx.AsyncClient(auth=auth.BearerAuth(oauth, authorize=slowly), trust_env=False) as client:

        async def ask() -> None:
            answers.append((await client.post(sandbox.mcp_url, json=PING)).status_code)

        async with anyio.create_task_group() as tasks:
            for _ in range(25):
                tasks.start_soon(ask)
    assert answers == [200] * 25
    assert len(person.asked) == 1


@pytest.mark.parametrize("needs", [["read"] * 10, ["read", "write"] * 5], ids=["one need", "two needs"])
async def test_requests_that_want_more_at_once_all_get_it(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person, needs: list[str]
) -> None:
    sandbox.options.scopes = ("default", "read", "write")
    await sign_in(oauth)
    for need in needs:
        refuse(sandbox, f'Bearer error="insufficient_scope", scope="{need}"')

    async def slowly(challenge: BearerChallenge | None) -> None:
        while len(sandbox.requests_to("/mcp")) < 1 + len(needs):  # the first was asked before the sign-in
            await anyio.sleep(0.01)
        await person.sign_in(challenge)

    answers: list[int] = []
    async with httpx.AsyncClient(auth=auth.BearerAuth(oauth, authorize=slowly), trust_env=False) as client:

        async def ask() -> None:
            answers.append((await client.post(sandbox.mcp_url, json=PING)).status_code)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for _ in needs:
                    tasks.start_soon(ask)
    assert answers == [200] * len(needs)
    assert len(person.asked) == 1, "what it gave did for all of them"


async def test_another_need_is_asked_for_after_the_one_under_way(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person
) -> None:
    sandbox.options.scopes = ("default", "read", "write")
    await sign_in(oauth)
    refuse(sandbox, 'Bearer error="insufficient_scope", scope="read"')
    refuse(sandbox, 'Bearer error="insufficient_scope", scope="write"')

    async def slowly(challenge: BearerChallenge | None) -> None:
        while len(sandbox.requests_to("/mcp")) < 3:
            await anyio.sleep(0.01)
        if not person.asked:  # whichever comes second is refused once more, with the new token
            refuse(sandbox, 'Bearer error="insufficient_scope", scope="other"')
        url = f"{sandbox.base_url}/.well-known/oauth-protected-resource/mcp"  # so that /mcp is not asked for it
        more = BearerChallenge(error="insufficient_scope", scope="read write", resource_metadata=url)
        await person.sign_in(more)

    bearer = auth.BearerAuth(oauth, authorize=slowly)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(post, "httpx async", bearer, sandbox)
            tasks.start_soon(post, "httpx async", bearer, sandbox)
    assert len(person.asked) == 2


async def test_words_that_change_ask_for_nothing_new(oauth: NotionOAuth, sandbox: Sandbox, person: Person) -> None:
    await sign_in(oauth)
    bearer = auth.BearerAuth(oauth, authorize=person.sign_in)
    for number in range(6):
        refuse(sandbox, f'Bearer error="insufficient_scope", scope="default", error_description="{number}"')
    for _ in range(3):
        with pytest.raises(StepUpRequired):
            await post("httpx async", bearer, sandbox, json=PING)
    assert len(person.asked) == 1


async def test_a_resource_that_refuses_every_token_asks_once(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person
) -> None:
    bearer = auth.BearerAuth(oauth, authorize=person.sign_in)
    sandbox.fail_next("/mcp", status=401, times=100)
    for _ in range(3):
        assert (await post("httpx async", bearer, sandbox, json=PING)).status_code == 401
    assert len(person.asked) == 1


async def test_who_has_declined_is_left_alone_for_a_while(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    asked: list[object] = []

    async def decline(challenge: BearerChallenge | None) -> None:
        asked.append(challenge)
        raise AuthorizationRefused("The sign-in was declined.", error="access_denied")

    bearer = auth.BearerAuth(oauth, authorize=decline)
    for _ in range(4):
        with pytest.raises(AuthorizationRefused):
            await post("httpx async", bearer, sandbox, json=PING)
    assert len(asked) == 1


async def test_asking_ends_with_whoever_waits_for_it(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    ended, began = threading.Event(), threading.Event()

    async def forever(challenge: BearerChallenge | None) -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(post, "httpx async", auth.BearerAuth(oauth, authorize=forever), sandbox)
        await anyio.to_thread.run_sync(began.wait)
        tasks.cancel_scope.cancel()
    assert await anyio.to_thread.run_sync(ended.wait, 30)


@pytest.mark.parametrize("kind", KINDS)
async def test_whoever_asks_may_use_the_same_auth(oauth: NotionOAuth, sandbox: Sandbox, kind: str) -> None:
    """It is then a program without a person: it waits for nobody, least of all for itself."""
    failed: list[NotSignedIn] = []

    async def look_first(challenge: BearerChallenge | None) -> None:
        try:
            await post(kind, bearer, sandbox, json=PING)
        except NotSignedIn as error:
            failed.append(error)
        await sign_in(oauth, challenge=challenge)

    bearer = bearer_auth(kind, oauth, authorize=look_first)
    with anyio.fail_after(60):
        assert (await post(kind, bearer, sandbox, json=PING)).status_code == 200
    assert len(failed) == 1


async def test_the_command_names_the_profile(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    work = NotionOAuth(oauth.settings, profile="work")
    await sign_in(work)
    refuse(sandbox, SCOPE)
    with pytest.raises(StepUpRequired) as caught:
        await post("httpx async", auth.BearerAuth(work), sandbox, json=PING)
    assert "--profile work" in caught.value.cure


async def test_a_challenge_beside_one_with_the_metadata_is_not_lost(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    await sign_in(oauth)
    refuse(sandbox, f'Bearer resource_metadata="{sandbox.base_url}/x", {SCOPE}')
    with pytest.raises(StepUpRequired):
        await post("httpx async", auth.BearerAuth(oauth), sandbox, json=PING)


async def test_a_body_that_cannot_be_sent_again_is_not(oauth: NotionOAuth, sandbox: Sandbox, person: Person) -> None:
    async def body() -> Any:
        yield b"{}"

    async with httpx.AsyncClient(auth=auth.BearerAuth(oauth, authorize=person.sign_in), trust_env=False) as client:
        assert (await client.post(sandbox.mcp_url, content=body())).status_code == 401
        assert len(person.asked) == 1, "the next request finds a login"


async def test_without_a_person_no_request_goes_out(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    with pytest.raises(NotSignedIn):
        await post("httpx async", auth.BearerAuth(oauth), sandbox, json=PING)
    assert not sandbox.requests


def test_threads_that_want_more_at_once_all_get_it(
    oauth: NotionOAuth, sandbox: Sandbox, person: Person, hasty_threads: None
) -> None:
    anyio.run(sign_in, oauth)
    bearer = auth.BearerAuth(oauth, authorize=person.sign_in)
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
        except Exception as error:  # what the caller would have seen
            outcomes.append(error)

    for _ in range(ROUNDS):
        bearer = auth.BearerAuth(oauth, authorize=person.sign_in)
        before = f"Bearer {anyio.run(oauth.tokens.token).get_secret_value()}"
        barrier = threading.Barrier(THREADS)
        threads = [threading.Thread(target=ask, args=(barrier, before)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == [200] * (ROUNDS * THREADS)
    assert len(person.asked) == ROUNDS
