"""Send the same request again and again, from a separate process: `python -m benchmarks.requests JSON`.

It uses sockets and a selector, not an HTTP library: a request costs this process a tenth of what it costs a server in
Python, so mainly the server is measured.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import sys
import time
from typing import Any

from benchmarks.children import measure

CONNECTIONS = 16
TIME_LIMIT = 120  # seconds for one turn
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


def send_requests(port: int, requests: int, **headers: str) -> float:
    """Request the status this many times from a new process, over 16 connections. Returns the seconds that it took.

    Raises RuntimeError for any answer but 200.
    """
    return float(measure("benchmarks.requests", TIME_LIMIT, port=port, requests=requests, headers=headers))


def request_bytes(port: int, headers: dict[str, str]) -> bytes:
    """The request as bytes."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in {"Host": f"127.0.0.1:{port}", **headers}.items()]
    return "\r\n".join(["GET /auth/status HTTP/1.1", *lines, "", ""]).encode()


def run(port: int, requests: int, headers: dict[str, str]) -> float:
    request = request_bytes(port, headers)
    with selectors.DefaultSelector() as selector:
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ, bytearray())
        started = time.perf_counter()
        for connection in connections:
            connection.sendall(request)
        unsent, pending = requests - len(connections), requests
        while pending:
            for key, _ in selector.select():
                if not _complete(key):
                    continue
                pending -= 1
                if unsent > 0:
                    unsent -= 1
                    key.fileobj.sendall(request)  # type: ignore[union-attr]
        seconds = time.perf_counter() - started
        for connection in connections:
            connection.close()
    return seconds


def _complete(key: selectors.SelectorKey) -> bool:
    """Read available data; whether the answer is complete."""
    connection, answer = key.fileobj, key.data
    received = connection.recv(65536)  # type: ignore[union-attr]
    if not received:
        raise RuntimeError("the server closed a connection")
    answer += received
    head = answer.find(b"\r\n\r\n")
    length = _LENGTH.search(answer, 0, head) if head >= 0 else None
    if length is None or len(answer) < head + 4 + int(length[1]):
        return False
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"the server answered {answer[:12].decode()}")
    answer.clear()
    return True


if __name__ == "__main__":
    command: dict[str, Any] = json.loads(sys.argv[1])
    print(run(command["port"], command["requests"], command["headers"]))
