"""Move logins from another token file into the one in use (`adopt`), into a database and back (`import`, `export`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from notion_oauth.errors import ConfigurationError, NotionOAuthError
from notion_oauth.files import moved
from notion_oauth.files.documents import FileDocuments, in_thread
from notion_oauth.files.encryption import Encryption
from notion_oauth.profile_names import VISITOR_PROFILE
from notion_oauth.settings import Settings
from notion_oauth.storage import LOCK_WAIT, JsonFileStore, TokenStore
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


class Move:
    """A move of all profiles, also those of browser sessions, between a token file and a database.

    Each is locked in both stores while it is moved, and deleted from the source once it is stored in the target. The
    file store refuses a profile as long as it has a marker, which is there before a login is in the database, and until
    it is there no longer. So no login is ever live in both. If a move is interrupted, a second one moves the rest. Of
    one sign-in, the newer tokens stay. A profile with another login in the target stays where it is, and `failed` is
    called.
    """

    def __init__(
        self,
        token_file: Path,
        database: TokenStore,
        name: str,
        encryption: Encryption | None,
        failed: Callable[[str, NotionOAuthError], object],
    ) -> None:
        """`name` is that of the database."""
        self._files = FileDocuments(token_file, lock_wait=LOCK_WAIT, moving=True)
        self._file_store = TokenStore(self._files, encryption=encryption)
        self._database, self._name = database, name
        self._failed = failed

    async def into_database(self) -> int:
        """Move all profiles of the token file into the database. Returns their number."""
        return await self._move(self._file_store, self._database)

    async def into_files(self) -> int:
        """Move all profiles of the database into the token file. Returns their number."""
        count = await self._move(self._database, self._file_store)
        for profile in await in_thread(self._files.moved_profiles):
            await self._unmark_if_gone(profile)
        return count

    async def _move(self, source: TokenStore, target: TokenStore) -> int:
        count = 0
        async for profile in source.all_profiles(registered=True):
            try:
                async with target.exclusive(profile) as hold, source.exclusive(profile) as other:
                    await hold.check_can_move_from(other)
                    if target is self._database:
                        await in_thread(moved.mark_moved, self._files.path(profile), self._name)
                    await hold.move_from(other)
                    if target is self._file_store:
                        await self._unmark(profile)
            except NotionOAuthError as error:
                self._failed(profile, error)
            else:
                count += 1
        return count

    async def _unmark_if_gone(self, profile: str) -> None:
        """Unmark a profile of which this database has nothing: it was signed out, or a move was interrupted."""
        if moved.database_of(self._files.path(profile)) != self._name:
            return
        async with self._file_store.exclusive(profile):
            login = (await self._database.load(profile)).login
            if login is None and not await self._database.load_registrations(profile):
                await self._unmark(profile)

    async def _unmark(self, profile: str) -> None:
        await in_thread(moved.unmark, self._files.path(profile))


def _is_same(one: Path, other: Path) -> bool:
    return (
        one.name == other.name and other.parent.exists() and one.parent.exists() and one.parent.samefile(other.parent)
    )
