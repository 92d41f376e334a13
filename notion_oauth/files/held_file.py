"""A second lock, on the token file itself: it excludes others even if somebody deletes the lock file."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from pathlib import Path

import filelock

_FLAGS = os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)


class HeldFile:
    """A kernel lock on a file that may exist. Released when this process dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        _INSTANCES.add(self)

    def acquire(self) -> bool:
        """Lock the file. False if another process has locked it; True also if there is no file that can be opened."""
        if os.name == "nt":
            return True  # Windows does not delete a lock file in use, and its locks would keep others from reading
        try:
            descriptor = os.open(self._path, _FLAGS)
        except OSError:
            return True
        try:
            locked = filelock.lock_descriptor(descriptor, blocking=False) and self._is_same(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if locked:
            self._descriptor = descriptor
        else:
            os.close(descriptor)
        return locked

    def _is_same(self, descriptor: int) -> bool:
        """Return whether the path still names the file: it may have been replaced before it was locked."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.lstat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Unlock the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                filelock.unlock_descriptor(descriptor)  # not only closed: a forked child may have a copy
            os.close(descriptor)

    def close_in_child(self) -> None:
        """After a fork: close the child's copy, which would keep the lock if this process dies."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


_INSTANCES: weakref.WeakSet[HeldFile] = weakref.WeakSet()


def _close_in_child() -> None:
    for instance in list(_INSTANCES):
        instance.close_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
