"""PostgreSQL, PgBouncer and Redis from the system's packages: each run of the tests starts its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from notion_oauth.stores import schema
from notion_oauth.stores.database import BrokenConnection, Connection, Row, Statement
from notion_oauth.stores.postgresql import PostgresqlDatabase
from notion_oauth.stores.sqlite import SqliteDatabase
from tests.support.paths import ROOT
from tests.support.servers import free_port

REQUIRED = os.environ.get("NOTION_OAUTH_TEST_DATABASES") == "required"
_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
# Not without synchronous_commit: then a stop would undo a lease
_FAST = ("fsync=off", "full_page_writes=off", "max_connections=200", "shared_buffers=32MB")
_PGBOUNCER = """
[databases]
* = host={host} port={port} user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
ignore_startup_parameters = extra_float_digits
"""


class Postgresql:
    """A PostgreSQL server with the tables of this version in its only database."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        # Of a role that has only the rights that the documentation names
        self.service_url = self.url.replace("postgres@", "notion_service@")
        self._user = _unprivileged_user()
        if self._user is not None:
            shutil.chown(directory, self._user)
        options = "".join(f" -c {option}" for option in (*_FAST, f"port={self.port}", "listen_addresses=127.0.0.1"))
        self._options = f"{options} -c unix_socket_directories={directory}"

    def create(self) -> None:
        self._run("initdb", "--no-sync", "--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")
        self.start()
        schema.migrate(PostgresqlDatabase(self.url))
        self.execute("CREATE ROLE notion_service LOGIN")
        granted = (ROOT / "docs" / "operating.md").read_text().partition("```sql\n")[2].partition("```")[0]
        self.execute(granted)

    def start(self) -> None:
        self._run("pg_ctl", "--wait", "--log", str(self.directory / "log"), "-o", self._options, "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "--wait", "--mode", mode, "stop")

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        with closing(psycopg.connect(self.url, autocommit=True)) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def clear(self) -> None:
        self.execute("DELETE FROM notion_oauth_logins; DELETE FROM notion_oauth_claims")
        self.execute("UPDATE notion_oauth_pace SET next_at = 0, per_second = 1, paused_until = 0, paused_by = ''")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(_PROGRAMS[-1] / program), "--pgdata", str(self.directory / "data"), *arguments]
        with (self.directory / "output").open("a+") as output:  # not a pipe: the server keeps it open
            try:
                subprocess.run(command, user=self._user, check=True, cwd="/", stdout=output, stderr=output)
            except subprocess.CalledProcessError:
                output.seek(0)
                raise AssertionError(output.read()) from None


def _unprivileged_user() -> str | None:
    """The user to run servers as: root must not run PostgreSQL."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise AssertionError("there is no unprivileged user")


def _require(found: object, name: str) -> None:
    if not found and REQUIRED:
        pytest.fail(f"{name} is not installed")
    if not found:
        pytest.skip(f"{name} is not installed")


@contextmanager
def run_postgresql() -> Iterator[Postgresql]:
    _require(_PROGRAMS, "PostgreSQL")
    with tempfile.TemporaryDirectory(prefix="postgresql-", ignore_cleanup_errors=True) as directory:
        server = Postgresql(Path(directory))
        server.create()
        try:
            yield server
        finally:
            with suppress(AssertionError):  # a test may have stopped it
                server.stop()


@contextmanager
def run_pgbouncer(postgresql: Postgresql) -> Iterator[str]:
    """Run PgBouncer in transaction mode in front of the server; yields the URL of its database."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    _require(program, "PgBouncer")
    port = free_port()
    configuration = postgresql.directory / "pgbouncer.ini"
    configuration.write_text(_PGBOUNCER.format(host="127.0.0.1", port=postgresql.port, listen=port))
    user = _unprivileged_user()
    with (postgresql.directory / "pgbouncer.log").open("w") as log:
        process = subprocess.Popen([str(program), configuration], user=user, cwd="/", stdout=log, stderr=log)
    url = postgresql.url.replace(f":{postgresql.port}/", f":{port}/")
    try:
        for _ in range(200):
            with suppress(psycopg.Error):
                psycopg.connect(url).close()
                break
            time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Postgresql]:
    with run_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer_url(postgresql_server: Postgresql) -> Iterator[str]:
    with run_pgbouncer(postgresql_server) as url:
        yield url


@pytest.fixture
def postgresql(postgresql_server: Postgresql) -> Postgresql:
    """A PostgreSQL server without any login."""
    postgresql_server.clear()
    return postgresql_server


@pytest.fixture
def pgbouncer(postgresql: Postgresql, pgbouncer_url: str) -> str:
    """The URL of the same database through PgBouncer."""
    return pgbouncer_url


class Redis:
    """A Redis server that stores its counters when it is stopped."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {"bind": "127.0.0.1", "port": self.port, "dir": self._directory, "logfile": self._directory / "log"}
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen([str(shutil.which("redis-server")), *arguments])
        for _ in range(500):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as connected:
                connected.sendall(b"PING\r\n")
                if connected.recv(16).startswith(b"+PONG"):  # not while it loads its counters
                    return
            time.sleep(0.02)
        raise AssertionError((self._directory / "log").read_text())

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def clear(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as connected:
            connected.sendall(b"FLUSHALL\r\n")
            assert connected.recv(16).startswith(b"+OK")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    _require(shutil.which("redis-server"), "Redis")
    with tempfile.TemporaryDirectory(prefix="redis-") as directory:
        server = Redis(Path(directory))
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def redis(redis_server: Redis) -> Redis:
    """A Redis server without any counter."""
    redis_server.clear()
    return redis_server


class Relay:
    """Passes connections on to a port of this machine, and can stop to deliver anything."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._running = threading.Event()
        self._running.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Relay:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.set()
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def freeze(self) -> None:
        self._running.clear()

    def thaw(self) -> None:
        self._running.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._running.wait()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += (near, far)
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                self._running.wait()
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


Fail = Callable[[str], bool]


class FailingDatabase(SqliteDatabase):
    """Breaks the connection before or after the statements that are chosen."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.fails_before: Fail = lambda statement: False
        self.fails_after: Fail = lambda statement: False
        self.statements: list[str] = []
        self.transactions = 0
        self.open_connections = 0

    def connect(self) -> Connection:
        return _FailingConnection(self, super().connect())


class _FailingConnection(Connection):
    def __init__(self, database: FailingDatabase, connection: Connection) -> None:
        self._database, self._connection = database, connection
        database.open_connections += 1

    def execute(self, statement: str, parameters: dict[str, Any]) -> list[Row]:
        self._database.statements.append(statement)
        self._database.transactions += 1
        if self._database.fails_before(statement):
            raise BrokenConnection("The database is away.")
        rows = self._connection.execute(statement, parameters)
        if self._database.fails_after(statement):
            raise BrokenConnection("The answer is lost.")
        return rows

    def execute_together(self, statements: Sequence[Statement]) -> list[list[Row]]:
        self._database.statements += [statement for statement, _ in statements]
        self._database.transactions += 1
        if any(self._database.fails_before(statement) for statement, _ in statements):
            raise BrokenConnection("The database is away.")
        rows = self._connection.execute_together(statements)
        if any(self._database.fails_after(statement) for statement, _ in statements):
            raise BrokenConnection("The answer is lost.")
        return rows

    def interrupt(self) -> None:
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.close()
        self._database.open_connections -= 1
