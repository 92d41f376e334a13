"""The command `run`: replace this process (on Windows: start a child) by a program with a token in its environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from notion_oauth.errors import ConfigurationError


def replace_process(command: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    """Execute the program in place of this process: it inherits the terminal, and its exit code becomes this command's.

    Raises ConfigurationError if there is no such program.
    """
    found = shutil.which(command[0])
    if found is None:
        message = f"Program {command[0]!r} was not found."
        raise ConfigurationError(message, hint="Check its name, and that its directory is on the PATH.")
    environment = {**os.environ, **variables}
    if os.name == "nt":  # pragma: no cover - execve would detach from the terminal there
        sys.exit(subprocess.run(command, executable=found, env=environment, check=False).returncode)  # noqa: S603 - as below
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(found, list(command), environment)  # noqa: S606 - the user's own command
