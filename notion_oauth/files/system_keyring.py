"""Read and add keys in the system keyring. It may hang without a desktop session: a call then ends."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from notion_oauth.errors import ConfigurationError, Hint, KeyUnavailable
from notion_oauth.files import system_keyring_process
from notion_oauth.files.installation import install_hint
from notion_oauth.files.system_keyring_process import ANSWER_WITHIN, NO_ANSWER

TIMEOUT = 10.0  # seconds, including the start of Python; the process itself gives up earlier (ANSWER_WITHIN)
_PROCESS = Path(system_keyring_process.__file__)
_ALTERNATIVE = "or set NOTION_OAUTH_ENCRYPTION_KEY to a key, instead of the word `keyring`."


def check_installed() -> None:
    """Raise ConfigurationError unless the package keyring is installed."""
    if find_spec("keyring") is None:
        raise ConfigurationError(
            "The package keyring, which gives access to the system keyring, is not installed.",
            hint=install_hint("keyring", "keyring"),
        )


def read_keys(*, timeout: float = TIMEOUT) -> str:
    """The stored keys, separated by spaces, the newest first. Takes a fifth of a second, at most `timeout` seconds.

    Raises KeyUnavailable if the keyring has no key, fails, does not answer, or is not a system keyring.
    """
    keys = _run("read", timeout=timeout)
    if not keys:
        raise KeyUnavailable(
            "The system keyring has no key for notion-oauth.", hint=Hint("Create one", "key", {"keyring": None})
        )
    return keys


def add_key(key: str) -> None:
    """Store a key before the existing keys. Raises KeyUnavailable unless the keyring then returns it."""
    check_installed()
    if (_run("add", key) or "").split()[:1] != [key]:
        raise KeyUnavailable(
            "The system keyring accepted the key but did not store it.", hint=f"Fix the keyring, {_ALTERNATIVE}"
        )


def _run(action: str, key: str = "", *, timeout: float = TIMEOUT) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - a file of this package, run with the current interpreter
            [sys.executable, "-P", str(_PROCESS), action],  # -P: the modules next to it must not shadow others
            input=key.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        answer = {"silent": True} if done.returncode == NO_ANSWER else json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        answer = {"failed": f"no answer within {timeout:g} seconds"}
    except (OSError, ValueError):
        answer = {"failed": "no answer"}
    return _keys_in(answer)


def _keys_in(answer: dict[str, Any]) -> str | None:
    if answer.get("missing"):
        check_installed()
    if refused := answer.get("refused"):
        raise KeyUnavailable(
            f"There is no system keyring: the package keyring uses {refused}, which does not protect secrets.",
            hint="Nothing was changed. Start or install a system keyring (Secret Service or KWallet on Linux), "
            f"{_ALTERNATIVE}",
        )
    if "keys" not in answer:
        failed = answer.get("failed", "keyring cannot be loaded")
        silent = f"did not answer within {ANSWER_WITHIN:.0f} seconds"
        raise KeyUnavailable(
            f"The system keyring {silent if answer.get('silent') else f'failed: {failed}'}.",
            hint=f"Nothing was changed. Unlock it in a desktop session, {_ALTERNATIVE}",
        )
    keys = answer["keys"]
    return keys if isinstance(keys, str) else None
