"""PostgreSQL: many logins for any number of instances on any number of machines. Needs the extra `postgres`."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from notion_oauth.errors import ConfigurationError, StorageError
from notion_oauth.files.installation import install_hint
from notion_oauth.stores.database import BrokenConnection, Connection, Database, Row, Statement

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
except ImportError as error:
    raise ConfigurationError(
        "The setting NOTION_OAUTH_DATABASE_URL names a PostgreSQL database, which needs the package psycopg.",
        hint=install_hint("postgres", "'psycopg[binary]'"),
    ) from error

# Unless the URL says otherwise: notice within seconds that the server, or the network to it, is gone
_DEFAULTS = {
    "connect_timeout": "5",
    "tcp_user_timeout": "8000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "fallback_application_name": "notion-oauth",
}
_LOCK = 0x6E6F74696F6E  # of the advisory lock that migrations take
_PARAMETER = re.compile(r":(\w+)")
# SQLSTATE classes: connection exception, transaction rollback (such as a serialization failure), operator intervention
_RETRIED = ("08", "40", "57")
_BROKEN = ("08", "57P")
_READ_ONLY = "25006"  # this server has become a standby
# A statement that waits for a row that another transaction has locked must not let others wait with it for long
_TOGETHER = "SET LOCAL lock_timeout = 500"  # milliseconds


class PostgresqlDatabase(Database):
    """The database that a `postgresql://` URL names, which PgBouncer may be in front of."""

    shows_values = True
    expressions: Mapping[str, str] = MappingProxyType(
        {
            "now": "CAST(extract(epoch FROM clock_timestamp()) AS double precision)",
            "blob": "bytea",
            "name": 'text COLLATE "C"',
            "table_options": " WITH (fillfactor = 70)",  # leases change rows in place
            "begin": "BEGIN",
            "lock": f"SELECT pg_advisory_xact_lock({_LOCK})",
            "lock_timeout": "SET LOCAL lock_timeout = '5s'",  # others wait behind a change of a table that waits
            "has_table": "SELECT 1 WHERE to_regclass('notion_oauth_schema') IS NOT NULL",
            "version": "current_setting('server_version')",
            "synchronous_commit": "current_setting('synchronous_commit')",
            "read_only": "current_setting('transaction_read_only') = 'on'",  # also of a standby
            "has_late_standby": "EXISTS (SELECT 1 FROM pg_stat_replication) AND "
            "(current_setting('synchronous_standby_names') = '' OR current_setting('synchronous_commit') = 'local')",
            "skip_locked": "FOR UPDATE SKIP LOCKED",
        }
    )

    def __init__(self, url: str) -> None:
        """Raises ConfigurationError if the URL is wrong, or its server is elsewhere and `sslmode` is missing."""
        super().__init__()
        try:
            given = conninfo_to_dict(url)
        except psycopg.Error:  # its message may quote the password
            raise ConfigurationError(
                "NOTION_OAUTH_DATABASE_URL is not the URL of a PostgreSQL database.",
                hint="Write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full, "
                "with special characters of the password percent-encoded.",
            ) from None
        hosts = str(given.get("host") or given.get("hostaddr") or os.environ.get("PGHOST", ""))
        if "sslmode" not in given and not all(map(_is_local, hosts.split(","))):
            raise ConfigurationError(
                f"NOTION_OAUTH_DATABASE_URL names the server {hosts} without saying how to protect the connection.",
                hint="Add ?sslmode=verify-full to the URL (with &sslrootcert=FILE for your own certificate authority).",
            )
        self._parameters: dict[str, Any] = {**_DEFAULTS, **given}
        name = given.get("dbname") or os.environ.get("PGDATABASE", "")
        self.name = f"PostgreSQL database {name} at {hosts or 'this machine'}"

    def connect(self) -> Connection:
        try:
            # Without prepared statements: PgBouncer may run each statement in another session
            connection = psycopg.connect(**self._parameters, autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise BrokenConnection(f"The {self.name} cannot be reached: {reason}") from None
        return _PostgresqlConnection(self.name, connection)

    def _sql(self, statement: str) -> str:
        return _PARAMETER.sub(r"%(\1)s", super()._sql(statement))


class _PostgresqlConnection(Connection):
    def __init__(self, name: str, connection: psycopg.Connection[Any]) -> None:
        self._name, self._connection = name, connection

    def execute(self, statement: str, parameters: dict[str, Any]) -> list[Row]:
        try:
            cursor = self._connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise self._storage_error(error, _RETRIED) from None

    def execute_together(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Send them in one message. The server runs nothing before all of it has arrived, so that no rows stay locked
        if this process stops, or the network, and it runs them in one transaction. Such a message has no parameters:
        the values are in its text."""
        try:
            complete = psycopg.ClientCursor(self._connection).mogrify
            text = ";".join([_TOGETHER, *(complete(statement.encode(), values) for statement, values in statements)])
            cursor = self._connection.execute(text.encode())
            rows = []
            while cursor.nextset():
                rows.append(cursor.fetchall() if cursor.description else [])
        except psycopg.Error as error:
            raise self._storage_error(error, _BROKEN) from None
        return rows

    def _storage_error(self, error: psycopg.Error, retried: tuple[str, ...]) -> StorageError:
        state = error.sqlstate or ""
        # Not the whole text of the error, whose details may quote a row
        reason = error.diag.message_primary or type(error).__name__
        if self._connection.closed or state.startswith(retried) or state == _READ_ONLY:
            return BrokenConnection(f"The {self._name} did not complete a request: {reason} {state}".rstrip())
        return StorageError(f"The {self._name} refused a request: {reason} ({state})")

    def interrupt(self) -> None:
        with (
            suppress(OSError, psycopg.Error),
            socket.fromfd(self._connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as connected,
        ):
            connected.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(psycopg.Error):
            self._connection.close()


def _is_local(host: str) -> bool:
    """Whether the host is this machine: a loopback address, or the directory of a Unix domain socket."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost") or host.startswith(("/", "@"))
