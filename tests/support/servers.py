"""Servers and proxies on loopback that record their connections: real sockets, real TLS, the authority of the tests."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trustme

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Visitors:
    """What a server has received: connections, heads of requests, names from TLS (SNI)."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.heads: list[str] = []
        self.names: list[str | None] = []


@contextmanager
def listening(
    serve: Callable[[Visitors, socket.socket], None], *, address: str = "127.0.0.1", port: int = 0
) -> Iterator[Visitors]:
    """Accept connections until the block ends, each in a separate thread."""
    seen = Visitors()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as listener:
        seen.port = listener.getsockname()[1]

        def one(connection: socket.socket) -> None:
            connection.settimeout(10)
            with connection, contextlib.suppress(OSError):
                serve(seen, connection)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    seen.connections += 1
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield seen
        with contextlib.suppress(OSError):  # ends accept()
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def head_of(connection: socket.socket) -> str:
    """The request line and headers, up to the empty line."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        if not part:
            raise OSError
        received += part
    return received.partition(b"\r\n\r\n")[0].decode("latin-1")


def secure_server(
    authority: trustme.CA, *names: str, address: str = "127.0.0.1", port: int = 0
) -> contextlib.AbstractContextManager[Visitors]:
    """An https server with a certificate for these names that answers every request with {}."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)

    def serve(seen: Visitors, connection: socket.socket) -> None:
        context.sni_callback = lambda _sock, name, _context: seen.names.append(name)
        with context.wrap_socket(connection, server_side=True) as secure:
            seen.heads.append(head_of(secure))
            secure.sendall(ANSWER)

    return listening(serve, address=address, port=port)


def refusing_proxy(answer: bytes) -> contextlib.AbstractContextManager[Visitors]:
    """A proxy that answers every request with these bytes."""

    def serve(seen: Visitors, connection: socket.socket) -> None:
        seen.heads.append(head_of(connection))
        connection.sendall(answer)

    return listening(serve)


def speaking_at_once(answer: bytes) -> contextlib.AbstractContextManager[Visitors]:
    """A server that answers any first bytes, and then waits until the client closes the connection."""

    def serve(seen: Visitors, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    return listening(serve)


def connect_proxy(port: int, *, secure: ssl.SSLContext | None = None) -> contextlib.AbstractContextManager[Visitors]:
    """A proxy (RFC 9110 §9.3.6) that connects every name to this port of loopback."""

    def serve(seen: Visitors, connection: socket.socket) -> None:
        inner = secure.wrap_socket(connection, server_side=True) if secure else connection
        with inner, socket.create_connection(("127.0.0.1", port)) as onward:
            seen.heads.append(head_of(inner))
            inner.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            forward(inner, onward)

    return listening(serve)


def socks_proxy(port: int, *, user: bytes, password: bytes) -> contextlib.AbstractContextManager[Visitors]:
    """A SOCKS 5 proxy with a password (RFC 1928, RFC 1929) that connects every name to this port of loopback."""

    def serve(seen: Visitors, connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"\x05\x02")
        credentials = connection.recv(65536)
        valid = credentials == bytes([1, len(user)]) + user + bytes([len(password)]) + password
        connection.sendall(b"\x01\x00" if valid else b"\x01\x01")
        if not valid:
            return
        request = connection.recv(65536)
        seen.heads.append(request[5 : 5 + request[4]].decode())
        with socket.create_connection(("127.0.0.1", port)) as onward:
            connection.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
            forward(connection, onward)

    return listening(serve)


def forward(one: socket.socket, other: socket.socket) -> None:
    """Forward bytes in both directions until one side closes."""
    opposite = {one: other, other: one}
    while True:
        decrypted = isinstance(one, ssl.SSLSocket) and one.pending()
        for source in [one] if decrypted else select.select([one, other], [], [], 10)[0]:
            part = source.recv(65536)
            if not part:
                return
            opposite[source].sendall(part)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
