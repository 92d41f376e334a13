"""Runs processes that die during a change to the store.

    python -m tests.process.chaos.crashes

Reads orders from standard input, one JSON document a line. For each it forks a process, which makes the `change` of
that name to the store in the directory `site`:

- `{"call": 3, "when": "before", …}` kills itself (SIGKILL) immediately before the third call to the operating system
  during the change, or after it. Calls of `posix` functions and of methods of open files count, wherever they are
  made: Python's profiler reports all of them, so this module needs no list.
- `{"limit": 300, …}` is killed by the kernel (SIGXFSZ) when it writes a file beyond its 300th byte.
- `{"wait": true, …}` writes a line before it starts, and starts when it reads a byte.
- `{"in_place": true, …}` writes files in place, to show that the test detects this.

The reply to each is `{"signal": …, "call": …}` when the process has ended: the signal that killed it, or 0 if it
completed. A killed process still holds the store's lock.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import anyio
import anyio.to_thread
from pydantic import SecretStr

from notion_oauth.files import atomic
from notion_oauth.files.encryption import Encryption
from tests.process.chaos.changes import CHANGES, NAME, NEW_KEY

UNCOUNTED = frozenset({"fspath", "getpid"})  # they change nothing


class Killer:
    """Counts calls to the operating system, and kills the process at one of them."""

    def __init__(self, call: int, when: str, note: int) -> None:
        self._call, self._note = call, note
        self._events = ("c_call",) if when == "before" else ("c_return", "c_exception")
        self._count = 0

    def __call__(self, frame: Any, event: str, function: Any) -> None:
        if event in self._events and (name := _name(function)):
            self._count += 1
            if self._count == self._call:
                os.write(self._note, name.encode())
                os.kill(os.getpid(), signal.SIGKILL)


def _name(function: Any) -> str | None:
    """The name of the call; None for one that does not reach the operating system."""
    if getattr(function, "__module__", None) in (os.open.__module__, "_io", "io", "fcntl"):
        return None if function.__name__ in UNCOUNTED else str(function.__qualname__)
    return str(function.__qualname__) if isinstance(getattr(function, "__self__", None), io.IOBase) else None


async def _in_this_thread(function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
    """Replaces anyio.to_thread.run_sync: the profiler watches this thread, and the process may fork."""
    return function(*arguments)


async def _make(order: dict[str, Any], note: int) -> None:
    if order.get("in_place"):
        atomic.write_file = write_in_place
    change = CHANGES[order["change"]]
    store = change.store(Path(order["site"]) / NAME)
    async with store.exclusive("default") as hold:
        if "call" in order:
            sys.setprofile(Killer(order["call"], order["when"], note))
        elif "limit" in order:
            sys.dont_write_bytecode = True  # it would be cut at the limit
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["limit"],) * 2)
        elif order.get("wait"):
            _reply({"pid": os.getpid()})
            os.read(0, 1)
        await change.make(hold)
        sys.setprofile(None)
        os._exit(0)


def _run(order: dict[str, Any], note: int) -> NoReturn:
    try:
        anyio.run(_make, order, note)
    finally:
        os._exit(99)  # an exception has been printed


def _execute(order: dict[str, Any]) -> dict[str, Any]:
    reader, note = os.pipe()
    child = os.fork()
    if not child:
        _run(order, note)
    os.close(note)
    _, status = os.waitpid(child, 0)
    with open(reader, "rb") as notes:  # noqa: PTH123 - a descriptor has no Path
        call = notes.read().decode()
    code = os.waitstatus_to_exitcode(status)
    return {"signal": -code, "call": call}


def _reply(document: dict[str, Any]) -> None:
    os.write(1, json.dumps(document).encode() + b"\n")


def write_in_place(path: Path, content: bytes, *, remove_abandoned: bool = True) -> None:
    """How a file must not be written: the crash test has to detect it."""
    path.write_bytes(content)
    path.chmod(0o600)


def main() -> None:
    anyio.to_thread.run_sync = _in_this_thread  # type: ignore[assignment]
    anyio.run(anyio.sleep, 0)  # imports what an event loop needs, once for all children
    Encryption(SecretStr(NEW_KEY)).encrypt(b"", bound_to="default/login")  # the same for encryption
    with open(0, "rb", buffering=0) as orders:  # unbuffered: the next byte may be for a child
        for order in orders:
            _reply(_execute(json.loads(order)))


if __name__ == "__main__":
    main()
