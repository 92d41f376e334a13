"""Permissions of secret files: the mode, the owner, and which other users may replace the file.

Windows has other permissions, which separate users by default: there, nothing is checked or changed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
from pathlib import Path

from notion_oauth.errors import Hint, StorageError, WarningWithHint, escape
from notion_oauth.files.directories import Directory

OWNER_ONLY = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_UNSAFE_FOR_ROOT_FILE = stat.S_IWGRP | stat.S_IRWXO  # root may let this user's group read its file
MAX_LOGGED = 1024
_logged: set[tuple[str, str]] = set()  # each warning is logged once per process, however often the file is read


def check_owner(status: os.stat_result, path: Path, *, silent: bool = False) -> None:
    """Raise StorageError for a file of another user, who could read the login or replace it.

    A file of root is accepted unless other users may read or change it. Root may use the files of all users, as is
    often necessary in a container; this only logs a warning, unless `silent`.
    """
    if os.name == "nt" or status.st_uid == os.geteuid():
        return
    if not os.geteuid():
        if status.st_uid != sudo_uid() and not silent:
            _warn(path, f"{path} belongs to another user (uid {status.st_uid}), who can read and change it.")
        return
    if status.st_uid:
        reason = f"belongs to another user (uid {status.st_uid}), who could read and change its content"
    elif status.st_mode & _UNSAFE_FOR_ROOT_FILE:
        reason = f"belongs to root and is open to other users (mode {stat.S_IMODE(status.st_mode):04o})"
    else:
        return
    raise StorageError(f"{path} {reason}.", hint=_take_over(path, 0o600))


def _take_over(path: Path, mode: int) -> Hint:
    quoted = shlex.quote(str(path))
    return Hint(
        "Nothing was changed. Set NOTION_OAUTH_TOKEN_FILE to another path, or make it yours",
        other_command=f'sudo chown "$(id -u)" {quoted} && chmod {mode:o} {quoted}',
    )


def denied_by_owner(path: Path) -> StorageError | None:
    """After access was denied: return the error if the file is another user's, or its directory is root's.

    A directory counts only if it is in a directory of this user, as one that was created with sudo. Raises nothing.
    """
    if os.name == "nt":
        return None
    path = path.absolute()
    for part in (path, *path.parents):
        try:
            status, above = os.lstat(part), os.lstat(part.parent)
        except (FileNotFoundError, PermissionError):
            continue  # look at the directory that it is in
        except OSError:
            return None
        if stat.S_ISREG(status.st_mode):
            if status.st_uid == os.geteuid():
                continue
            who = f"another user (uid {status.st_uid})" if status.st_uid else "root"
            return StorageError(f"{part} belongs to {who}.", hint=_take_over(part, 0o600))
        if stat.S_ISDIR(status.st_mode) and not status.st_uid and above.st_uid == os.geteuid():
            return StorageError(f"{part} belongs to root.", hint=_take_over(part, 0o700))
        return None
    return None


def restrict_to_owner(descriptor: int, path: Path) -> None:
    """Remove the permissions of all other users, and log a warning once.

    A file with a second hard link is not changed until it is replaced: the other name may belong to another user.
    """
    status = os.fstat(descriptor)
    if os.name == "nt" or not status.st_mode & _OTHERS or (os.geteuid() and not status.st_uid):
        return
    before = stat.S_IMODE(status.st_mode)
    with contextlib.suppress(OSError):  # the mode is read again below: some file systems ignore the change
        if status.st_nlink == 1:
            os.fchmod(descriptor, before & OWNER_ONLY)
    after = stat.S_IMODE(os.fstat(descriptor).st_mode)
    result = "Its mode was not changed." if after & _OTHERS else f"Its mode is now {after:04o}."
    _warn(
        path,
        f"Other users could open {path} (mode {before:04o}). {result} "
        "If another user may have read it, sign out and sign in again.",
    )


def warn_if_exposed(directory: Directory) -> None:
    """Log a warning once if other users may replace the files in the directory. Raises OSError."""
    if (who := directory.other_writers()) is not None:
        _warn(directory.path, _replaceable_weakness(directory.path, who))


def weakness(path: Path) -> WarningWithHint | None:
    """Return what other users may do with the file; None if nothing, or if it does not exist. Raises nothing."""
    if not os.path.lexists(path):
        return None
    return mode_weakness(path) or link_weakness(path) or directory_weakness(path.parent)


def mode_weakness(path: Path) -> WarningWithHint | None:
    """Return whether other users may open the file; None if not, or if it does not exist. Raises nothing."""
    try:
        status = os.stat(path)  # noqa: PTH116 - faster, and called for each use
    except OSError:
        return None  # reading the file reports the error
    if os.name != "nt" and status.st_mode & _OTHERS and (status.st_uid or not os.geteuid()):
        mode = stat.S_IMODE(status.st_mode)
        fix = Hint("Fix that", other_command=f"chmod 600 {shlex.quote(str(path))}")
        if is_kubernetes_mount(path):
            fix = Hint("Set defaultMode: 0400 for the volume.")
        return WarningWithHint(f"Other users may open {path} (mode {mode:04o}).", fix)
    return None


def link_weakness(path: Path) -> WarningWithHint | None:
    """Return whether the file has a second name; None if not, or if it does not exist. Raises nothing.

    Two programs that use one login by two names do not share a lock, and after the next save one has the old tokens.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return None
    if os.name == "nt" or not stat.S_ISREG(status.st_mode) or status.st_nlink == 1:
        return None
    top = next((part for part in path.absolute().parents if os.path.ismount(part)), path.absolute().parent)
    return WarningWithHint(
        f"{path} has another name (hard link). A program that uses the other name would end this login.",
        Hint(
            "Delete the other name. Find it",
            other_command=f"find {shlex.quote(str(top))} -xdev -samefile {shlex.quote(str(path))}",
        ),
    )


def warn_if_linked(path: Path) -> None:
    """Log a warning once if the file has a second name. Raises nothing."""
    if (found := link_weakness(path)) is not None:
        _warn(path, found)


def is_kubernetes_mount(path: Path) -> bool:
    """Return whether the file is from a mounted Kubernetes secret: a link that is replaced at each update."""
    try:
        return path.readlink().parts[0] == "..data"
    except OSError:
        return False


def directory_weakness(path: Path) -> WarningWithHint | None:
    """Return which users may replace files in a directory; None if no other user, or it is missing. Raises nothing."""
    try:
        with Directory(path) as directory:
            who = directory.other_writers()
    except (OSError, StorageError):
        return None
    return None if who is None else _replaceable_weakness(path, who)


def mode_of(path: Path) -> int | None:
    """Return the file's mode; None if the file does not exist or the system has no modes."""
    try:
        return None if os.name == "nt" else stat.S_IMODE(os.lstat(path).st_mode)
    except OSError:
        return None


def keep_owner(descriptor: int, directory: Directory, name: str) -> None:
    """As root: keep the user as the owner of a new file, so that the user can still read it.

    The user is the owner of the directory, or, in a directory of root's, the one who runs sudo and owns the file that
    is replaced.
    """
    directory.give_to_owner(descriptor)
    if os.name == "nt" or os.geteuid() or directory.owner() or (uid := sudo_uid()) is None:
        return
    with contextlib.suppress(FileNotFoundError):
        replaced = directory.lstat(name)
        if replaced.st_uid == uid and stat.S_ISREG(replaced.st_mode):
            os.fchown(descriptor, replaced.st_uid, replaced.st_gid)


def sudo_uid() -> int | None:
    """Return the user who runs the command through sudo; None without sudo."""
    value = os.environ.get("SUDO_UID", "")
    return int(value) if value.isascii() and value.isdigit() else None


def _replaceable_weakness(directory: Path, who: str) -> WarningWithHint:
    absolute = directory.absolute()
    return WarningWithHint(
        f"Files in {absolute} can be replaced by {who}.",
        Hint("Use another directory, or fix that", other_command=f"chmod go-w {shlex.quote(str(absolute))}"),
    )


def _warn(path: Path, message: str) -> None:
    import logging  # noqa: PLC0415 - imported only for a warning

    if (str(path), message) not in _logged:
        if len(_logged) >= MAX_LOGGED:
            _logged.clear()  # limits the memory, because each browser session has a file; a warning may then repeat
        _logged.add((str(path), message))
        logging.getLogger(__name__).warning("%s", escape(message))
