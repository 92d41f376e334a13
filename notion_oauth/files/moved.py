"""The marker of a login that was moved to a database. It is beside the token file, and no file store uses that file.

So a program without NOTION_OAUTH_DATABASE_URL makes no second login, and a token file that is restored from a backup
is not used beside the database. Imports no third-party package, because the fast path imports it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from notion_oauth.errors import Hint, LoginMoved, NotionOAuthError
from notion_oauth.files import atomic
from notion_oauth.profile_names import add_suffix
from notion_oauth.protocol.messages import parse_json

SUFFIX = ".moved"
_SETTING = "NOTION_OAUTH_DATABASE_URL"


def mark_moved(file: Path, database: str) -> None:
    """Record that the login in this token file is moved to the database with this name. Raises StorageError."""
    content = {"database": database, "moved_at": round(time.time() * 1000)}
    atomic.write_file(add_suffix(file, SUFFIX), json.dumps(content, indent=2).encode() + b"\n")


def unmark(file: Path) -> None:
    """Delete the marker, if there is one. Raises StorageError."""
    atomic.delete_file(add_suffix(file, SUFFIX))


def is_moved(file: Path) -> bool:
    """Return whether there is a marker, readable or not, beside this token file."""
    return os.path.lexists(f"{file}{SUFFIX}")


def database_of(file: Path) -> str | None:
    """Return the name of the database that the login was moved to; None if it cannot be read."""
    try:
        document = atomic.read_file(add_suffix(file, SUFFIX), parse_json)
    except (NotionOAuthError, ValueError):
        return None
    name = document.get("database") if isinstance(document, dict) else None
    return name if isinstance(name, str) else None


def check_not_moved(file: Path, token_file: Path) -> None:
    """Raise LoginMoved if there is a marker beside `file`, the file of one profile of the token file."""
    if not is_moved(file):
        return
    database = database_of(file)
    message = f"The login in {file} was moved to {'a database' if database is None else f'the {database}'}."
    hint = Hint(
        f"Set {_SETTING} to the URL of that database. For a new login in this file, delete {add_suffix(file, SUFFIX)}."
    )
    if os.path.lexists(file):
        message += " The file is there again: the import was interrupted, or a backup was restored."
        hint = Hint(
            f"Set {_SETTING} to the URL of that database, and complete the move", "import", arguments=(str(token_file),)
        )
    raise LoginMoved(message, hint=hint)
