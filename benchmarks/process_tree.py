"""Processor time and memory of a process with all its descendants, from /proc (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def processor_seconds(pid: int) -> float:
    """Processor time of the tree, with that of children that have ended, in the system's ticks of about 10 ms."""
    return sum(sum(int(value) for value in _stat(each)[11:15]) for each in _tree(pid)) / _TICKS


def resident_bytes(pid: int) -> int:
    return sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in _tree(pid)) * _PAGE


def children_of(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def _tree(pid: int) -> list[int]:
    tree = [pid]
    for each in tree:
        tree += children_of(each)
    return tree


def _stat(pid: int) -> list[str]:
    """The fields from the third one on, which follow the name."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
