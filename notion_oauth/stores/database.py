"""A database and its connections: where SQLite and PostgreSQL differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from notion_oauth.errors import StoreUnavailable, WarningWithHint

Row = Sequence[Any]
Statement = tuple[str, dict[str, Any]]  # with its parameters
T = TypeVar("T")


class BrokenConnection(StoreUnavailable):
    """The connection broke. A statement that was sent may have taken effect."""


class Connection(ABC):
    """A connection to the database, in autocommit mode. Methods block, apart from `interrupt`."""

    @abstractmethod
    def execute(self, statement: str, parameters: dict[str, Any]) -> list[Row]:
        """Run a statement. Raises BrokenConnection if another connection may help, else StorageError."""

    @abstractmethod
    def execute_together(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Run statements in this order in one transaction, and return the rows of each.

        If one fails, none takes effect. Raises BrokenConnection if the connection broke, else StorageError: then each
        may succeed alone.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Make `execute` fail soon. Called in another thread; does not block."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection. Raises nothing."""


class Database(ABC):
    """A database, and the expressions in which its SQL differs from that of others."""

    name: str  # for messages
    expressions: Mapping[str, str]  # by their placeholders, which are in braces, in statements
    shows_values = False  # whether others see the values of `Connection.execute_together`, as in a log of statements

    def __init__(self) -> None:
        self.sql = cache(self._sql)

    def _sql(self, statement: str) -> str:
        """Return a statement with `:name` for each parameter as this database takes it."""
        return statement.format(**self.expressions)

    @abstractmethod
    def connect(self) -> Connection:
        """Open a connection. Raises BrokenConnection if the database cannot be reached now, StorageError."""

    def create(self) -> None:  # noqa: B027 - a server's database is created by its administrator
        """Create the database, if that is possible and needed, without tables. Raises StorageError."""

    def protection(self) -> tuple[int | None, Sequence[WarningWithHint]]:
        """Return the mode of the database's file, if there is one, and who else could read or replace it."""
        return None, ()

    def run(self, use: Callable[[Connection], T]) -> T:
        """Run a function with a new connection, in this thread: for commands, and at the start of a service."""
        connection = self.connect()
        try:
            return use(connection)
        finally:
            connection.close()
