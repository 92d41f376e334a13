"""Sign-ins that start within seconds of each other share one discovery, until one of them fails."""

from __future__ import annotations

import threading
from collections import Counter

import anyio
import pytest

from notion_oauth.errors import MetadataError, NotionOAuthError, RegistrationRefused
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.protocol.challenge import BearerChallenge
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from tests.support.signing_in import begin, sign_in

pytestmark = pytest.mark.anyio
DISCOVERY = {
    "/mcp": 1,
    "/.well-known/oauth-protected-resource/mcp": 1,
    "/.well-known/oauth-authorization-server": 1,
}


def discoveries(sandbox: Sandbox) -> dict[str, int]:
    """How often each document was requested."""
    return dict(Counter(request.path for request in sandbox.requests if request.path in DISCOVERY))


async def test_sign_ins_of_many_profiles_share_one_discovery(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(sign_in, oauth.for_profile(f"user-{number}"))
    assert discoveries(sandbox) == DISCOVERY
    await sign_in(oauth)
    assert discoveries(sandbox) == DISCOVERY
    assert sandbox.live_grants == 11


async def test_sign_ins_share_a_failure_that_they_wait_for_and_the_next_one_tries_again(
    oauth: NotionOAuth, sandbox: Sandbox
) -> None:
    sandbox.options.metadata_overrides = {"code_challenge_methods_supported": None}
    failures: list[MetadataError] = []

    async def fail() -> None:
        with pytest.raises(MetadataError) as caught:
            await begin(oauth)
        failures.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(fail)
    assert len(failures) == len(set(map(id, failures))) == 5, "each has an error of its own"
    assert discoveries(sandbox) == DISCOVERY
    sandbox.options.metadata_overrides = {}
    await sign_in(oauth)


async def test_discovery_ends_when_no_sign_in_waits_for_it(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    sandbox.misbehave_next("/mcp", "hang")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(begin, oauth)
        while not sandbox.requests_to("/mcp"):
            await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    with anyio.fail_after(4):  # less than the time-out of a request
        while any(each.name == "notion-oauth loop" for each in threading.enumerate()):
            await anyio.sleep(0.01)  # a sign-in that comes at once joins the discovery
        await sign_in(oauth)


async def test_failed_registration_ends_the_shared_discovery(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    sandbox.fail_next("/register", status=400, error="invalid_client_metadata")
    with pytest.raises(RegistrationRefused):
        await begin(oauth)
    sandbox.options.metadata_overrides = {"registration_endpoint": f"{sandbox.base_url}/elsewhere"}
    with pytest.raises(NotionOAuthError):
        await begin(oauth)
    assert [request.path for request in sandbox.requests][-1] == "/elsewhere"


async def test_failed_exchange_ends_the_shared_discovery(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    pending, query = await begin(oauth)
    sandbox.fail_next("/token", status=400, error="invalid_grant")
    with pytest.raises(NotionOAuthError):
        await oauth.for_profile("another").complete_authorization(
            pending, parse_authorization_response(query.multi_items())
        )
    before = discoveries(sandbox)
    await begin(oauth)
    assert discoveries(sandbox) == {path: count + 1 for path, count in before.items()}


async def test_sign_in_for_a_challenge_discovers_for_itself(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    await begin(oauth)
    await begin(oauth, challenge=BearerChallenge(scope="default"))
    assert discoveries(sandbox) == {path: count * 2 for path, count in DISCOVERY.items()}
