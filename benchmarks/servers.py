"""An application in a separate uvicorn process on loopback, and the processor time of that process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import child_environment

START_TIMEOUT = 60  # seconds
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    pid: int

    def processor_seconds(self) -> float:
        """Processor time of all its threads, in the system's ticks of about 10 ms."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_bytes(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE


@contextmanager
def serving(app: str, directory: Path, *options: str, **settings: str) -> Iterator[Server]:
    """Run `uvicorn APP` with these settings and one worker; its log is a file in `directory`. Raises RuntimeError."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), *options]
    with (directory / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, env=_environment(settings), stdout=log, stderr=log)
        try:
            wait_until_listening(process, port)
            yield Server(port, process.pid)
        finally:
            process.terminate()
            process.wait()


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    return {**child_environment(), **{f"NOTION_OAUTH_{name.upper()}": value for name, value in settings.items()}}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("a server did not start")
