"""What root creates in a user's directory belongs to that user, as after `sudo notion-oauth` once."""

from __future__ import annotations

import os
import shlex
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr

from notion_oauth.errors import StorageError
from notion_oauth.files import atomic
from notion_oauth.models import Registration
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.web.sessions.keys import session_keys
from tests.support.stores import delete_login, load_login, save_login, save_registration
from tests.unit.files.test_paths import NOBODY, root_only
from tests.unit.protocol.builders import ISSUER, PUBLIC, REDIRECT_URI, tokens

pytestmark = [pytest.mark.anyio, root_only]

SECRET = "precious"


@pytest.fixture
def home() -> Iterator[Path]:
    """The home directory of a user, whose path that user may search."""
    with tempfile.TemporaryDirectory(prefix="notion-oauth-test-") as directory:
        os.chown(directory, NOBODY, NOBODY)
        yield Path(directory)


@contextmanager
def as_user() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def owners(directory: Path) -> dict[str, int]:
    return {str(path.relative_to(directory)): path.lstat().st_uid for path in directory.rglob("*")}


async def use_everything(settings: Settings) -> None:
    """Create each kind of file."""
    store = JsonFileStore(settings.token_file)
    registration = Registration(issuer=ISSUER, redirect_uri=REDIRECT_URI, client=PUBLIC)
    async with store.exclusive("default") as hold:
        await hold.reserve()
        await hold.save(tokens())
    await save_login(store, "work", tokens())
    await save_registration(store, "default", registration)
    await store.claim("key", timedelta(minutes=1))
    await store.settle("key", b"outcome")
    session_keys(settings)
    async with store.exclusive("default") as hold:
        await hold.reserve(SecretStr("sent"))
        hold.request_may_arrive()  # the reservation stays


async def test_user_can_use_everything_that_root_has_created(home: Path) -> None:
    settings = Settings(token_file=home / "data" / "notion-oauth" / "tokens.json")
    await use_everything(settings)
    found = owners(home)
    assert {"data", "data/notion-oauth/tokens.json.lock", "data/notion-oauth/tokens.json.reserved"} <= found.keys()
    assert "data/notion-oauth/tokens.json.claims/.lock" in found
    assert set(found.values()) == {NOBODY}
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.rglob("*")} == {0o600, 0o700}
    with as_user():
        store = JsonFileStore(settings.token_file)
        assert await load_login(store, "default") == tokens()
        await use_everything(settings)
        assert await delete_login(store, "default") is True


async def test_directory_of_root_stays_root_s(tmp_path: Path) -> None:
    await use_everything(Settings(token_file=tmp_path / "data" / "tokens.json"))
    assert set(owners(tmp_path).values()) == {0}


async def test_lock_that_root_has_left_is_named_to_the_user_and_repaired_by_root(home: Path) -> None:
    """As earlier versions left it: root's, in the directory of a user who is signed in."""
    token_file, lock = home / "tokens.json", home / "tokens.json.lock"
    store = JsonFileStore(token_file)
    with as_user():
        await save_login(store, "default", tokens())
    os.chown(lock, 0, 0)
    content = token_file.read_bytes()
    with as_user(), pytest.raises(StorageError) as caught:
        await save_login(store, "default", tokens(access_token=SecretStr("new")))
    assert caught.value.message == f"{lock} belongs to root."
    assert caught.value.hint.other_command == f'sudo chown "$(id -u)" {lock} && chmod 600 {lock}'
    assert token_file.read_bytes() == content

    async with store.exclusive("default"):
        pass
    assert lock.stat().st_uid == NOBODY
    with as_user():
        await save_login(store, "default", tokens())


@pytest.mark.parametrize("name", ["tokens.json", "tokens.json.reserved", "my $(touch x)"])
async def test_file_that_only_root_may_open_is_named_to_the_user(home: Path, name: str) -> None:
    path = home / name
    path.write_text("{}")
    path.chmod(0o600)
    with as_user(), pytest.raises(StorageError) as caught:
        atomic.read_file(path, bytes)
    assert caught.value.message == f"{path} belongs to root."
    command = shlex.split(caught.value.hint.other_command or "")
    assert command == ["sudo", "chown", "$(id -u)", str(path), "&&", "chmod", "600", str(path)]


@pytest.mark.parametrize("access", [partial(atomic.read_file, decode=bytes), partial(atomic.write_file, content=b"{}")])
@pytest.mark.parametrize("name", ["tokens.json", "new/tokens.json"])
async def test_directory_that_root_has_left_is_named_to_the_user(
    home: Path, access: Callable[[Path], object], name: str
) -> None:
    directory = home / "data"
    directory.mkdir(mode=0o700)
    with as_user(), pytest.raises(StorageError) as caught:
        access(directory / name)
    assert caught.value.message == f"{directory} belongs to root."
    assert caught.value.hint.other_command == f'sudo chown "$(id -u)" {directory} && chmod 700 {directory}'


async def test_directory_that_root_has_left_around_a_file_of_the_user_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = home / "data"
    directory.mkdir(mode=0o755)
    (directory / "tokens.json").write_text("{}")
    os.chown(directory / "tokens.json", NOBODY, NOBODY)
    monkeypatch.chdir(directory)
    with as_user(), pytest.raises(StorageError, match=f"^{directory} belongs to root"):
        atomic.write_file(Path("tokens.json"), b"{}")
    os.chown(directory, NOBODY + 1, 0)  # another user's: perhaps shared on purpose
    with as_user(), pytest.raises(StorageError, match="Permission denied"):
        atomic.write_file(Path("tokens.json"), b"{}")


async def test_directory_of_the_system_is_not_to_be_taken_over() -> None:
    with as_user(), pytest.raises(StorageError, match="Permission denied") as caught:
        atomic.write_file(Path("/etc/tokens.json"), b"{}")
    assert "chown" not in str(caught.value)


@pytest.mark.parametrize("planted", ["link", "second name", "moved", "directory"])
async def test_nothing_else_of_root_is_given_away(home: Path, tmp_path: Path, planted: str) -> None:
    """The owner of the directory may put another file of root's in place of the lock."""
    lock = home / "tokens.json.lock"
    other = home / "of root"
    if planted == "directory":
        lock.mkdir()
        (lock / "file").write_text(SECRET)
    else:
        other.write_text("" if planted == "second name" else SECRET)
        if planted == "link":
            lock.symlink_to(other)
        elif planted == "second name":
            lock.hardlink_to(other)
        else:
            other.rename(lock)
    try:
        async with JsonFileStore(home / "tokens.json").exclusive("default"):
            pass
    except StorageError:
        assert planted in ("link", "directory")
    assert set(owners(home).values()) == {0}


async def test_chown_that_fails_loses_no_login(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system that makes root another user."""

    def refused(descriptor: int, uid: int, gid: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refused)
    store = JsonFileStore(home / "new" / "tokens.json")
    await save_login(store, "default", tokens())
    assert await load_login(store, "default") == tokens()


@pytest.mark.parametrize("planted", ["nothing", "link", "second name", "pipe"])
async def test_reservation_that_is_replaced_is_not_written_to(home: Path, planted: str) -> None:
    store, reserved, other = JsonFileStore(home / "tokens.json"), home / "tokens.json.reserved", home / "of root"
    other.write_text(SECRET)
    async with store.exclusive("default") as hold:
        await hold.reserve()
        reserved.unlink()
        if planted == "link":
            reserved.symlink_to(other)
        elif planted == "second name":
            reserved.hardlink_to(other)
        elif planted == "pipe":
            os.mkfifo(reserved)
        await hold.save(tokens())
    assert await load_login(store, "default") == tokens()
    assert (other.read_text(), other.stat().st_uid) == (SECRET, 0)
    assert (home / "tokens.json").stat().st_uid == NOBODY
