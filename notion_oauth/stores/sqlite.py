"""SQLite: one file for many logins, shared by the processes of one machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from notion_oauth.errors import ConfigurationError, StorageError, StoreUnavailable, WarningWithHint
from notion_oauth.files import atomic, permissions
from notion_oauth.stores.database import Connection, Database, Row, Statement
from notion_oauth.stores.schema import MIGRATE

BUSY_TIMEOUT = 5.0  # seconds; another process writes for milliseconds
_BUSY = {"SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_BUSY_RECOVERY", "SQLITE_LOCKED", "SQLITE_INTERRUPT"}


class SqliteDatabase(Database):
    """The database in the file at `path`, which `migrate` creates."""

    expressions: Mapping[str, str] = MappingProxyType(
        {
            "now": "((julianday('now') - 2440587.5) * 86400)",  # seconds since 1970
            "blob": "blob",
            "name": "text",
            "table_options": "",
            "begin": "BEGIN IMMEDIATE",
            "lock": "SELECT 1",
            "lock_timeout": "",
            "has_table": "SELECT 1 FROM sqlite_master WHERE name = 'notion_oauth_schema'",
            "version": "sqlite_version()",
            "synchronous_commit": "'on'",
            "read_only": "0",
            "has_late_standby": "0",
            "skip_locked": "",
        }
    )

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self.name = f"SQLite database {path}"

    def connect(self) -> Connection:
        if not self._path.exists():
            raise ConfigurationError(f"The {self.name} does not exist.", hint=MIGRATE)
        try:
            uri = f"{self._path.as_uri()}?mode=rw"
            connection = sqlite3.connect(
                uri, uri=True, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            found = _SqliteConnection(self.name, connection)
            found.execute("PRAGMA synchronous = FULL", {})  # what is saved survives a power cut
        except sqlite3.Error as error:
            raise _storage_error(self.name, error) from None
        return found

    def create(self) -> None:
        if atomic.create_file(self._path, b"", remove_abandoned=False) or self._path.stat().st_size == 0:
            self.run(lambda connection: connection.execute("PRAGMA journal_mode = WAL", {}))

    def protection(self) -> tuple[int | None, Sequence[WarningWithHint]]:
        weakness = permissions.weakness(self._path)
        return permissions.mode_of(self._path), () if weakness is None else (weakness,)


class _SqliteConnection(Connection):
    def __init__(self, name: str, connection: sqlite3.Connection) -> None:
        self._name, self._connection = name, connection

    def execute(self, statement: str, parameters: dict[str, Any]) -> list[Row]:
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise _storage_error(self._name, error) from None

    def execute_together(self, statements: Sequence[Statement]) -> list[list[Row]]:
        reads = all(statement.lstrip().startswith("SELECT") for statement, _ in statements)
        self.execute("BEGIN" if reads else "BEGIN IMMEDIATE", {})  # readers do not wait for writers
        try:
            rows = [self.execute(*each) for each in statements]
            self.execute("COMMIT", {})
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.rollback()
            raise
        return rows

    def interrupt(self) -> None:
        self._connection.interrupt()

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()


def _storage_error(name: str, error: sqlite3.Error) -> StorageError:
    reason = getattr(error, "sqlite_errorname", type(error).__name__)
    if reason in _BUSY:
        return StoreUnavailable(f"The {name} is in use by another process for too long ({reason}).")
    return StorageError(
        f"The {name} could not be read or written ({reason}).", hint="Check the file, and the free space."
    )
