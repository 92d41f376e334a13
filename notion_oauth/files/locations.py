"""Which token file is used, and why. At the start, imports only the standard library: the fast path imports it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from notion_oauth.errors import ConfigurationError
from notion_oauth.profile_names import profile_file

CLONE_TOKEN_FILE = ".notion-tokens.json"  # noqa: S105 - beside `cli.py` and `main.py`
Origin = Literal["option", "environment", "env_file", "clone", "user_data"]  # public: `token_file_source` of `status`


def user_token_file() -> Path:
    """Return `tokens.json` in the user's data directory. Raises ConfigurationError if there is no such directory."""
    from platformdirs import user_data_path  # noqa: PLC0415 - the fast path does not need it if a file is named

    try:
        directory = user_data_path("notion-oauth", appauthor=False)
    except RuntimeError:
        directory = Path()
    if not directory.is_absolute():
        raise ConfigurationError(
            "The user's data directory is unknown, because there is no home directory.",
            hint="Set NOTION_OAUTH_TOKEN_FILE to the path of the token file.",
        )
    return directory / "tokens.json"


def describe_origin(origin: Origin, env_file: Path | None) -> str:
    """Why this token file is used, in words after its path. `env_file` is the file with settings that was read."""
    return {
        "option": "from --token-file",
        "environment": "from NOTION_OAUTH_TOKEN_FILE",
        "env_file": f"from NOTION_OAUTH_TOKEN_FILE in {env_file}",
        "clone": "beside cli.py and main.py",
        "user_data": "in the user's data directory",
    }[origin]


def other_token_file(used: Path, profile: str) -> Path | None:
    """Return another file that has that profile: `.notion-tokens.json` of the working directory, or the user's file.

    The user's file is looked for only if a clone's is in use. Raises nothing.
    """
    try:
        found = Path(CLONE_TOKEN_FILE).absolute()
        same = found.parent.samefile(used.parent) and found.name == used.name if used.parent.exists() else False
        if profile_file(found, profile).is_file() and not same:
            return found
        found = user_token_file()
        return found if used.name == CLONE_TOKEN_FILE and profile_file(found, profile).is_file() else None
    except (OSError, ConfigurationError):
        return None
