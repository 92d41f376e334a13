"""Folders that hold files with secrets: opened once, and looked at for others who may replace what is in them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from types import TracebackType

from notion_oauth.errors import StorageError

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)  # Windows has the second alone


class Directory:
    """An open folder. Names are looked up in it, and not again along its path, wherever that may lead by then.

    No name is followed where it is a symbolic link. Where the system opens no folders, paths have to do. All methods
    raise OSError.
    """

    def __init__(self, path: Path) -> None:
        _check_links(path)
        self.path = path
        self._descriptor = _opened(path) if os.open in os.supports_dir_fd else None

    def __enter__(self) -> Directory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def _at(self, name: str) -> str:
        return name if self._descriptor is not None else str(self.path / name)

    def open(self, name: str, flags: int) -> int:
        return os.open(self._at(name), flags | _NO_LINK, 0o600, dir_fd=self._descriptor)

    def lstat(self, name: str) -> os.stat_result:
        return os.stat(self._at(name), dir_fd=self._descriptor, follow_symlinks=False)

    def replace(self, name: str, replaced: str) -> None:
        os.replace(self._at(name), self._at(replaced), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def link(self, name: str, new: str) -> None:
        os.link(self._at(name), self._at(new), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def unlink(self, name: str) -> None:
        os.unlink(self._at(name), dir_fd=self._descriptor)

    def names(self) -> list[str]:
        """What is in it; nothing where it cannot be listed."""
        with contextlib.suppress(OSError):
            return os.listdir(self.path if self._descriptor is None else self._descriptor)  # noqa: PTH208
        return []

    def sync(self) -> None:
        """Make a rename or removal last through a power cut."""
        if self._descriptor is None:
            return  # Windows opens no folders, and its renames are journaled
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            # File systems that sync no folders, and one that may be written and not read: what was to be done is done
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise

    def writable_by_others(self) -> str | None:
        """Who may replace its files beside their owner and root, in words; None where nobody may."""
        return _writable_by_others(os.stat(self.path if self._descriptor is None else self._descriptor))  # noqa: PTH116


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # it may still be written, and what is in it opened
        return os.open(path, os.O_PATH | os.O_DIRECTORY) if hasattr(os, "O_PATH") else None


def make_directory(folder: Path) -> None:
    """Make the folder, and those above that are missing, for their owner alone. Raises OSError."""
    try:
        folder.mkdir(mode=0o700)
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        make_directory(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:  # it need not be FileExistsError: what may not be written may be there all the same
        if not folder.is_dir():
            raise


def _check_links(folder: Path) -> None:
    """Raise StorageError where the way to the folder leads through a link that somebody planted.

    A link is in order where it is ours, root's, or of whoever owns the folder that it lies in: a home, or all of
    /var, is often behind one. In a folder that many may write, another's link leads where he wants.
    """
    for part in (folder, *folder.parents):
        try:
            found = os.lstat(part)
            if not stat.S_ISLNK(found.st_mode) or os.name == "nt" or found.st_uid in (0, os.geteuid()):
                continue
            trusted = found.st_uid == os.stat(part.parent).st_uid  # noqa: PTH116 - as above, at each use
        except OSError:
            continue  # what is not there, or must not be seen, is said when the folder is opened
        if not trusted:
            raise StorageError(
                f"{folder} leads through {part}, a symbolic link of another user (uid {found.st_uid}).",
                hint="Nothing was changed. Set NOTION_OAUTH_TOKEN_FILE to a path that you alone decide on.",
            )


def _writable_by_others(found: os.stat_result) -> str | None:
    if os.name == "nt":
        return None  # it has no such modes
    if os.geteuid() and found.st_uid not in (0, os.geteuid()):
        return f"the user whose folder it is (uid {found.st_uid})"
    if found.st_mode & stat.S_ISVTX:
        return None  # each may replace what is his own, as in /tmp
    if found.st_mode & stat.S_IWOTH:
        return "everybody on this machine"
    if found.st_mode & stat.S_IWGRP and not _private(found.st_gid):
        return f"its group (gid {found.st_gid})"
    return None


def _private(gid: int) -> bool:
    """Whether the group is the one that many systems make for each user, with nobody else in it."""
    import grp  # noqa: PLC0415 - most folders raise no such question, and Windows has neither
    import pwd  # noqa: PLC0415

    try:
        account, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == account.pw_name and set(group.gr_mem) <= {account.pw_name}
