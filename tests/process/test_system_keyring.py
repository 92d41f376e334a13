"""The key in the system keyring: asked in a process of its own, given up where it hangs, refused where it is none."""

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
from tests.support.fake_keyring import told
from tests.unit.protocol.builders import tokens

OLD, NEW = "o" * 43 + "=", "n" * 43 + "="


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return fake_keyring.install(tmp_path, monkeypatch)


def test_a_key_is_put_before_the_others_and_read(kept: Path) -> None:
    system_keyring.add_key(OLD)
    system_keyring.add_key(NEW)
    assert system_keyring.read_keys() == f"{NEW} {OLD}"
    assert [key.id for key in Encryption(SecretStr("keyring")).all_keys()] == [Key(NEW, "").id, Key(OLD, "").id]


def test_an_empty_keyring_names_the_command(kept: Path) -> None:
    with pytest.raises(KeyUnavailable, match="holds no key of ours") as caught:
        system_keyring.read_keys()
    assert "notion-oauth key --keyring" in caught.value.hint


def test_of_several_keyrings_the_one_that_protects_is_asked(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "chain")
    system_keyring.add_key(NEW)
    assert kept.read_text() == NEW


@pytest.mark.parametrize("backend", ["null", "fail"])
def test_what_keeps_no_secret_is_refused(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """By the real keyring."""
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", f"keyring.backends.{backend}.Keyring")
    for attempt in (system_keyring.read_keys, lambda: system_keyring.add_key(NEW)):
        with pytest.raises(KeyUnavailable, match=f"keyring.backends.{backend}.Keyring, which keeps no") as caught:
            attempt()
        assert "NOTION_OAUTH_ENCRYPTION_KEY" in caught.value.hint


def test_a_keyring_in_a_plain_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "plain.py").write_text(
        "from keyring.backends.null import Keyring as Null\nclass PlaintextKeyring(Null): pass\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "plain.PlaintextKeyring")
    with pytest.raises(KeyUnavailable, match=r"plain\.PlaintextKeyring"):
        system_keyring.read_keys()


@pytest.mark.parametrize(
    ("does", "said"), [("fail", "could not be asked: Locked"), ("not load", "no answer"), ("print", "no answer")]
)
def test_a_keyring_that_fails_is_named(kept: Path, monkeypatch: pytest.MonkeyPatch, does: str, said: str) -> None:
    told(monkeypatch, does)
    with pytest.raises(KeyUnavailable, match=said) as caught:
        system_keyring.read_keys()
    assert "canary" not in str(caught.value)


def test_a_keyring_that_forgets_is_found_out(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told(monkeypatch, "forget")
    with pytest.raises(KeyUnavailable, match="does not have it"):
        system_keyring.add_key(NEW)


def test_without_keyring_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_keyring, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError) as caught:
        Encryption(SecretStr("keyring"))
    assert "notion-oauth[keyring]" in caught.value.hint


def test_nothing_is_imported_from_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keyring.py").write_text("import pathlib\npathlib.Path('was here').touch()\n")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    with pytest.raises(KeyUnavailable):
        system_keyring.read_keys()
    assert not (tmp_path / "was here").exists()


def test_a_process_that_cannot_even_give_up_is_ended(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that is stopped, or hangs with Python's own lock held."""
    monkeypatch.setattr(system_keyring, "GIVE_UP_AFTER", 0.01)
    with pytest.raises(KeyUnavailable, match=r"nothing within 0\.01 seconds"):
        system_keyring.read_keys()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="its keyrings are asked over D-Bus")
def test_a_session_bus_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real keyring, and a real socket at which somebody lets it in, and then says nothing."""
    heard: list[bytes] = []

    def let_in() -> None:
        with bus.accept()[0] as called:
            called.recv(1000)
            called.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
            while said := called.recv(1000):  # until it is given up
                heard.append(said)

    with socket.socket(socket.AF_UNIX) as bus:
        bus.bind(str(tmp_path / "bus"))
        bus.listen()
        listening = threading.Thread(target=let_in)
        listening.start()
        monkeypatch.setattr(system_keyring, "GIVE_UP_AFTER", 20)  # it is the process that gives up
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path / 'bus'}")
        with pytest.raises(KeyUnavailable, match="did not answer within 3 seconds"):
            system_keyring.read_keys()
        listening.join()
    assert b"Hello" in b"".join(heard)


@pytest.mark.anyio
async def test_tokens_are_sealed_with_the_key_of_the_keyring(kept: Path, tmp_path: Path) -> None:
    system_keyring.add_key(NEW)
    path = tmp_path / "tokens.json"
    store = JsonFileStore(path, encryption=Encryption(SecretStr("keyring")))
    await store.save("default", tokens())
    assert b"canary" not in path.read_bytes()
    assert await JsonFileStore(path, encryption=Encryption(SecretStr(NEW))).load("default") == tokens()
