"""Lines from standard input while other things go on.

No thread waits for them, so that nothing holds the process up, and not a byte more is read than a line has: what
follows is for whoever reads next, such as the shell.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import sys
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

if sys.platform != "win32":
    import termios

MAX_LINE = 65536  # characters; what comes beyond is dropped
LOOK_AGAIN = 1.0  # seconds after which a terminal is looked at again: a shell may have stopped and continued us
_END_OF_TRANSMISSION = b"\x04"  # Ctrl-D
_KEY = re.compile(r"\x1b(?:[^\[O]|[\[O].*[@-~])")  # what an arrow and its like send
_ERASE = "\b \b"


class Line:
    """A line while it is typed or pasted, with what of it may be seen: all but the value of `code`.

    What a terminal has shown stays in its scrollback and in recordings, where others may find it, and a code that
    comes twice can cost the grant (RFC 6749 §4.1.2). A paste that is hidden as a whole could not be checked.
    """

    def __init__(self) -> None:
        self.text = ""
        self._key = ""

    def take(self, character: str) -> str:
        """Take a character in, or the key that it is a part of; returns what to show for it."""
        if self._key or character == "\x1b":
            self._key = "" if _KEY.fullmatch(self._key + character) else self._key + character
            return ""
        if character in "\b\x7f":
            return self._erase(self.text[-1:])
        if character == "\x15":  # Ctrl-U
            return self._erase(self.text)
        if not character.isprintable() or len(self.text) >= MAX_LINE:
            return ""
        shown = "*" if self._in_code() and character != "&" else character
        self.text += character
        return shown

    def _erase(self, end: str) -> str:
        self.text = self.text.removesuffix(end)
        return _ERASE * len(end)

    def _in_code(self) -> bool:
        start = self.text.rfind("code=")
        before = self.text[max(0, start - 1) : max(0, start)]
        return start >= 0 and not (before.isalnum() or before == "_") and "&" not in self.text[start:]


class StandardInput:
    """Reads lines in an event loop; as a context, gives a terminal back as it was.

    A terminal's own line editing is off meanwhile: it would cut lines at 4096 bytes, on macOS at 1024.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._waits = True
        self.is_terminal = os.isatty(descriptor)
        self._before = termios.tcgetattr(descriptor) if self.is_terminal else None

    def __enter__(self) -> StandardInput:
        self._prepare()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._before is not None and self._is_ours():
            self._set(self._before)

    async def line(self) -> str | None:
        """The next line without its end; None when there will be none."""
        line, decoder = Line(), codecs.getincrementaldecoder("utf-8")(errors="replace")
        while True:
            byte = await self._byte()
            if not byte or (self.is_terminal and byte == _END_OF_TRANSMISSION):
                return line.text or None
            if byte == b"\n":
                self._show("\n")
                return line.text
            for character in decoder.decode(byte):
                self._show(line.take(character))

    async def _byte(self) -> bytes:
        try:
            while not await self._ready():
                pass
            return os.read(self._descriptor, 1)
        except OSError:  # the terminal has gone
            return b""

    async def _ready(self) -> bool:
        """Wait a while for input that we may read."""
        if not self._is_ours():
            await anyio.sleep(LOOK_AGAIN)
            return False
        self._prepare()
        with anyio.move_on_after(LOOK_AGAIN if self.is_terminal else None):
            return await self._readable()
        return False

    def _prepare(self) -> None:
        if self._before is not None and self._is_ours():
            *others, local, ispeed, ospeed, characters = self._before
            self._set([*others, local & ~(termios.ICANON | termios.ECHO), ispeed, ospeed, characters])

    async def _readable(self) -> bool:
        if self._waits:
            try:
                await anyio.wait_readable(self._descriptor)
            except PermissionError:  # epoll takes no file and no /dev/null, which keep nobody waiting
                self._waits = False
        await checkpoint()
        return True

    def _is_ours(self) -> bool:
        """Whether we may read: a terminal's input is for the job in the foreground, and stops all others."""
        try:
            return not self.is_terminal or os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            return True  # a terminal that is not our session's has no jobs of ours

    def _set(self, attributes: list[Any]) -> None:
        """At once: the other ways wait for output that may be held up, or throw away what was typed ahead."""
        with contextlib.suppress(termios.error):  # it has gone
            if termios.tcgetattr(self._descriptor) != attributes:
                termios.tcsetattr(self._descriptor, termios.TCSANOW, attributes)

    def _show(self, text: str) -> None:
        """On the terminal itself, so that no log gets it; one that was opened for reading alone shows nothing."""
        if self.is_terminal and text:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, text.encode())


def standard_input(*, pipes: bool) -> StandardInput | None:
    """Standard input, where it is a terminal, or with `pipes` anything else; None where there is none to read from.

    None on Windows too, where an event loop cannot wait for it.
    """
    if sys.platform == "win32":
        return None
    try:
        source = StandardInput(sys.stdin.fileno())  # None where it was closed: 0 is then a file of somebody else
    except (AttributeError, OSError, ValueError, termios.error):
        return None
    return source if source.is_terminal or pipes else None
