"""Files with settings, such as `.env`. Imports only the standard library at the start: the fast path imports it."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from notion_oauth.errors import ConfigurationError

NAME = ".env"
MAX_SIZE = 1024 * 1024  # bytes
_OURS = re.compile(r"^\s*(?:export\s+)?['\"]?(NOTION_OAUTH_\w+)['\"]?\s*=", re.MULTILINE | re.IGNORECASE | re.ASCII)


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables in the file, with names in upper case. Values are literal: `${NAME}` is not replaced.

    Raises ConfigurationError, which contains nothing of the file.
    """
    from dotenv import dotenv_values  # noqa: PLC0415 - as above

    try:
        text = _read(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _unreadable(path, "it is not UTF-8 text") from None
    except FileNotFoundError:
        hint = "Check the path in NOTION_OAUTH_ENV_FILE, which names a file with settings."
        raise ConfigurationError(f"There is no file {path}.", hint=hint) from None
    except OSError as error:
        raise _unreadable(path, error.strerror or type(error).__name__) from None
    found = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name.upper(): value for name, value in found.items() if value}


def ignored_env_file(read: Path | None) -> tuple[Path, Sequence[str]] | None:
    """Return the `.env` of the working directory and the settings in it, if it has any and is not the file `read`.

    Raises nothing.
    """
    path = Path(NAME)
    if not os.path.lexists(path):
        return None
    try:
        if read is not None and read.exists() and path.samefile(read):
            return None
        names = _OURS.findall(_read(path).decode("utf-8", "replace"))
        return (path.absolute(), sorted({name.upper() for name in names})) if names else None
    except OSError:
        return None


def _read(path: Path) -> bytes:
    """Read a regular file. O_NONBLOCK, so that opening a FIFO cannot block."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor has no Path
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(0, "it is not a regular file")
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise OSError(0, f"it is larger than {MAX_SIZE // 1024} KiB")
    return content


def _unreadable(path: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(f"The file {path} cannot be read: {reason}.", hint="Fix it, or name another env file.")
