"""`cli.py run`: another program in our place, with a token in its environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from notion_oauth.errors import ConfigurationError


def replace_process(command: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    """Let the program take our place: it gets our terminal, its signals are its own, its exit code is ours.

    Raises ConfigurationError where there is no such program.
    """
    found = shutil.which(command[0])
    if found is None:
        message = f"There is no program {command[0]!r} here."
        raise ConfigurationError(message, hint="Check its name, and that it is on the PATH.")
    environment = {**os.environ, **variables}
    if os.name == "nt":  # pragma: no cover - there, a program that is replaced loses its terminal
        sys.exit(subprocess.run(command, executable=found, env=environment, check=False).returncode)  # noqa: S603 - as below
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(found, list(command), environment)  # noqa: S606 - the user's own command
