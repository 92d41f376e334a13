"""Connections that are used again: run short statements in worker threads.

Statements that many tasks want to run at the same time are run together, in one transaction: while some run, the next
ones gather. So a thousand of them need few threads, and few writes to the disk.

If a connection breaks, the statements are run again on a new one, although they may have taken effect: all statements
may be run twice. No connection is opened in advance, and after a failure the next statement connects at once.
"""

from __future__ import annotations

import copy
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter
from typing import Any

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from notion_oauth.concurrency import Signal, run_shielded, start_in_background
from notion_oauth.errors import StorageError, StoreUnavailable
from notion_oauth.stores import schema
from notion_oauth.stores.database import BrokenConnection, Connection, Database, Row, Statement

MAX_CONNECTIONS = 10  # of a process
MAX_TOGETHER = 100  # statements in one transaction
TIME_LIMIT = 10.0  # seconds for one transaction, with the wait for a connection; and before it, behind other statements
_LIMITER: RunVar[anyio.CapacityLimiter] = RunVar("notion_oauth database")


Then = Callable[[list[Row]], object]


def _nothing(_: list[Row]) -> None:
    pass


class Pool:
    """The connections of this process to a database. May be used in any number of threads and event loops.

    `sealed` says that no value is secret, because all are encrypted.
    """

    def __init__(self, database: Database, *, sealed: bool) -> None:
        self.database = database
        self._runs_together = sealed or not database.shows_values
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
        [rows] = await self.run([(self.database.sql(statement), parameters)])
        return rows

    async def execute_together(
        self, statement: str, *, key: str, shielded: bool = False, then: Then = _nothing, **parameters: Any
    ) -> list[Row]:
        """Run a statement like `execute`, if possible in one transaction with those of other tasks.

        It must be short, and lock no other row than that of `key`. If it fails, the others succeed. `then` gets the
        rows, also if the caller was cancelled meanwhile. A `shielded` caller is cancelled only afterwards.
        """
        if not self._runs_together:
            alone = partial(self._execute_alone, statement, then, parameters)
            return await (run_shielded(alone) if shielded else alone())
        call = _Waiting(key, (self.database.sql(statement), parameters), then)
        return await _queue(self).execute(self, call, shielded)

    async def _execute_alone(self, statement: str, then: Then, parameters: dict[str, Any]) -> list[Row]:
        rows = await self.execute(statement, **parameters)
        then(rows)
        return rows

    async def run(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Run statements in one transaction, and return the rows of each. Raises as `execute` does."""
        call = _Call(statements)
        with anyio.move_on_after(TIME_LIMIT):
            return await anyio.to_thread.run_sync(self._run, call, abandon_on_cancel=True, limiter=_limiter())
        call.give_up()
        raise self.no_answer()

    def no_answer(self) -> StoreUnavailable:
        """Return the error of a statement that has waited for too long."""
        return StoreUnavailable(f"The {self.database.name} did not answer within {TIME_LIMIT:g} seconds.")

    def _run(self, call: _Call) -> list[list[Row]]:
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

    def _run_once(self, call: _Call) -> list[list[Row]]:
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
    """Statements that run in a thread, until their caller gives them up."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self._statements = statements
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self.given_up = False

    def run(self, connection: Connection) -> list[list[Row]]:
        with self._lock:
            if self.given_up:  # while it waited for a connection
                raise StoreUnavailable("The statement was given up.")
            self._connection = connection
        try:
            if len(self._statements) == 1:
                return [connection.execute(*self._statements[0])]
            return connection.execute_together(self._statements)
        finally:
            with self._lock:
                self._connection = None

    def give_up(self) -> None:
        """Interrupt the statements, so that their thread does not wait for ever."""
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


class _Waiting:
    """A statement of one task, its rows or its error. `key` names the row that it locks."""

    def __init__(self, key: str, statement: Statement, then: Then) -> None:
        self.key, self.statement, self._then = key, statement, then
        self.rows: list[Row] = []
        self.error: Exception | None = None
        self.done = Signal()
        self.since = anyio.current_time()

    def finish(self, rows: list[Row], error: Exception | None = None) -> None:
        self.rows, self.error = rows, error
        try:
            if error is None:
                self._then(rows)
        except Exception as unexpected:  # such as rows with values of another type: those of other tasks are good
            self.error = unexpected
        self.done.set()

    def result(self) -> list[Row]:
        if self.error is not None:
            raise copy.copy(self.error)  # each task raises its own
        return self.rows


class _Queue:
    """Statements of one event loop that run together with others."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._is_running = False

    async def execute(self, pool: Pool, call: _Waiting, shielded: bool) -> list[Row]:
        self._waiting.append(call)
        self._start(pool)
        try:
            await call.done.wait(shielded=shielded)
        finally:
            if not call.done.is_set and call in self._waiting:
                self._waiting.remove(call)
        return call.result()

    def _start(self, pool: Pool) -> None:
        if self._waiting and not self._is_running:
            self._is_running = True
            start_in_background(partial(self._run, pool), partial(self._ended, pool))

    def _ended(self, pool: Pool) -> None:
        self._is_running = False
        self._start(pool)  # a program that has cancelled all tasks may go on

    async def _run(self, pool: Pool) -> None:
        """Run what waits until nothing is left, in an order that is the same in all processes: none waits for rows of
        another one that waits for its rows."""
        while self._waiting:
            too_early = anyio.current_time() - TIME_LIMIT
            _fail([call for call in self._waiting if call.since < too_early], pool.no_answer())
            waiting = [call for call in self._waiting if not call.done.is_set]
            calls, self._waiting = waiting[:MAX_TOGETHER], waiting[MAX_TOGETHER:]
            if calls:
                calls.sort(key=attrgetter("key"))
                await self._run_together(pool, calls)

    async def _run_together(self, pool: Pool, calls: list[_Waiting]) -> None:
        try:
            found = await pool.run([call.statement for call in calls])
        except StorageError as error:
            if len(calls) > 1 and not isinstance(error, StoreUnavailable):
                for call in calls:
                    start_in_background(partial(self._run_together, pool, [call]), partial(_cancelled, [call]))
            else:
                _fail(calls, error)
        except Exception as error:  # such as ConfigurationError, or that no thread can be started
            _fail(calls, error)
        except BaseException:
            _cancelled(calls)
            raise
        else:
            for call, rows in zip(calls, found, strict=True):
                call.finish(rows)


def _cancelled(calls: list[_Waiting]) -> None:
    """A program has cancelled all tasks, also those that it did not start."""
    unfinished = [call for call in calls if not call.done.is_set]
    _fail(unfinished, StoreUnavailable("The statement was cancelled. It may still take effect."))


def _fail(calls: list[_Waiting], error: Exception) -> None:
    for call in calls:
        call.finish([], error)


_QUEUES: RunVar[weakref.WeakKeyDictionary[Pool, _Queue]] = RunVar("notion_oauth statements")


def _queue(pool: Pool) -> _Queue:
    """Return the queue of the running event loop."""
    try:
        queues = _QUEUES.get()
    except LookupError:
        queues = weakref.WeakKeyDictionary()
        _QUEUES.set(queues)
    if pool not in queues:
        queues[pool] = _Queue()
    return queues[pool]
