"""Files that hold secrets: read whole or refused, written whole or not at all, mode 0600 from the first byte."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn, TypeVar

from notion_oauth.errors import StorageError, StoreDamaged
from notion_oauth.files import permissions
from notion_oauth.files.directories import Directory, make_directory

MAX_FILE = 1024 * 1024  # bytes
_TEMPORARY = re.compile(r"\.[a-z0-9_]{8}\.tmp")  # after a file's name, as _new_file makes them; nobody else's files
_TICK = 20_000_000  # nanoseconds; file systems count in steps of up to ten milliseconds
_ABANDONED_AFTER = 60.0  # seconds; a writer that lives needs far less

T = TypeVar("T")


def read_file(path: Path, decode: Callable[[bytes], T], *, fix: bool = True) -> T | None:
    """What `decode` makes of the whole content; None where there is no such file.

    Raises StorageError where it cannot be read, is a symbolic link or belongs to somebody else, StoreDamaged where
    it is a directory, a device, a pipe or too large, and what `decode` raises. A file that `decode` knows as ours
    and that others may read is made to be its owner's alone, with a warning; without `fix` neither is done.
    """
    with _opened(path, "read", silent=not fix) as descriptor:
        if descriptor is None:
            return None
        try:
            content = _read(descriptor)
        except OSError as error:
            _failed(path, "read", error)
        if len(content) > MAX_FILE:
            raise StoreDamaged(f"{path} is larger than {MAX_FILE // 1024} KiB, so it is no file of ours.", hint=_MOVE)
        found = decode(content)
        if fix:
            permissions.restrict_to_owner(descriptor, path)
        return found


def secure_lock_file(path: Path, *, fix: bool = True) -> None:
    """Make a lock file its owner's alone, if there is one: whoever may open it can hold up everybody for ever.

    Raises StorageError as `read_file` does.
    """
    with _opened(path, "locked", silent=not fix) as descriptor:
        if descriptor is not None and fix:
            permissions.restrict_to_owner(descriptor, path)


@contextlib.contextmanager
def _opened(path: Path, purpose: str, *, silent: bool = False) -> Iterator[int | None]:
    """A descriptor for the regular file, which is ours to trust; None where there is none."""
    try:
        with Directory(path.parent) as folder:
            if not silent:
                permissions.warn_if_exposed(folder)
            descriptor = folder.open(path.name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe holds us up not
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        if error.errno == errno.ELOOP:
            _check_no_link(path)
        _failed(path, purpose, error)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            _not_a_file(path)
        permissions.check_owner(found, path, silent=silent)
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    content = b""
    while len(content) <= MAX_FILE and (part := os.read(descriptor, MAX_FILE + 1)):
        content += part
    return content


def file_version(path: str) -> object:
    """Something that differs once the file has been replaced, made or removed. Raises nothing.

    A file that was changed a moment ago is never equal to itself: it may be changed again within the same tick of
    its file system's clock, under a number that was freed just now.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - half the time that Path takes, and asked for at each request
    except FileNotFoundError:
        return ()
    except (OSError, ValueError):
        return None
    if abs(time.time_ns() - found.st_mtime_ns) < _TICK:
        return object()
    return found.st_mtime_ns, found.st_ino, found.st_size


def directory_entries(folder: Path) -> list[tuple[str, float]]:
    """The names in a folder, and when each was changed; none where there is no folder. Raises StorageError."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # it has gone meanwhile
                    found.append((entry.name, entry.stat(follow_symlinks=False).st_mtime))
    except FileNotFoundError:
        return []
    except OSError as error:
        hint = "Mend that, or set NOTION_OAUTH_TOKEN_FILE to another path."
        raise StorageError(f"{folder} could not be listed: {error.strerror}.", hint=hint) from None
    return found


def write_file(path: Path, content: bytes) -> None:
    """Replace the file's content in one step: temporary file, fsync, rename, fsync of the folder.

    A crash at any moment leaves either the old content or the new. Raises StorageError; the old content is
    then untouched.
    """
    if len(content) > MAX_FILE:
        raise StorageError(f"{len(content)} bytes are too many for {path}: it could not be read again.")
    with _writing(path) as folder:
        temporary = _write_beside(folder, path.name, content)
        try:
            folder.replace(temporary, path.name)
        except OSError:
            _remove(folder, temporary)
            raise
        folder.sync()


def create_file(path: Path, content: bytes) -> bool:
    """Write the file if there is none, whole and in one step; whether it was this call that made it.

    Raises StorageError.
    """
    with _writing(path) as folder:
        temporary = _write_beside(folder, path.name, content)
        try:
            folder.link(temporary, path.name)
        except FileExistsError:
            return False
        finally:
            _remove(folder, temporary)
        folder.sync()
    return True


def delete_file(path: Path) -> bool:
    """Remove the file, and what killed writers left of it; whether there was one. Raises StorageError."""
    _check_no_link(path)
    try:
        with Directory(path.parent) as folder:
            _sweep(folder, path.name, older_than=0)
            folder.unlink(path.name)
            folder.sync()
    except FileNotFoundError:
        return False
    except OSError as error:
        _failed(path, "deleted", error)
    return True


def ensure_writable(path: Path, *, size: int) -> None:
    """Raise StorageError unless a file of `size` bytes can be written in the place of this one, and read again."""
    with _writing(path) as folder:
        temporary = _write_beside(folder, path.name, bytes(size))
        try:
            found = folder.lstat(temporary)
        except FileNotFoundError:
            return  # a sign-out has swept it
        _remove(folder, temporary)
    permissions.check_owner(found, path)  # a file system may give it to somebody else: better said before the sign-in


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Directory]:
    """The open folder that the file is written in, made where there is none."""
    _check_no_link(path)
    try:
        make_directory(path.parent)
        with Directory(path.parent) as folder:
            permissions.warn_if_exposed(folder)
            _sweep(folder, path.name, older_than=_ABANDONED_AFTER)
            yield folder
    except OSError as error:
        _failed(path, "written", error)


def _write_beside(folder: Directory, name: str, content: bytes) -> str:
    """The name of a new, synced temporary file. Leaves nothing behind when it fails."""
    descriptor, temporary = _new_file(folder, name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no Path
            permissions.keep_owner(file.fileno(), folder, name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        _remove(folder, temporary)
        raise
    return temporary


def _new_file(folder: Directory, name: str) -> tuple[int, str]:
    while True:
        temporary = f"{name}.{os.urandom(4).hex()}.tmp"
        with contextlib.suppress(FileExistsError):  # another's, or a link that was put there
            return folder.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), temporary


def _remove(folder: Directory, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # another may have swept it
        folder.unlink(name)


def _sweep(folder: Directory, name: str, *, older_than: float) -> None:
    """Remove what a writer that was killed left behind, seconds ago: it may hold tokens."""
    for found in folder.names():
        if found.startswith(name) and _TEMPORARY.fullmatch(found, len(name)):
            with contextlib.suppress(OSError):  # another has swept it, or may alone
                if time.time() - folder.lstat(found).st_mtime >= older_than:
                    folder.unlink(found)


def _check_no_link(path: Path) -> None:
    """Raise StorageError where the path is a symbolic link: what it leads to is not ours to replace or leave behind."""
    if os.path.islink(path):  # noqa: PTH114 - Path.is_symlink raises where the folder must not be entered
        raise StorageError(f"{path} is a symbolic link, and secrets are not kept behind one.", hint=_REAL_FILE)


_MOVE = "Nothing was changed. Move it away, or set NOTION_OAUTH_TOKEN_FILE to another path."
_REAL_FILE = "Remove the link, or set NOTION_OAUTH_TOKEN_FILE to the real file."


def _not_a_file(path: Path) -> NoReturn:
    raise StoreDamaged(f"{path} is not a regular file.", hint=_MOVE) from None


def _failed(path: Path, done: str, error: OSError) -> NoReturn:
    if isinstance(error, IsADirectoryError):
        _not_a_file(path)
    reason = error.strerror or type(error).__name__
    hint = "What was stored is untouched. Mend that, or set NOTION_OAUTH_TOKEN_FILE to another path."
    raise StorageError(f"{path} could not be {done}: {reason}.", hint=hint) from None
