"""Accesses the system keyring in a separate process, which can be ended when the keyring hangs.

    python system_keyring_process.py read        return the stored keys
    python system_keyring_process.py add         store the key on standard input before the existing keys

Prints one JSON document: `keys`, `refused` (the name of a keyring that does not protect secrets), `failed` (the name of
an error) or `missing` (the package keyring is not installed). Exits with 75 if the keyring does not answer. Imports
nothing of notion_oauth.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

ANSWER_WITHIN = 3.0  # seconds, not counting the import of the package keyring
NO_ANSWER = 75
SERVICE, NAME = "notion-oauth", "encryption-key"
# Backends that the system protects. Others store secrets in plain files, nowhere, or in an unknown way
_SYSTEM_BACKENDS = {
    f"keyring.backends.{name}" for name in ("macOS", "Windows", "SecretService", "libsecret", "kwallet")
}


def main(action: str) -> dict[str, Any]:
    """Read the stored keys, or add one, and return the JSON document to print."""
    try:
        import keyring  # noqa: PLC0415 - an optional dependency whose import may fail
    except ImportError:
        return {"missing": True}
    timer = threading.Timer(ANSWER_WITHIN, os._exit, [NO_ANSWER])
    timer.daemon = True
    timer.start()
    default: Any = keyring.get_keyring()
    # A chain of backends would store the key in the first one that accepts it
    backends = default.backends if type(default).__module__ == "keyring.backends.chainer" else [default]
    backend = next((each for each in backends if type(each).__module__ in _SYSTEM_BACKENDS), None)
    if backend is None:
        return {"refused": f"{type(default).__module__}.{type(default).__name__}"}
    try:
        keys = backend.get_password(SERVICE, NAME)
        if action == "add":
            backend.set_password(SERVICE, NAME, " ".join([sys.stdin.read().strip(), *(keys or "").split()]))
            keys = backend.get_password(SERVICE, NAME)
    except Exception as error:  # each backend raises different errors
        return {"failed": type(error).__name__}
    return {"keys": keys}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
