"""The profile that is used if none is named: `profile use` stores its name in a file beside the token file.

Imports no third-party package, because the fast path imports it.
"""

from __future__ import annotations

from pathlib import Path

from notion_oauth.errors import Hint, StoreDamaged
from notion_oauth.files import atomic
from notion_oauth.profile_names import DEFAULT_PROFILE, PROFILE_NAME, add_suffix

_SUFFIX = ".default-profile"


def read_default_profile(token_file: Path) -> str:
    """Return the name. Raises StoreDamaged if the file contains none, StorageError if it cannot be read."""
    path = add_suffix(token_file, _SUFFIX)
    name = atomic.read_file(path, lambda content: content.decode(errors="replace").strip())
    if name is None:
        return DEFAULT_PROFILE
    if not PROFILE_NAME.match(name):
        hint = Hint("Choose the profile again", "profile use", arguments=("NAME",))
        raise StoreDamaged(f"{path} does not contain the name of a profile.", hint=hint)
    return name


def write_default_profile(token_file: Path, name: str) -> None:
    """Store the name of a profile. Raises StorageError."""
    path = add_suffix(token_file, _SUFFIX)
    if name == DEFAULT_PROFILE:
        atomic.delete_file(path)
    else:
        atomic.write_file(path, f"{name}\n".encode())
