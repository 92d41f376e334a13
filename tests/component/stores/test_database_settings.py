"""The setting of the database, the command `migrate`, and what a service checks at its start."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import anyio
import pytest
from pydantic import SecretStr

from notion_oauth.app import create_app
from notion_oauth.errors import ConfigurationError, StoreUnavailable
from notion_oauth.files.encryption import Encryption, new_key
from notion_oauth.gateway.launch import login_arguments
from notion_oauth.models import TokenSet
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings, load_settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.stores import schema
from notion_oauth.stores.factory import create_store
from notion_oauth.stores.postgresql import PostgresqlDatabase
from notion_oauth.stores.sql_documents import DatabaseStore
from notion_oauth.stores.sqlite import SqliteDatabase
from tests.contract.rules import ended, other, registration
from tests.support.clock import Clock
from tests.support.command_line import CommandLine
from tests.support.databases import FailingDatabase, Postgresql
from tests.support.signing_in import sign_in
from tests.support.stores import load_login, save_login, save_registration
from tests.unit.protocol.builders import tokens

PUBLIC = {"public_url": "https://notion.example", "secret_key": "k" * 32, "encryption_key": new_key()}
NEXT = schema.VERSION + 1


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a SQLite database with tables."""
    schema.migrate(SqliteDatabase(tmp_path / "tokens.db"))
    return f"sqlite:///{tmp_path}/tokens.db"


def test_database_takes_the_place_of_the_token_file(url: str, tmp_path: Path) -> None:
    assert isinstance(create_store(Settings(database_url=url)), DatabaseStore)
    assert isinstance(create_store(Settings()), JsonFileStore)


def test_token_file_that_is_named_takes_the_place_of_the_database(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTION_OAUTH_DATABASE_URL", url)
    assert isinstance(create_store(Settings()), DatabaseStore)
    assert isinstance(create_store(Settings(token_file=tmp_path / "file.json")), JsonFileStore)
    monkeypatch.setenv("NOTION_OAUTH_TOKEN_FILE", str(tmp_path / "file.json"))
    assert isinstance(create_store(Settings()), DatabaseStore)


@pytest.mark.parametrize("wrong", ["mysql://me:canary@db/x", "canary", "sqlite://", "sqlite:///", "sqlite:canary"])
def test_url_of_no_database_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTION_OAUTH_DATABASE_URL", wrong)
    with pytest.raises(ConfigurationError, match="NOTION_OAUTH_DATABASE_URL") as raised:
        load_settings()
    assert "canary" not in str(raised.value)


def test_damaged_postgresql_url_is_refused_without_its_password() -> None:
    with pytest.raises(ConfigurationError, match="NOTION_OAUTH_DATABASE_URL") as raised:
        PostgresqlDatabase("postgresql://me:canary@[db/x?canary=1")
    assert "canary" not in str(raised.value)


@pytest.mark.parametrize("host", ["db.example", "10.1.2.3", "localhost,db.example"])
def test_postgresql_of_another_machine_needs_sslmode(host: str) -> None:
    with pytest.raises(ConfigurationError, match=host):
        PostgresqlDatabase(f"postgresql://me:canary@{host}/x")
    PostgresqlDatabase(f"postgresql://me:canary@{host}/x?sslmode=verify-full")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "", "%2Frun%2Fpostgresql"])
def test_postgresql_of_this_machine_needs_no_sslmode(host: str) -> None:
    PostgresqlDatabase(f"postgresql://me@{host}/x")


@pytest.mark.parametrize("setting", ["secret_key", "encryption_key"])
def test_public_service_with_a_database_needs_keys_that_all_instances_have(setting: str, url: str) -> None:
    settings = {**PUBLIC, "database_url": url}
    create_store(Settings(**settings))
    with pytest.raises(ConfigurationError, match=f"needs NOTION_OAUTH_{setting.upper()}"):
        create_store(Settings(**{**settings, setting: None}))


def test_lease_must_be_longer_than_a_request(url: str) -> None:
    create_store(Settings(database_url=url, timeout=45))
    with pytest.raises(ConfigurationError, match="NOTION_OAUTH_TIMEOUT"):
        create_store(Settings(database_url=url, timeout=46))


# The tables


def set_version(path: Path, version: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE notion_oauth_schema SET version = ?", (version,))


@pytest.mark.parametrize(("version", "says"), [(0, "earlier version"), (NEXT, "later version")])
def test_tables_of_another_version_are_refused(version: int, says: str, url: str, tmp_path: Path) -> None:
    set_version(tmp_path / "tokens.db", version or -1)
    settings = Settings(database_url=url)
    with pytest.raises(ConfigurationError, match=says):
        create_app(settings)
    with pytest.raises(ConfigurationError, match=says):
        anyio.run(NotionOAuth(settings).status)


def test_database_without_tables_is_refused(tmp_path: Path) -> None:
    settings = Settings(database_url=f"sqlite:///{tmp_path}/tokens.db")
    with pytest.raises(ConfigurationError, match="does not exist"):
        create_app(settings)
    (tmp_path / "tokens.db").touch()
    with pytest.raises(ConfigurationError, match="no tables"):
        create_app(settings)


def test_service_starts_without_its_database() -> None:
    """And is not ready until it is there."""
    create_app(Settings(database_url="postgresql://me@127.0.0.1:1/x"))


def test_migrate_creates_the_tables_once(cli: CommandLine, tmp_path: Path) -> None:
    environment = {"NOTION_OAUTH_DATABASE_URL": f"sqlite:///{tmp_path}/data/tokens.db"}
    assert "does not exist" in cli.run("migrate", "--check", **environment).stderr
    assert f"tables of version {schema.VERSION}" in cli.run("migrate", **environment).stderr
    assert (tmp_path / "data" / "tokens.db").stat().st_mode & 0o777 == 0o600
    assert "up to date" in cli.run("migrate", **environment).stderr
    assert cli.run("migrate", "--check", **environment).returncode == 0
    assert cli.run("migrate", "--sql", **environment).stdout.split() == ["BEGIN", "IMMEDIATE;", "COMMIT;"]
    assert "Not signed in" in cli.run("status", **environment).stdout


def test_migrate_needs_a_database(cli: CommandLine) -> None:
    assert "NOTION_OAUTH_DATABASE_URL is not set" in cli.run("migrate").stderr


def test_migrate_changes_no_tables_of_a_later_version(url: str, tmp_path: Path) -> None:
    set_version(tmp_path / "tokens.db", NEXT)
    with pytest.raises(ConfigurationError, match="later version"):
        schema.migrate(SqliteDatabase(tmp_path / "tokens.db"))


@pytest.mark.xdist_group("postgresql")
def test_printed_sql_creates_the_tables(postgresql: Postgresql) -> None:
    postgresql.execute("CREATE DATABASE printed")
    database = PostgresqlDatabase(postgresql.url.removesuffix("postgres") + "printed")
    assert database.run(lambda connection: schema.version(database, connection)) == 0
    script = schema.script(database, 0)
    for statement in script.replace("BEGIN;", "").replace("COMMIT;", "").split(";"):
        if statement.strip():
            database.run(lambda connection, text=statement: connection.execute(text, {}))  # type: ignore[misc]
    database.run(lambda connection: schema.check(database, connection))


@pytest.mark.xdist_group("postgresql")
def test_migrations_at_the_same_time_run_once(postgresql: Postgresql) -> None:
    postgresql.execute("CREATE DATABASE shared")
    database = PostgresqlDatabase(postgresql.url.removesuffix("postgres") + "shared")
    found: list[int] = []

    async def migrate() -> None:
        found.append(await anyio.to_thread.run_sync(schema.migrate, database))

    async def all_at_once() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(migrate)

    anyio.run(all_at_once)
    assert sorted(found) == [0, *[schema.VERSION] * 3]


def test_command_of_a_login_reads_the_database_and_not_the_token_file(
    cli: CommandLine, sandbox: Sandbox, url: str, tmp_path: Path
) -> None:
    oauth = NotionOAuth(Settings(server_url=sandbox.mcp_url, database_url=url))
    anyio.run(sign_in, oauth)
    token = anyio.run(oauth.tokens.token).get_secret_value()
    in_file = JsonFileStore(tmp_path / "file.json")
    anyio.run(save_login, in_file, "default", tokens(expires_at=datetime.now(UTC) + timedelta(hours=1)))
    environment = {
        "NOTION_OAUTH_SERVER_URL": sandbox.mcp_url,
        "NOTION_OAUTH_TOKEN_FILE": str(tmp_path / "file.json"),
        "NOTION_OAUTH_DATABASE_URL": url,
    }
    assert cli.run("token", **environment).stdout.strip() == token
    assert f"SQLite database {tmp_path}/tokens.db" in cli.run("status", **environment).stdout
    doctor = cli.run("doctor", **environment).stdout
    assert f"SQLite database {tmp_path}/tokens.db, version" in doctor
    assert "file.json" not in doctor


def database_checks(cli: CommandLine, url: str) -> list[dict[str, str]]:
    report = json.loads(cli.run("doctor", "--json", NOTION_OAUTH_DATABASE_URL=url).stdout)
    return [check for check in report["checks"] if check["check"] == "database"]


def test_doctor_names_what_to_check_without_the_database(cli: CommandLine) -> None:
    (check,) = database_checks(cli, "postgresql://me:canary@127.0.0.1:1/x")
    assert (check["result"], "cannot be reached" in check["message"]) == ("failure", True)
    assert "NOTION_OAUTH_DATABASE_URL" in check["cure"]
    assert "canary" not in str(check)


@pytest.mark.xdist_group("postgresql")
@pytest.mark.parametrize(
    ("setting", "result", "says"),
    [
        ("default_transaction_read_only = on", "failure", "standby"),
        ("synchronous_commit = off", "warning", "before they are safe"),
    ],
)
def test_doctor_finds_a_database_that_cannot_keep_logins_safe(
    setting: str, result: str, says: str, cli: CommandLine, postgresql: Postgresql
) -> None:
    assert [check["result"] for check in database_checks(cli, postgresql.service_url)] == ["ok"]
    postgresql.execute(f"ALTER ROLE notion_service SET {setting}")
    try:
        fine, found = database_checks(cli, postgresql.service_url)
    finally:
        postgresql.execute("ALTER ROLE notion_service RESET ALL")
    assert (fine["result"], found["result"], says in found["message"]) == ("ok", result, True)


def test_logout_ends_the_login_in_the_database(cli: CommandLine, sandbox: Sandbox, url: str) -> None:
    anyio.run(sign_in, NotionOAuth(Settings(server_url=sandbox.mcp_url, database_url=url)))
    environment = {"NOTION_OAUTH_SERVER_URL": sandbox.mcp_url, "NOTION_OAUTH_DATABASE_URL": url}
    environment["NOTION_OAUTH_TOKEN_FILE"] = str(cli.directory / "no-such-directory" / "tokens.json")
    assert "has ended the grant" in cli.run("logout", **environment).stderr
    assert sandbox.live_grants == 0
    assert "Not signed in" in cli.run("status", **environment).stdout


VISITOR = f"web-{'0' * 32}"


@pytest.mark.parametrize(
    ("profile", "options", "registered"),
    [("user-42", [], True), ("user-42", ["--forget"], False), (VISITOR, [], False)],
)
def test_logout_ends_the_login_of_any_user_of_a_service(
    profile: str, options: list[str], registered: bool, cli: CommandLine, sandbox: Sandbox, url: str, tmp_path: Path
) -> None:
    for name in (profile, "user-43"):
        anyio.run(sign_in, NotionOAuth(Settings(server_url=sandbox.mcp_url, database_url=url), profile=name))
    environment = {"NOTION_OAUTH_SERVER_URL": sandbox.mcp_url, "NOTION_OAUTH_DATABASE_URL": url}
    assert "has ended the grant" in cli.run("logout", "--profile", profile, *options, **environment).stderr
    assert sandbox.live_grants == 1
    with closing(sqlite3.connect(tmp_path / "tokens.db")) as connection:
        rows = connection.execute("SELECT profile, login IS NULL FROM notion_oauth_logins ORDER BY profile").fetchall()
    assert rows == [*([(profile, 1)] if registered else []), ("user-43", 0)]
    again = cli.run("logout", "--profile", profile, **environment)
    assert (again.returncode, again.stderr) == (0, f"There was no login in the profile {profile}.\n")


def test_logout_removes_a_login_that_has_ended(cli: CommandLine, url: str) -> None:
    """And all else of its profile."""
    store = create_store(Settings(database_url=url))
    anyio.run(save_login, store, "user-42", ended())
    anyio.run(save_registration, store, "user-42", registration())
    environment = {"NOTION_OAUTH_DATABASE_URL": url}
    assert cli.run("logout", "--profile", "user-42", "--forget", **environment).returncode == 0
    assert anyio.run(partial(store.profiles, registered=True)) == []


def test_configuration_of_a_client_selects_the_database(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client does not have the settings of this environment; an env file is named to it."""
    (tmp_path / "my.env").write_text(f"NOTION_OAUTH_DATABASE_URL={url}\n")
    monkeypatch.setenv("NOTION_OAUTH_ENV_FILE", str(tmp_path / "my.env"))
    monkeypatch.setenv("NOTION_OAUTH_TOKEN_FILE", str(tmp_path / "file.json"))
    assert login_arguments(load_settings()) == ["--env-file", str(tmp_path / "my.env")]


def test_profiles_are_listed_in_parts(cli: CommandLine, url: str) -> None:
    store = create_store(Settings(database_url=url))
    for number in range(5):
        anyio.run(save_login, store, f"user-{number}", tokens(resource=None))
    environment = {"NOTION_OAUTH_DATABASE_URL": url}
    assert list(json.loads(cli.run("profiles", "--json", **environment).stdout)) == [f"user-{n}" for n in range(5)]
    part = cli.run("profiles", "--after", "user-1", "--limit", "2", "--json", **environment)
    assert list(json.loads(part.stdout)) == ["user-2", "user-3"]


def test_postgresql_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "notion_oauth.stores.postgresql")
    with pytest.raises(ConfigurationError, match="needs the package psycopg"):
        create_store(Settings(database_url="postgresql://me@127.0.0.1/x"))


# A service in use


@pytest.mark.slow  # a login counts as unchanged for a second
def test_valid_token_is_served_while_the_database_is_away(sandbox: Sandbox, tmp_path: Path) -> None:
    database, clock = FailingDatabase(tmp_path / "tokens.db"), Clock()
    schema.migrate(database)
    settings = Settings(server_url=sandbox.mcp_url, retry_for=0)
    oauth = NotionOAuth(settings, store=DatabaseStore(database), clock=clock)

    async def use() -> None:
        await sign_in(oauth)
        token = await oauth.tokens.token()
        database.fails_before = lambda statement: True
        await anyio.sleep(1.1)
        database.statements.clear()
        assert {await oauth.tokens.token() for _ in range(10)} == {token}
        assert len(database.statements) <= 2, "the database is not tried at each use"
        clock.ahead = timedelta(hours=2)
        with pytest.raises(StoreUnavailable):
            await oauth.tokens.token()

    anyio.run(use)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.xdist_group("postgresql")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_opens_its_own_connections(postgresql: Postgresql) -> None:
    store = DatabaseStore(PostgresqlDatabase(postgresql.url))
    anyio.run(store.load, "default")
    before = postgresql.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'notion-oauth'")
    if (child := os.fork()) == 0:
        try:
            anyio.run(store.load, "default")
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    anyio.run(store.load, "default")  # on the connection of before
    after = postgresql.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'notion-oauth'")
    assert after <= before


@pytest.mark.xdist_group("postgresql")
@pytest.mark.parametrize("encryption", [None, Encryption(SecretStr(new_key()))], ids=["plain", "encrypted"])
def test_no_token_is_in_the_log_of_the_database_or_its_activity(
    postgresql: Postgresql, encryption: Encryption | None
) -> None:
    """Of many saves at once, whose statements could run together. Plain tokens are parameters, which can be logged."""
    secret = "canary-of-a-token"
    login = tokens(access_token=SecretStr(secret), refresh_token=SecretStr(secret))
    store = DatabaseStore(PostgresqlDatabase(postgresql.url), encryption=encryption)
    with logged_statements(postgresql, parameters=encryption is not None) as log:
        anyio.run(save_many, store, login)
        activity = str(postgresql.execute("SELECT query FROM pg_stat_activity"))
    shown = log() + activity
    assert "UPDATE notion_oauth_logins" in shown
    assert secret not in shown
    assert secret.encode().hex() not in shown


async def save_many(store: DatabaseStore, login: TokenSet) -> None:
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(save_login, store, f"user-{number}", login)


@contextmanager
def logged_statements(postgresql: Postgresql, *, parameters: bool) -> Iterator[Callable[[], str]]:
    """Let the server log all statements meanwhile, and yield what returns the log of them."""
    settings = {"log_statement": "'all'", "log_parameter_max_length": "-1" if parameters else "0"}
    file = postgresql.directory / "log"
    try:
        for name, value in settings.items():
            postgresql.execute(f"ALTER SYSTEM SET {name} = {value}")
        postgresql.execute("SELECT pg_reload_conf()")
        begin = file.stat().st_size
        yield lambda: file.read_text()[begin:]
    finally:
        for name in settings:
            postgresql.execute(f"ALTER SYSTEM RESET {name}")
        postgresql.execute("SELECT pg_reload_conf()")


# Moving logins


def test_logins_are_moved_into_the_database_and_back(cli: CommandLine, url: str, tmp_path: Path) -> None:
    files = JsonFileStore(tmp_path / "data" / "tokens.json")
    visitor = f"web-{'0' * 32}"
    logins = {name: other(name) for name in ("default", "work", visitor)}
    for name, login in logins.items():
        anyio.run(save_login, files, name, login)
    anyio.run(save_registration, files, "default", registration())
    anyio.run(save_registration, files, "registered-only", registration())
    store = create_store(Settings(database_url=url))
    path, environment = str(tmp_path / "data" / "tokens.json"), {"NOTION_OAUTH_DATABASE_URL": url}
    for source, target, command in ((files, store, "import"), (store, files, "export")):
        done = cli.run(command, path, **environment)
        assert (done.returncode, done.stderr) == (0, "Profiles moved: 4. Not moved: 0.\n")
        assert {name: anyio.run(load_login, target, name) for name in logins} == logins
        assert anyio.run(target.load_registrations, "default") == (registration(),)
        assert anyio.run(target.load_registrations, "registered-only") == (registration(),)
        left = [each.name for each in (tmp_path / "data").iterdir() if each.suffix in (".json", ".profile", ".clients")]
        assert left == [] if source is files else anyio.run(partial(source.profiles, registered=True)) == []


def test_import_replaces_no_other_login_and_can_be_repeated(cli: CommandLine, url: str, tmp_path: Path) -> None:
    files, store = JsonFileStore(tmp_path / "tokens.json"), create_store(Settings(database_url=url))
    newer = other("default", updated_at=other("default").updated_at + timedelta(minutes=1))
    anyio.run(save_login, files, "default", other("default"))  # an import that was interrupted has left it
    anyio.run(save_login, store, "default", newer)
    anyio.run(save_login, files, "work", other("work"))
    anyio.run(save_login, store, "work", other("of another sign-in", authorized_at=datetime(2020, 1, 1, tzinfo=UTC)))
    done = cli.run("import", str(tmp_path / "tokens.json"), NOTION_OAUTH_DATABASE_URL=url)
    assert done.returncode == 7
    assert "Profiles moved: 1. Not moved: 1." in done.stderr
    assert anyio.run(load_login, store, "default") == newer
    assert [each.name for each in tmp_path.glob("tokens.json*.profile")] == ["tokens.json.work.profile"]
    assert not (tmp_path / "tokens.json").exists()


def test_adopt_names_import_if_a_database_is_in_use(cli: CommandLine, url: str) -> None:
    said = cli.run("adopt", "tokens.json", NOTION_OAUTH_DATABASE_URL=url).stderr
    assert "no token file is in use" in said
    assert "import" in said


@pytest.mark.parametrize("command", ["import", "export"])
def test_moving_needs_a_database(cli: CommandLine, command: str) -> None:
    assert "NOTION_OAUTH_DATABASE_URL is not set" in cli.run(command, "tokens.json").stderr
