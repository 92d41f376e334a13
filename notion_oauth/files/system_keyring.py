"""The key in the system keyring, which may hang where there is no desktop: then it is given up after three seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from notion_oauth.errors import ConfigurationError, KeyUnavailable
from notion_oauth.files import system_keyring_process
from notion_oauth.files.system_keyring_process import ANSWER_WITHIN, NO_ANSWER

GIVE_UP_AFTER = 10.0  # seconds; the process gives up by itself before, unless it is kept from running at all
_PROCESS = Path(system_keyring_process.__file__)
_OTHERWISE = "or set NOTION_OAUTH_ENCRYPTION_KEY to a key in the place of keyring."


def check_installed() -> None:
    """Raise ConfigurationError unless keyring is installed."""
    if find_spec("keyring") is None:
        raise ConfigurationError(
            "The system keyring is asked for by the package keyring, which is not installed.",
            hint="Install it with: uv pip install 'notion-oauth[keyring]'",
        )


def read_keys() -> str:
    """What the keyring keeps for us: keys, the newest first. Takes a fifth of a second.

    Raises KeyUnavailable where it keeps none, cannot be asked, does not answer, or is no keyring of the system.
    """
    kept = _ask("read")
    if not kept:
        raise KeyUnavailable(
            "The system keyring holds no key of ours.", hint="Make one with: notion-oauth key --keyring"
        )
    return kept


def add_key(key: str) -> None:
    """Put a key before those that the keyring keeps. Raises KeyUnavailable unless it is found there afterwards."""
    check_installed()
    if (_ask("add", key) or "").split()[:1] != [key]:
        raise KeyUnavailable("The system keyring took the key and does not have it.", hint=f"Mend that, {_OTHERWISE}")


def _ask(action: str, key: str = "") -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - our own file, with the interpreter that runs us
            [sys.executable, "-P", str(_PROCESS), action],  # -P: our modules' names are in nobody's way
            input=key.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=GIVE_UP_AFTER,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        answer = {"silent": True} if done.returncode == NO_ANSWER else json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        answer = {"failed": f"nothing within {GIVE_UP_AFTER:g} seconds"}
    except (OSError, ValueError):
        answer = {"failed": "no answer"}
    return _kept(answer)


def _kept(answer: dict[str, Any]) -> str | None:
    if answer.get("missing"):
        check_installed()
    if refused := answer.get("refused"):
        raise KeyUnavailable(
            f"There is no system keyring here: keyring found {refused}, which keeps no secret safe.",
            hint=f"Nothing was changed. Start or install one (Secret Service or KWallet on Linux), {_OTHERWISE}",
        )
    if "keys" not in answer:
        failed = answer.get("failed", "keyring cannot be loaded")
        silent = f"did not answer within {ANSWER_WITHIN:.0f} seconds"
        raise KeyUnavailable(
            f"The system keyring {silent if answer.get('silent') else f'could not be asked: {failed}'}.",
            hint=f"Nothing was changed. Unlock it in a desktop session, {_OTHERWISE}",
        )
    kept = answer["keys"]
    return kept if isinstance(kept, str) else None
