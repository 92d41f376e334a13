"""Sealed at rest: nothing readable is written, keys rotate, and what no key opens is said and left as it is."""

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
from tests.unit.protocol.builders import ISSUER, NOW, REDIRECT_URI, tokens

pytestmark = pytest.mark.anyio

OLD, NEW = "o" * 43 + "=", "n" * 43 + "="
OLD_ID, NEW_ID = Key(OLD, "").id, Key(NEW, "").id
CONFIDENTIAL = Registration(
    issuer=ISSUER,
    redirect_uri=REDIRECT_URI,
    client=ClientInformation(client_id="c", client_secret=SecretStr("canary-client-secret")),
)
GRAVE = EndedLogin(ended_at=NOW, reason="revoked", error="invalid_grant")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "kept"
    folder.mkdir()
    return folder / "tokens.json"


def store_with(path: Path, *keys: str) -> JsonFileStore:
    return JsonFileStore(path, encryption=Encryption(SecretStr(" ".join(keys))) if keys else None)


async def fill(store: JsonFileStore) -> None:
    await store.save("default", tokens())
    await store.save_registration("default", CONFIDENTIAL)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


def ids(path: Path) -> set[str | None]:
    return {encryption_key_id(content) for content in contents(path).values()}


async def test_nothing_that_is_kept_can_be_read(path: Path) -> None:
    store = store_with(path, NEW)
    await fill(store)
    assert set(contents(path)) == {"tokens.json", "tokens.json.clients"}
    assert ids(path) == {NEW_ID}
    assert b"canary" not in b"".join(contents(path).values())
    document = json.loads(path.read_bytes())
    assert list(document) == ["sealed", "key_id", "content"]
    assert NEW[:12] not in str(document)
    assert await store.load("default") == tokens()
    assert await store.load_registrations("default") == (CONFIDENTIAL,)


async def test_what_was_plain_is_read_and_sealed_with_the_next_save(path: Path) -> None:
    await fill(store_with(path))
    store = store_with(path, NEW)
    assert await store.load("default") == tokens()
    assert ids(path) == {None}, "a look changes nothing"
    await store.save("default", tokens(access_token=SecretStr("canary-2")))
    assert ids(path) == {NEW_ID}, "the registrations too, which hold client secrets"
    assert b"canary" not in b"".join(contents(path).values())
    assert await store.load_registrations("default") == (CONFIDENTIAL,)


async def test_keys_rotate(path: Path) -> None:
    await fill(store_with(path, OLD))
    both = store_with(path, NEW, OLD)
    assert await both.load("default") == tokens()
    assert ids(path) == {OLD_ID}
    assert await both.reencrypt("default") is True
    assert ids(path) == {NEW_ID}
    assert await both.reencrypt("default") is False
    alone = store_with(path, NEW)
    assert await alone.load("default") == tokens()
    assert await alone.load_registrations("default") == (CONFIDENTIAL,)


async def test_to_reseal_takes_a_key(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No encryption key is configured") as caught:
        await store_with(path).reencrypt("default")
    assert "notion-oauth key" in caught.value.hint


def attempts(store: JsonFileStore) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "load": lambda: store.load("default"),
        "load_tombstone": lambda: store.load_ended_login("default"),
        "save": lambda: store.save("default", tokens()),
        "save_tombstone": lambda: store.save_ended_login("default", GRAVE),
        "delete": lambda: store.delete("default"),
        "ensure_writable": lambda: store.ensure_writable("default"),
        "protection": lambda: store.protection("default"),
        "load_registrations": lambda: store.load_registrations("default"),
        "save_registration": lambda: store.save_registration("default", CONFIDENTIAL),
    }


@pytest.mark.parametrize("keys", [(), (NEW,)], ids=["missing", "wrong"])
@pytest.mark.parametrize("method", attempts(JsonFileStore(Path("x"))))
async def test_without_its_key_a_file_is_named_and_left(path: Path, keys: tuple[str, ...], method: str) -> None:
    await fill(store_with(path, OLD))
    before = contents(path)
    with pytest.raises(StoreEncrypted) as caught:
        await attempts(store_with(path, *keys))[method]()
    said = str(caught.value)
    assert f"tokens.json{'.clients' if 'registration' in method else ''} is encrypted with key {OLD_ID}" in said
    assert (f"{NEW_ID} (from NOTION_OAUTH_ENCRYPTION_KEY)" if keys else "no key is set") in said
    assert "Nothing was changed. Add that key to NOTION_OAUTH_ENCRYPTION_KEY" in caught.value.hint
    assert "canary" not in said
    assert OLD[:12] not in said
    assert NEW[:12] not in said
    assert contents(path) == before


@pytest.mark.parametrize("key", [None, NEW], ids=["missing", "wrong"])
async def test_no_surface_destroys_what_it_cannot_open(settings: Settings, sandbox: Sandbox, key: str | None) -> None:
    sealed = settings.model_copy(update={"encryption_key": SecretStr(OLD)})
    await sign_in(NotionOAuth(sealed))
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
    assert len(sandbox.requests) == requests, "no grant is ended or begun for tokens that could not be kept"
    assert (await NotionOAuth(sealed).status()).status == "authenticated"


async def test_a_tombstone_is_read_without_a_key_and_signed_in_over(path: Path) -> None:
    await store_with(path, OLD).save("default", tokens())
    await store_with(path, OLD).save_ended_login("default", GRAVE)
    assert await store_with(path).load_ended_login("default") == GRAVE
    assert await store_with(path, NEW).load_ended_login("default") == GRAVE
    await store_with(path, NEW).save("default", tokens())
    assert ids(path) == {NEW_ID}


async def test_a_sealed_file_opens_under_another_name(path: Path) -> None:
    """A backup that is restored, a profile that is renamed."""
    store = store_with(path, NEW)
    await store.save("default", tokens())
    path.rename(store.path("work"))
    assert await store.load("work") == tokens()


# Damage


def sealed_bytes() -> bytes:
    return Encryption(SecretStr(NEW)).encrypt(b'{"access_token": "canary"}')


@hypothesis_settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=3000))
def test_what_is_sealed_opens(content: bytes) -> None:
    path, encryption = Path("x"), Encryption(SecretStr(f"{NEW},{OLD}"))
    assert decrypt(encryption.encrypt(content), path, encryption) == content
    assert decrypt(Encryption(SecretStr(OLD)).encrypt(content), path, encryption) == content


@hypothesis_settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_damage_is_found_and_nothing_of_it_is_shown(tmp_path: Path, data: st.DataObject) -> None:
    whole = sealed_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    kind = data.draw(st.sampled_from(["changed", "cut", "left out", "put in", "field"]))
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
            "cut": whole[:at],
            "left out": whole[:at] + whole[at + 1 :],
            "put in": whole[:at] + other + whole[at:],
        }[kind]
    file = tmp_path / "tokens.json"
    file.write_bytes(damaged)
    store = store_with(file, NEW)
    try:
        found = await store.load("default")
    except (StoreDamaged, StoreEncrypted) as error:
        assert "canary" not in str(error)  # noqa: PT017 - what does no harm raises nothing
    else:
        assert found is not None
        assert found.access_token.get_secret_value() == "canary", "white space, or what base64 leaves out"
        return
    for method in ("save", "save_tombstone", "delete", "ensure_writable", "protection"):
        with pytest.raises((StoreDamaged, StoreEncrypted)):
            await attempts(store)[method]()
    assert file.read_bytes() == damaged


async def test_what_another_key_sealed_under_this_ones_name_is_damage(path: Path) -> None:
    forged = {**json.loads(Encryption(SecretStr(OLD)).encrypt(b'{"access_token": "canary"}')), "key_id": NEW_ID}
    path.write_text(json.dumps(forged))
    with pytest.raises(StoreDamaged, match=f"not as key {NEW_ID} has sealed it"):
        await store_with(path, NEW, OLD).load("default")


# What is told of it


async def test_status_tells_how_tokens_are_kept(settings: Settings) -> None:
    plain = NotionOAuth(settings)
    await sign_in(plain)
    assert (await plain.status()).storage == "plain, mode 0600"
    assert (await plain.status()).storage_warning is None
    keyed = NotionOAuth(settings.model_copy(update={"encryption_key": SecretStr(OLD)}))
    weaker = await keyed.status()
    assert weaker.storage == "plain, mode 0600"
    assert weaker.storage_warning is not None
    assert "kept in plain text, and a key is set" in weaker.storage_warning
    assert "notion-oauth reseal" in weaker.storage_warning
    assert ".clients is kept in plain text" in weaker.storage_warning
    await keyed.refresh()
    sealed = await keyed.status()
    assert sealed.storage == f"encrypted with key {OLD_ID} from NOTION_OAUTH_ENCRYPTION_KEY"
    assert sealed.storage_warning is None
    assert sealed.as_json()["storage"] == sealed.storage
    rotated = NotionOAuth(settings.model_copy(update={"encryption_key": SecretStr(f"{NEW} {OLD}")}))
    told = await rotated.status()
    assert told.storage == sealed.storage
    assert told.storage_warning is not None
    assert f"encrypted with key {OLD_ID}, not with {NEW_ID}" in told.storage_warning


async def test_of_no_login_nothing_is_told(path: Path) -> None:
    store = store_with(path, NEW)
    assert (await store.protection("default")).describe() is None
    await store.save_ended_login("default", GRAVE)
    assert (await store.protection("default")).format is None


async def test_a_key_in_a_dotenv_file_that_others_may_read_is_told(path: Path, tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"NOTION_OAUTH_ENCRYPTION_KEY={NEW}\n")
    dotenv.chmod(0o644)
    store = file_store(load_settings(token_file=path))
    await store.save("default", tokens())
    told = await store.protection("default")
    assert told.describe() == f"encrypted with key {NEW_ID} from NOTION_OAUTH_ENCRYPTION_KEY in {dotenv}"
    assert told.weaknesses == (f"Other users may open {dotenv} (mode 0644). Mend that with: chmod 600 {dotenv}",)
    dotenv.chmod(0o600)
    assert (await store.protection("default")).weaknesses == ()


async def test_a_key_of_the_environment_goes_before_the_dotenv_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"NOTION_OAUTH_ENCRYPTION_KEY={NEW}\n")
    monkeypatch.setenv("notion_oauth_encryption_key", OLD)
    found = load_settings()
    assert found.encryption_key == SecretStr(OLD)
    assert found.encryption_key_file is None


def test_a_key_is_shown_by_nothing() -> None:
    key = new_key()
    encryption = Encryption(SecretStr(key))
    assert encryption.all_keys()[0].id not in key
    assert key[:8] not in f"{encryption!r} {encryption.all_keys()!r} {Settings(encryption_key=SecretStr(key))!r}"


# The keyring, as far as a key is only asked for


class SeenLock:
    """A lock that shows how many have come for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.come = threading.Semaphore(0)

    def __enter__(self) -> None:
        self.come.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_all_who_wait_for_the_keyring_share_its_answer() -> None:
    asked, said = [], []

    def refuse() -> str:
        asked.append(1)
        raise KeyUnavailable("It is locked.", hint="Unlock it.")

    encryption = Encryption(SecretStr("keyring"), read_keyring=refuse)
    encryption._asking = lock = SeenLock()  # type: ignore[assignment]

    def ask() -> None:
        with pytest.raises(KeyUnavailable) as caught:
            encryption.all_keys()
        said.append(str(caught.value))

    threads = [threading.Thread(target=ask) for _ in range(7)]
    lock._lock.acquire()
    for thread in threads:
        thread.start()
    for _ in threads:
        lock.come.acquire()
    lock._lock.release()
    for thread in threads:
        thread.join()
    assert said == ["It is locked. Unlock it."] * 7
    assert len(asked) == 1
    ask()
    assert len(asked) == 2, "whoever comes later asks again"


async def test_a_key_that_is_new_in_the_keyring_is_found(path: Path) -> None:
    """Another process has rotated the keys while this one ran."""
    kept = [OLD]
    store = JsonFileStore(path, encryption=Encryption(SecretStr("keyring"), read_keyring=lambda: " ".join(kept)))
    await store.save("default", tokens())
    kept.insert(0, NEW)
    await store_with(path, NEW, OLD).reencrypt("default")
    assert await store.load("default") == tokens()
    assert (await store.protection("default")).describe() == f"encrypted with key {NEW_ID} from the system keyring"


async def test_from_a_setting_to_the_keyring(path: Path) -> None:
    await fill(store_with(path, OLD))
    store = JsonFileStore(path, encryption=Encryption(SecretStr(f"keyring,{OLD}"), read_keyring=lambda: NEW))
    assert await store.load("default") == tokens()
    assert await store.reencrypt("default") is True
    assert ids(path) == {NEW_ID}


async def test_a_keyring_that_gives_none_is_said_before_anybody_consents(path: Path) -> None:
    def locked() -> str:
        raise KeyUnavailable("It is locked.", hint="Unlock it.")

    store = JsonFileStore(path, encryption=Encryption(SecretStr("keyring"), read_keyring=locked))
    with pytest.raises(KeyUnavailable):
        await store.ensure_writable("default")
    assert contents(path) == {}


async def test_junk_in_the_keyring_is_no_key(path: Path) -> None:
    encryption = Encryption(SecretStr("keyring"), read_keyring=lambda: "canary password")
    with pytest.raises(StorageError, match="No encryption key is configured") as caught:
        encryption.all_keys()
    assert "canary" not in str(caught.value)


def test_what_a_later_version_has_sealed_is_said(path: Path) -> None:
    later = {**json.loads(sealed_bytes()), "sealed": 2}
    with pytest.raises(StoreEncrypted, match="this version does not know"):
        decrypt(json.dumps(later).encode(), path, Encryption(SecretStr(NEW)))
