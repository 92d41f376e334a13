"""Token files at unusual paths: an unusable path is reported with a hint, and no login is lost."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from notion_oauth.errors import ConfigurationError, StorageError
from notion_oauth.files import atomic
from notion_oauth.models import TokenSet
from notion_oauth.settings import load_settings
from notion_oauth.storage import JsonFileStore
from tests.support.stores import delete_login, load_login, save_login
from tests.unit.protocol.builders import tokens

pytestmark = pytest.mark.anyio

NOBODY = 65534
Attempt = Callable[[], Coroutine[Any, Any, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".notion-tokens.json"


@pytest.fixture
def store(path: Path) -> JsonFileStore:
    return JsonFileStore(path)


def attempts(store: JsonFileStore) -> dict[str, Attempt]:
    async def lock() -> None:
        async with store.exclusive("default"):
            pass

    return {
        "load": lambda: store.load("default"),
        "save": lambda: save_login(store, "default", tokens()),
        "delete": lambda: delete_login(store, "default"),
        "check_writable": lambda: store.check_writable("default"),
        "exclusive": lock,
    }


@pytest.mark.parametrize("method", ["load", "save", "delete", "check_writable"])
@pytest.mark.parametrize("dangling", [True, False])
async def test_symbolic_link_is_never_followed(store: JsonFileStore, path: Path, method: str, dangling: bool) -> None:
    """Deleting the link would leave the tokens at its target; replacing it would leave two different files."""
    target = path.with_name("elsewhere.json")
    if not dangling:
        await save_login(JsonFileStore(target), "default", tokens())
    before = None if dangling else target.read_bytes()
    path.symlink_to(target)
    with pytest.raises(StorageError, match="symbolic link") as caught:
        await attempts(store)[method]()
    assert "NOTION_OAUTH_TOKEN_FILE" in str(caught.value.hint)
    assert path.is_symlink()
    assert (None if dangling else target.read_bytes()) == before


@contextmanager
def impossible_path(kind: str, directory: Path) -> Iterator[Path]:
    """A path at which no file can exist."""
    if kind == "below a file":
        (directory / "file").write_text("")
        yield directory / "file" / "tokens.json"
    elif kind == "below a link loop":
        (directory / "a").symlink_to(directory / "b")
        (directory / "b").symlink_to(directory / "a")
        yield directory / "a" / "tokens.json"
    else:
        yield directory / ("x" * 252)  # with a suffix longer than 255 characters, the limit of file systems


@pytest.mark.parametrize("method", ["save", "check_writable", "exclusive"])
@pytest.mark.parametrize("kind", ["below a file", "below a link loop", "a name that is too long"])
async def test_impossible_path_is_reported(tmp_path: Path, kind: str, method: str) -> None:
    with impossible_path(kind, tmp_path) as path, pytest.raises(StorageError) as caught:
        await attempts(JsonFileStore(path))[method]()
    assert str(path) in str(caught.value)
    assert "NOTION_OAUTH_TOKEN_FILE" in str(caught.value.hint)


@pytest.mark.parametrize("path", [".", "/", "", ".."])
async def test_setting_that_is_not_the_path_of_a_file_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="--token-file: it is not the path of a file"):
        load_settings(token_file=path)
    if path:  # an empty variable counts as unset
        monkeypatch.setenv("NOTION_OAUTH_TOKEN_FILE", path)
        with pytest.raises(ConfigurationError, match="NOTION_OAUTH_TOKEN_FILE"):
            load_settings()


@pytest.mark.parametrize("method", ["load", "save", "exclusive"])
async def test_store_without_a_file_name_is_refused(method: str) -> None:
    with pytest.raises(ConfigurationError, match="is not the path of a file"):
        await attempts(JsonFileStore(Path()))[method]()


def test_path_with_a_null_byte_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--token-file"):
        load_settings(token_file="a\0b")


@pytest.mark.parametrize("content", [b"\xff\xfe", "NOTION_OAUTH_CLIENT_NAME=Zoë\n".encode("latin-1")])
def test_dotenv_file_that_is_not_utf_8_is_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"\.env cannot be read: it is not UTF-8"):
        load_settings(env_file=tmp_path / ".env")


def leftovers(path: Path) -> dict[str, Path]:
    names = {
        "ours": f"{path.name}.abc_1234.tmp",
        "a user's": f"{path.name}.backup.tmp",
        "another profile's": f"{path.name}.work.profile.abc_1234.tmp",
        "another file's": "other.json.abc_1234.tmp",
    }
    found = {owner: path.with_name(name) for owner, name in names.items()}
    for file in found.values():
        file.write_text("half a token")
        os.utime(file, (time.time() - 3600,) * 2)
    return found


@pytest.mark.parametrize("name", ["tokens.json", "[a-z]*.json", "a?b\\c(.json"])
async def test_only_our_temporary_files_are_removed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    found = leftovers(path)
    await save_login(JsonFileStore(path), "default", tokens())
    assert {owner for owner, file in found.items() if file.exists()} == set(found) - {"ours"}


async def test_deleting_removes_recent_temporary_files(store: JsonFileStore, path: Path) -> None:
    await save_login(store, "default", tokens())
    found = leftovers(path)
    os.utime(found["ours"])  # its writer was killed recently
    assert await delete_login(store, "default") is True
    assert {owner for owner, file in found.items() if file.exists()} == set(found) - {"ours"}


async def test_login_too_large_to_read_is_not_written(store: JsonFileStore, path: Path) -> None:
    await save_login(store, "default", tokens())
    before = path.read_bytes()
    with pytest.raises(StorageError, match="more than the limit") as caught:
        await save_login(store, "default", tokens(scope="ü" * (atomic.MAX_FILE // 6)))
    assert "canary" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("number", "tolerated"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
async def test_file_system_without_directory_fsync_is_supported(
    store: JsonFileStore, path: Path, monkeypatch: pytest.MonkeyPatch, number: int, tolerated: bool
) -> None:
    fsync = os.fsync

    def fsync_of_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync_of_files)
    if tolerated:
        await save_login(store, "default", tokens())
        assert await delete_login(store, "default") is True
    else:
        with pytest.raises(StorageError, match="could not be written"):
            await save_login(store, "default", tokens())


@contextmanager
def as_nobody() -> Iterator[Path]:
    """Switch to an unprivileged user, in a directory that the user owns."""
    directory = Path(tempfile.mkdtemp(prefix="notion-oauth-test-"))
    try:
        os.chown(directory, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield directory
        finally:
            os.seteuid(0)
    finally:
        directory.chmod(0o700)
        for file in directory.iterdir():
            file.unlink()
        directory.rmdir()


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch to another user")


@root_only
async def test_directory_without_read_permission_is_supported() -> None:
    with as_nobody() as directory:
        directory.chmod(0o300)
        store = JsonFileStore(directory / "tokens.json")
        async with store.exclusive("default") as hold:
            await hold.save(tokens())
        assert await load_login(store, "default") == tokens()
        assert await delete_login(store, "default") is True


@root_only
async def test_read_only_directory_loses_no_data() -> None:
    with as_nobody() as directory:
        store = JsonFileStore(directory / "tokens.json")
        await save_login(store, "default", tokens(access_token=SecretStr("old")))
        directory.chmod(0o500)
        for method in ("save", "delete", "check_writable"):
            with pytest.raises(StorageError, match="Permission denied") as caught:
                await attempts(store)[method]()
            assert "NOTION_OAUTH_TOKEN_FILE" in str(caught.value.hint)
        login = await load_login(store, "default")
        assert isinstance(login, TokenSet)
        assert login.access_token.get_secret_value() == "old"


async def test_lock_that_is_a_symbolic_link_is_refused(store: JsonFileStore, path: Path) -> None:
    victim = path.with_name("victim")
    victim.write_text("precious")
    path.with_name(f"{path.name}.lock").symlink_to(victim)
    with pytest.raises(StorageError, match=r"\.lock is a symbolic link"):
        await attempts(store)["exclusive"]()
    assert victim.read_text() == "precious"


async def test_save_restricts_the_mode_of_a_file_from_another_program(store: JsonFileStore, path: Path) -> None:
    path.write_text(json.dumps({"access_token": "a", "updated_at": 1}))
    path.chmod(0o644)
    await save_login(store, "default", tokens())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
