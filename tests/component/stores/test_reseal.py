"""The command `reseal` with very many profiles in a database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from notion_oauth.cli.reseal import Reencryption
from notion_oauth.errors import StoreUnavailable
from notion_oauth.files.encryption import Encryption, encryption_key_id, new_key
from notion_oauth.files.token_file_format import encode_ended_login, encode_registrations, encode_tokens
from notion_oauth.stores import schema
from notion_oauth.stores.sql_documents import DatabaseStore
from notion_oauth.stores.sqlite import SqliteDatabase
from tests.contract.rules import ended, other, registration
from tests.support.command_line import CommandLine
from tests.support.databases import FailingDatabase

OLD, NEW = new_key(), new_key()
COUNT = 1203  # more than a page
NAMES = [f"user-{number:04}" for number in range(COUNT)]
OF_OLD_KEY = {*NAMES[:20], *NAMES[-20:]}
_INSERT = """
INSERT INTO notion_oauth_logins (profile, login, registrations, set_aside, changed_at, fence, owner, lease_until)
VALUES (?, ?, ?, ?, 0, 1, '', 0)"""


def encrypt(content: bytes, bound_to: str, *, key: str) -> bytes:
    return Encryption(SecretStr(key)).encrypt(content, bound_to=bound_to)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with COUNT logins, of which the old key encrypts OF_OLD_KEY."""
    path = tmp_path / "tokens.db"
    schema.migrate(SqliteDatabase(path))
    login, registrations = encode_tokens(other()), encode_registrations((registration(),))
    rows = [
        (
            name,
            encrypt(login, f"{name}/login", key=OLD if name in OF_OLD_KEY else NEW),
            encrypt(registrations, f"{name}/registrations", key=OLD if name in OF_OLD_KEY else NEW),
            None,
        )
        for name in NAMES
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(_INSERT, rows)
    return path


@pytest.fixture
def command(cli: CommandLine, database: Path) -> CommandLine:
    cli.environment |= {
        "NOTION_OAUTH_DATABASE_URL": f"sqlite:///{database}",
        "NOTION_OAUTH_ENCRYPTION_KEY": f"{NEW} {OLD}",
    }
    return cli


def change(database: Path, statement: str, *parameters: object) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(statement, parameters)


def rows(database: Path) -> Iterator[tuple[str, bytes, bytes, int]]:
    with closing(sqlite3.connect(database)) as connection:
        yield from connection.execute("SELECT profile, login, registrations, fence FROM notion_oauth_logins")


def keys(database: Path) -> set[str | None]:
    return {encryption_key_id(content) for row in rows(database) for content in row[1:3]}


def key_id(key: str) -> str:
    return Encryption(SecretStr(key)).all_keys()[0].id


def test_all_are_encrypted_once(command: CommandLine, database: Path) -> None:
    done = command.run("reseal")
    assert (done.returncode, done.stderr) == (0, "")
    new = {name: "encrypted" if name in OF_OLD_KEY else "already encrypted" for name in NAMES}
    assert done.stdout.splitlines() == [f"{name}\t{result}" for name, result in new.items()]
    assert keys(database) == {key_id(NEW)}
    before = list(rows(database))
    assert json.loads(command.run("reseal", "--json").stdout) == dict.fromkeys(NAMES, False)
    assert list(rows(database)) == before, "what is encrypted already is not even locked"


def test_one_that_cannot_be_encrypted_does_not_stop_the_rest(command: CommandLine, database: Path) -> None:
    lost, damaged = NAMES[3], NAMES[1100]
    content = encrypt(encode_tokens(other()), f"{lost}/login", key=new_key())
    change(database, "UPDATE notion_oauth_logins SET login = ? WHERE profile = ?", content, lost)
    change(database, "UPDATE notion_oauth_logins SET login = ? WHERE profile = ?", b"damaged", damaged)
    done = command.run("reseal", "--json")
    assert done.returncode == 7
    reported = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in reported] == [lost, damaged]
    assert "is encrypted with key" in reported[0]
    assert "is damaged" in reported[1]
    done_now = {name: name in OF_OLD_KEY for name in NAMES if name not in (lost, damaged)}
    assert json.loads(done.stdout) == done_now


def test_a_part_is_encrypted(command: CommandLine, database: Path) -> None:
    done = command.run("reseal", "--after", NAMES[9], "--limit", "3", "--json")
    assert json.loads(done.stdout) == dict.fromkeys(NAMES[10:13], True)
    assert len([row for row in rows(database) if encryption_key_id(row[1]) == key_id(OLD)]) == len(OF_OLD_KEY) - 3
    assert json.loads(command.run("reseal", "--after", NAMES[-1], "--json").stdout) == {}


def test_tokens_that_were_set_aside_and_the_end_of_a_login_are_kept(command: CommandLine, database: Path) -> None:
    command.run("reseal")
    aside, gone, older = NAMES[:3]
    newer = other("newer", updated_at=other().updated_at + timedelta(minutes=1))
    for name, tokens in ((aside, newer), (older, other("older"))):
        content = b"\n" + encrypt(encode_tokens(tokens), f"{name}/login", key=OLD)
        change(database, "UPDATE notion_oauth_logins SET set_aside = ? WHERE profile = ?", content, name)
    end = encode_ended_login(ended())
    change(database, "UPDATE notion_oauth_logins SET login = ? WHERE profile = ?", end, gone)
    assert command.run("reseal").returncode == 0
    store = DatabaseStore(SqliteDatabase(database), encryption=Encryption(SecretStr(NEW)))

    async def load() -> None:
        for name, login in ((aside, newer), (older, other())):
            async with store.exclusive(name) as hold:
                assert (await hold.load()).tokens == login
        assert (await store.load(gone)).ended == ended()

    anyio.run(load)


@pytest.mark.anyio
async def test_it_stops_without_the_database_and_can_go_on(database: Path) -> None:
    failing = FailingDatabase(database)
    store = DatabaseStore(failing, encryption=Encryption(SecretStr(f"{NEW} {OLD}")))
    work = Reencryption(store, after="", limit=None)
    assert (await work.next_page()).count == work.count == 1000
    failing.fails_before = lambda statement: "UPDATE" in statement and "login =" in statement
    with pytest.raises(StoreUnavailable):
        await work.next_page()
    assert (work.count, work.last) == (1000, NAMES[999])
    failing.fails_before = lambda statement: False
    rest = Reencryption(store, after=work.last, limit=None)
    assert list((await rest.next_page()).changed) == NAMES[1000:]
    assert (await rest.next_page()).count == 0
    assert keys(database) == {key_id(NEW)}
