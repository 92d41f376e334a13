"""The JSON file: its seven shared fields, atomic writes, locks, and foreign files that are never overwritten."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr

from notion_oauth.errors import ConfigurationError, StorageError, StoreBusy, StoreDamaged
from notion_oauth.files import atomic
from notion_oauth.models import Registration
from notion_oauth.storage import MAX_REGISTRATIONS, JsonFileStore
from tests.support.paths import ROOT
from tests.support.stores import delete_login, load_login, save_login, save_registration
from tests.unit.protocol.builders import NOW, PUBLIC, tokens

pytestmark = pytest.mark.anyio

SEVEN: dict[str, Any] = {
    "access_token": "canary-access",
    "token_type": "Bearer",
    "expires_in": 3600,
    "refresh_token": "canary-refresh",
    "client_id": "c",
    "client_secret": None,
    "updated_at": int(NOW.timestamp() * 1000),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".notion-tokens.json"


@pytest.fixture
def store(path: Path) -> JsonFileStore:
    return JsonFileStore(path)


async def test_the_file_has_the_seven_fields_and_times_in_milliseconds(store: JsonFileStore, path: Path) -> None:
    await save_login(store, "default", tokens())
    document = json.loads(path.read_text())
    assert list(document)[:7] == list(SEVEN)
    assert document["updated_at"] == int(NOW.timestamp() * 1000)
    assert document["expires_at"] == document["updated_at"] + 3_600_000
    assert document["client_id"] == PUBLIC.client_id
    assert document["client_secret"] is None
    assert document["token_endpoint"] == "https://mcp.notion.com/token"


async def test_file_with_only_the_seven_fields_is_read(store: JsonFileStore, path: Path) -> None:
    path.write_text(json.dumps(SEVEN))
    login = await load_login(store, "default")
    assert login is not None
    assert login.access_token.get_secret_value() == "canary-access"
    assert login.refresh_token is not None
    assert login.client is not None
    assert (login.client.client_id, login.client.client_secret) == ("c", None)
    assert login.updated_at == NOW
    assert login.expires_at == NOW + timedelta(hours=1)


@pytest.mark.parametrize(
    ("changes", "expires_after"),
    [
        ({"expires_in": "3600"}, 3600),
        ({"expires_in": 0}, None),
        ({"expires_in": -1}, None),
        ({"expires_in": None}, None),
        ({"expires_in": "soon"}, None),
        ({"updated_at": None}, None),
        ({"updated_at": "yesterday"}, None),
        ({"updated_at": 10**30}, None),
        ({"updated_at": True}, None),
        ({"updated_at": SEVEN["updated_at"] + 0.5}, 3600.0005),
        ({"expires_at": int((NOW + timedelta(days=1)).timestamp() * 1000)}, 86400),
    ],
)
async def test_lifetimes_and_times_of_any_type_are_accepted(
    path: Path, store: JsonFileStore, changes: dict[str, Any], expires_after: float | None
) -> None:
    path.write_text(json.dumps({**SEVEN, **changes}))
    login = await load_login(store, "default")
    assert login is not None
    assert login.expires_at == (None if expires_after is None else NOW + timedelta(seconds=expires_after))


async def test_unknown_fields_are_ignored(path: Path, store: JsonFileStore) -> None:
    path.write_text(json.dumps({**SEVEN, "workspace": {"name": "x"}, "token_type": None, "client_secret": ""}))
    login = await load_login(store, "default")
    assert login is not None
    assert login.token_type == "Bearer"


FOREIGN = {
    "other json": b'{"name": "package"}',
    "array": b"[1, 2]",
    "text": b"hello",
    "empty": b"",
    "blank": b" \n",
    "binary": bytes(range(256)),
    "truncated": json.dumps(SEVEN).encode()[:-20],
    "token is not text": b'{"access_token": 7}',
    "empty token": b'{"access_token": ""}',
    "wrong field": b'{"access_token": "a", "refresh_token": 7}',
    "wrong client": b'{"access_token": "a", "client_id": [7]}',
    "too large": b" " * (atomic.MAX_FILE + 1),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
async def test_foreign_file_is_reported_and_not_changed(store: JsonFileStore, path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for attempt in (
        lambda: store.load("default"),
        lambda: save_login(store, "default", tokens()),
        lambda: delete_login(store, "default"),
        lambda: store.check_writable("default"),
    ):
        with pytest.raises(StoreDamaged) as caught:
            await attempt()
        assert str(path) in str(caught.value)
        assert "Nothing was changed" in str(caught.value.hint)
        assert "canary" not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["directory", "pipe"])
async def test_directory_or_pipe_is_reported_without_blocking(store: JsonFileStore, path: Path, kind: str) -> None:
    if kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    before = path.stat().st_mode
    with anyio.fail_after(5):
        with pytest.raises(StoreDamaged, match="not a regular file"):
            await load_login(store, "default")
        with pytest.raises(StoreDamaged, match="not a regular file"):
            await save_login(store, "default", tokens())
    assert path.stat().st_mode == before


async def test_damaged_registrations_file_is_not_changed(store: JsonFileStore, path: Path) -> None:
    clients = path.with_name(f"{path.name}.clients")
    clients.write_text('{"registrations": "none"}')
    new = Registration(issuer="https://a.example", redirect_uri="http://127.0.0.1/", client=PUBLIC)
    with pytest.raises(StoreDamaged, match="contains no client registrations"):
        await save_registration(store, "default", new)
    assert clients.read_text() == '{"registrations": "none"}'


async def test_number_of_registrations_is_limited(store: JsonFileStore) -> None:
    uris = [f"http://127.0.0.1:{port}/callback" for port in range(MAX_REGISTRATIONS + 5)]
    for uri in uris:
        await save_registration(
            store, "default", Registration(issuer="https://a.example", redirect_uri=uri, client=PUBLIC)
        )
    stored = await store.load_registrations("default")
    assert [registration.redirect_uri for registration in stored] == uris[5:]


async def test_path_below_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = JsonFileStore(tmp_path / "file" / "tokens.json")
    with pytest.raises(StorageError, match="could not be read"):
        await load_login(store, "default")
    with pytest.raises(StorageError, match="could not be locked"):
        async with store.exclusive("default"):
            pass


async def test_save_is_synced_before_and_after_the_rename(
    store: JsonFileStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the writes to the disk. The new file has mode 0600 before the rename."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        kind = (
            "directory" if stat.S_ISDIR(status.st_mode) else f"{status.st_size > 100} {stat.S_IMODE(status.st_mode):o}"
        )
        steps.append(f"fsync {kind}")
        fsync(descriptor)

    def recording_replace(source: str, target: str, **options: int) -> None:
        steps.append(f"rename to {target}")
        replace(source, target, **options)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    await save_login(store, "default", tokens())
    await delete_login(store, "default")
    assert steps == ["fsync True 600", f"rename to {path.name}", "fsync directory", "fsync directory"]


async def test_symbolic_link_is_not_written_through(store: JsonFileStore, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.json"
    target.write_text(json.dumps(SEVEN))
    path.symlink_to(target)
    with pytest.raises(StorageError, match="symbolic link"):
        await store.check_writable("default")
    with pytest.raises(StorageError, match="symbolic link"):
        await save_login(store, "default", tokens())
    assert path.is_symlink()
    assert json.loads(target.read_text()) == SEVEN


async def test_new_directory_is_accessible_only_to_the_owner(tmp_path: Path) -> None:
    store = JsonFileStore(tmp_path / "a" / "b" / "tokens.json")
    async with store.exclusive("default") as hold:
        await hold.save(tokens())
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


@pytest.mark.spec("MCP §Refresh Tokens", "Keep refresh tokens confidential in transit and in storage")
async def test_all_files_have_mode_0600_with_any_umask(store: JsonFileStore, path: Path) -> None:
    before = os.umask(0)
    try:
        async with store.exclusive("default") as hold:
            await hold.save(tokens())
            await hold.save_registration(
                Registration(issuer="https://a.example", redirect_uri="http://127.0.0.1/", client=PUBLIC)
            )
            await hold.reserve()
            hold.request_may_arrive()
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {f"{path.name}{suffix}": 0o600 for suffix in ("", ".lock", ".clients", ".reserved")}


FULL_DISK = """
import resource, signal, sys
sys.dont_write_bytecode = True  # it would be cut at the limit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
"""
SAVE = """
import sys
from pathlib import Path
import anyio
from notion_oauth.storage import JsonFileStore
from tests.unit.protocol.builders import tokens
from tests.support.stores import save_login
anyio.run(save_login, JsonFileStore(Path(sys.argv[1])), "default", tokens())
"""


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
async def test_full_disk_loses_no_data(store: JsonFileStore, path: Path) -> None:
    """A limit of 100 bytes per file stands for a full disk."""
    await save_login(store, "default", tokens(access_token=SecretStr("old")))
    before = path.read_bytes()
    done = await anyio.to_thread.run_sync(run_python, FULL_DISK + SAVE, str(path))
    assert done.returncode == 1
    assert f"StorageError: {path} could not be written: {os.strerror(errno.EFBIG)}" in done.stderr
    assert "canary" not in done.stderr
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} == {path.name, f"{path.name}.lock"}, (
        "no incomplete file is left"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch to another user")
async def test_inaccessible_file_of_another_user_is_reported(store: JsonFileStore, path: Path) -> None:
    await save_login(store, "default", tokens())
    before = path.read_bytes()
    os.seteuid(65534)
    try:
        with pytest.raises(StorageError, match="could not be read: Permission denied"):
            await load_login(store, "default")
        with pytest.raises(StorageError, match="could not be written: Permission denied"):
            atomic.write_file(path, b"")
        with pytest.raises(StorageError, match="could not be deleted: Permission denied"):
            atomic.delete_file(path)
        with pytest.raises(StorageError, match="could not be locked: Permission denied"):
            async with store.exclusive("default"):
                pass
    finally:
        os.seteuid(0)
    assert path.read_bytes() == before


async def test_temporary_files_of_killed_writers_are_removed(store: JsonFileStore, path: Path) -> None:
    abandoned, recent = (path.with_name(f"{path.name}.{name}.tmp") for name in ("old_00_0", "new_00_0"))
    for file in (abandoned, recent):
        file.write_text("half a token")
    os.utime(abandoned, (time.time() - 120,) * 2)
    await save_login(store, "default", tokens())
    assert not abandoned.exists()
    assert recent.exists(), "another process may still be writing it"


async def test_readers_see_only_whole_files(store: JsonFileStore, path: Path) -> None:
    """A reader that reads as fast as it can sees only complete files."""
    await save_login(store, "default", tokens())
    seen, stop = [], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.append(json.loads(path.read_bytes())["access_token"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(50):
        await save_login(store, "default", tokens(access_token=SecretStr(f"t{number}" * 500)))
    stop.set()
    watcher.join()
    assert len(set(seen)) > 1


@pytest.mark.parametrize("name", ["", "..", "a/b", "a.b", "-x", "ü", "x" * 65, "a\n"])
def test_invalid_profile_name_is_refused(store: JsonFileStore, name: str) -> None:
    with pytest.raises(ConfigurationError, match="profile"):
        store.path(name)


HOLD = """
import os, sys, time
from pathlib import Path
import anyio
from notion_oauth.storage import JsonFileStore
async def hold():
    async with JsonFileStore(Path(sys.argv[1])).exclusive("default"):
        child = os.fork() if sys.argv[2:] == ["fork"] else None
        if child != 0:
            print(child or 0, flush=True)
        time.sleep(60)
anyio.run(hold)
"""


def start_holder(path: Path, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """Start a process that holds the lock, and with the argument `fork` a child. Returns it and the child's id."""
    # Without coverage, because the process is killed
    variables = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    environment = {**variables, "PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    return holder, int(holder.stdout.readline())


async def check_busy(path: Path) -> None:
    with pytest.raises(StoreBusy, match=r"\.lock"):
        async with JsonFileStore(path, lock_wait=timedelta(milliseconds=100)).exclusive("default"):
            pass


async def check_free(path: Path) -> None:
    with anyio.fail_after(5):
        async with JsonFileStore(path).exclusive("default"):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("delete_lock", [False, True])
async def test_lock_excludes_processes_and_is_released_when_its_holder_dies(path: Path, delete_lock: bool) -> None:
    """Also if somebody deletes the lock file while it is held."""
    await save_login(JsonFileStore(path), "default", tokens())
    holder, _ = await anyio.to_thread.run_sync(start_holder, path)
    with holder:
        if delete_lock:
            path.with_name(f"{path.name}.lock").unlink()
        await check_busy(path)
        holder.kill()
        await check_free(path)
    assert path.with_name(f"{path.name}.lock").exists(), "it stays: removing it would allow two holders"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
async def test_forked_child_does_not_keep_the_lock(path: Path) -> None:
    await save_login(JsonFileStore(path), "default", tokens())
    holder, child = await anyio.to_thread.run_sync(start_holder, path, "fork")
    with holder:
        await check_busy(path)
        holder.kill()
        try:
            await check_free(path)
        finally:
            os.kill(child, signal.SIGKILL)


async def test_lock_is_released_after_the_login_was_replaced(path: Path) -> None:
    await save_login(JsonFileStore(path), "default", tokens())
    async with JsonFileStore(path).exclusive("default") as hold:
        await hold.save(tokens())
        await check_busy(path)
    await check_free(path)


async def test_lock_excludes_threads_with_separate_event_loops(path: Path) -> None:
    inside, most = [], []

    async def enter() -> None:
        async with JsonFileStore(path).exclusive("default"):
            inside.append(1)
            most.append(len(inside))
            await anyio.sleep(0.001)
            inside.pop()

    threads = [threading.Thread(target=lambda: anyio.run(enter)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await anyio.to_thread.run_sync(thread.join)
    assert most == [1] * 8
