"""Rare cases of tokens, status, stores and files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from notion_oauth.errors import StorageError, StoreDamaged
from notion_oauth.files import atomic
from notion_oauth.models import ClientInformation, Registration
from notion_oauth.protocol.messages import host_of
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from tests.conftest import Posted
from tests.support.signing_in import REDIRECT_URI, begin, sign_in
from tests.support.stores import save_login, save_registration
from tests.unit.protocol.builders import tokens

pytestmark = pytest.mark.anyio


def ahead(**span: float) -> Callable[[], datetime]:
    return lambda: datetime.now(UTC) + timedelta(**span)


async def test_min_ttl_is_ignored_without_a_refresh_token(settings: Settings, sandbox: Sandbox) -> None:
    sandbox.options.token_response_overrides = {"refresh_token": None}
    login = await sign_in(NotionOAuth(settings))
    late = NotionOAuth(settings, clock=ahead(minutes=55))
    assert await late.tokens.token(min_ttl=timedelta(minutes=30)) == login.access_token


async def test_min_ttl_may_be_the_longest_timedelta(settings: Settings, grants_asked: Posted) -> None:
    oauth = NotionOAuth(settings)
    await sign_in(oauth)
    assert await oauth.tokens.token(min_ttl=timedelta.max)
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_token_without_lifetime_and_refresh_token_is_used(settings: Settings, sandbox: Sandbox) -> None:
    sandbox.options.token_response_overrides = {"expires_in": None, "refresh_token": None}
    login = await sign_in(NotionOAuth(settings))
    later = NotionOAuth(settings, clock=ahead(days=365))
    assert await later.tokens.token() == login.access_token
    assert (await later.status()).expires_in_seconds is None


@pytest.mark.spec("RFC 7591 §3.2.1", "Register again after the secret has expired")
async def test_client_with_an_expired_secret_is_replaced(oauth: NotionOAuth, sandbox: Sandbox) -> None:
    old = ClientInformation(client_id="old", client_secret=SecretStr("s"), client_secret_expires_at=1)
    await save_registration(
        oauth.store, "default", Registration(issuer=sandbox.issuer, redirect_uri=REDIRECT_URI, client=old)
    )
    pending, _ = await begin(oauth)
    assert pending.client.client_id != "old"
    assert [each.client for each in await oauth.store.load_registrations("default")] == [pending.client]
    assert sandbox.requests_to("/token") == [], "an expired secret is not sent"


async def test_expired_login_without_refresh_token_is_unauthenticated(settings: Settings) -> None:
    await save_login(JsonFileStore(settings.token_file), "default", tokens(resource=None, refresh_token=None))
    status = await NotionOAuth(settings, clock=ahead(days=3650)).status()
    assert (status.status, status.ended_reason) == ("unauthenticated", "expired")


async def test_status_times_are_in_utc(settings: Settings) -> None:
    await save_login(JsonFileStore(settings.token_file), "default", tokens(resource=None))
    document = (await NotionOAuth(settings, clock=lambda: tokens().updated_at).status()).as_json()
    assert document["expires_at"] == "2026-11-23T13:00:00Z"
    assert (document["status"], document["expires_in_seconds"]) == ("authenticated", 3600)


async def test_other_files_are_not_listed_as_profiles(tmp_path: Path) -> None:
    store = JsonFileStore(tmp_path / "directory" / "t.json")
    assert await store.profiles() == []
    for profile in ("work", "default", "home"):
        await save_login(store, profile, tokens())
        async with store.exclusive(profile):
            pass
    for other in ("t.json.a b.profile", "t.json.-x.profile", "t.json.a.b.profile", "u.json.x.profile"):
        (tmp_path / "directory" / other).touch()
    assert await store.profiles() == ["default", "home", "work"]


async def test_listing_profiles_below_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not be listed") as caught:
        await JsonFileStore(tmp_path / "file" / "t.json").profiles()
    assert "NOTION_OAUTH_TOKEN_FILE" in str(caught.value.hint)


async def test_disk_full_during_a_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = JsonFileStore(tmp_path / "t.json")
    await save_login(store, "default", tokens(access_token=SecretStr("old")))
    before = (tmp_path / "t.json").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        await save_login(store, "default", tokens())
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"t.json": before, "t.json.lock": b""}


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file whose first byte cannot be read")
async def test_unreadable_file_is_not_taken_as_empty() -> None:
    with pytest.raises(StorageError, match="could not be read: Input/output error"):
        await JsonFileStore(Path("/proc/self/mem")).load("default")


def test_directory_at_the_file_path_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    for attempt in (lambda path: atomic.write_file(path, b"x"), atomic.delete_file):
        with pytest.raises((StoreDamaged, StorageError)):
            attempt(tmp_path / "directory")
    assert [file.name for file in tmp_path.iterdir()] == ["directory"]


def test_file_is_created_once_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert atomic.create_file(path, b"first") is True
    assert atomic.create_file(path, b"second") is False
    assert path.read_bytes() == b"first"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["key"]
    with pytest.raises(StorageError, match="could not be written"):
        atomic.create_file(path / "below", b"third")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@h.example:8443/path?token=secret", "h.example:8443"),
        ("https://[::1", "the server"),
        ("nonsense?token=secret", "the server"),
        ("", "the server"),
    ],
)
def test_only_the_host_of_a_url_is_shown(url: str, shown: str) -> None:
    assert host_of(url) == shown
