"""Permissions of secret files: modes are restricted, files of other users are refused, and links are not followed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from notion_oauth.errors import StorageError, StoreDamaged
from notion_oauth.files import atomic, permissions
from notion_oauth.models import Registration
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore, StoredLogin
from notion_oauth.web.sessions.keys import session_keys
from tests.support.stores import delete_login, load_login, save_login, save_registration
from tests.unit.files.test_paths import NOBODY, as_nobody, attempts, root_only
from tests.unit.protocol.builders import ISSUER, PUBLIC, REDIRECT_URI, tokens

pytestmark = pytest.mark.anyio

OTHER_USER = 1234
VICTIM = {"access_token": "canary-victim", "updated_at": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "stored"
    directory.mkdir(mode=0o700)
    return directory / "tokens.json"


@pytest.fixture
def store(path: Path) -> JsonFileStore:
    return JsonFileStore(path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "notion_oauth.files.permissions"]


# Modes


@pytest.mark.parametrize("open_to", [0o644, 0o640, 0o660, 0o666, 0o604, 0o777])
async def test_file_open_to_others_is_restricted_with_one_warning(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture, open_to: int
) -> None:
    await save_login(store, "default", tokens())
    path.chmod(open_to)
    for _ in range(3):
        assert await load_login(store, "default") == tokens()
    assert mode(path) == 0o600
    (warning,) = warnings(caplog)
    assert f"Other users could open {path} (mode {open_to:04o}). Its mode is now 0600." in warning


def test_memory_of_logged_warnings_is_limited(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each browser session has a file. After many other warnings, the first one is logged again."""

    def warns(file: Path) -> bool:
        caplog.clear()
        file.write_bytes(b"{}")
        file.chmod(0o644)
        atomic.read_file(file, bytes)
        return warnings(caplog) != []

    assert [warns(path), warns(path)] == [True, False]
    assert all(warns(path.with_name(f"web-{number}")) for number in range(permissions.MAX_LOGGED))
    assert warns(path)


async def test_registrations_and_lock_open_to_others_are_restricted(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await save_registration(store, "default", Registration(issuer=ISSUER, redirect_uri=REDIRECT_URI, client=PUBLIC))
    async with store.exclusive("default"):
        pass
    files = [path.with_name(f"{path.name}{suffix}") for suffix in (".clients", ".lock")]
    for file in files:
        file.chmod(0o666)
    await store.load_registrations("default")
    async with store.exclusive("default"):
        assert [mode(file) for file in files] == [0o600, 0o600]
    assert len(warnings(caplog)) == 2


def test_session_key_open_to_others_is_restricted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(token_file=path)
    key = session_keys(settings)
    file = path.with_name(f"{path.name}.session-key")
    file.chmod(0o644)
    assert session_keys(settings) == key
    assert mode(file) == 0o600
    assert len(warnings(caplog)) == 1


async def test_mode_of_a_foreign_file_is_not_changed(store: JsonFileStore, path: Path) -> None:
    """As when the path is set by mistake."""
    path.write_text('{"name": "package"}')
    path.chmod(0o644)
    with pytest.raises(StoreDamaged):
        await load_login(store, "default")
    assert mode(path) == 0o644


async def test_file_system_without_modes_is_supported_with_a_warning(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await save_login(store, "default", tokens())
    path.chmod(0o755)
    monkeypatch.setattr(os, "fchmod", lambda descriptor, mode: None)
    assert await load_login(store, "default") == tokens()
    (warning,) = warnings(caplog)
    assert "Its mode was not changed." in warning
    protection = await store.protection("default")
    assert protection.describe() == "plain, mode 0755"
    assert protection.weaknesses == (f"Other users may open {path} (mode 0755). Fix that with: chmod 600 {path}",)


async def test_hard_link_to_another_file_is_neither_written_nor_changed(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A hard link instead of the token file is not written through, and its mode is not changed."""
    victim = path.with_name("victim")
    victim.write_text(json.dumps(VICTIM))
    victim.chmod(0o644)
    path.hardlink_to(victim)
    assert await load_login(store, "default") is not None
    assert mode(victim) == 0o644
    assert "Its mode was not changed." in warnings(caplog)[1]
    await save_login(store, "default", tokens())
    assert json.loads(victim.read_text()) == VICTIM
    assert (mode(victim), victim.stat().st_nlink) == (0o644, 1)
    assert mode(path) == 0o600
    assert await load_login(store, "default") == tokens()


def test_missing_parent_directories_are_accessible_only_to_the_owner(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        atomic.write_file(tmp_path / "a" / "b" / "c" / "t.json", b"{}")
    finally:
        os.umask(before)
    assert [mode(tmp_path / part) for part in ("a", "a/b", "a/b/c")] == [0o700] * 3


# Owners


@contextmanager
def owned(path: Path, uid: int, gid: int, mode: int) -> Iterator[None]:
    """Create a login at `path` as root, with this owner and mode; then switch back to the unprivileged user."""
    uid_before = os.geteuid()
    os.seteuid(0)
    path.write_text(json.dumps(VICTIM))
    os.chown(path, uid, gid)
    path.chmod(mode)
    os.seteuid(uid_before)
    yield


@root_only
@pytest.mark.parametrize(
    ("uid", "gid", "mode", "message"),
    [
        (OTHER_USER, OTHER_USER, 0o644, "belongs to another user (uid 1234)"),
        (OTHER_USER, OTHER_USER, 0o666, "belongs to another user (uid 1234)"),
        (0, 0, 0o644, "belongs to root and is open to other users (mode 0644)"),
        (0, os.getegid(), 0o660, "belongs to root and is open to other users (mode 0660)"),
    ],
)
async def test_file_of_another_user_is_refused_and_not_changed(uid: int, gid: int, mode: int, message: str) -> None:
    with as_nobody() as directory:
        path = directory / "tokens.json"
        with owned(path, uid, gid, mode):
            before = path.stat()
            for method in ("load", "save", "delete", "check_writable"):
                with pytest.raises(StorageError) as caught:
                    await attempts(JsonFileStore(path))[method]()
                assert message in str(caught.value)
                assert "canary" not in str(caught.value)
                assert f'sudo chown "$(id -u)" {path} && chmod 600 {path}' in str(caught.value.hint)
            assert path.stat() == before


@root_only
async def test_file_that_root_shares_with_our_group_is_read() -> None:
    with as_nobody() as directory:
        path = directory / "tokens.json"
        with owned(path, 0, os.getegid(), 0o640):
            assert await load_login(JsonFileStore(path), "default") is not None
            assert mode(path) == 0o640


@root_only
async def test_lock_of_another_user_is_refused() -> None:
    """That user could hold the lock forever."""
    with as_nobody() as directory:
        path = directory / "tokens.json"
        lock = path.with_name("tokens.json.lock")
        refused = pytest.raises(StorageError, match=r"\.lock belongs to another user")
        with owned(lock, OTHER_USER, OTHER_USER, 0o666), refused:
            await attempts(JsonFileStore(path))["exclusive"]()


@root_only
async def test_file_system_that_changes_owners_is_reported_before_the_sign_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A network share that assigns all files to another user: a saved login could not be read again."""
    with as_nobody() as directory:
        real_stat = os.stat

        def with_other_owner(path: Any, **options: Any) -> os.stat_result:
            status = real_stat(path, **options)
            return os.stat_result((*status[:4], OTHER_USER, *status[5:])) if str(path).endswith(".tmp") else status

        monkeypatch.setattr(os, "stat", with_other_owner)
        with pytest.raises(StorageError, match="belongs to another user"):
            await JsonFileStore(directory / "tokens.json").check_writable("default")
        assert list(directory.iterdir()) == []


@root_only
async def test_root_uses_the_file_of_a_user_with_a_warning(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(json.dumps(VICTIM))
    path.chmod(0o600)
    os.chown(path, OTHER_USER, OTHER_USER)
    assert await load_login(store, "default") is not None
    assert "belongs to another user (uid 1234), who can read and change it" in warnings(caplog)[0]
    await save_login(store, "default", tokens())
    assert path.stat().st_uid == 0, "a file that root saves belongs to root"


@root_only
async def test_sudo_keeps_the_owner_of_a_file(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_UID", str(OTHER_USER))
    await save_login(store, "default", tokens())
    assert path.stat().st_uid == 0, "a new file belongs to root"
    os.chown(path, OTHER_USER, OTHER_USER)
    await save_login(store, "default", tokens())
    assert (path.stat().st_uid, mode(path)) == (OTHER_USER, 0o600)
    assert warnings(caplog) == []
    os.chown(path, OTHER_USER + 1, OTHER_USER)
    await save_login(store, "default", tokens())
    assert path.stat().st_uid == 0


# Directories


@pytest.mark.parametrize(
    ("directory_mode", "who"),
    [(0o777, "every user of this machine"), (0o770, "its group (gid 1234)"), (0o1777, None), (0o755, None)],
)
@root_only
async def test_directory_writable_by_others_is_reported(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture, directory_mode: int, who: str | None
) -> None:
    os.chown(path.parent, 0, OTHER_USER)
    path.parent.chmod(directory_mode)
    for _ in range(3):
        await save_login(store, "default", tokens())
        assert await load_login(store, "default") == tokens()
    logged = warnings(caplog)
    if who is None:
        assert logged == []
    else:
        (sentence,) = logged
        assert sentence.startswith(f"Files in {path.parent} can be replaced by {who}.")
        assert sentence.endswith(f"chmod go-w {path.parent}")
    assert (await store.protection("default")).weaknesses == tuple(logged)
    assert mode(path.parent) == directory_mode, "it is not changed"


@root_only
async def test_user_private_group_is_accepted(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.chmod(0o770)  # its group is the private group of root
    await save_login(store, "default", tokens())
    assert warnings(caplog) == []


@root_only
async def test_directory_of_another_user_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    with as_nobody() as directory:
        path = directory / "tokens.json"
        store = JsonFileStore(path)
        await save_login(store, "default", tokens())
        os.seteuid(0)
        os.chown(directory, OTHER_USER, -1)
        directory.chmod(0o1777)
        os.seteuid(NOBODY)
        assert await load_login(store, "default") == tokens()
    (warning,) = warnings(caplog)
    assert warning.startswith(f"Files in {directory} can be replaced by the owner of the directory (uid 1234).")
    assert warning.endswith(f"fix that with: chmod go-w {directory}")


# Links


@pytest.fixture
def shared_directory(tmp_path: Path) -> Iterator[Path]:
    """A directory in which all users may create links, with a directory `real` in it."""
    directory = Path("/tmp") / f"notion-oauth-test-{os.getpid()}"  # noqa: S108 - other users must reach it
    directory.mkdir()
    directory.chmod(0o777)
    (directory / "real").mkdir(mode=0o700)
    os.chown(directory / "real", NOBODY, NOBODY)
    yield directory
    shutil.rmtree(directory)


@root_only
@pytest.mark.parametrize(
    ("owner", "directory_owner", "refused"),
    [
        (OTHER_USER, 0, True),
        (NOBODY, 0, False),
        (0, OTHER_USER, False),
        (OTHER_USER, OTHER_USER, False),  # the owner of the directory could move it anyway
    ],
)
async def test_link_planted_by_another_user_in_the_path_is_refused(
    shared_directory: Path, owner: int, directory_owner: int, refused: bool
) -> None:
    link = shared_directory / "link"
    link.symlink_to("real")
    os.lchown(link, owner, owner)
    os.chown(shared_directory, directory_owner, 0)
    store = JsonFileStore(link / "tokens.json")
    os.seteuid(NOBODY)
    try:
        if not refused:
            await save_login(store, "default", tokens())
            assert await load_login(store, "default") == tokens()
            return
        for method in ("load", "save", "delete", "check_writable", "exclusive"):
            with pytest.raises(StorageError, match=f"leads through {link}, a symbolic link of another user"):
                await attempts(store)[method]()
        assert list((shared_directory / "real").iterdir()) == []
    finally:
        os.seteuid(0)


async def test_home_directory_behind_a_link_is_supported(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to("disk")
    store = JsonFileStore(tmp_path / "home" / "tokens.json")
    async with store.exclusive("default") as hold:
        await hold.save(tokens())
    assert await load_login(store, "default") == tokens()


async def test_file_swapped_for_a_link_is_never_followed(store: JsonFileStore, path: Path) -> None:
    """At any time of the swap: the target of the link is neither read nor written, and its mode is not changed."""
    victim = path.with_name("victim")
    victim.write_text(json.dumps(VICTIM))
    victim.chmod(0o644)
    await save_login(store, "default", tokens())
    ours, link, stop = path.with_name("ours"), path.with_name("link"), threading.Event()

    def swap() -> None:
        while not stop.is_set():
            link.symlink_to(victim)
            link.replace(path)
            ours.write_bytes(content)
            ours.replace(path)

    content = path.read_bytes()
    swapping = threading.Thread(target=swap)
    swapping.start()
    outcomes = {"read": 0, "written": 0, "refused": 0}
    try:
        while min(outcomes.values()) < 20:
            for kind, attempt in {"read": attempts(store)["load"], "written": attempts(store)["save"]}.items():
                try:
                    result = await attempt()
                except StorageError as error:
                    assert "symbolic link" in str(error)  # noqa: PT017 - it may also succeed
                    outcomes["refused"] += 1
                else:
                    outcomes[kind] += 1
                    assert result is None or (isinstance(result, StoredLogin) and result.tokens in (None, tokens()))
    finally:
        stop.set()
        swapping.join()
    assert json.loads(victim.read_text()) == VICTIM
    assert mode(victim) == 0o644


@pytest.mark.parametrize("call", ["replace", "fsync", "unlink"])
async def test_directory_swapped_during_a_change_is_not_followed(
    store: JsonFileStore, path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A change is completed in the directory in which it was started, even if the path leads elsewhere by then."""
    await save_login(store, "default", tokens(access_token=SecretStr("canary-old")))
    moved, trap = path.parent.with_name("moved"), path.parent.with_name("trap")
    trap.mkdir()
    (trap / path.name).write_text(json.dumps(VICTIM))
    real: Callable[..., Any] = getattr(os, call)

    def swapped(*arguments: Any, **options: Any) -> Any:
        if not moved.exists():
            path.parent.rename(moved)
            path.parent.symlink_to(trap)
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, swapped)
    if call == "unlink":
        assert await delete_login(store, "default") is True
        assert [file.name for file in moved.iterdir()] == [f"{path.name}.lock"]
    else:
        await save_login(store, "default", tokens())
        assert await load_login(JsonFileStore(moved / path.name), "default") == tokens()
        assert {file.name for file in moved.iterdir()} == {path.name, f"{path.name}.lock"}
    assert moved.exists()
    assert {file.name: json.loads(file.read_text()) for file in trap.iterdir()} == {path.name: VICTIM}


async def test_temporary_file_never_overwrites_an_existing_name(
    store: JsonFileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An existing link or file under the next temporary name is skipped, not followed or overwritten."""
    victim = path.with_name("victim")
    victim.write_text("precious")
    names = [b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\3"]
    path.with_name(f"{path.name}.00000001.tmp").symlink_to(victim)
    path.with_name(f"{path.name}.00000002.tmp").hardlink_to(victim)
    monkeypatch.setattr(os, "urandom", lambda size: names.pop(0))
    await save_login(store, "default", tokens())
    assert victim.read_text() == "precious"
    assert await load_login(store, "default") == tokens()


@root_only
async def test_directory_without_read_permission_is_supported_without_o_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on macOS, which lacks O_PATH."""
    monkeypatch.delattr(os, "O_PATH")
    with as_nobody() as directory:
        directory.chmod(0o300)
        store = JsonFileStore(directory / "tokens.json")
        await save_login(store, "default", tokens())
        assert await load_login(store, "default") == tokens()
        assert await delete_login(store, "default") is True


def test_system_without_modes_and_owners_is_supported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where both are meaningless."""
    atomic.write_file(path, b"{}")
    path.chmod(0o666)
    path.parent.chmod(0o777)
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        windows.setattr(os, "supports_dir_fd", set())
        for missing in ("geteuid", "fchmod", "fchown", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY"):
            windows.delattr(os, missing)
        atomic.write_file(path, b"[]")
        read, mode_found = atomic.read_file(path, bytes), permissions.mode_of(path)
        weak, deleted = permissions.weakness(path), atomic.delete_file(path)
    assert (read, mode_found, weak, deleted) == (b"[]", None, None, True)
    assert list(path.parent.iterdir()) == []
