"""Directories that contain secret files: opened once, and checked for other users who may replace the files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from types import TracebackType

from notion_oauth.errors import StorageError

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)  # Windows has only O_BINARY


class Directory:
    """An open directory. File names are resolved relative to it, so a later change of its path has no effect.

    Symbolic links are not followed. On a system that cannot open directories, paths are used instead. Opening
    it raises StorageError if its path has another user's symbolic link. All methods but `names` raise OSError.
    """

    def __init__(self, path: Path) -> None:
        _check_links(path)
        self.path = path
        self._descriptor = _open_directory(path) if os.open in os.supports_dir_fd else None

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

    def replace(self, name: str, target: str) -> None:
        os.replace(self._at(name), self._at(target), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def link(self, name: str, new: str) -> None:
        os.link(self._at(name), self._at(new), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def unlink(self, name: str) -> None:
        os.unlink(self._at(name), dir_fd=self._descriptor)

    def give_to_owner(self, descriptor: int) -> None:
        """As root: let a file or directory that root has created here belong to the owner of this directory.

        That user could otherwise neither read nor lock it later. Only a new lock, a new file or an empty directory with
        one name is given away: the owner could have put something else of root's under its name. A failure is ignored,
        as on network file systems that know no root.
        """
        if os.name == "nt" or os.geteuid():
            return
        owner, created = self._status(), os.fstat(descriptor)
        empty = not os.listdir(descriptor) if stat.S_ISDIR(created.st_mode) else _is_empty_file(created)
        if owner.st_uid and not created.st_uid and empty:
            with contextlib.suppress(OSError):
                os.fchown(descriptor, owner.st_uid, owner.st_gid)

    def names(self) -> list[str]:
        """Return the names of the entries; empty if the directory cannot be listed."""
        with contextlib.suppress(OSError):
            return os.listdir(self.path if self._descriptor is None else self._descriptor)  # noqa: PTH208
        return []

    def sync(self) -> None:
        """Make a rename or removal survive a power cut."""
        if self._descriptor is None:
            return  # Windows cannot open directories, and its renames are journaled
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            # No fsync for directories, or a directory without read permission: the change itself is done
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise

    def other_writers(self) -> str | None:
        """Return who, apart from this user and root, may replace its files, as text; None if no other user may."""
        return _other_writers(self._status())

    def owner(self) -> int:
        """Return the uid of its owner; 0 on Windows."""
        return self._status().st_uid

    def _status(self) -> os.stat_result:
        return os.stat(self.path if self._descriptor is None else self._descriptor)  # noqa: PTH116


def _open_directory(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # not readable, but files in it may still be opened and written
        return os.open(path, os.O_PATH | os.O_DIRECTORY) if hasattr(os, "O_PATH") else None


def make_directory(directory: Path) -> None:
    """Create the directory and its missing parents with mode 0700. They belong to the owner of the existing parent.

    Raises OSError, and StorageError as opening a `Directory` does.
    """
    try:
        directory.mkdir(mode=0o700)
    except FileNotFoundError:
        if directory.parent == directory:
            raise
        make_directory(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError:  # not only FileExistsError: a directory that is not writable may exist, too
        if not directory.is_dir():
            raise
        return
    if os.name != "nt" and not os.geteuid():
        with Directory(directory.parent) as parent:
            descriptor = parent.open(directory.name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                parent.give_to_owner(descriptor)
            finally:
                os.close(descriptor)


def _is_empty_file(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and not status.st_size


def _check_links(directory: Path) -> None:
    """Raise StorageError if the path contains a symbolic link that another user may have planted.

    A link is trusted if it belongs to this user, root, or the owner of the directory that contains it: a home directory
    or /var is often a link. In a directory that many users may write, another user's link may lead anywhere.
    """
    for part in (directory, *directory.parents):
        try:
            status = os.lstat(part)
            if not stat.S_ISLNK(status.st_mode) or os.name == "nt" or status.st_uid in (0, os.geteuid()):
                continue
            trusted = status.st_uid == os.stat(part.parent).st_uid  # noqa: PTH116 - faster, and called for each use
        except OSError:
            continue  # opening the directory reports what is missing or not accessible
        if not trusted:
            raise StorageError(
                f"{directory} leads through {part}, a symbolic link of another user (uid {status.st_uid}).",
                hint="Nothing was changed. Set NOTION_OAUTH_TOKEN_FILE to a path that other users cannot change.",
            )


def _other_writers(status: os.stat_result) -> str | None:
    if os.name == "nt":
        return None  # Windows has no such modes
    if os.geteuid() and status.st_uid not in (0, os.geteuid()):
        return f"the owner of the directory (uid {status.st_uid})"
    if status.st_mode & stat.S_ISVTX:
        return None  # users may replace only their files, as in /tmp
    if status.st_mode & stat.S_IWOTH:
        return "every user of this machine"
    if status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_gid):
        return f"its group (gid {status.st_gid})"
    return None


def _is_private_group(gid: int) -> bool:
    """Return whether the group is a user private group: named like the user, and without other members."""
    import grp  # noqa: PLC0415 - rarely needed, and missing on Windows
    import pwd  # noqa: PLC0415

    try:
        account, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name == account.pw_name and set(group.gr_mem) <= {account.pw_name}
