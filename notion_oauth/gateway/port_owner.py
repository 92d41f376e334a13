"""Find the process that listens on a port, on systems that report it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from notion_oauth.errors import escape

_LISTENING = "0A"  # a state of sockets (proc_pid_net(5))


def port_owner(port: int) -> str | None:
    """The name and id of the process; None if Linux does not show it, and on other systems."""
    inodes = {f"socket:[{inode}]" for inode in _listening(port)}
    if not inodes:
        return None
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or belongs to another user
            if any(str(entry.readlink()) in inodes for entry in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {process.name} ({escape(command)[:200]})"
    return None


def _listening(port: int) -> set[str]:
    """The inodes of the sockets that listen on the port."""
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                row = line.split()
                if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port:
                    found.add(row[9])
    return found
