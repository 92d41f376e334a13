"""Very many sign-ins may wait for one client registration. They then continue together, without taking turns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from notion_oauth.clock import utc_now
from notion_oauth.errors import ServerUnavailable
from notion_oauth.profile_names import VISITOR_PREFIX
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import Hold, JsonFileStore
from notion_oauth.web.profiles.visitor_registrations import REGISTERING, VisitorRegistrations
from tests.support.signing_in import begin

pytestmark = pytest.mark.anyio


class CountingStore(JsonFileStore):
    """Counts how often registrations were locked."""

    registering = 0

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[Hold]:
        self.registering += profile == REGISTERING
        async with super().exclusive(profile) as hold:
            yield hold


@pytest.mark.parametrize("failures", [0, 1])
async def test_sign_ins_that_wait_take_no_lock(settings: Settings, sandbox: Sandbox, failures: int) -> None:
    store = CountingStore(settings.token_file)
    registrations = VisitorRegistrations(store, VISITOR_PREFIX, utc_now)
    oauth = NotionOAuth(settings, profile=VISITOR_PREFIX, store=store, registrations=registrations)
    sandbox.fail_next("/register", status=503, times=failures)
    sandbox.misbehave_next("/register", "slow", seconds=0.2)
    failed = 0

    async def start() -> None:
        nonlocal failed
        try:
            await begin(oauth)
        except ServerUnavailable:
            failed += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(start)
    assert (failed, sandbox.registered_clients) == (failures, 1)
    assert store.registering == 1 or failures, "only the first one takes it, unless that fails"
