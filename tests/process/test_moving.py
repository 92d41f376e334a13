"""`import` and `export` that are killed at any time: no login is ever live in both, and a repetition ends the move."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from notion_oauth.cli.adopt import Move
from notion_oauth.errors import LoginMoved
from notion_oauth.storage import JsonFileStore
from notion_oauth.stores import schema
from notion_oauth.stores.sql_documents import DatabaseStore
from notion_oauth.stores.sqlite import SqliteDatabase
from tests.contract.rules import other, registration
from tests.support.stores import load_login, save_login, save_registration

PROFILES = ("default", "work")
CHANGES = {"execute", "rename", "replace", "link", "unlink", "open"}  # of the database, and of files
MAX_CHANGES = 500

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


class Stores:
    """A token file and a database, of which one has the logins."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "tokens.json"
        self.files = JsonFileStore(self.file)
        self._sqlite = SqliteDatabase(directory / "tokens.db")
        self.database = DatabaseStore(self._sqlite)

    def create(self) -> None:
        self.directory.mkdir()
        schema.migrate(self._sqlite)
        for name in PROFILES:
            anyio.run(save_login, self.files, name, other(name))
            anyio.run(save_registration, self.files, name, registration())

    def move(self, *, into_database: bool) -> None:
        def failed(name: str, error: Exception) -> None:
            raise error

        move = Move(self.file, self.database, self._sqlite.name, None, failed)
        anyio.run(move.into_database if into_database else move.into_files)

    def end_leases(self) -> None:
        """As if their time had passed."""
        with closing(sqlite3.connect(self.directory / "tokens.db")) as connection, connection:
            connection.execute("UPDATE notion_oauth_logins SET lease_until = 0")

    def in_file(self, name: str) -> object:
        try:
            return anyio.run(load_login, self.files, name)
        except LoginMoved:
            return LoginMoved

    def in_database(self, name: str) -> object:
        return anyio.run(load_login, self.database, name)


def killed(function: Callable[[], None], change: int) -> bool:
    """Run the function in a forked process that is killed before this change. Returns whether there was one."""

    def count(_: Any, event: str, called: Any) -> None:
        nonlocal change
        if event == "c_call" and called.__name__ in CHANGES:
            change -= 1
            if change < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    async def in_this_thread(function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
        return function(*arguments)

    if (child := os.fork()) == 0:
        try:
            anyio.to_thread.run_sync = in_this_thread  # type: ignore[assignment]
            sys.setprofile(count)
            function()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.mark.parametrize("into_database", [True, False], ids=["import", "export"])
def test_a_move_that_is_killed_leaves_no_login_live_in_both_stores(into_database: bool, tmp_path: Path) -> None:
    original = Stores(tmp_path / "original")
    original.create()
    if not into_database:
        original.move(into_database=True)
    for change in range(MAX_CHANGES):
        stores = Stores(tmp_path / str(change))
        shutil.copytree(original.directory, stores.directory)
        # The marker names the database by its path
        for marker in stores.directory.glob("*.moved"):
            marker.write_text(marker.read_text().replace(str(original.directory), str(stores.directory)))
        was_killed = killed(partial(stores.move, into_database=into_database), change)
        stores.end_leases()
        for name in PROFILES:
            live = [found for found in (stores.in_file(name), stores.in_database(name)) if found == other(name)]
            assert len(live) <= 1, f"before change {change}"
        stores.move(into_database=into_database)
        for name in PROFILES:
            expected = (LoginMoved, other(name)) if into_database else (other(name), None)
            assert (stores.in_file(name), stores.in_database(name)) == expected, f"before change {change}"
            moved_to = stores.database if into_database else stores.files
            assert anyio.run(moved_to.load_registrations, name) == (registration(),)
        shutil.rmtree(stores.directory)
        if not was_killed:
            assert change > 20
            return
    raise AssertionError("the move did not end")
