"""Whom a file with secrets is open to: its mode, its owner, and who may put another in its place.

Windows keeps that in other ways, and by default each user's files apart: there, nothing is asked or changed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from notion_oauth.errors import StorageError
from notion_oauth.files.directories import Directory
from notion_oauth.files.protection import Weakness

OWNER_ALONE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_UNLESS_ROOTS = stat.S_IWGRP | stat.S_IRWXO  # a file that root gives to our group to read is in order
MOST_SAID = 1024
_said: set[tuple[str, str]] = set()  # each thing once in a process, however often the file is read


def check_owner(found: os.stat_result, path: Path, *, silent: bool = False) -> None:
    """Raise StorageError for a file of somebody else, who could put any login there, and read ours.

    What root owns is in order, unless others may read or change it. Root itself may use anybody's file, as in a
    container it often has to: that is only said.
    """
    if os.name == "nt" or found.st_uid == os.geteuid():
        return
    if not os.geteuid():
        if found.st_uid != _sudo_uid() and not silent:
            _warn(path, f"{path} belongs to another user (uid {found.st_uid}), who can read and change it.")
        return
    if found.st_uid:
        reason = f"belongs to another user (uid {found.st_uid}), who could read and change what is kept in it"
    elif found.st_mode & _UNLESS_ROOTS:
        reason = f"belongs to root and is open to others (mode {stat.S_IMODE(found.st_mode):04o})"
    else:
        return
    raise StorageError(
        f"{path} {reason}.",
        hint=f'Nothing was changed. Take it over with: sudo chown "$(id -u)" "{path}" && chmod 600 "{path}", '
        "or set NOTION_OAUTH_TOKEN_FILE to another path.",
    )


def restrict_to_owner(descriptor: int, path: Path) -> None:
    """Take a file from all others that may open it, and say so once.

    One that has another name besides is left as it is until it is replaced: that name may be of another's file.
    """
    found = os.fstat(descriptor)
    if os.name == "nt" or not found.st_mode & _OTHERS or (os.geteuid() and not found.st_uid):
        return
    before = stat.S_IMODE(found.st_mode)
    with contextlib.suppress(OSError):  # what has become of it is looked at in any case: some file systems pretend
        if found.st_nlink == 1:
            os.fchmod(descriptor, before & OWNER_ALONE)
    after = stat.S_IMODE(os.fstat(descriptor).st_mode)
    what = "could not be taken from them" if after & _OTHERS else f"is mode {after:04o} now"
    _warn(
        path,
        f"{path} was open to other users (mode {before:04o}) and {what}. "
        "Whoever has read it knows what it holds: if that may be so, sign out and in again.",
    )


def warn_if_exposed(folder: Directory) -> None:
    """Say once where others may replace the files in the folder. Raises OSError."""
    if (who := folder.writable_by_others()) is not None:
        _warn(folder.path, _replaceable(folder.path, who))


def weakness(path: Path) -> Weakness | None:
    """What others may do with the file; None where nothing, or where there is none. Raises nothing."""
    if not os.path.lexists(path):
        return None
    return mode_weakness(path) or directory_weakness(path.parent)


def mode_weakness(path: Path) -> Weakness | None:
    """Whether others may open the file; None where not, or where there is none. Raises nothing."""
    try:
        found = os.lstat(path)
    except OSError:
        return None  # that is said by whoever reads it
    if os.name != "nt" and found.st_mode & _OTHERS and (found.st_uid or not os.geteuid()):
        mode = stat.S_IMODE(found.st_mode)
        return Weakness(f"Other users may open {path} (mode {mode:04o}).", f"Mend that with: chmod 600 {path}")
    return None


def directory_weakness(path: Path) -> Weakness | None:
    """Who may replace the files in a folder; None where nobody may, or there is none. Raises nothing."""
    try:
        with Directory(path) as folder:
            who = folder.writable_by_others()
    except (OSError, StorageError):
        return None
    return None if who is None else _replaceable(path, who)


def mode_of(path: Path) -> int | None:
    """The file's mode; None where there is no file, or the system has no modes."""
    try:
        return None if os.name == "nt" else stat.S_IMODE(os.lstat(path).st_mode)
    except OSError:
        return None


def keep_owner(descriptor: int, folder: Directory, name: str) -> None:
    """Give what is written with sudo in the place of a person's file to that person, who could not read it else."""
    if os.name == "nt" or os.geteuid() or (person := _sudo_uid()) is None:
        return
    with contextlib.suppress(FileNotFoundError):
        replaced = folder.lstat(name)
        if replaced.st_uid == person and stat.S_ISREG(replaced.st_mode):
            os.fchown(descriptor, replaced.st_uid, replaced.st_gid)


def _sudo_uid() -> int | None:
    """Whose command sudo runs as root: nobody else's files are given back to him, nor found in order."""
    given = os.environ.get("SUDO_UID", "")
    return int(given) if given.isascii() and given.isdigit() else None


def _replaceable(folder: Path, who: str) -> Weakness:
    whole = folder.absolute()
    return Weakness(
        f"What is kept in {whole} can be replaced by {who}.",
        f"Use another folder, or mend that with: chmod go-w {whole}",
    )


def _warn(path: Path, message: str) -> None:
    import logging  # noqa: PLC0415 - a command that has nothing to warn of needs none

    if (str(path), message) not in _said:
        if len(_said) >= MOST_SAID:
            _said.clear()  # better twice than a memory without end: browser sessions have a file each
        _said.add((str(path), message))
        logging.getLogger(__name__).warning("%s", message)
