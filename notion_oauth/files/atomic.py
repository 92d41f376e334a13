"""Atomic reads and writes of files that contain secrets. New files have mode 0600 from the start."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from notion_oauth.errors import StorageError, StoreDamaged
from notion_oauth.files import permissions
from notion_oauth.files.directories import Directory, make_directory

MAX_FILE = 1024 * 1024  # bytes
RESERVED = ".reserved"  # added to a file's name: the reservation of its next content
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL
# The suffix that _new_file adds to a file's name. It must not match the files of other programs
_TEMPORARY = re.compile(r"\.[a-z0-9_]{8}\.tmp")
_CLOCK_TICK = 20_000_000  # nanoseconds; file systems record times in steps of up to ten milliseconds
_ABANDONED_AFTER = 60.0  # seconds; a running writer needs far less

T = TypeVar("T")


def read_file(path: Path, decode: Callable[[bytes], T], *, fix: bool = True) -> T | None:
    """Read the whole file and return its decoded content; None if the file does not exist.

    Raises StorageError if the file cannot be read, is a symbolic link or belongs to another user; StoreDamaged if it
    is a directory, a device, a pipe or too large; and all that `decode` raises. If `decode` accepts the content and
    other users may open the file, its mode is restricted to the owner and a warning is logged, unless `fix` is false.
    """
    with _open_regular(path, "read", silent=not fix) as descriptor:
        if descriptor is None:
            return None
        try:
            content = _read(descriptor)
        except OSError as error:
            raise storage_error(path, "read", error) from None
        if len(content) > MAX_FILE:
            raise StoreDamaged(
                f"{path} is larger than {MAX_FILE // 1024} KiB, so notion-oauth did not write it.", hint=_MOVE_HINT
            )
        decoded = decode(content)
        if fix:
            permissions.restrict_to_owner(descriptor, path)
        return decoded


def prepare_lock_file(path: Path) -> None:
    """Create the lock file, and its directory, unless it exists.

    It is restricted to its owner, because every user who may open it can hold the lock forever. One that root has
    created in a user's directory is given to that user. Raises StorageError as `read_file` does.
    """
    try:
        make_directory(path.parent)
    except OSError as error:
        raise storage_error(path, "locked", error) from None
    with _open_regular(path, "locked", create=True) as descriptor:
        if descriptor is not None:
            permissions.restrict_to_owner(descriptor, path)


def check_lock_file(path: Path) -> None:
    """Raise StorageError if the path cannot be a lock file. Changes nothing."""
    with _open_regular(path, "locked", silent=True):
        pass


@contextlib.contextmanager
def _open_regular(path: Path, action: str, *, silent: bool = False, create: bool = False) -> Iterator[int | None]:
    """Open the regular file after checking its owner; yields None if it does not exist.

    With `create`, a missing file is created, and an empty file of root's is given to the owner of the directory.
    """
    try:
        with Directory(path.parent) as directory:
            if not silent:
                permissions.warn_if_exposed(directory)
            # O_NONBLOCK, so that opening a FIFO cannot block
            flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
            try:
                descriptor = directory.open(path.name, flags)
            except FileNotFoundError:
                if not create:
                    raise
                descriptor = directory.open(path.name, flags | os.O_CREAT)
            if create:
                directory.give_to_owner(descriptor)
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise storage_error(path, action, error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file(path)
        permissions.check_owner(status, path, silent=silent)
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    content = b""
    while len(content) <= MAX_FILE and (part := os.read(descriptor, MAX_FILE + 1)):
        content += part
    return content


def file_version(path: str) -> object:
    """Return a value that changes when the file is replaced, created or removed. Raises nothing.

    A file that has just been changed gets a different value on each call: it may change again within the same tick of
    the file system's clock, and with the same inode number.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 - twice as fast as Path, and called for each request
    except FileNotFoundError:
        return ()
    except (OSError, ValueError):
        return None
    if abs(time.time_ns() - status.st_mtime_ns) < _CLOCK_TICK:
        return object()
    return status.st_mtime_ns, status.st_ino, status.st_size


def directory_entries(directory: Path) -> list[tuple[str, float]]:
    """Names and modification times (seconds since 1970); empty without the directory. Raises StorageError."""
    names = []
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # removed in the meantime
                    names.append((entry.name, entry.stat(follow_symlinks=False).st_mtime))
    except FileNotFoundError:
        return []
    except OSError as error:
        hint = "Fix the cause, or set NOTION_OAUTH_TOKEN_FILE to another path."
        raise StorageError(f"{directory} could not be listed: {error.strerror}.", hint=hint) from None
    return names


def write_file(path: Path, content: bytes, *, remove_abandoned: bool = True) -> None:
    """Replace the file's content atomically: temporary file, fsync, rename, fsync of the directory.

    A crash at any time leaves either the old content or the new. Ends a reservation. Raises StorageError; the old
    content is then unchanged. `remove_abandoned` removes the temporary files of killed writers, and lists the directory
    for that.
    """
    if len(content) > MAX_FILE:
        raise StorageError(f"{path} was not written: {len(content)} bytes are more than the limit of {MAX_FILE}.")
    with _open_for_writing(path, remove_abandoned=remove_abandoned) as directory:
        temporary = _write_temporary(directory, path.name, content)
        try:
            directory.replace(temporary, path.name)
        except OSError:
            _remove(directory, temporary)
            raise
        _remove(directory, path.name + RESERVED)
        directory.sync()


def create_file(path: Path, content: bytes, *, remove_abandoned: bool = True) -> bool:
    """Create the file atomically unless it exists. Returns whether this call created it.

    Raises StorageError. For `remove_abandoned`, see `write_file`.
    """
    with _open_for_writing(path, remove_abandoned=remove_abandoned) as directory:
        temporary = _write_temporary(directory, path.name, content)
        try:
            directory.link(temporary, path.name)
        except FileExistsError:
            return False
        finally:
            _remove(directory, temporary)
        directory.sync()
    return True


def delete_file(path: Path, *, remove_abandoned: bool = True) -> bool:
    """Remove the file, its temporary files and its reservation. Returns whether it existed. Raises StorageError."""
    _check_not_link(path)
    try:
        with Directory(path.parent) as directory:
            if remove_abandoned:
                _remove_abandoned(directory, path.name, older_than=0)
            _remove(directory, path.name + RESERVED)
            directory.unlink(path.name)
            directory.sync()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise storage_error(path, "deleted", error) from None
    return True


def ensure_writable(path: Path, *, size: int) -> None:
    """Write a temporary file of `size` bytes next to this one, and delete it.

    Raises StorageError if that fails, or if the file system assigns the new file to another owner.
    """
    _check_not_mounted(path)
    with _open_for_writing(path) as directory:
        temporary = _write_temporary(directory, path.name, bytes(size))
        try:
            status = directory.lstat(temporary)
        except FileNotFoundError:
            return  # another process signed out and removed it
        _remove(directory, temporary)
    permissions.check_owner(status, path)  # some file systems assign another owner: report it before the sign-in


def reserve_file(path: Path, marker: bytes, *, size: int) -> None:
    """Reserve what the next `replace_with_reserved` needs: disk space, a writable directory, the rename.

    The reservation is a file next to `path` that starts with `marker`. It stays if this process is killed. Raises
    StorageError.
    """
    _check_not_mounted(path)
    with _open_for_writing(path, remove_abandoned=False) as directory:
        name = path.name + RESERVED
        _remove(directory, name)
        _write_new(directory, name, directory.open(name, _CREATE), marker.ljust(size), owner_of=path.name)
        status = directory.lstat(name)
        directory.sync()
    permissions.check_owner(status, path)


def read_reserved(path: Path) -> bytes | None:
    """Return what the reservation of a file contains; None if there is none. Raises StorageError."""
    content = read_file(path.with_name(path.name + RESERVED), bytes)
    return None if content is None else content.strip()


def delete_reserved(path: Path) -> None:
    """Delete the reservation of a file, if there is one. Raises StorageError."""
    delete_file(path.with_name(path.name + RESERVED), remove_abandoned=False)


def replace_with_reserved(path: Path, content: bytes) -> None:
    """Replace the file's content as `write_file` does, in the space that `reserve_file` has reserved.

    Raises StorageError. If the content could be written but the file could not be replaced, the reservation then holds
    the content. If something else is in its place, that is replaced by a new file, and not written to.
    """
    if len(content) > MAX_FILE:
        raise StorageError(f"{path} was not written: {len(content)} bytes are more than the limit of {MAX_FILE}.")
    with _open_for_writing(path, remove_abandoned=False) as directory:
        name = path.name + RESERVED
        with open(_open_reserved(directory, name, owner_of=path.name), "wb") as file:
            # Written over the reserved bytes and cut to length afterwards, so that no space is released in between
            file.write(content)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        directory.replace(name, path.name)
        directory.sync()


def _check_not_mounted(path: Path) -> None:
    """Raise StorageError if the file is a mount point, as with `docker -v FILE:FILE`: it cannot be replaced."""
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes()
        real = os.path.realpath(path)
    except (OSError, ValueError):
        return  # no Linux: there are no such mounts
    points = (re.sub(rb"\\([0-7]{3})", _octal, line.split(b" ")[4]) for line in mounts.splitlines())
    if os.fsencode(real) in points:
        raise StorageError(
            f"{path} is a mount point, so it cannot be replaced by a new file.",
            hint="Mount its directory instead. If it is a read-only secret, copy it to a writable directory first.",
        )


def _octal(escaped: re.Match[bytes]) -> bytes:
    return bytes([int(escaped[1], 8)])


@contextlib.contextmanager
def _open_for_writing(path: Path, *, remove_abandoned: bool = True) -> Iterator[Directory]:
    """Open the directory of the file, and create it if it is missing."""
    _check_not_link(path)
    try:
        make_directory(path.parent)
        with Directory(path.parent) as directory:
            permissions.warn_if_exposed(directory)
            if remove_abandoned:
                _remove_abandoned(directory, path.name, older_than=_ABANDONED_AFTER)
            yield directory
    except OSError as error:
        raise storage_error(path, "written", error) from None


def _write_temporary(directory: Directory, name: str, content: bytes) -> str:
    """Write and sync a temporary file, and return its name. Removes the file if that fails."""
    descriptor, temporary = _new_file(directory, name)
    _write_new(directory, temporary, descriptor, content, owner_of=name)
    return temporary


def _write_new(directory: Directory, name: str, descriptor: int, content: bytes, *, owner_of: str) -> None:
    """Write and sync a file that was just created. Removes the file if that fails."""
    try:
        with open(descriptor, "wb") as file:
            permissions.keep_owner(file.fileno(), directory, owner_of)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        _remove(directory, name)
        raise


def _open_reserved(directory: Directory, name: str, *, owner_of: str) -> int:
    """Open the reservation for writing, or a new file if it was removed, or replaced by a link, a pipe or the like."""
    with contextlib.suppress(OSError):
        descriptor = directory.open(name, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
            return descriptor
        os.close(descriptor)
    _remove(directory, name)
    descriptor = directory.open(name, _CREATE)
    permissions.keep_owner(descriptor, directory, owner_of)
    return descriptor


def _new_file(directory: Directory, name: str) -> tuple[int, str]:
    while True:
        temporary = f"{name}.{os.urandom(4).hex()}.tmp"
        with contextlib.suppress(FileExistsError):  # used by another process, or a link that an attacker created
            return directory.open(temporary, _CREATE), temporary


def _remove(directory: Directory, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process may have removed it
        directory.unlink(name)


def _remove_abandoned(directory: Directory, name: str, *, older_than: float) -> None:
    """Remove the temporary files of killed writers if they are older, in seconds: they may contain tokens."""
    for entry in directory.names():
        if entry.startswith(name) and _TEMPORARY.fullmatch(entry, len(name)):
            with contextlib.suppress(OSError):  # already removed, or only another user may remove it
                if time.time() - directory.lstat(entry).st_mtime >= older_than:
                    directory.unlink(entry)


def _check_not_link(path: Path) -> None:
    """Raise StorageError if the path is a symbolic link: its target must be neither replaced nor left behind."""
    if os.path.islink(path):  # noqa: PTH114 - Path.is_symlink raises if the directory is not searchable
        raise _is_link(path)


_MOVE_HINT = "Nothing was changed. Move it away, or set NOTION_OAUTH_TOKEN_FILE to another path."
_LINK_HINT = "Remove the link, or set NOTION_OAUTH_TOKEN_FILE to the real file."
_KUBERNETES_HINT = (
    "New tokens cannot be stored in a mounted Kubernetes secret. Let an init container copy it to a writable volume, "
    "and set NOTION_OAUTH_TOKEN_FILE to the copy (docs/deploying.md)."
)


def _is_link(path: Path) -> StorageError:
    hint = _KUBERNETES_HINT if permissions.is_kubernetes_mount(path) else _LINK_HINT
    return StorageError(f"{path} is a symbolic link. Secrets are not stored behind symbolic links.", hint=hint)


def _not_a_file(path: Path) -> StoreDamaged:
    return StoreDamaged(f"{path} is not a regular file.", hint=_MOVE_HINT)


def storage_error(path: Path, action: str, error: OSError) -> StorageError:
    """Return the error of an access to the file. `action` completes "could not be ..." in the message."""
    if isinstance(error, IsADirectoryError):
        return _not_a_file(path)
    if error.errno == errno.ELOOP and os.path.islink(path):  # noqa: PTH114 - as above
        return _is_link(path)
    if isinstance(error, PermissionError) and (denied := permissions.denied_by_owner(path)) is not None:
        return denied
    reason = error.strerror or type(error).__name__
    hint = "The stored data was not changed. Fix the cause, or set NOTION_OAUTH_TOKEN_FILE to another path."
    return StorageError(f"{path} could not be {action}: {reason}.", hint=hint)
