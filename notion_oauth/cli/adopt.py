"""Move logins from another token file into the one in use (`adopt`), into a database and back (`import`, `export`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from notion_oauth.errors import ConfigurationError, NotionOAuthError
from notion_oauth.profile_names import VISITOR_PROFILE
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore, TokenStore
from notion_oauth.stores.factory import file_store

_OF_PROFILE = re.compile(r"(.+)\.([A-Za-z0-9_-]+)\.profile")


def named_profile(file: Path, profile: str | None) -> tuple[Path, str | None]:
    """Return the absolute path of the token file, and the profile if `file` is the file of one profile."""
    path = file.expanduser().absolute()
    named = _OF_PROFILE.fullmatch(path.name)
    return (path, profile) if named is None else (path.with_name(named[1]), profile or named[2])


async def move_logins(path: Path, settings: Settings, profile: str | None) -> list[str]:
    """Move the logins at `path`, or the one of `profile`, into the token file of the settings. Returns their profiles.

    Logins of browser sessions stay: only their service can use them. Raises ConfigurationError, LoginExists before
    anything is moved, StorageError.
    """
    target = file_store(settings)
    source = JsonFileStore(path, lock_wait=target.lock_wait, encryption=target.encryption)
    if _is_same(path, settings.token_file):
        raise ConfigurationError(f"{path} is the token file in use already.", hint="Nothing was changed.")
    names = [name async for name in source.all_profiles() if not VISITOR_PROFILE.match(name)]
    names = [name for name in names if profile in (None, name)]
    if not names:
        raise ConfigurationError(f"There is no login to move in {path}.", hint="Check the path and the profile.")
    for name in names:
        async with target.exclusive(name) as hold, source.exclusive(name) as other:
            await hold.check_can_move_from(other)
    for name in names:
        async with target.exclusive(name) as hold, source.exclusive(name) as other:
            await hold.move_from(other)
    return names


async def move_all(
    source: TokenStore, target: TokenStore, failed: Callable[[str, NotionOAuthError], object]
) -> list[str]:
    """Move all profiles with their client registrations, also those of browser sessions. Returns their names.

    Each is locked in both stores while it is moved, and deleted from the source once it is stored in the target, so
    that no login is ever live in both. If this is interrupted, a second call moves the rest. Of one sign-in, the newer
    tokens stay. A profile with another login in the target stays where it is, and `failed` is called.
    """
    moved = []
    async for name in source.all_profiles(registered=True):
        try:
            async with target.exclusive(name) as hold, source.exclusive(name) as other:
                await hold.move_from(other)
        except NotionOAuthError as error:
            failed(name, error)
        else:
            moved.append(name)
    return moved


def _is_same(one: Path, other: Path) -> bool:
    return (
        one.name == other.name and other.parent.exists() and one.parent.exists() and one.parent.samefile(other.parent)
    )
