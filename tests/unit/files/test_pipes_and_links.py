"""Pipes in place of files, second names of files, and the links of a mounted Kubernetes secret."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from notion_oauth.errors import StorageError, StoreDamaged
from notion_oauth.files import permissions
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.web.sessions.keys import session_keys
from tests.support.stores import load_login, save_login
from tests.unit.files.test_paths import attempts
from tests.unit.files.test_permissions import warnings
from tests.unit.protocol.builders import tokens

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest.fixture
def store(path: Path) -> JsonFileStore:
    return JsonFileStore(path)


@pytest.mark.parametrize("method", ["load", "save", "delete", "check_writable"])
async def test_pipe_in_place_of_the_token_file_is_refused(store: JsonFileStore, path: Path, method: str) -> None:
    os.mkfifo(path)
    with pytest.raises(StoreDamaged, match="is not a regular file"):
        await attempts(store)[method]()


@pytest.mark.parametrize("suffix", [".lock", ".clients", ".reserved", ".session-key"])
async def test_pipe_in_place_of_another_file_does_not_block(store: JsonFileStore, path: Path, suffix: str) -> None:
    async def use_all() -> None:
        session_keys(Settings(token_file=path))
        async with store.exclusive("default") as hold:
            await hold.load()
        await store.load_registrations("default")

    os.mkfifo(path.with_name(path.name + suffix))
    with pytest.raises(StoreDamaged, match=f"{suffix} is not a regular file"):
        await use_all()


@pytest.mark.slow
async def test_second_name_of_a_login_is_reported(
    store: JsonFileStore, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after `cp -l`: both names have the same refresh token, and different locks."""
    await save_login(store, "default", tokens())
    other = path.with_name("other name.json")
    other.hardlink_to(path)
    for _ in range(2):
        assert await load_login(store, "default") == tokens()
    (weakness,) = (await store.protection("default")).weaknesses
    assert weakness.message.startswith(f"{path} has another name (hard link).")
    assert warnings(caplog) == [weakness]
    found = subprocess.run(
        shlex.split(weakness.hint.other_command or ""), capture_output=True, text=True, check=False
    ).stdout.splitlines()
    assert set(found) == {str(path), str(other)}

    await save_login(store, "default", tokens())
    assert (await store.protection("default")).weaknesses == ()


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """The directory of a secret or config map, as the kubelet writes it."""
    directory = tmp_path / "secret"
    (directory / "..2026_11_29").mkdir(parents=True)
    (directory / "..data").symlink_to("..2026_11_29")
    return directory


def mount(directory: Path, name: str, content: str = "", mode: int = 0o644) -> Path:
    file = directory / "..2026_11_29" / name
    file.write_text(content)
    file.chmod(mode)
    (directory / name).symlink_to(f"..data/{name}")
    return directory / name


@pytest.mark.parametrize("method", ["load", "save", "delete", "check_writable"])
async def test_token_file_in_a_kubernetes_secret_is_to_be_copied(mounted: Path, method: str) -> None:
    store = JsonFileStore(mount(mounted, "tokens.json", "{}"))
    with pytest.raises(StorageError, match="is a symbolic link") as caught:
        await attempts(store)[method]()
    assert "Let an init container copy it to a writable volume" in str(caught.value.hint)
    assert "Remove the link" not in str(caught.value.hint)


def test_mode_of_a_mounted_file_is_that_of_its_target(mounted: Path) -> None:
    assert permissions.weakness(mount(mounted, "private", mode=0o400)) is None
    weakness = permissions.weakness(mount(mounted, "public"))
    assert weakness is not None
    assert weakness.message.endswith("public (mode 0644).")
    assert str(weakness.hint) == "Set defaultMode: 0400 for the volume."
