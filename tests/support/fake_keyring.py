"""A keyring that keeps keys in a file, fails as it is told to, and is found in the place of the real keyring."""

from __future__ import annotations

from pathlib import Path

import pytest

# A package of that name which keeps secrets in a file, and does as it is told there
KEYRING = """
import os, pathlib, time
from keyring.backends import SecretService, chainer
def get_keyring():
    told = os.environ.get("FAKE_KEYRING_DOES", "")
    if told == "not load": raise RuntimeError("canary")
    if told == "print": print("canary")
    if told == "chain": return chainer.ChainerBackend()
    return SecretService.Keyring()
"""
SYSTEM = """
import os, pathlib, time
FILE = pathlib.Path(os.environ["FAKE_KEYRING"])
class Locked(Exception): pass
class Keyring:
    def get_password(self, service, name):
        assert (service, name) == ("notion-oauth", "encryption-key")
        told = os.environ.get("FAKE_KEYRING_DOES", "")
        if told == "hang":
            FILE.with_name("pid").write_text(str(os.getpid()))
            time.sleep(600)
        if told == "fail": raise Locked("canary")
        return FILE.read_text() if FILE.exists() else None
    def set_password(self, service, name, secret):
        if os.environ.get("FAKE_KEYRING_DOES") != "forget": FILE.write_text(secret)
"""
CHAINER = """
from keyring.backends import SecretService
class PlaintextKeyring:
    def get_password(self, service, name): raise AssertionError("it is asked although it protects nothing")
    set_password = get_password
PlaintextKeyring.__module__ = "keyrings.alt.file"
class ChainerBackend:
    backends = [PlaintextKeyring(), SecretService.Keyring()]
"""


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the processes that are started from here find it; the file in which it keeps what it is given."""
    package = folder / "fake" / "keyring"
    (package / "backends").mkdir(parents=True)
    (package / "__init__.py").write_text(KEYRING)
    (package / "backends" / "__init__.py").write_text("")
    (package / "backends" / "SecretService.py").write_text(SYSTEM)
    (package / "backends" / "chainer.py").write_text(CHAINER)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("FAKE_KEYRING", str(folder / "keyring"))
    return folder / "keyring"


def told(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    monkeypatch.setenv("FAKE_KEYRING_DOES", what)
