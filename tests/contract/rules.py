"""What every token store must do, one function for each rule.

Each function is given `make`, which opens the same stored data each time that it is called, as another process would.
It fails with an error if the store breaks the rule.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256

import anyio
from pydantic import SecretStr

from notion_oauth.errors import StorageError
from notion_oauth.files.token_file_format import encode_tokens
from notion_oauth.models import ClientInformation, EndedLogin, Registration, TokenSet
from notion_oauth.storage import MAX_REGISTRATIONS, TokenStore
from tests.support.stores import delete_login, load_ended_login, load_login, save_login, save_registration
from tests.unit.protocol.builders import tokens

Make = Callable[[], TokenStore]
Rule = Callable[[Make], Awaitable[None]]

RULES: list[Rule] = []
CONFIDENTIAL = ClientInformation(
    client_id="c",
    client_secret=SecretStr("canary-secret"),
    client_secret_expires_at=7,
    token_endpoint_auth_method="client_secret_post",
)
NOW = datetime(2026, 11, 29, tzinfo=UTC)


def rule(function: Rule) -> Rule:
    RULES.append(function)
    return function


def registration(issuer: str = "https://a.example", redirect_uri: str = "http://127.0.0.1:1/callback") -> Registration:
    return Registration(issuer=issuer, redirect_uri=redirect_uri, client=CONFIDENTIAL)


def other(name: str = "other", **fields: object) -> TokenSet:
    return tokens(access_token=SecretStr(name), refresh_token=SecretStr(f"refresh-{name}"), **fields)


def ended() -> EndedLogin:
    return EndedLogin(ended_at=NOW, reason="idle", error="invalid_grant", description="Refresh token has expired")


@asynccontextmanager
async def refused() -> AsyncIterator[None]:
    try:
        yield
    except StorageError:
        return
    raise AssertionError("nothing was refused")


# Logins


@rule
async def an_empty_store_has_no_login(make: Make) -> None:
    store = make()
    assert (await store.load("default")).login is None
    assert await load_ended_login(store, "default") is None
    assert await store.load_registrations("default") == ()
    assert await store.profiles() == []
    await store.check_writable("default")


@rule
async def a_saved_login_is_loaded(make: Make) -> None:
    for login in (
        tokens(),
        tokens(client=CONFIDENTIAL, expires_in=None, expires_at=None),
        tokens(refresh_token=None, client=None, token_endpoint=None, authorized_at=None, scope=None),
    ):
        await save_login(make(), "default", login)
        assert await load_login(make(), "default") == login


@rule
async def the_end_of_a_login_replaces_it(make: Make) -> None:
    await save_login(make(), "default", tokens())
    await save_login(make(), "default", ended())
    assert await load_login(make(), "default") is None
    assert await load_ended_login(make(), "default") == ended()
    await save_login(make(), "default", tokens())
    assert await load_ended_login(make(), "default") is None


@rule
async def deleting_says_whether_there_was_a_login(make: Make) -> None:
    await save_login(make(), "default", tokens())
    assert await delete_login(make(), "default") is True
    assert await load_login(make(), "default") is None
    assert await delete_login(make(), "default") is False


@rule
async def profiles_are_separate(make: Make) -> None:
    await save_login(make(), "default", tokens())
    await save_login(make(), "work", other())
    await save_registration(make(), "work", registration())
    assert await make().load_registrations("default") == ()
    assert await delete_login(make(), "default") is True
    assert await load_login(make(), "work") == other()


@rule
async def a_foreign_document_is_neither_overwritten_nor_deleted(make: Make) -> None:
    store = make()
    async with store.documents.exclusive("default") as documents:
        await documents.write("login", b'{"not": "a login"}')
    async with refused():
        await save_login(store, "default", tokens())
    async with refused():
        await delete_login(store, "default")


# Versions


@rule
async def the_version_changes_with_the_login(make: Make) -> None:
    store = make()
    await save_login(store, "default", tokens())
    before = (await store.load("default")).version
    await save_login(make(), "default", other())
    after = (await store.load("default")).version
    assert before is None or before != after
    await delete_login(make(), "default")
    assert after is None or after != (await store.load("default")).version


@rule
async def the_version_stays_without_a_change(make: Make) -> None:
    store = make()
    await save_login(store, "default", tokens())
    with anyio.fail_after(0.5):
        while (version := (await store.load("default")).version) != store.version("default"):
            await anyio.sleep(0.01)  # files do not trust their clock for some milliseconds
    for _ in range(3):
        assert (await make().load("default")).version == version == store.version("default")


# Holds


@rule
async def one_holder_at_a_time(make: Make) -> None:
    inside, most, done = 0, 0, 0

    async def enter() -> None:
        nonlocal inside, most, done
        async with make().exclusive("default"):
            inside += 1
            most = max(most, inside)
            await anyio.sleep(0)
            inside -= 1
            done += 1

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(enter)
    assert (most, done) == (1, 20)


@rule
async def threads_exclude_each_other(make: Make) -> None:
    inside = 0
    overlaps: list[int] = []

    async def enter() -> None:
        nonlocal inside
        async with make().exclusive("default"):
            inside += 1
            overlaps.append(inside)
            await anyio.sleep(0.001)
            inside -= 1

    threads = [threading.Thread(target=lambda: anyio.run(enter)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert overlaps == [1] * 4


@rule
async def profiles_do_not_wait_for_each_other(make: Make) -> None:
    with anyio.fail_after(2):
        async with make().exclusive("default"), make().exclusive("work"):
            pass


@rule
async def an_error_releases_the_lock(make: Make) -> None:
    with suppress(LookupError):
        async with make().exclusive("default"):
            raise LookupError
    with anyio.fail_after(2):
        async with make().exclusive("default"):
            pass


@rule
async def a_cancelled_holder_and_a_cancelled_waiter_release_the_lock(make: Make) -> None:
    with anyio.move_on_after(0.05):
        async with make().exclusive("default"):
            await anyio.sleep_forever()
    async with make().exclusive("default"):
        with anyio.move_on_after(0.05):
            async with make().exclusive("default"):
                raise AssertionError("two holders")
    with anyio.fail_after(2):
        async with make().exclusive("default"):
            pass


@rule
async def a_hold_that_is_over_changes_nothing(make: Make) -> None:
    store = make()
    async with store.exclusive("default") as hold:
        await hold.save(tokens())
    changes: tuple[Callable[[], Awaitable[object]], ...] = (
        *(partial(hold.save, other()), partial(hold.end, ended()), hold.delete),
        *(partial(hold.save_registration, registration()), hold.reserve, hold.load),
    )
    for change in changes:
        async with refused():
            await change()
    assert await load_login(make(), "default") == tokens()
    assert await make().load_registrations("default") == ()


@rule
async def a_hold_reads_what_others_have_stored(make: Make) -> None:
    store = make()
    await save_login(store, "default", tokens())
    await store.load("default")
    await save_login(make(), "default", other())
    async with store.exclusive("default") as hold:
        assert (await hold.load()).tokens == other()


# Reservations


@rule
async def a_reservation_is_released_with_its_hold(make: Make) -> None:
    await save_login(make(), "default", tokens())
    async with make().exclusive("default") as hold:
        await hold.reserve(SecretStr("sent"))
    async with make().exclusive("default") as hold:
        assert (await hold.load()).tokens == tokens()
        assert hold.attempt is None


@rule
async def an_unfinished_attempt_is_seen_by_the_next_holder(make: Make) -> None:
    await save_login(make(), "default", tokens())
    async with make().exclusive("default") as hold:
        await hold.reserve(SecretStr("sent"))
        hold.request_may_arrive()  # as after a process that was killed
    async with make().exclusive("default") as hold:
        await hold.load()
        assert hold.attempt is not None
        assert hold.attempt.refresh_token_sha256 == sha256(b"sent").hexdigest()
        await hold.reserve(SecretStr("next"))
        await hold.save(other())
    async with make().exclusive("default") as hold:
        assert (await hold.load()).tokens == other()
        assert hold.attempt is None


@rule
async def tokens_that_were_set_aside_are_found_by_the_next_holder(make: Make) -> None:
    await save_login(make(), "default", tokens())
    newer = other(updated_at=tokens().updated_at + timedelta(seconds=1))
    store = make()
    async with store.documents.exclusive("default") as documents:
        await documents.set_aside(encode_tokens(newer))
    async with make().exclusive("default") as hold:
        assert (await hold.load()).tokens == newer
    assert await load_login(make(), "default") == newer


@rule
async def older_tokens_that_were_set_aside_replace_nothing(make: Make) -> None:
    newer = other(updated_at=tokens().updated_at + timedelta(seconds=1))
    await save_login(make(), "default", newer)
    store = make()
    async with store.documents.exclusive("default") as documents:
        await documents.set_aside(encode_tokens(tokens()))
    async with make().exclusive("default") as hold:
        assert (await hold.load()).tokens == newer
    assert await load_login(make(), "default") == newer


@rule
async def nothing_is_left_of_a_login_that_is_deleted(make: Make) -> None:
    await save_login(make(), "default", tokens())
    async with make().exclusive("default") as hold:
        await hold.reserve(SecretStr("sent"))
        hold.request_may_arrive()
    await delete_login(make(), "default")
    async with make().exclusive("default") as hold:
        assert (await hold.load()).login is None
        assert hold.attempt is None


# Registrations


@rule
async def registrations_outlive_the_login(make: Make) -> None:
    await save_login(make(), "default", tokens())
    await save_registration(make(), "default", registration())
    await delete_login(make(), "default")
    assert await make().load_registrations("default") == (registration(),)


@rule
async def all_fields_of_a_registration_are_stored(make: Make) -> None:
    plain = registration().model_copy(update={"registered_at": datetime(2026, 11, 25, 9, 58, 18, 733000, tzinfo=UTC)})
    extended = plain.model_copy(update={"extended_scope": True, "scope": "read write", "registered_scope": "read"})
    claimed = plain.model_copy(update={"redirect_uri": "https://b.example/callback", "claimed": True})
    for each in (extended, plain, claimed):
        await save_registration(make(), "default", each)
    assert await make().load_registrations("default") == (extended, plain, claimed)


@rule
async def a_registration_replaces_only_the_one_with_the_same_key(make: Make) -> None:
    first, second = registration(), registration(issuer="https://b.example")
    third = registration(redirect_uri="http://127.0.0.1:2/callback")
    for each in (first, second, third):
        await save_registration(make(), "default", each)
    again = first.model_copy(update={"client": ClientInformation(client_id="new")})
    await save_registration(make(), "default", again)
    assert await make().load_registrations("default") == (second, third, again)


@rule
async def old_registrations_are_dropped_but_not_preregistered_ones(make: Make) -> None:
    preregistered = registration().model_copy(update={"preregistered": True})
    await save_registration(make(), "default", preregistered)
    uris = [f"https://a.example/{number}" for number in range(MAX_REGISTRATIONS + 2)]
    for uri in uris:
        await save_registration(make(), "default", registration(redirect_uri=uri))
    stored = await make().load_registrations("default")
    assert preregistered in stored
    assert [each.redirect_uri for each in stored if not each.preregistered] == uris[2:]


# Listing


@rule
async def profiles_are_listed_in_pages(make: Make) -> None:
    names = ["default", *(f"user-{number}" for number in range(5))]
    for name in names:
        await save_login(make(), name, tokens())
    await save_registration(make(), "registered", registration())
    store = make()
    assert list(await store.profiles(limit=2)) == names[:2]
    assert list(await store.profiles(after=names[1], limit=10)) == names[2:]
    assert [name async for name in store.all_profiles()] == names
    assert list(await store.profiles(registered=True)) == sorted([*names, "registered"])


@rule
async def forgetting_leaves_nothing_of_a_profile(make: Make) -> None:
    for name in ("user-1", "user-2"):
        await save_login(make(), name, tokens())
        await save_registration(make(), name, registration())
    await make().forget("user-1")
    await make().forget("user-1")
    assert await load_login(make(), "user-1") is None
    assert await make().load_registrations("user-1") == ()
    assert list(await make().profiles(registered=True)) == ["user-2"]
    assert list(await make().last_changed()) == ["user-2"]


@rule
async def the_last_change_of_each_profile_is_known(make: Make) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    for name in ("user-1", "user-2", "user-3"):
        await save_login(make(), name, tokens())
    await save_registration(make(), "registered", registration())
    changed = await make().last_changed()
    assert list(changed) == ["registered", "user-1", "user-2", "user-3"]
    assert all(before < when < datetime.now(UTC) + timedelta(seconds=1) for when in changed.values())
    assert list(await make().last_changed(after="user-1", limit=1)) == ["user-2"]
    assert list(await make().last_changed(before=before)) == []
    assert list(await make().last_changed(before=datetime.now(UTC) + timedelta(seconds=1))) == list(changed)


@rule
async def due_are_the_profiles_whose_token_expires_before_a_time(make: Make) -> None:
    await save_login(make(), "late", tokens(expires_at=NOW + timedelta(hours=2)))
    await save_login(make(), "soon", tokens(expires_at=NOW + timedelta(minutes=2)))
    await save_login(make(), "without-refresh", tokens(expires_at=NOW, refresh_token=None))
    await save_login(make(), "ended", ended())
    store = make()
    assert list(await store.due(NOW + timedelta(minutes=5))) == ["soon"]
    await save_login(make(), "soon", tokens(expires_at=NOW + timedelta(hours=1)))
    assert list(await store.due(NOW + timedelta(minutes=5))) == []
    assert set(await store.due(NOW + timedelta(hours=3))) == {"late", "soon"}


# Claims


@rule
async def one_of_many_claims_succeeds(make: Make) -> None:
    claimed: list[bool] = []

    async def claim() -> None:
        claimed.append(await make().claim("key", timedelta(minutes=1)))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(claim)
    assert sorted(claimed) == [False] * 7 + [True]
    assert await make().claim("another key", timedelta(minutes=1))


@rule
async def others_wait_for_the_outcome_of_a_claim(make: Make) -> None:
    seen: list[bytes | None] = []
    assert await make().claim("key", timedelta(minutes=1))
    assert await make().outcome("key") is None

    async def wait() -> None:
        seen.append(await make().outcome("key", wait=timedelta(seconds=1)))

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(wait)
        await anyio.sleep(0.01)
        await make().settle("key", b"outcome")
    assert seen == [b"outcome"] * 2
    assert not await make().claim("key", timedelta(minutes=1)), "a settled claim stays claimed"


@rule
async def a_claim_ends_after_its_lifetime(make: Make) -> None:
    assert await make().claim("key", timedelta(seconds=0.05))
    await make().settle("key", b"outcome")
    await anyio.sleep(0.06)
    assert await make().outcome("key") is None
    assert await make().claim("key", timedelta(minutes=1))
    assert await make().outcome("key") is None


@rule
async def a_claim_is_stored_under_a_hash(make: Make) -> None:
    store, names = make(), []
    claim = store.documents.claim

    async def note(key: str, lifetime: timedelta) -> bool:
        names.append(key)
        return await claim(key, lifetime)

    store.documents.claim = note  # type: ignore[method-assign]
    await store.claim("a secret key", timedelta(minutes=1))
    assert names == [sha256(b"a secret key").hexdigest()]
