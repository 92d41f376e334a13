"""Profile names and the token file of each profile. Imports only the standard library."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

DEFAULT_PROFILE = "default"
DEFAULT_SERVER_URL = "https://mcp.notion.com/mcp"
PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")

VISITOR_PREFIX = "web-"  # starts the name of a profile that belongs to one browser session
VISITOR_PROFILE = re.compile(f"{VISITOR_PREFIX}[0-9a-f]{{32}}\\Z")


def add_suffix(path: Path, suffix: str) -> Path:
    """Return the path with the suffix added to its name."""
    return path.with_name(path.name + suffix)


def profile_of(path: Path, name: str, suffixes: Sequence[str] = ("",)) -> str | None:
    """Return the profile whose file beside the token file `path` has this name; None for another file."""
    if not name.startswith(path.name):
        return None
    rest = name[len(path.name) :]
    if rest in suffixes:
        return DEFAULT_PROFILE
    match = re.fullmatch(r"\.([^.]+)\.profile(.*)", rest)
    valid = match is not None and match[2] in suffixes and PROFILE_NAME.match(match[1])
    return match[1] if match is not None and valid else None


def profile_file(path: Path, profile: str) -> Path:
    """Return the token file of a profile with a valid name: `path` itself, or `path.NAME.profile`."""
    return path if profile == DEFAULT_PROFILE else add_suffix(path, f".{profile}.profile")
