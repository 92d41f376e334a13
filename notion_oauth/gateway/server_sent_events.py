"""Server-sent events (WHATWG HTML §9.2), as bytes."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from notion_oauth.gateway.jsonrpc import one_line

SHORTEST_RETRY, LONGEST_RETRY = 200, 30_000  # milliseconds
MAX_RETRY_DIGITS = 9
MAX_EVENT = 64 * 1024 * 1024  # bytes


class EventTooLarge(ValueError):
    """An event of more than MAX_EVENT bytes."""


@dataclass(frozen=True, slots=True)
class Event:
    """One message of the server. `data` is empty in an event that only tells its id.

    `retry` is in milliseconds. `status` is that of the HTTP response, for a message that is its whole body.
    """

    data: bytes = b""
    id: bytes | None = None
    retry: int | None = None
    status: int = 200
    final: bool = False  # the last one, such as the response to the request
    local: bool = False  # made by the gateway

    def encode(self) -> bytes:
        """Return the event as a server sends it."""
        lines = [] if self.id is None else [b"id: " + self.id]
        if self.retry is not None:
            lines.append(b"retry: %d" % self.retry)
        lines.append(b"data: " + one_line(self.data))
        return b"\n".join([b"event: message", *lines, b"", b""])


class EventParser:
    """Reads a stream of events in pieces of any size."""

    def __init__(self) -> None:
        self._line: list[bytes] = []  # the parts of the incomplete line
        self._size = 0
        self._at_start = True
        self._skip_newline = False  # the last piece ended with a carriage return
        self._start_event()

    def _start_event(self) -> None:
        self._data: list[bytes] = []
        self._id: bytes | None = None
        self._retry: int | None = None
        self._has_data = False

    def feed(self, piece: bytes) -> list[Event]:
        """Return the events that this piece completes. Raises EventTooLarge."""
        if self._at_start:
            self._at_start = False
            piece = piece.removeprefix(codecs.BOM_UTF8)
        if self._skip_newline and piece.startswith(b"\n"):
            piece = piece[1:]
        self._skip_newline = piece.endswith(b"\r")
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self._size += len(piece)
        if self._size > MAX_EVENT:
            raise EventTooLarge(f"The server sent an event of more than {MAX_EVENT // 1024 // 1024} MiB.")
        self._line.append(piece)
        if b"\n" not in piece:
            return []
        *lines, rest = b"".join(self._line).split(b"\n")
        self._line = [rest]
        return [event for line in lines if (event := self._read_line(line)) is not None]

    def _read_line(self, line: bytes) -> Event | None:
        if not line:
            return self._end_event()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._has_data = True
            self._data.append(value)
        elif name == b"id" and b"\0" not in value:
            self._id = value
        elif name == b"retry" and value.isdigit() and len(value) <= MAX_RETRY_DIGITS:
            self._retry = min(max(int(value), SHORTEST_RETRY), LONGEST_RETRY)
        return None

    def _end_event(self) -> Event | None:
        event = None
        if self._has_data or self._id is not None or self._retry is not None:
            event = Event(b"\n".join(self._data), self._id, self._retry)
        self._size = 0
        self._start_event()
        return event
