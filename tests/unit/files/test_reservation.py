"""What is reserved for tokens before they are requested, and what becomes of tokens that cannot be saved."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from notion_oauth.errors import StorageError
from notion_oauth.files.encryption import Encryption, new_key
from notion_oauth.storage import JsonFileStore
from tests.support.stores import load_login, save_login
from tests.unit.protocol.builders import tokens

pytestmark = pytest.mark.anyio

OLD = tokens(access_token=SecretStr("canary-old"), refresh_token=SecretStr("canary-old-refresh"))
NEW = tokens(access_token=SecretStr("canary-new"), refresh_token=SecretStr("canary-new-refresh"))
NEWER = NEW.model_copy(update={"updated_at": OLD.updated_at.replace(year=OLD.updated_at.year + 1)})


@pytest.fixture(params=["plain", "encrypted"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> JsonFileStore:
    encryption = Encryption(SecretStr(new_key())) if request.param == "encrypted" else None
    return JsonFileStore(tmp_path / "tokens.json", encryption=encryption)


def reserved(store: JsonFileStore) -> Path:
    return store.path("default").with_name("tokens.json.reserved")


async def test_reservation_names_no_token(store: JsonFileStore) -> None:
    async with store.exclusive("default") as hold:
        await hold.reserve(SecretStr("canary-refresh-token"))
        assert reserved(store).stat().st_size >= 20_000
        assert b"canary" not in reserved(store).read_bytes()
        await hold.save(NEW)
        assert not reserved(store).exists()


async def test_tokens_that_cannot_replace_the_file_are_set_aside(
    store: JsonFileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save_login(store, "default", OLD)

    def busy(*_: object, **__: object) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr(os, "replace", busy)
    async with store.exclusive("default") as hold:
        await hold.reserve(OLD.refresh_token)
        with pytest.raises(StorageError, match="busy"):
            await hold.save(NEWER)
    if store.encryption is not None:
        assert b"canary" not in reserved(store).read_bytes()
    async with store.exclusive("default") as hold:
        for _ in range(2):
            with pytest.raises(StorageError, match="busy"):
                await hold.load()
    monkeypatch.undo()
    assert await load_login(store, "default") == OLD
    async with store.exclusive("default") as hold:
        assert (await hold.load()).tokens == NEWER
    assert await load_login(store, "default") == NEWER
    assert not reserved(store).exists()


def mount(*arguments: str) -> None:
    command = ["mount", *arguments]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount file systems")


def unmount(path: Path) -> None:
    subprocess.run(["umount", str(path)], check=True)  # noqa: S607 - found by PATH, as the shell does


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path))
    yield path
    unmount(path)


def fill(disk: Path) -> None:
    written = 1
    with (disk / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
        while written:
            written = filler.write(bytes(4096))
    assert os.statvfs(disk).f_bavail == 0


async def test_disk_that_fills_after_the_reservation_loses_no_tokens(small_disk: Path) -> None:
    store = JsonFileStore(small_disk / "tokens.json")
    await save_login(store, "default", OLD)
    async with store.exclusive("default") as hold:
        await hold.reserve(OLD.refresh_token)
        fill(small_disk)
        await hold.save(NEW)
    assert await load_login(store, "default") == NEW
    fill(small_disk)
    async with store.exclusive("default") as hold:
        with pytest.raises(StorageError, match="No space left"):
            await hold.reserve(NEW.refresh_token)


async def test_file_that_is_a_mount_point_is_refused_before_any_request(tmp_path: Path) -> None:
    """As with `docker -v FILE:FILE`: a mount point cannot be replaced by a rename."""
    store = JsonFileStore(tmp_path / "with space" / "tokens.json")
    await save_login(store, "default", OLD)
    source = tmp_path / "source.json"
    source.write_bytes(store.path("default").read_bytes())
    source.chmod(0o600)
    mount("--bind", str(source), str(store.path("default")))
    try:
        async with store.exclusive("default") as hold:
            assert (await hold.load()).tokens == OLD
            with pytest.raises(StorageError, match="mount point") as caught:
                await hold.reserve(OLD.refresh_token)
            assert "Mount its directory" in str(caught.value.hint)
    finally:
        unmount(store.path("default"))
