"""Every store keeps every rule, and a store that breaks one is found."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from notion_oauth.clock import utc_now
from notion_oauth.errors import StorageError, StoreDamaged
from notion_oauth.files.encryption import Encryption, new_key
from notion_oauth.storage import JsonFileStore, TokenStore
from notion_oauth.stores.memory import MemoryDocuments, MemoryStore
from notion_oauth.stores.postgresql import PostgresqlDatabase
from notion_oauth.stores.schema import migrate
from notion_oauth.stores.sql_documents import DatabaseStore
from notion_oauth.stores.sqlite import SqliteDatabase
from tests.contract import broken
from tests.contract.rules import RULES, Make, Rule
from tests.support.stores import load_login, save_login
from tests.unit.protocol.builders import tokens

KEY = SecretStr(new_key())


Request = pytest.FixtureRequest


def memory(path: Path, request: Request) -> Make:
    documents = MemoryDocuments(lock_wait=timedelta(seconds=60), clock=utc_now)
    return lambda: TokenStore(documents)


def files(path: Path, request: Request) -> Make:
    return lambda: JsonFileStore(path / "tokens.json")


def encrypted_files(path: Path, request: Request) -> Make:
    return lambda: JsonFileStore(path / "tokens.json", encryption=Encryption(KEY))


def sqlite(path: Path, request: Request) -> Make:
    migrate(SqliteDatabase(path / "tokens.db"))
    return lambda: DatabaseStore(SqliteDatabase(path / "tokens.db"))


def postgresql(path: Path, request: Request) -> Make:
    url = request.getfixturevalue("postgresql").service_url
    return partial(DatabaseStore, PostgresqlDatabase(url), encryption=Encryption(KEY))


def plain_postgresql(path: Path, request: Request) -> Make:
    url = request.getfixturevalue("postgresql").url
    return partial(DatabaseStore, PostgresqlDatabase(url))


def pgbouncer(path: Path, request: Request) -> Make:
    url = request.getfixturevalue("pgbouncer")
    return partial(DatabaseStore, PostgresqlDatabase(url), encryption=Encryption(KEY))


# One worker runs all tests of a server, so that one server is started
SERVER = pytest.mark.xdist_group("postgresql")
STORES = (
    *(memory, files, encrypted_files, sqlite),
    *(pytest.param(each, marks=SERVER, id=each.__name__) for each in (postgresql, plain_postgresql, pgbouncer)),
)


@pytest.fixture
def make(tmp_path: Path, request: Request) -> Make:
    """Opens the store of the test's parameter."""
    opened: Make = request.param(tmp_path, request)
    return opened


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("make", STORES, indirect=True)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule, make: Make, backend: str) -> None:
    anyio.run(rule, make, backend=backend)


@pytest.mark.anyio
@pytest.mark.parametrize("make", [pytest.param(postgresql, marks=SERVER)], indirect=True)
async def test_role_of_the_documentation_may_keep_and_encrypt_unused_logins(make: Make) -> None:
    store = make()
    await save_login(store, "default", tokens())
    await store.slow_down(timedelta(0))
    assert await store.claim_unused(1) is not None
    assert list(await store.encrypted()) == ["default"]
    store.check_usable()


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_store_that_breaks_the_rule_is_found(rule: Rule) -> None:
    documents = broken.BROKEN[rule.__name__]()
    with pytest.raises((AssertionError, TimeoutError, StorageError, broken.Broken, ExceptionGroup)):
        anyio.run(rule, lambda: TokenStore(documents))


def test_memory_store_is_public_and_separate() -> None:
    first, second = MemoryStore(), MemoryStore()
    anyio.run(save_login, first, "default", tokens())
    assert anyio.run(load_login, first, "default") == tokens()
    assert anyio.run(load_login, second, "default") is None


@pytest.mark.anyio
@pytest.mark.parametrize("make", [memory, files], indirect=True)
async def test_login_that_cannot_be_read_is_due(make: Make) -> None:
    """So that the background refresh reports it. A database has an index, and does not read each login."""
    store = make()
    async with store.documents.exclusive("damaged") as documents:
        await documents.write("login", b"{}")
    assert await store.due(utc_now()) == ["damaged"]
    await store.forget("damaged")
    assert await store.due(utc_now()) == []


@pytest.mark.anyio
@pytest.mark.parametrize("make", [encrypted_files, pytest.param(postgresql, marks=SERVER)], indirect=True)
async def test_encrypted_document_of_another_profile_is_refused(make: Make) -> None:
    """A person who can replace files cannot give one user's login to another user."""
    store = make()
    await save_login(store, "user-1", tokens())
    await save_login(store, "user-2", tokens())
    content = await store.documents.read("user-1", "login", bytes)
    assert content is not None
    async with store.documents.exclusive("user-2") as documents:
        await documents.write("login", content)
    with pytest.raises(StoreDamaged, match="another profile"):
        await load_login(store, "user-2")
    assert await load_login(store, "user-1") == tokens()
