"""Read lines from standard input in an event loop.

No thread waits for input, so that none can delay the end of the process. Never a byte more than one line is read: the
rest belongs to the next reader, such as the shell.
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

MAX_LINE = 65536  # characters; the rest of a longer line is dropped
POLL_INTERVAL = 1.0  # seconds between checks whether a shell has stopped or continued this process
_END_OF_TRANSMISSION = b"\x04"  # Ctrl-D
_ESCAPE_SEQUENCE = re.compile(r"\x1b(?:[^\[O]|[\[O].*[@-~])")  # sent by arrow keys and similar
_ERASE = "\b \b"


class LineEditor:
    """A line while the user types or pastes it, and its echo, in which the value of `code` is masked.

    What a terminal has shown stays in its scrollback and in recordings, where other people may read it, and a code
    that is used twice can end the grant (RFC 6749 §4.1.2). The rest is shown, so that the user can check the paste.
    """

    def __init__(self) -> None:
        self.text = ""
        self._escape_sequence = ""

    def feed(self, character: str) -> str:
        """Process one character; returns the text to echo for it. Escape sequences are ignored."""
        if self._escape_sequence or character == "\x1b":
            sequence = self._escape_sequence + character
            self._escape_sequence = "" if _ESCAPE_SEQUENCE.fullmatch(sequence) else sequence
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


class LineReader:
    """Reads lines from a file descriptor in an event loop. As a context manager, restores the terminal's settings.

    The terminal's own line editing is turned off meanwhile: it would cut lines at 4096 bytes, on macOS at 1024.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pollable = True
        self.is_terminal = os.isatty(descriptor)
        self._original = termios.tcgetattr(descriptor) if self.is_terminal else None

    def __enter__(self) -> LineReader:
        self._disable_line_editing()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._original is not None and self._in_foreground():
            self._set(self._original)

    async def read_line(self) -> str | None:
        """Return the next line without its line end; None at the end of the input."""
        line, decoder = LineEditor(), codecs.getincrementaldecoder("utf-8")(errors="replace")
        while True:
            byte = await self._read_byte()
            if not byte or (self.is_terminal and byte == _END_OF_TRANSMISSION):
                return line.text or None
            if byte == b"\n":
                self._echo("\n")
                return line.text
            for character in decoder.decode(byte):
                self._echo(line.feed(character))

    async def _read_byte(self) -> bytes:
        try:
            while not await self._ready():
                pass
            return os.read(self._descriptor, 1)
        except OSError:  # the terminal was closed
            return b""

    async def _ready(self) -> bool:
        """Wait up to POLL_INTERVAL for input that this process may read."""
        if not self._in_foreground():
            await anyio.sleep(POLL_INTERVAL)
            return False
        self._disable_line_editing()
        with anyio.move_on_after(POLL_INTERVAL if self.is_terminal else None):
            return await self._wait_readable()
        return False

    def _disable_line_editing(self) -> None:
        if self._original is not None and self._in_foreground():
            *others, local, ispeed, ospeed, characters = self._original
            self._set([*others, local & ~(termios.ICANON | termios.ECHO), ispeed, ospeed, characters])

    async def _wait_readable(self) -> bool:
        if self._pollable:
            try:
                await anyio.wait_readable(self._descriptor)
            except PermissionError:  # epoll rejects regular files and /dev/null; reading those never blocks
                self._pollable = False
        await checkpoint()
        return True

    def _in_foreground(self) -> bool:
        """Return whether this process may read: a background job that reads from its terminal is stopped."""
        try:
            return not self.is_terminal or os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:
            return True  # a terminal of another session has no jobs of this shell

    def _set(self, attributes: list[Any]) -> None:
        """Use TCSANOW: the other modes wait for output, which may be blocked, or discard input typed ahead."""
        with contextlib.suppress(termios.error):  # the terminal was closed
            if termios.tcgetattr(self._descriptor) != attributes:
                termios.tcsetattr(self._descriptor, termios.TCSANOW, attributes)

    def _echo(self, text: str) -> None:
        """Write to the terminal itself, so that no log captures it. A read-only descriptor shows nothing."""
        if self.is_terminal and text:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, text.encode())


def open_standard_input(*, pipes: bool) -> LineReader | None:
    """Return a reader of standard input if it is a terminal or, with `pipes`, anything else; None if it cannot be read.

    None on Windows, whose event loops cannot wait for standard input.
    """
    if sys.platform == "win32":
        return None
    try:
        source = LineReader(sys.stdin.fileno())  # sys.stdin is None if closed: descriptor 0 is then an unrelated file
    except (AttributeError, OSError, ValueError, termios.error):
        return None
    return source if source.is_terminal or pipes else None
