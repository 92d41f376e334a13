"""Encryption of stored files: no plain text is written, keys rotate, and files that no key decrypts are not changed."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import SecretStr

from notion_oauth.errors import ConfigurationError, KeyUnavailable, StorageError, StoreDamaged, StoreEncrypted
from notion_oauth.files.encryption import Encryption, Key, decrypt, encryption_key_id, new_key
from notion_oauth.models import ClientInformation, EndedLogin, Registration
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings, load_settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.stores.factory import file_store
from tests.support.signing_in import sign_in
from tests.support.stores import delete_login, load_ended_login, load_login, reencrypt, save_login, save_registration
from tests.unit.protocol.builders import ISSUER, NOW, REDIRECT_URI, tokens

pytestmark = pytest.mark.anyio

OLD, NEW = "o" * 43 + "=", "n" * 43 + "="
OLD_ID, NEW_ID = Key(OLD, "").id, Key(NEW, "").id
CONFIDENTIAL = Registration(
    issuer=ISSUER,
    redirect_uri=REDIRECT_URI,
    client=ClientInformation(client_id="c", client_secret=SecretStr("canary-client-secret")),
)
ENDED = EndedLogin(ended_at=NOW, reason="revoked", error="invalid_grant")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "stored"
    directory.mkdir()
    return directory / "tokens.json"


def store_with(path: Path, *keys: str) -> JsonFileStore:
    return JsonFileStore(path, encryption=Encryption(SecretStr(" ".join(keys))) if keys else None)


async def fill(store: JsonFileStore) -> None:
    await save_login(store, "default", tokens())
    await save_registration(store, "default", CONFIDENTIAL)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir() if file.suffix != ".lock"}


def ids(path: Path) -> set[str | None]:
    return {encryption_key_id(content) for content in contents(path).values()}


async def test_encrypted_files_contain_no_plain_text(path: Path) -> None:
    store = store_with(path, NEW)
    await fill(store)
    assert set(contents(path)) == {"tokens.json", "tokens.json.clients"}
    assert ids(path) == {NEW_ID}
    assert b"canary" not in b"".join(contents(path).values())
    document = json.loads(path.read_bytes())
    assert list(document) == ["sealed", "key_id", "content"]
    assert NEW[:12] not in str(document)
    assert await load_login(store, "default") == tokens()
    assert await store.load_registrations("default") == (CONFIDENTIAL,)


async def test_plain_files_are_read_and_encrypted_at_the_next_save(path: Path) -> None:
    await fill(store_with(path))
    store = store_with(path, NEW)
    assert await load_login(store, "default") == tokens()
    assert ids(path) == {None}, "reading changes nothing"
    await save_login(store, "default", tokens(access_token=SecretStr("canary-2")))
    assert ids(path) == {NEW_ID}, "also the registrations, which contain client secrets"
    assert b"canary" not in b"".join(contents(path).values())
    assert await store.load_registrations("default") == (CONFIDENTIAL,)


async def test_keys_rotate(path: Path) -> None:
    await fill(store_with(path, OLD))
    both = store_with(path, NEW, OLD)
    assert await load_login(both, "default") == tokens()
    assert ids(path) == {OLD_ID}
    assert await reencrypt(both, "default") is True
    assert ids(path) == {NEW_ID}
    assert await reencrypt(both, "default") is False
    rotated = store_with(path, NEW)
    assert await load_login(rotated, "default") == tokens()
    assert await rotated.load_registrations("default") == (CONFIDENTIAL,)


async def test_reencrypting_requires_a_key(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No encryption key is configured") as caught:
        await reencrypt(store_with(path), "default")
    assert "notion-oauth key" in str(caught.value.hint)


def attempts(store: JsonFileStore) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "load": lambda: store.load("default"),
        "save": lambda: save_login(store, "default", tokens()),
        "save_ended_login": lambda: save_login(store, "default", ENDED),
        "delete": lambda: delete_login(store, "default"),
        "check_writable": lambda: store.check_writable("default"),
        "protection": lambda: store.protection("default"),
        "load_registrations": lambda: store.load_registrations("default"),
        "save_registration": lambda: save_registration(store, "default", CONFIDENTIAL),
    }


@pytest.mark.parametrize("keys", [(), (NEW,)], ids=["missing", "wrong"])
@pytest.mark.parametrize("method", attempts(JsonFileStore(Path("x"))))
async def test_file_without_its_key_is_reported_and_not_changed(path: Path, keys: tuple[str, ...], method: str) -> None:
    await fill(store_with(path, OLD))
    before = contents(path)
    with pytest.raises(StoreEncrypted) as caught:
        await attempts(store_with(path, *keys))[method]()
    message = str(caught.value)
    assert f"tokens.json{'.clients' if 'registration' in method else ''} is encrypted with key {OLD_ID}" in message
    assert (f"{NEW_ID} (from NOTION_OAUTH_ENCRYPTION_KEY)" if keys else "no key is set") in message
    assert "Nothing was changed. Add that key to NOTION_OAUTH_ENCRYPTION_KEY" in str(caught.value.hint)
    assert "canary" not in message
    assert OLD[:12] not in message
    assert NEW[:12] not in message
    assert contents(path) == before


@pytest.mark.parametrize("key", [None, NEW], ids=["missing", "wrong"])
async def test_no_operation_changes_a_file_that_it_cannot_decrypt(
    settings: Settings, sandbox: Sandbox, key: str | None
) -> None:
    encrypted = settings.model_copy(update={"encryption_key": SecretStr(OLD)})
    await sign_in(NotionOAuth(encrypted))
    before, requests = contents(settings.token_file), len(sandbox.requests)
    oauth = NotionOAuth(settings.model_copy(update={"encryption_key": key and SecretStr(key)}))
    for attempt in (
        oauth.status,
        oauth.refresh,
        oauth.sign_out,
        oauth.tokens.token,
        lambda: oauth.begin_authorization(REDIRECT_URI),
    ):
        with pytest.raises(StoreEncrypted):
            await attempt()
    assert contents(settings.token_file) == before
    assert len(sandbox.requests) == requests, "no grant is started or ended for tokens that could not be stored"
    assert (await NotionOAuth(encrypted).status()).status == "authenticated"


async def test_ended_login_is_read_without_a_key_and_replaced_by_a_sign_in(path: Path) -> None:
    await save_login(store_with(path, OLD), "default", tokens())
    await save_login(store_with(path, OLD), "default", ENDED)
    assert await load_ended_login(store_with(path), "default") == ENDED
    assert await load_ended_login(store_with(path, NEW), "default") == ENDED
    await save_login(store_with(path, NEW), "default", tokens())
    assert ids(path) == {NEW_ID}


async def test_renamed_file_can_be_decrypted(path: Path) -> None:
    """A backup can be restored, but one profile's login cannot be given to another."""
    store = store_with(path, NEW)
    await save_login(store, "default", tokens())
    backup = path.rename(path.with_name("backup"))
    backup.rename(path)
    assert await load_login(store, "default") == tokens()
    path.rename(store.path("work"))
    with pytest.raises(StoreDamaged, match="another profile"):
        await load_login(store, "work")


# Damage


def encrypted_bytes() -> bytes:
    return Encryption(SecretStr(NEW)).encrypt(b'{"access_token": "canary"}', bound_to="default/login")


@hypothesis_settings(deadline=None)
@given(content=st.binary(max_size=3000))
def test_encrypted_content_can_be_decrypted(content: bytes) -> None:
    path, encryption = Path("x"), Encryption(SecretStr(f"{NEW},{OLD}"))
    assert decrypt(encryption.encrypt(content, bound_to="a"), path, encryption, bound_to="a") == content
    assert decrypt(Encryption(SecretStr(OLD)).encrypt(content, bound_to="a"), path, encryption, bound_to="a") == content


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_damaged_file_is_refused_without_showing_its_content(tmp_path: Path, data: st.DataObject) -> None:
    whole = encrypted_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["changed", "truncated", "removed", "inserted", "field"]))
    other = bytes([data.draw(st.integers(0, 255))])
    if kind == "field":
        name = data.draw(st.sampled_from(["sealed", "key_id", "content"]))
        value: object = data.draw(
            st.sampled_from([None, True, 0, 2, 1.0, "", "x", "ü", [], {}, "\n", "0" * 8, "g" * 200])
        )
        damaged = json.dumps({**json.loads(whole), name: value}).encode()
    else:
        damaged = {
            "changed": whole[:at] + other + whole[at + 1 :],
            "truncated": whole[:at],
            "removed": whole[:at] + whole[at + 1 :],
            "inserted": whole[:at] + other + whole[at:],
        }[kind]
    file = tmp_path / "tokens.json"
    file.write_bytes(damaged)
    store = store_with(file, NEW)
    try:
        login = await load_login(store, "default")
    except (StoreDamaged, StoreEncrypted) as error:
        assert "canary" not in str(error)  # noqa: PT017 - a harmless change raises nothing
    else:
        assert login is not None
        assert login.access_token.get_secret_value() == "canary", "the change was white space, or unused base64 bits"
        return
    for method in ("save", "save_ended_login", "delete", "check_writable", "protection"):
        with pytest.raises((StoreDamaged, StoreEncrypted)):
            await attempts(store)[method]()
    assert file.read_bytes() == damaged


async def test_content_of_another_key_under_this_key_id_is_refused(path: Path) -> None:
    forged = {
        **json.loads(Encryption(SecretStr(OLD)).encrypt(b'{"access_token": "canary"}', bound_to="default/login")),
        "key_id": NEW_ID,
    }
    path.write_text(json.dumps(forged))
    with pytest.raises(StoreDamaged, match=f"key {NEW_ID} does not decrypt its content"):
        await load_login(store_with(path, NEW, OLD), "default")


# Status


async def test_status_shows_how_tokens_are_protected(settings: Settings) -> None:
    plain = NotionOAuth(settings)
    await sign_in(plain)
    assert (await plain.status()).storage == "plain, mode 0600"
    assert (await plain.status()).storage_warning is None
    keyed = NotionOAuth(settings.model_copy(update={"encryption_key": SecretStr(OLD)}))
    unencrypted = await keyed.status()
    assert unencrypted.storage == "plain, mode 0600"
    assert unencrypted.storage_warning is not None
    assert "in plain text, but a key is set" in unencrypted.storage_warning
    assert "notion-oauth reseal" in unencrypted.storage_warning
    assert ".clients is in plain text" in unencrypted.storage_warning
    await keyed.refresh()
    encrypted = await keyed.status()
    assert encrypted.storage == f"encrypted with key {OLD_ID} from NOTION_OAUTH_ENCRYPTION_KEY"
    assert encrypted.storage_warning is None
    assert encrypted.as_json()["storage"] == encrypted.storage
    rotated = NotionOAuth(settings.model_copy(update={"encryption_key": SecretStr(f"{NEW} {OLD}")}))
    old_key = await rotated.status()
    assert old_key.storage == encrypted.storage
    assert old_key.storage_warning is not None
    assert f"encrypted with key {OLD_ID}, not with {NEW_ID}" in old_key.storage_warning


async def test_protection_without_a_login_is_empty(path: Path) -> None:
    store = store_with(path, NEW)
    assert (await store.protection("default")).describe() is None
    await save_login(store, "default", ENDED)
    assert (await store.protection("default")).format is None


async def test_key_in_a_dotenv_file_readable_by_others_is_reported(path: Path, tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"NOTION_OAUTH_ENCRYPTION_KEY={NEW}\n")
    dotenv.chmod(0o644)
    store = file_store(load_settings(token_file=path, env_file=dotenv))
    await save_login(store, "default", tokens())
    protection = await store.protection("default")
    assert protection.describe() == f"encrypted with key {NEW_ID} from NOTION_OAUTH_ENCRYPTION_KEY in {dotenv}"
    assert protection.weaknesses == (f"Other users may open {dotenv} (mode 0644). Fix that with: chmod 600 {dotenv}",)
    dotenv.chmod(0o600)
    assert (await store.protection("default")).weaknesses == ()


async def test_key_in_the_environment_overrides_the_dotenv_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"NOTION_OAUTH_ENCRYPTION_KEY={NEW}\n")
    monkeypatch.setenv("notion_oauth_encryption_key", OLD)
    settings = load_settings(env_file=tmp_path / ".env")
    assert settings.encryption_key == SecretStr(OLD)
    assert settings.encryption_key_file is None


def test_no_repr_shows_a_key() -> None:
    key = new_key()
    encryption = Encryption(SecretStr(key))
    assert encryption.all_keys()[0].id not in key
    assert key[:8] not in f"{encryption!r} {encryption.all_keys()!r} {Settings(encryption_key=SecretStr(key))!r}"


# Keys in the system keyring


class CountingLock:
    """A lock that counts the threads that try to acquire it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.attempts = threading.Semaphore(0)

    def __enter__(self) -> None:
        self.attempts.release()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_threads_that_wait_for_the_keyring_share_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, messages = [], []

    def refuse() -> str:
        reads.append(1)
        raise KeyUnavailable("It is locked.", hint="Unlock it.")

    counting = CountingLock()
    with monkeypatch.context() as patched:
        patched.setattr(threading, "Lock", lambda: counting)
        encryption = Encryption(SecretStr("keyring"), read_keyring=refuse)

    def read() -> None:
        with pytest.raises(KeyUnavailable) as caught:
            encryption.all_keys()
        messages.append(str(caught.value))

    threads = [threading.Thread(target=read) for _ in range(7)]
    with counting.lock:
        for thread in threads:
            thread.start()
        for _ in threads:
            assert counting.attempts.acquire(timeout=30)
    for thread in threads:
        thread.join()
    assert messages == ["It is locked. Unlock it."] * 7
    assert len(reads) == 1
    read()
    assert len(reads) == 2, "a later call reads the keyring again"


async def test_key_added_to_the_keyring_later_is_found(path: Path) -> None:
    """Another process has rotated the keys while this one ran."""
    keys = [OLD]
    store = JsonFileStore(path, encryption=Encryption(SecretStr("keyring"), read_keyring=lambda: " ".join(keys)))
    await save_login(store, "default", tokens())
    keys.insert(0, NEW)
    await reencrypt(store_with(path, NEW, OLD), "default")
    assert await load_login(store, "default") == tokens()
    assert (await store.protection("default")).describe() == f"encrypted with key {NEW_ID} from the system keyring"


async def test_key_moves_from_the_setting_to_the_keyring(path: Path) -> None:
    await fill(store_with(path, OLD))
    store = JsonFileStore(path, encryption=Encryption(SecretStr(f"keyring,{OLD}"), read_keyring=lambda: NEW))
    assert await load_login(store, "default") == tokens()
    assert await reencrypt(store, "default") is True
    assert ids(path) == {NEW_ID}


async def test_locked_keyring_is_reported_before_the_sign_in(path: Path) -> None:
    def locked() -> str:
        raise KeyUnavailable("It is locked.", hint="Unlock it.")

    store = JsonFileStore(path, encryption=Encryption(SecretStr("keyring"), read_keyring=locked))
    with pytest.raises(KeyUnavailable):
        await store.check_writable("default")
    assert contents(path) == {}


async def test_invalid_key_in_the_keyring_is_refused(path: Path) -> None:
    encryption = Encryption(SecretStr("keyring"), read_keyring=lambda: "canary password")
    with pytest.raises(StorageError, match="is not a key") as caught:
        encryption.all_keys()
    assert "canary" not in str(caught.value)


def test_format_of_a_later_version_is_reported(path: Path) -> None:
    later = {**json.loads(encrypted_bytes()), "sealed": 3}
    with pytest.raises(StoreEncrypted, match="a format of a later version"):
        decrypt(json.dumps(later).encode(), path, Encryption(SecretStr(NEW)), bound_to="default/login")
