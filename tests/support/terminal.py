"""Run a program in a pseudo-terminal, read its screen and type into it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMEOUT = 30  # seconds after which a test has failed
# A session with this controlling terminal, like that of a shell: for Ctrl-C and job control
_IN_SESSION = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """Runs a command in a pseudo-terminal, with all three streams by default."""

    def __init__(self, *command: str, cwd: Path, env: Mapping[str, str], **streams: Any) -> None:
        self.screen = ""
        self._master, self._slave = pty.openpty()
        self.before = termios.tcgetattr(self._slave)
        streams = {"stdin": self._slave, "stdout": self._slave, "stderr": self._slave, **streams}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_SESSION, *command], cwd=cwd, env=env, start_new_session=True, **streams
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(TIMEOUT)
        os.close(self._master)
        os.close(self._slave)

    def type(self, text: str) -> None:
        """Type the text as fast as the program reads it; `\\r` is the Enter key."""
        rest = text.encode()
        while rest:
            _, writable, _ = select.select([], [self._master], [], TIMEOUT)
            assert writable, f"the program reads no more; its screen:\n{self.screen}"
            rest = rest[os.write(self._master, rest[:512]) :]
            self._look(0)

    def see(self, text: str) -> str:
        """Wait until the screen shows the text; returns the output up to its end, and keeps the rest."""
        while text not in self.screen:
            assert self._look(TIMEOUT), f"{text!r} is not on the screen:\n{self.screen}"
        shown, _, self.screen = self.screen.partition(text)
        return shown + text

    def end(self) -> int:
        """Wait until the program ends; returns its exit code."""
        code = self.process.wait(TIMEOUT)
        while self._look(0):
            pass
        return code

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def _look(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], seconds)[0]:
            return False
        self.screen += os.read(self._master, 65536).decode(errors="replace")
        return True
