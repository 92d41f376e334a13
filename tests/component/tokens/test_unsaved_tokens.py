"""Tokens that the server has issued and the store cannot save: used in this process, and saved later."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import httpx
import pytest
from pydantic import SecretStr

from notion_oauth.errors import ServerUnavailable, StorageError
from notion_oauth.files.directories import Directory
from notion_oauth.files.documents import FileDocuments
from notion_oauth.files.encryption import Encryption, new_key
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore, TokenStore
from notion_oauth.tokens import source
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.tokens.revocation import SignOut
from notion_oauth.transport.client import Transport
from tests.conftest import Posted
from tests.support.clock import Clock
from tests.support.signing_in import begin, sign_in
from tests.support.stores import HookedDocuments, save_login, stored

pytestmark = pytest.mark.anyio


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can be replaced."""

    def replace(directory: Directory, source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Directory, "replace", replace)
        yield


class Failing:
    """A store in memory that cannot write while `fails`, and not read while `unreadable`."""

    def __init__(self) -> None:
        self.fails = self.unreadable = False
        self.failures = 0
        self.store = TokenStore(HookedDocuments(self._hook))

    def _hook(self, operation: str, profile: str, content: bytes | None) -> None:
        if operation == "write" and self.fails:
            self.failures += 1
            raise StorageError("The disk is full.")
        if operation == "read" and self.unreadable:
            raise StorageError("Input/output error.")


@pytest.fixture
def failing() -> Failing:
    return Failing()


async def test_tokens_that_cannot_be_saved_are_used_and_saved_later(
    settings: Settings, sandbox: Sandbox, clock: Clock, failing: Failing, grants_asked: Posted
) -> None:
    sandbox.options.reuse = "strict"
    oauth = NotionOAuth(settings, store=failing.store, clock=clock)
    login = await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    failing.fails = True
    token = await oauth.tokens.token()
    assert sandbox.is_access_token_live(token.get_secret_value())
    await oauth.tokens.wait_until_idle()
    assert await oauth.tokens.token() == token, "the spent refresh token is not sent again"
    assert (await stored(oauth)).access_token == login.access_token
    with pytest.raises(StorageError, match="disk is full"):
        oauth.tokens.check_saved()
    failing.fails = False
    assert await oauth.tokens.token() == token
    await oauth.tokens.wait_until_idle()
    oauth.tokens.check_saved()
    assert (await stored(oauth)).access_token == token
    assert grants_asked() == ["authorization_code", "refresh_token"]


async def test_save_is_tried_again_in_the_background(
    settings: Settings, sandbox: Sandbox, clock: Clock, failing: Failing
) -> None:
    """A program that asks for one token and ends has saved it."""

    async def sleep(seconds: float) -> None:
        failing.fails = failing.failures < 3
        await anyio.lowlevel.checkpoint()

    patient = settings.model_copy(update={"retry_for": 20.0})
    oauth = NotionOAuth(patient, store=failing.store, clock=clock, sleep=sleep)
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    failing.fails = True
    token = await oauth.tokens.token()
    await oauth.tokens.wait_until_idle()
    oauth.tokens.check_saved()
    assert failing.failures == 3
    assert (await stored(oauth)).access_token == token


@pytest.mark.parametrize("age", [timedelta(minutes=57), timedelta(hours=2)], ids=["due", "expired"])
async def test_program_that_ends_is_told_that_tokens_could_not_be_saved(
    settings: Settings, clock: Clock, failing: Failing, age: timedelta
) -> None:
    oauth = NotionOAuth(settings, store=failing.store, clock=clock)
    login = await sign_in(oauth)
    clock.ahead = age
    failing.fails = True
    with pytest.raises(StorageError, match="disk is full"):
        await oauth.tokens.token_at_exit()
    failing.fails = False
    assert await oauth.tokens.token_at_exit() == (await stored(oauth)).access_token != login.access_token


async def test_later_sign_in_replaces_tokens_that_could_not_be_saved(
    settings: Settings, clock: Clock, failing: Failing
) -> None:
    oauth = NotionOAuth(settings, store=failing.store, clock=clock)
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    failing.fails = True
    await oauth.tokens.token()
    await oauth.tokens.wait_until_idle()
    failing.fails = False
    newer = await sign_in(NotionOAuth(settings, store=failing.store, clock=clock))
    assert await oauth.tokens.token() == newer.access_token
    await oauth.tokens.wait_until_idle()
    assert await stored(oauth) == newer


async def test_tokens_of_a_sign_in_are_saved_at_the_next_try(
    settings: Settings, sandbox: Sandbox, failing: Failing
) -> None:
    """The code is spent, so the person would have to sign in again."""

    async def sleep(seconds: float) -> None:
        failing.fails = failing.failures < 3

    patient = settings.model_copy(update={"retry_for": 20.0})
    oauth = NotionOAuth(patient, store=failing.store, sleep=sleep)
    pending, query = await begin(oauth)
    failing.fails = True
    login = await oauth.complete_authorization(pending, parse_authorization_response(query.multi_items()))
    assert await stored(oauth) == login


async def test_replaced_token_is_not_used_any_more(settings: Settings, sandbox: Sandbox) -> None:
    """Some servers end the access token before a refresh."""
    sandbox.options.access_token_survives_refresh = False
    oauth = NotionOAuth(settings)
    login = await sign_in(oauth)
    await anyio.sleep(0.05)  # until the file counts as unchanged
    assert await oauth.tokens.token() == login.access_token
    with full_disk():
        new = await oauth.refresh()
        await oauth.tokens.wait_until_idle()
        assert await oauth.tokens.token() == new.access_token
        await oauth.tokens.wait_until_idle()
    assert await oauth.tokens.token() == new.access_token
    await oauth.tokens.wait_until_idle()
    assert await stored(oauth) == new


async def test_save_waits_for_the_lock_as_long_as_a_refresh(
    settings: Settings, clock: Clock, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A background refresh gives up early, because the holder of the lock is refreshing already."""
    monkeypatch.setattr(source, "BACKGROUND_LOCK_WAIT", timedelta(milliseconds=10))
    oauth = NotionOAuth(settings, store=failing.store, clock=clock)
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    failing.fails = True
    token = await oauth.tokens.token()
    await oauth.tokens.wait_until_idle()
    failing.fails = False
    async with failing.store.exclusive("default"):
        assert await oauth.tokens.token() == token
        await anyio.sleep(0.1)
    await oauth.tokens.wait_until_idle()
    oauth.tokens.check_saved()


async def test_restored_backup_does_not_replace_unsaved_tokens(
    settings: Settings, sandbox: Sandbox, clock: Clock, failing: Failing
) -> None:
    sandbox.options.reuse = "strict"
    oauth = NotionOAuth(settings, store=failing.store, clock=clock)
    backup = await sign_in(oauth)
    await oauth.refresh()
    clock.ahead = timedelta(hours=2)
    failing.fails = True
    token = await oauth.tokens.token()
    await oauth.tokens.wait_until_idle()
    failing.fails = False
    await save_login(failing.store, "default", backup)
    assert await oauth.tokens.token() == token
    await oauth.tokens.wait_until_idle()
    assert (await stored(oauth)).access_token == token


async def test_without_rotation_a_newer_login_of_another_process_stays(
    settings: Settings, sandbox: Sandbox, clock: Clock, failing: Failing
) -> None:
    """Its refresh token is the same, so only the time tells which login is newer."""
    oauth = NotionOAuth(settings, store=failing.store, clock=clock)
    login = await sign_in(oauth)
    assert login.refresh_token is not None
    sandbox.options.token_response_overrides = {"refresh_token": login.refresh_token.get_secret_value()}
    clock.ahead = timedelta(hours=2)
    failing.fails = True
    await oauth.tokens.token()
    await oauth.tokens.wait_until_idle()
    failing.fails = False
    clock.ahead = timedelta(hours=3)
    newer = login.model_copy(update={"access_token": SecretStr("newer"), "updated_at": clock(), "expires_at": None})
    await save_login(failing.store, "default", newer)
    assert await oauth.tokens.token() == SecretStr("newer")
    await oauth.tokens.wait_until_idle()
    assert (await stored(oauth)).access_token == SecretStr("newer")


async def test_unsaved_tokens_are_used_while_the_store_cannot_be_read(
    settings: Settings, clock: Clock, failing: Failing
) -> None:
    oauth = NotionOAuth(settings, store=failing.store, clock=clock)
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    failing.fails = True
    token = await oauth.tokens.token()
    failing.unreadable = True
    assert await oauth.tokens.token() == token
    assert await oauth.tokens.token() == token
    await oauth.tokens.wait_until_idle()


async def test_odd_response_to_the_previous_refresh_token_is_kept(
    settings: Settings, sandbox: Sandbox, clock: Clock, failing: Failing
) -> None:
    oauth = NotionOAuth(settings, store=failing.store, clock=clock)
    login = await sign_in(oauth)
    dead = login.model_copy(
        update={"refresh_token": SecretStr("user:dead:token"), "previous_refresh_token": login.refresh_token}
    )
    await save_login(failing.store, "default", dead)
    failing.fails = True
    sandbox.options.token_response_overrides = {"token_type": "mac"}
    with pytest.raises((StorageError, ServerUnavailable)):
        await oauth.tokens.token_at_exit(min_ttl=timedelta(hours=2))
    await oauth.tokens.wait_until_idle()
    failing.fails = False
    await oauth.tokens.token()
    await oauth.tokens.wait_until_idle()
    assert (await stored(oauth)).refresh_token not in (dead.refresh_token, login.refresh_token)


async def test_sign_out_revokes_unsaved_tokens(settings: Settings, sandbox: Sandbox, failing: Failing) -> None:
    oauth = NotionOAuth(settings, store=failing.store)
    await sign_in(oauth)
    failing.fails = True
    new = await oauth.refresh()
    await oauth.tokens.wait_until_idle()
    assert await oauth.sign_out() is SignOut.REVOKED
    assert SecretStr(sandbox.requests[-1].form["token"]) == new.refresh_token
    assert sandbox.live_grants == 0


async def test_tokens_are_set_aside_if_the_stored_login_cannot_be_read(
    settings: Settings, sandbox: Sandbox, clock: Clock
) -> None:
    """It might have been damaged by another program, so it is not overwritten."""
    unreadable = False

    class Network(httpx.AsyncHTTPTransport):
        """Makes the stored login unreadable with each response of the token endpoint."""

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            nonlocal unreadable
            response = await super().handle_async_request(request)
            unreadable = request.url.path == "/token"
            return response

    def read(operation: str, profile: str, content: bytes | None) -> None:
        if operation == "read" and unreadable:
            raise StorageError("Input/output error.")

    sandbox.options.reuse = "strict"
    await sign_in(NotionOAuth(settings, clock=clock))
    clock.ahead = timedelta(hours=2)
    files = FileDocuments(settings.token_file, lock_wait=timedelta(seconds=60))
    client = OAuthClient(Transport(timeout=timedelta(seconds=5), httpx_transport=Network()), clock=clock)
    oauth = NotionOAuth(settings, store=TokenStore(HookedDocuments(read, files)), client=client, clock=clock)
    with pytest.raises(StorageError):
        await oauth.tokens.token_at_exit()
    token = await NotionOAuth(settings, clock=clock).tokens.token()
    assert sandbox.is_access_token_live(token.get_secret_value())


async def test_reseal_keeps_tokens_that_were_set_aside(settings: Settings, sandbox: Sandbox, clock: Clock) -> None:
    sandbox.options.reuse = "strict"
    oauth = NotionOAuth(settings, clock=clock)
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    with full_disk():
        token = await oauth.tokens.token()
        await oauth.tokens.wait_until_idle()
    encrypted = JsonFileStore(settings.token_file, encryption=Encryption(SecretStr(new_key())))
    async with encrypted.exclusive("default") as hold:
        await hold.reencrypt()
    assert await NotionOAuth(settings, store=encrypted, clock=clock).tokens.token() == token


@pytest.mark.slow
async def test_keep_fresh_logs_that_tokens_cannot_be_saved(
    settings: Settings, clock: Clock, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    oauth = NotionOAuth(settings, store=failing.store, clock=clock, sleep=lambda seconds: anyio.sleep(0.01))
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    failing.fails = True
    with anyio.move_on_after(0.5):
        await oauth.tokens.keep_fresh()
    assert caplog.text.count("The background refresh failed: The disk is full.") == 1


async def test_late_save_is_in_the_audit_log(
    settings: Settings, clock: Clock, failing: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "notion_oauth.audit")
    oauth = NotionOAuth(settings, store=failing.store, clock=clock)
    await sign_in(oauth)
    clock.ahead = timedelta(hours=2)
    failing.fails = True
    await oauth.tokens.token()
    await oauth.tokens.wait_until_idle()
    assert "refresh outcome=success" not in caplog.text
    failing.fails = False
    await oauth.tokens.token()
    await oauth.tokens.wait_until_idle()
    assert caplog.text.count("refresh outcome=success") == 1


@pytest.mark.parametrize("name", ["tokens.json", "jürgen tokens.json"])
async def test_mounted_file_is_noticed_before_the_consent(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = settings.token_file.with_name(name)
    line = f"1 2 0:1 / {path} rw - ext4 /dev/x rw\n".replace(f" {path} ", " " + str(path).replace(" ", "\\040") + " ")
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: line.encode() if "mountinfo" in str(path) else read(path))
    oauth = NotionOAuth(settings.model_copy(update={"token_file": path}))
    with pytest.raises(StorageError, match="mount point"):
        await oauth.begin_authorization("http://127.0.0.1:4321/callback")
