"""The contract that every TokenStore must fulfil."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from notion_oauth.files.encryption import Encryption, new_key
from notion_oauth.models import ClientInformation, Registration
from notion_oauth.storage import JsonFileStore, TokenStore
from tests.support.memory_store import MemoryStore
from tests.unit.protocol.builders import tokens

pytestmark = pytest.mark.anyio

CONFIDENTIAL = ClientInformation(
    client_id="c",
    client_secret=SecretStr("canary-secret"),
    client_secret_expires_at=7,
    token_endpoint_auth_method="client_secret_post",
)


@pytest.fixture(params=["file", "encrypted", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> TokenStore:
    if request.param == "memory":
        return MemoryStore()
    encryption = Encryption(SecretStr(new_key())) if request.param == "encrypted" else None
    return JsonFileStore(tmp_path / "tokens.json", encryption=encryption)


def registration(issuer: str = "https://a.example", redirect_uri: str = "http://127.0.0.1:1/callback") -> Registration:
    return Registration(issuer=issuer, redirect_uri=redirect_uri, client=CONFIDENTIAL)


async def test_new_store_is_empty(store: TokenStore) -> None:
    assert await store.load("default") is None
    assert await store.delete("default") is False
    assert await store.load_registrations("default") == ()
    await store.ensure_writable("default")


async def test_saved_login_is_loaded(store: TokenStore) -> None:
    for saved in (
        tokens(),
        tokens(client=CONFIDENTIAL, expires_in=None, expires_at=None),
        tokens(refresh_token=None, client=None, token_endpoint=None, authorized_at=None, scope=None),
    ):
        await store.save("default", saved)
        assert await store.load("default") == saved


async def test_profiles_are_separate(store: TokenStore) -> None:
    await store.save("default", tokens())
    await store.save("work", tokens(access_token=SecretStr("other")))
    await store.save_registration("work", registration())
    assert await store.load_registrations("default") == ()
    assert await store.delete("default") is True
    assert await store.load("default") is None
    assert (await store.load("work")) == tokens(access_token=SecretStr("other"))


async def test_registrations_survive_the_deletion_of_the_login(store: TokenStore) -> None:
    await store.save("default", tokens())
    await store.save_registration("default", registration())
    await store.delete("default")
    assert await store.load_registrations("default") == (registration(),)


async def test_time_and_scope_of_a_registration_are_stored(store: TokenStore) -> None:
    """A registration with `extended_scope` is stored in addition to the ordinary one."""
    plain = registration().model_copy(update={"registered_at": datetime(2026, 11, 25, 9, 58, 18, 733000, tzinfo=UTC)})
    extended_scope = plain.model_copy(update={"extended_scope": True, "scope": "read write"})
    for each in (extended_scope, plain, extended_scope):
        await store.save_registration("default", each)
    assert await store.load_registrations("default") == (plain, extended_scope)


async def test_registration_replaces_only_the_one_with_the_same_key(store: TokenStore) -> None:
    first, second = registration(), registration(issuer="https://b.example")
    third = registration(redirect_uri="http://127.0.0.1:2/callback")
    for each in (first, second, third):
        await store.save_registration("default", each)
    again = first.model_copy(update={"client": ClientInformation(client_id="new")})
    await store.save_registration("default", again)
    assert await store.load_registrations("default") == (second, third, again)


async def test_lock_has_one_holder_at_a_time(store: TokenStore) -> None:
    inside, most, done = 0, 0, 0

    async def enter(profile: str) -> None:
        nonlocal inside, most, done
        async with store.exclusive(profile):
            inside += 1
            most = max(most, inside)
            await anyio.sleep(0)
            inside -= 1
            done += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(enter, "default")
    assert (most, done) == (1, 20)


async def test_locks_of_different_profiles_are_independent(store: TokenStore) -> None:
    with anyio.fail_after(5):
        async with store.exclusive("default"), store.exclusive("work"):
            pass


async def test_error_inside_releases_the_lock(store: TokenStore) -> None:
    with pytest.raises(LookupError):
        async with store.exclusive("default"):
            raise LookupError
    with anyio.fail_after(5):
        async with store.exclusive("default"):
            pass


async def test_cancelled_holder_releases_the_lock(store: TokenStore) -> None:
    with anyio.move_on_after(0.05):
        async with store.exclusive("default"):
            await anyio.sleep_forever()
    with anyio.fail_after(5):
        async with store.exclusive("default"):
            pass
