"""Asks the system keyring, in a process of its own that is ended where the keyring hangs.

    python keyring_process.py read        the keys that it keeps for us
    python keyring_process.py add         put the key on standard input before them

Answers with one JSON document on standard output: `keys`, `refused` (a keyring that is none), `failed` (its error's
name) or `missing` (no keyring is installed). Exits with 75 where the keyring does not answer. Imports nothing of ours.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any

ANSWER_WITHIN = 3.0  # seconds, from when keyring is loaded: how long that takes says nothing of the keyring
NO_ANSWER = 75
SERVICE, NAME = "notion-oauth", "encryption-key"
# Those that a system protects. All others keep secrets in plain files, nowhere, or as nobody here knows
_SYSTEM = {f"keyring.backends.{name}" for name in ("macOS", "Windows", "SecretService", "libsecret", "kwallet")}


def main(action: str) -> dict[str, Any]:
    """Read the kept keys, or add one, and say what came of it."""
    try:
        import keyring  # noqa: PLC0415 - it is an extra, and may itself fail
    except ImportError:
        return {"missing": True}
    patience = threading.Timer(ANSWER_WITHIN, os._exit, [NO_ANSWER])
    patience.daemon = True
    patience.start()
    found: Any = keyring.get_keyring()
    # One that asks several in turn would put the key into whichever takes it
    backends = found.backends if type(found).__module__ == "keyring.backends.chainer" else [found]
    backend = next((each for each in backends if type(each).__module__ in _SYSTEM), None)
    if backend is None:
        return {"refused": f"{type(found).__module__}.{type(found).__name__}"}
    try:
        kept = backend.get_password(SERVICE, NAME)
        if action == "add":
            backend.set_password(SERVICE, NAME, " ".join([sys.stdin.read().strip(), *(kept or "").split()]))
            kept = backend.get_password(SERVICE, NAME)
    except Exception as error:  # each keyring has errors of its own
        return {"failed": type(error).__name__}
    return {"keys": kept}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
