"""Whom files with secrets are open to: modes are mended, strangers' files refused, and nothing is led elsewhere."""

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
from notion_oauth.files import atomic, directories, permissions
from notion_oauth.models import Registration
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.web.sessions.keys import session_keys
from tests.unit.files.test_paths import NOBODY, as_nobody, attempts, root_only
from tests.unit.protocol.builders import ISSUER, PUBLIC, REDIRECT_URI, tokens

pytestmark = pytest.mark.anyio

SOMEBODY = 1234
VICTIM = {"access_token": "canary-victim", "updated_at": 1}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o700)
    return folder / "tokens.json"


@pytest.fixture
def store(path: Path) -> JsonFileStore:
    return JsonFileStore(path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "notion_oauth.files.permissions"]


# Modes


@pytest.mark.parametrize("open_to", [0o644, 0o640, 0o660, 0o666, 0o604, 0o777])
async def test_a_file_that_others_may_open_is_mended_and_said_once(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture, open_to: int
) -> None:
    await store.save("default", tokens())
    path.chmod(open_to)
    for _ in range(3):
        assert await store.load("default") == tokens()
    assert mode(path) == 0o600
    (said,) = warnings(caplog)
    assert f"{path} was open to other users (mode {open_to:04o}) and is mode 0600 now." in said


async def test_what_was_said_is_remembered_within_bounds(
    store: JsonFileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's visitors have a file each."""
    monkeypatch.setattr(permissions, "MOST_SAID", 3)
    monkeypatch.setattr(permissions, "_said", set())
    for number in range(8):
        await store.save(f"web-{number}", tokens())
        store.path(f"web-{number}").chmod(0o644)
        await store.load(f"web-{number}")
    assert 0 < len(permissions._said) <= 3


async def test_registrations_and_the_lock_are_mended_too(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await store.save_registration("default", Registration(issuer=ISSUER, redirect_uri=REDIRECT_URI, client=PUBLIC))
    async with store.exclusive("default"):
        pass
    beside = [path.with_name(f"{path.name}{suffix}") for suffix in (".clients", ".lock")]
    for file in beside:
        file.chmod(0o666)
    await store.load_registrations("default")
    async with store.exclusive("default"):
        assert [mode(file) for file in beside] == [0o600, 0o600]
    assert len(warnings(caplog)) == 2


def test_the_session_key_is_mended_too(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(token_file=path)
    key = session_keys(settings)
    file = path.with_name(f"{path.name}.session-key")
    file.chmod(0o644)
    assert session_keys(settings) == key
    assert mode(file) == 0o600
    assert len(warnings(caplog)) == 1


async def test_the_mode_of_a_file_that_is_not_ours_is_not_touched(store: JsonFileStore, path: Path) -> None:
    """A path that was set by mistake."""
    path.write_text('{"name": "package"}')
    path.chmod(0o644)
    with pytest.raises(StoreDamaged):
        await store.load("default")
    assert mode(path) == 0o644


async def test_a_file_system_that_keeps_no_modes_serves_and_is_told(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.save("default", tokens())
    path.chmod(0o755)
    monkeypatch.setattr(os, "fchmod", lambda descriptor, mode: None)
    assert await store.load("default") == tokens()
    (said,) = warnings(caplog)
    assert "could not be taken from them" in said
    told = await store.protection("default")
    assert told.describe() == "plain, mode 0755"
    assert told.weaknesses == (f"Other users may open {path} (mode 0755). Mend that with: chmod 600 {path}",)


async def test_another_name_of_the_file_is_left_alone(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A hard link that was put in the place of the tokens is neither written through nor used to change modes."""
    victim = path.with_name("victim")
    victim.write_text(json.dumps(VICTIM))
    victim.chmod(0o644)
    path.hardlink_to(victim)
    assert await store.load("default") is not None
    assert mode(victim) == 0o644
    assert "could not be taken from them" in warnings(caplog)[0]
    await store.save("default", tokens())
    assert json.loads(victim.read_text()) == VICTIM
    assert (mode(victim), victim.stat().st_nlink) == (0o644, 1)
    assert mode(path) == 0o600
    assert await store.load("default") == tokens()


def test_missing_folders_are_made_for_the_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        atomic.write_file(tmp_path / "a" / "b" / "c" / "t.json", b"{}")
    finally:
        os.umask(before)
    assert [mode(tmp_path / part) for part in ("a", "a/b", "a/b/c")] == [0o700] * 3


# Owners


@contextmanager
def owned(path: Path, uid: int, gid: int, mode: int) -> Iterator[None]:
    """A login at `path` that belongs to another, as root makes it; then somebody without rights again."""
    us = os.geteuid()
    os.seteuid(0)
    path.write_text(json.dumps(VICTIM))
    os.chown(path, uid, gid)
    path.chmod(mode)
    os.seteuid(us)
    yield


@root_only
@pytest.mark.parametrize(
    ("uid", "gid", "mode", "said"),
    [
        (SOMEBODY, SOMEBODY, 0o644, "belongs to another user (uid 1234)"),
        (SOMEBODY, SOMEBODY, 0o666, "belongs to another user (uid 1234)"),
        (0, 0, 0o644, "belongs to root and is open to others (mode 0644)"),
        (0, os.getegid(), 0o660, "belongs to root and is open to others (mode 0660)"),
    ],
)
async def test_a_strangers_file_is_refused_and_left(uid: int, gid: int, mode: int, said: str) -> None:
    with as_nobody() as folder:
        path = folder / "tokens.json"
        with owned(path, uid, gid, mode):
            before = path.stat()
            for method in ("load", "save", "delete", "ensure_writable"):
                with pytest.raises(StorageError) as caught:
                    await attempts(JsonFileStore(path))[method]()
                assert said in str(caught.value)
                assert "canary" not in str(caught.value)
                assert f'sudo chown "$(id -u)" "{path}"' in caught.value.hint
            assert path.stat() == before


@root_only
async def test_what_root_gives_to_our_group_is_read() -> None:
    with as_nobody() as folder:
        path = folder / "tokens.json"
        with owned(path, 0, os.getegid(), 0o640):
            assert await JsonFileStore(path).load("default") is not None
            assert mode(path) == 0o640


@root_only
async def test_a_strangers_lock_is_refused() -> None:
    """He could hold it for ever."""
    with as_nobody() as folder:
        path = folder / "tokens.json"
        lock = path.with_name("tokens.json.lock")
        refused = pytest.raises(StorageError, match=r"\.lock belongs to another user")
        with owned(lock, SOMEBODY, SOMEBODY, 0o666), refused:
            await attempts(JsonFileStore(path))["exclusive"]()


@root_only
async def test_a_file_system_that_gives_files_away_is_said_before_anybody_consents(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as a network share that makes everything somebody else's: what is saved could not be read again."""
    with as_nobody() as folder:
        lstat = directories.Directory.lstat

        def given_away(self: directories.Directory, name: str) -> os.stat_result:
            found = lstat(self, name)
            return os.stat_result((*found[:4], SOMEBODY, *found[5:]))

        monkeypatch.setattr(directories.Directory, "lstat", given_away)
        with pytest.raises(StorageError, match="belongs to another user"):
            await JsonFileStore(folder / "tokens.json").ensure_writable("default")
        assert list(folder.iterdir()) == []


@root_only
async def test_root_uses_a_persons_file_and_says_so(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(json.dumps(VICTIM))
    path.chmod(0o600)
    os.chown(path, SOMEBODY, SOMEBODY)
    assert await store.load("default") is not None
    assert "belongs to another user (uid 1234), who can read and change it" in warnings(caplog)[0]
    await store.save("default", tokens())
    assert path.stat().st_uid == 0, "nobody is given what root has kept"


@root_only
async def test_with_sudo_a_persons_file_stays_his(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_UID", str(SOMEBODY))
    await store.save("default", tokens())
    assert path.stat().st_uid == 0, "a new one is root's"
    os.chown(path, SOMEBODY, SOMEBODY)
    await store.save("default", tokens())
    assert (path.stat().st_uid, mode(path)) == (SOMEBODY, 0o600)
    assert warnings(caplog) == []
    os.chown(path, SOMEBODY + 1, SOMEBODY)
    await store.save("default", tokens())
    assert path.stat().st_uid == 0


# Folders


@pytest.mark.parametrize(
    ("folder_mode", "who"),
    [(0o777, "everybody on this machine"), (0o770, "its group (gid 1234)"), (0o1777, None), (0o755, None)],
)
@root_only
async def test_a_folder_in_which_others_may_replace_the_file_is_said(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture, folder_mode: int, who: str | None
) -> None:
    os.chown(path.parent, 0, SOMEBODY)
    path.parent.chmod(folder_mode)
    for _ in range(3):
        await store.save("default", tokens())
        assert await store.load("default") == tokens()
    said = warnings(caplog)
    if who is None:
        assert said == []
    else:
        (sentence,) = said
        assert sentence.startswith(f"What is kept in {path.parent} can be replaced by {who}.")
        assert sentence.endswith(f"chmod go-w {path.parent}")
    assert (await store.protection("default")).weaknesses == tuple(said)
    assert mode(path.parent) == folder_mode, "it is not ours to change"


@root_only
async def test_the_group_that_is_a_persons_own_is_nobody_else(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.chmod(0o770)  # its group is root's own
    await store.save("default", tokens())
    assert warnings(caplog) == []


@root_only
async def test_the_folder_of_somebody_else_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with as_nobody() as folder:
        path = folder / "tokens.json"
        store = JsonFileStore(path)
        await store.save("default", tokens())
        os.seteuid(0)
        os.chown(folder, SOMEBODY, -1)
        folder.chmod(0o1777)
        os.seteuid(NOBODY)
        assert await store.load("default") == tokens()
    assert warnings(caplog) == [permissions._replaceable(folder, "the user whose folder it is (uid 1234)")]


# Links


@pytest.fixture
def crossroads(tmp_path: Path) -> Iterator[Path]:
    """A folder in which everybody may make links, with a folder `real` in it."""
    folder = Path("/tmp") / f"notion-oauth-test-{os.getpid()}"  # noqa: S108 - others have to reach it
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "real").mkdir(mode=0o700)
    os.chown(folder / "real", NOBODY, NOBODY)
    yield folder
    shutil.rmtree(folder)


@root_only
@pytest.mark.parametrize(
    ("owner", "folder_owner", "refused"),
    [
        (SOMEBODY, 0, True),
        (NOBODY, 0, False),
        (0, SOMEBODY, False),
        (SOMEBODY, SOMEBODY, False),  # it is his folder: he could as well move it
    ],
)
async def test_a_link_on_the_way_that_a_stranger_planted_is_refused(
    crossroads: Path, owner: int, folder_owner: int, refused: bool
) -> None:
    link = crossroads / "link"
    link.symlink_to("real")
    os.lchown(link, owner, owner)
    os.chown(crossroads, folder_owner, 0)
    store = JsonFileStore(link / "tokens.json")
    os.seteuid(NOBODY)
    try:
        if not refused:
            await store.save("default", tokens())
            assert await store.load("default") == tokens()
            return
        for method in ("load", "save", "delete", "ensure_writable", "exclusive"):
            with pytest.raises(StorageError, match=f"leads through {link}, a symbolic link of another user"):
                await attempts(store)[method]()
        assert list((crossroads / "real").iterdir()) == []
    finally:
        os.seteuid(0)


async def test_a_home_behind_a_link_serves(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to("disk")
    store = JsonFileStore(tmp_path / "home" / "tokens.json")
    async with store.exclusive("default"):
        await store.save("default", tokens())
    assert await store.load("default") == tokens()


async def test_a_file_that_is_swapped_for_a_link_leads_nowhere(store: JsonFileStore, path: Path) -> None:
    """However the swap falls: what a link leads to is neither read, written nor changed in mode."""
    victim = path.with_name("victim")
    victim.write_text(json.dumps(VICTIM))
    victim.chmod(0o644)
    await store.save("default", tokens())
    ours, link, stop = path.with_name("ours"), path.with_name("link"), threading.Event()

    def swap() -> None:
        while not stop.is_set():
            link.symlink_to(victim)
            link.replace(path)
            ours.write_bytes(files_of_ours)
            ours.replace(path)

    files_of_ours = path.read_bytes()
    swapping = threading.Thread(target=swap)
    swapping.start()
    outcomes = {"read": 0, "written": 0, "refused": 0}
    try:
        while min(outcomes.values()) < 20:
            for kind, attempt in {"read": attempts(store)["load"], "written": attempts(store)["save"]}.items():
                try:
                    found = await attempt()
                except StorageError as error:
                    assert "symbolic link" in str(error)  # noqa: PT017 - it may raise nothing
                    outcomes["refused"] += 1
                else:
                    outcomes[kind] += 1
                    assert found in (None, tokens())
    finally:
        stop.set()
        swapping.join()
    assert json.loads(victim.read_text()) == VICTIM
    assert mode(victim) == 0o644


@pytest.mark.parametrize("call", ["replace", "fsync", "unlink"])
async def test_a_folder_that_is_swapped_in_the_middle_of_a_change_is_not_followed(
    store: JsonFileStore, path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """What began in one folder is done in that one, wherever its path leads by then."""
    await store.save("default", tokens(access_token=SecretStr("canary-old")))
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
        assert await store.delete("default") is True
        assert list(moved.iterdir()) == []
    else:
        await store.save("default", tokens())
        assert await JsonFileStore(moved / path.name).load("default") == tokens()
        assert [file.name for file in moved.iterdir()] == [path.name]
    assert moved.exists()
    assert {file.name: json.loads(file.read_text()) for file in trap.iterdir()} == {path.name: VICTIM}


async def test_a_temporary_file_is_not_written_where_somebody_waits_for_it(
    store: JsonFileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link or file under the name that comes next is passed over, not followed or filled."""
    victim = path.with_name("victim")
    victim.write_text("precious")
    names = [b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\3"]
    path.with_name(f"{path.name}.00000001.tmp").symlink_to(victim)
    path.with_name(f"{path.name}.00000002.tmp").hardlink_to(victim)
    monkeypatch.setattr(os, "urandom", lambda size: names.pop(0))
    await store.save("default", tokens())
    assert victim.read_text() == "precious"
    assert await store.load("default") == tokens()


@root_only
async def test_a_folder_that_may_not_be_listed_serves_where_it_can_be_opened_by_its_path_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on macOS, which has no O_PATH."""
    monkeypatch.delattr(os, "O_PATH")
    with as_nobody() as folder:
        folder.chmod(0o300)
        store = JsonFileStore(folder / "tokens.json")
        await store.save("default", tokens())
        assert await store.load("default") == tokens()
        assert await store.delete("default") is True


def test_without_modes_and_owners_nothing_is_asked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where neither says anything."""
    atomic.write_file(path, b"{}")
    path.chmod(0o666)
    path.parent.chmod(0o777)
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        windows.setattr(os, "supports_dir_fd", set())
        for missing in ("geteuid", "fchmod", "fchown", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY"):
            windows.delattr(os, missing)
        atomic.write_file(path, b"[]")
        read, mode_told = atomic.read_file(path, bytes), permissions.mode_of(path)
        weak, deleted = permissions.weakness(path), atomic.delete_file(path)
    assert (read, mode_told, weak, deleted) == (b"[]", None, None, True)
    assert list(path.parent.iterdir()) == []
