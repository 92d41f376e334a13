"""Files that hold secrets: read whole or refused, written whole or not at all, mode 0600 from the first byte."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from pathlib import Path
from typing import NoReturn

from notion_oauth.errors import StorageError, StoreDamaged

MAX_FILE = 1024 * 1024  # bytes
_TICK = 20_000_000  # nanoseconds; file systems count in steps of up to ten milliseconds
_ABANDONED_AFTER = 60.0  # seconds; a writer that lives needs far less


def read_file(path: Path) -> bytes | None:
    """The whole content; None where there is no such file.

    Raises StorageError where it cannot be read or is a symbolic link, StoreDamaged where it is a directory, a
    device, a pipe or too large.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _READING)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            _check_no_link(path)
        _failed(path, "read", error)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            _not_a_file(path)
        content = _read(descriptor)
    except OSError as error:
        _failed(path, "read", error)
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE:
        raise StoreDamaged(f"{path} is larger than {MAX_FILE // 1024} KiB, so it is no file of ours.", cure=_MOVE)
    return content


# O_NONBLOCK: a pipe that somebody put there must not hold us up. Windows has neither, and needs the last
_READING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def _read(descriptor: int) -> bytes:
    content = b""
    while len(content) <= MAX_FILE and (part := os.read(descriptor, MAX_FILE + 1)):
        content += part
    return content


def stamp(path: str) -> object:
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


def changes(folder: Path) -> list[tuple[str, float]]:
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
        cure = "Mend that, or set NOTION_OAUTH_TOKEN_FILE to another path."
        raise StorageError(f"{folder} could not be listed: {error.strerror}.", cure=cure) from None
    return found


def write_file(path: Path, content: bytes) -> None:
    """Replace the file's content in one step: temporary file, fsync, rename, fsync of the folder.

    A crash at any moment leaves either the old content or the new. Raises StorageError; the old content is
    then untouched.
    """
    if len(content) > MAX_FILE:
        raise StorageError(f"{len(content)} bytes are too many for {path}: it could not be read again.")
    try:
        temporary = _write_beside(path, content)
        try:
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        _failed(path, "written", error)


def create_file(path: Path, content: bytes) -> bool:
    """Write the file if there is none, whole and in one step; whether it was this call that made it.

    Raises StorageError.
    """
    try:
        temporary = _write_beside(path, content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        _failed(path, "written", error)
    return True


def delete_file(path: Path) -> bool:
    """Remove the file, and what killed writers left of it; whether there was one. Raises StorageError."""
    _check_no_link(path)
    try:
        _sweep(path, older_than=0)
        path.unlink()
        _sync_folder(path.parent)
    except FileNotFoundError:
        return False
    except OSError as error:
        _failed(path, "deleted", error)
    return True


def ensure_writable(path: Path, *, size: int) -> None:
    """Raise StorageError unless a file of `size` bytes can be written in the place of this one."""
    try:
        _write_beside(path, bytes(size)).unlink(missing_ok=True)  # a sign-out may have swept it
    except OSError as error:
        _failed(path, "written", error)


def _write_beside(path: Path, content: bytes) -> Path:
    """A new, synced temporary file in the same folder. Leaves nothing behind when it fails."""
    import tempfile  # noqa: PLC0415 - whoever only reads needs none

    _check_no_link(path)
    make_folder(path.parent)
    _sweep(path, older_than=_ABANDONED_AFTER)
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=path.parent)  # mode 0600
    temporary = Path(name)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor has no Path
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def make_folder(folder: Path) -> None:
    """Make the folder, for its owner alone, if there is none."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _check_no_link(path: Path) -> None:
    """Raise StorageError where the path is a symbolic link: what it leads to is not ours to replace or leave behind."""
    if os.path.islink(path):  # noqa: PTH114 - Path.is_symlink raises where the folder must not be entered
        raise StorageError(f"{path} is a symbolic link, and secrets are not kept behind one.", cure=_REAL_FILE)


def _sweep(path: Path, *, older_than: float) -> None:
    """Remove what a writer that was killed left behind, seconds ago: it may hold tokens."""
    ours = re.compile(re.escape(path.name) + r"\.[a-z0-9_]{8}\.tmp")  # as mkstemp names them; nobody else's files
    with contextlib.suppress(OSError):  # a folder that cannot be listed
        for found in path.parent.iterdir():
            if ours.fullmatch(found.name):
                with contextlib.suppress(OSError):  # another has swept it, or may alone
                    if time.time() - found.lstat().st_mtime >= older_than:
                        found.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a rename or removal last through a power cut."""
    if os.name == "nt":  # pragma: no cover - Windows cannot open folders, and its renames are journaled
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # a folder that may be written and not read; what was to be done in it is done
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that sync no folders
            raise
    finally:
        os.close(descriptor)


_MOVE = "Nothing was changed. Move it away, or set NOTION_OAUTH_TOKEN_FILE to another path."
_REAL_FILE = "Set NOTION_OAUTH_TOKEN_FILE to the real file."


def _not_a_file(path: Path) -> NoReturn:
    raise StoreDamaged(f"{path} is not a regular file.", cure=_MOVE) from None


def _failed(path: Path, done: str, error: OSError) -> NoReturn:
    if isinstance(error, IsADirectoryError):
        _not_a_file(path)
    reason = error.strerror or type(error).__name__
    cure = "What was stored is untouched. Mend that, or set NOTION_OAUTH_TOKEN_FILE to another path."
    raise StorageError(f"{path} could not be {done}: {reason}.", cure=cure) from None
