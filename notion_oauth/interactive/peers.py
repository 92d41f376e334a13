"""Refuse requests of other users of this machine, on Linux: each of them can connect to a loopback port.

The kernel lists the sockets of both ends of a loopback connection, with their owners (proc_pid_net(5)).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

import anyio
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from notion_oauth import pages
from notion_oauth.files.permissions import sudo_uid

TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_ATTEMPTS = 3  # a table that changes while it is read may lack a socket
_PAUSE = 0.05  # seconds
_MAPPED = b"\0" * 10 + b"\xff\xff"  # before an IPv4 address that an IPv6 socket uses (RFC 4291 §2.5.5.2)

Address = tuple[str, int]


def owner_of_connection(client: Address, server: Address, tables: Sequence[Path] = TABLES) -> int | None:
    """Return the uid of the user who has opened the connection; None if the client has no open socket for it.

    Raises OSError if the first table cannot be read.
    """
    for number, table in enumerate(tables):
        try:
            rows = table.read_text()
        except OSError:
            if number:
                continue  # there is no table of IPv6 sockets if the kernel has no IPv6
            raise
        start = rows.find(f" {_written(client, mapped=number > 0)} {_written(server, mapped=number > 0)} ")
        if start >= 0:
            # Addresses, state, queues, timer, retransmits, uid, timeout, inode. A socket that its program has closed
            # has no inode, and on older kernels uid 0
            row = rows[start:].split(maxsplit=9)
            return None if row[8] == "0" else int(row[6])
    return None


def _written(address: Address, *, mapped: bool) -> str:
    """Return an address as the tables have it: each 32-bit word as a number of this machine, and the port."""
    ip = ip_address(address[0])
    packed = _MAPPED + ip.packed if mapped and ip.version == 4 else ip.packed
    words = (int.from_bytes(packed[start : start + 4], sys.byteorder) for start in range(0, len(packed), 4))
    return f"{''.join(f'{word:08X}' for word in words)}:{address[1]:04X}"


async def is_own(client: Address, server: Address, tables: Sequence[Path] = TABLES) -> bool:
    """Return whether the connection is from a program of this user, of root, or of the user who runs sudo.

    True if the system does not say.
    """
    own = {0, os.geteuid(), *(() if os.geteuid() else (sudo_uid(),))}
    for attempt in range(_ATTEMPTS):
        if attempt:
            await anyio.sleep(_PAUSE)
        try:
            owner = owner_of_connection(client, server, tables)
        except OSError:
            return True
        if owner is not None:
            return owner in own
    return False


def own_user_only(app: ASGIApp) -> ASGIApp:
    """Return the application, which gets no request of another user: these are answered with 403."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        accepted = scope["type"] != "http" or await is_own(scope["client"], scope["server"])
        await (app if accepted else _refused())(scope, receive, send)

    return checked


def _refused() -> Response:
    return pages.error_page(
        "Another user of this machine sent this request, so it does not count.",
        "If you started this sign-in, paste the URL of this page in the terminal.",
        status=403,
    )
