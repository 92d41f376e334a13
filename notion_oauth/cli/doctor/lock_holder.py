"""Find the process that holds a lock, on systems that report it."""

from __future__ import annotations

import os
import re
from pathlib import Path

# 1: FLOCK  ADVISORY  WRITE 1234 08:01:131 0 EOF (proc_locks(5)); the device is in hexadecimal
_LINE = re.compile(r"\S+: FLOCK +\S+ +WRITE +(\d+) +([0-9a-f]+):([0-9a-f]+):(\d+) ")


def lock_holder(path: Path) -> int | None:
    """The id of the process that holds the file's lock; None if Linux does not list it, and on other systems."""
    try:
        found, table = path.stat(), Path("/proc/locks").read_text()
    except OSError:
        return None
    for line in table.splitlines():
        if (match := _LINE.match(line)) is None:
            continue
        process, device = int(match[1]), (int(match[2], 16), int(match[3], 16))
        if device == (os.major(found.st_dev), os.minor(found.st_dev)) and int(match[4]) == found.st_ino:
            return process if process > 0 else None  # 0 or less: a process of another container
    return None
