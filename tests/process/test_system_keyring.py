"""Keys in the system keyring: read in a separate process, which is ended when it hangs; unsafe backends are refused."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from notion_oauth.errors import ConfigurationError, KeyUnavailable
from notion_oauth.files import system_keyring
from notion_oauth.files.encryption import Encryption, Key
from notion_oauth.storage import JsonFileStore
from tests.support import fake_keyring
from tests.support.fake_keyring import set_behaviour
from tests.support.stores import load_login, save_login
from tests.unit.protocol.builders import tokens

OLD, NEW = "o" * 43 + "=", "n" * 43 + "="


@pytest.fixture
def keyring_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return fake_keyring.install(tmp_path, monkeypatch)


def test_added_key_comes_first(keyring_file: Path) -> None:
    system_keyring.add_key(OLD)
    system_keyring.add_key(NEW)
    assert system_keyring.read_keys() == f"{NEW} {OLD}"
    assert [key.id for key in Encryption(SecretStr("keyring")).all_keys()] == [Key(NEW, "").id, Key(OLD, "").id]


def test_empty_keyring_names_the_command_that_adds_a_key(keyring_file: Path) -> None:
    with pytest.raises(KeyUnavailable, match="has no key for notion-oauth") as caught:
        system_keyring.read_keys()
    assert "notion-oauth key --keyring" in str(caught.value.hint)


def test_chain_of_backends_uses_the_system_backend(keyring_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_behaviour(monkeypatch, "chain")
    system_keyring.add_key(NEW)
    assert keyring_file.read_text() == NEW


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["null", "fail"])
def test_backend_that_does_not_protect_secrets_is_refused(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """With the real package keyring."""
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", f"keyring.backends.{backend}.Keyring")
    for attempt in (system_keyring.read_keys, lambda: system_keyring.add_key(NEW)):
        with pytest.raises(
            KeyUnavailable, match=f"keyring.backends.{backend}.Keyring, which does not protect"
        ) as caught:
            attempt()
        assert "NOTION_OAUTH_ENCRYPTION_KEY" in str(caught.value.hint)


def test_plain_text_backend_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "plain.py").write_text(
        "from keyring.backends.null import Keyring as Null\nclass PlaintextKeyring(Null): pass\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "plain.PlaintextKeyring")
    with pytest.raises(KeyUnavailable, match=r"plain\.PlaintextKeyring"):
        system_keyring.read_keys()


@pytest.mark.parametrize(
    ("does", "message"), [("fail", "failed: Locked"), ("not load", "no answer"), ("print", "no answer")]
)
def test_failing_keyring_is_reported_without_its_message(
    keyring_file: Path, monkeypatch: pytest.MonkeyPatch, does: str, message: str
) -> None:
    set_behaviour(monkeypatch, does)
    with pytest.raises(KeyUnavailable, match=message) as caught:
        system_keyring.read_keys()
    assert "canary" not in str(caught.value)


def test_keyring_that_does_not_store_the_key_is_reported(keyring_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_behaviour(monkeypatch, "forget")
    with pytest.raises(KeyUnavailable, match="did not store it"):
        system_keyring.add_key(NEW)


def test_missing_package_keyring_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)  # as if it were not installed
    with pytest.raises(ConfigurationError) as caught:
        Encryption(SecretStr("keyring"))
    assert "--extra keyring" in str(caught.value.hint)


def test_no_module_is_imported_from_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keyring.py").write_text("import pathlib\npathlib.Path('was here').touch()\n")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    with pytest.raises(KeyUnavailable):
        system_keyring.read_keys()
    assert not (tmp_path / "was here").exists()


def test_process_that_hangs_is_ended(keyring_file: Path) -> None:
    """For example a stopped process, or one that hangs while it holds Python's global interpreter lock."""
    with pytest.raises(KeyUnavailable, match=r"no answer within 0\.01 seconds"):
        system_keyring.read_keys(timeout=0.01)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keyrings use D-Bus")
def test_session_bus_that_never_answers_is_abandoned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real package keyring, and a socket that accepts the connection and then never answers."""
    received: list[bytes] = []

    def accept() -> None:
        with bus.accept()[0] as connection:
            connection.recv(1000)
            connection.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
            while data := connection.recv(1000):  # until the client closes the connection
                received.append(data)

    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(tmp_path / "bus"))
        bus.listen()
        listening = threading.Thread(target=accept)
        listening.start()
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path / 'bus'}")
        with pytest.raises(KeyUnavailable, match="did not answer within 3 seconds"):
            system_keyring.read_keys(timeout=20)  # longer than the process waits for the keyring
        listening.join()
    assert b"Hello" in b"".join(received)


@pytest.mark.anyio
async def test_tokens_are_encrypted_with_the_key_in_the_keyring(keyring_file: Path, tmp_path: Path) -> None:
    system_keyring.add_key(NEW)
    path = tmp_path / "tokens.json"
    store = JsonFileStore(path, encryption=Encryption(SecretStr("keyring")))
    await save_login(store, "default", tokens())
    assert b"canary" not in path.read_bytes()
    assert await load_login(JsonFileStore(path, encryption=Encryption(SecretStr(NEW))), "default") == tokens()
