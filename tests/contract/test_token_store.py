"""Every store keeps every rule, and a store that breaks one is found."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from notion_oauth.clock import utc_now
from notion_oauth.errors import StorageError, StoreDamaged
from notion_oauth.files.encryption import Encryption, new_key
from notion_oauth.storage import JsonFileStore, TokenStore
from notion_oauth.stores.memory import MemoryDocuments, MemoryStore
from tests.contract import broken
from tests.contract.rules import RULES, Make, Rule
from tests.support.stores import load_login, save_login
from tests.unit.protocol.builders import tokens

KEY = SecretStr(new_key())


def memory(path: Path) -> Make:
    documents = MemoryDocuments(lock_wait=timedelta(seconds=60), clock=utc_now)
    return lambda: TokenStore(documents)


def files(path: Path) -> Make:
    return lambda: JsonFileStore(path / "tokens.json")


def encrypted_files(path: Path) -> Make:
    return lambda: JsonFileStore(path / "tokens.json", encryption=Encryption(KEY))


STORES: tuple[Callable[[Path], Make], ...] = (memory, files, encrypted_files)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("make", STORES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule, make: Callable[[Path], Make], backend: str, tmp_path: Path) -> None:
    anyio.run(rule, make(tmp_path), backend=backend)


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
async def test_encrypted_document_of_another_profile_is_refused(tmp_path: Path) -> None:
    """A person who can replace files cannot give one user's login to another user."""
    store = encrypted_files(tmp_path)()
    await save_login(store, "user-1", tokens())
    await save_login(store, "user-2", tokens())
    content = await store.documents.read("user-1", "login", bytes)
    assert content is not None
    async with store.documents.exclusive("user-2") as documents:
        await documents.write("login", content)
    with pytest.raises(StoreDamaged, match="another profile"):
        await load_login(store, "user-2")
    assert await load_login(store, "user-1") == tokens()
