"""Find the process that listens on a port of this machine, on systems that say so (Linux)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_PROC = Path("/proc")
_LISTENING = "0A"  # the state in the kernel's table of sockets (proc_pid_net(5))


@dataclass(frozen=True)
class PortHolder:
    """The process that listens on a port. `name` is its program: its arguments may contain secrets."""

    pid: int
    name: str
    is_gateway: bool

    def __str__(self) -> str:
        return f"process {self.pid} ({'notion-oauth mcp serve' if self.is_gateway else self.name})"


def find_port_holder(port: int) -> PortHolder | None:
    """Return the process that listens on the port; None if none does, or the system does not say. Raises nothing."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(_PROC / "net" / table, port)}
    for process in _PROC.glob("[0-9]*") if sockets else ():
        try:
            if any(str(each.readlink()) in sockets for each in (process / "fd").iterdir()):
                words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                is_gateway = ("mcp", "serve") in pairwise(words)
                return PortHolder(int(process.name), (process / "comm").read_text().strip(), is_gateway)
        except OSError:  # it has ended, or belongs to another user
            continue
    return None


def _listening(table: Path, port: int) -> list[str]:
    """The inodes of the sockets that listen on the port."""
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    # Number, local address, remote address, state, queues, timer, retransmits, uid, timeout, inode
    return [row[9] for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port]
