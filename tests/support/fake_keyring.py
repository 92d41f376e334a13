"""A fake package keyring that stores keys in a file and fails on request."""

from __future__ import annotations

from pathlib import Path

import pytest

# The fake package; the variable FAKE_KEYRING_DOES selects its behaviour
KEYRING = """
import os, pathlib, time
from keyring.backends import SecretService, chainer
def get_keyring():
    behaviour = os.environ.get("FAKE_KEYRING_DOES", "")
    if behaviour == "not load": raise RuntimeError("canary")
    if behaviour == "print": print("canary")
    if behaviour == "chain": return chainer.ChainerBackend()
    return SecretService.Keyring()
"""
SYSTEM = """
import os, pathlib, time
FILE = pathlib.Path(os.environ["FAKE_KEYRING"])
class Locked(Exception): pass
class Keyring:
    def get_password(self, service, name):
        assert (service, name) == ("notion-oauth", "encryption-key")
        behaviour = os.environ.get("FAKE_KEYRING_DOES", "")
        if behaviour == "hang":
            FILE.with_name("pid").write_text(str(os.getpid()))
            time.sleep(600)
        if behaviour == "fail": raise Locked("canary")
        return FILE.read_text() if FILE.exists() else None
    def set_password(self, service, name, secret):
        if os.environ.get("FAKE_KEYRING_DOES") != "forget": FILE.write_text(secret)
"""
CHAINER = """
from keyring.backends import SecretService
class PlaintextKeyring:
    def get_password(self, service, name): raise AssertionError("an unsafe backend is used")
    set_password = get_password
PlaintextKeyring.__module__ = "keyrings.alt.file"
class ChainerBackend:
    backends = [PlaintextKeyring(), SecretService.Keyring()]
"""


def install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the fake package on the path of new processes. Returns the file in which it stores keys."""
    package = directory / "fake" / "keyring"
    (package / "backends").mkdir(parents=True)
    (package / "__init__.py").write_text(KEYRING)
    (package / "backends" / "__init__.py").write_text("")
    (package / "backends" / "SecretService.py").write_text(SYSTEM)
    (package / "backends" / "chainer.py").write_text(CHAINER)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("FAKE_KEYRING", str(directory / "keyring"))
    return directory / "keyring"


def set_behaviour(monkeypatch: pytest.MonkeyPatch, behaviour: str) -> None:
    monkeypatch.setenv("FAKE_KEYRING_DOES", behaviour)
