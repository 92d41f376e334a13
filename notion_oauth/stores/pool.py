"""Connections that are used again: run short statements in worker threads, each a transaction of its own.

If a connection breaks, the statement is run again on a new one, although it may have taken effect: all statements
may be run twice. No connection is opened in advance, and after a failure the next statement connects at once.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from notion_oauth.errors import StoreUnavailable
from notion_oauth.stores import schema
from notion_oauth.stores.database import BrokenConnection, Connection, Database, Row

MAX_CONNECTIONS = 10  # of a process
TIME_LIMIT = 10.0  # seconds for one statement, with the wait for a connection
_LIMITER: RunVar[anyio.CapacityLimiter] = RunVar("notion_oauth database")


class Pool:
    """The connections of this process to a database. May be used in any number of threads and event loops."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._checked = False
        self._idle: deque[Connection] = deque()
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        weakref.finalize(self, _close_all, self._idle)
        _POOLS.add(self)

    def forked(self) -> None:
        """Use no connection of the parent process, and close none: that would end the parent's sessions."""
        _OF_PARENT.extend(self._idle)
        self._idle.clear()
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)

    async def execute(self, statement: str, **parameters: Any) -> list[Row]:
        """Run a statement, and return its rows.

        Raises StoreUnavailable, StorageError; ConfigurationError if the tables are not those of this version. If the
        caller is cancelled, the statement may still take effect.
        """
        call = _Call(self.database.sql(statement), parameters)
        with anyio.move_on_after(TIME_LIMIT):
            return await anyio.to_thread.run_sync(self._run, call, abandon_on_cancel=True, limiter=_limiter())
        call.give_up()
        raise StoreUnavailable(f"The {self.database.name} did not answer within {TIME_LIMIT:g} seconds.")

    def _run(self, call: _Call) -> list[Row]:
        if not self._free.acquire(timeout=TIME_LIMIT):
            raise StoreUnavailable(f"All {MAX_CONNECTIONS} connections to the {self.database.name} are in use.")
        try:
            return self._run_once(call)
        except BrokenConnection:
            if call.given_up:
                raise
            _close_all(self._idle)  # they are probably broken too, and the next one must be new
            return self._run_once(call)
        finally:
            self._free.release()

    def _run_once(self, call: _Call) -> list[Row]:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._connect()
        try:
            rows = call.run(connection)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return rows

    def _connect(self) -> Connection:
        connection = self.database.connect()
        if not self._checked:
            try:
                schema.check(self.database, connection)
            except BaseException:
                connection.close()
                raise
            self._checked = True
        return connection


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()
_OF_PARENT: list[Connection] = []


def _close_all(connections: deque[Connection]) -> None:
    with suppress(IndexError):  # other threads may take some
        while True:
            connections.pop().close()


def _forked() -> None:
    for pool in list(_POOLS):
        pool.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class _Call:
    """A statement that runs in a thread, until its caller gives it up."""

    def __init__(self, statement: str, parameters: dict[str, Any]) -> None:
        self._statement, self._parameters = statement, parameters
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self.given_up = False

    def run(self, connection: Connection) -> list[Row]:
        with self._lock:
            if self.given_up:  # while it waited for a connection
                raise StoreUnavailable("The statement was given up.")
            self._connection = connection
        try:
            return connection.execute(self._statement, self._parameters)
        finally:
            with self._lock:
                self._connection = None

    def give_up(self) -> None:
        """Interrupt the statement, so that its thread does not wait for ever."""
        with self._lock:
            self.given_up = True
            if self._connection is not None:
                self._connection.interrupt()


def _limiter() -> anyio.CapacityLimiter:
    """Return the limiter of statements of the running event loop: further ones wait, without a thread."""
    try:
        return _LIMITER.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(MAX_CONNECTIONS)
        _LIMITER.set(limiter)
        return limiter
