"""Programs that still use a token file whose logins were moved to a database."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from notion_oauth import create_gateway
from notion_oauth.app import create_app
from notion_oauth.errors import LoginMoved
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.stores import schema
from notion_oauth.stores.factory import create_store
from notion_oauth.stores.sqlite import SqliteDatabase
from tests.component.gateway.talking import INITIALIZE, bearer, client_of
from tests.contract.rules import ended, other, registration
from tests.support.command_line import CommandLine
from tests.support.signing_in import sign_in
from tests.support.stores import load_ended_login, load_login, save_login, save_registration
from tests.support.visiting import PUBLIC, Visitor

SIGNED_IN = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a SQLite database with tables."""
    schema.migrate(SqliteDatabase(tmp_path / "tokens.db"))
    return f"sqlite:///{tmp_path}/tokens.db"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "tokens.json"


@pytest.fixture
def copy(cli: CommandLine, sandbox: Sandbox, url: str, file: Path, tmp_path: Path) -> Path:
    """A copy of the token file of a login that was then moved to the database."""
    cli.environment["NOTION_OAUTH_TOKEN_FILE"] = str(file)
    anyio.run(sign_in, NotionOAuth(Settings(server_url=sandbox.mcp_url, token_file=file)))
    shutil.copy(file, tmp_path / "copy.json")
    moved = cli.run("import", str(file), NOTION_OAUTH_DATABASE_URL=url)
    assert moved.stderr == "Profiles moved: 1. Not moved: 0.\n"
    return tmp_path / "copy.json"


COMMANDS = ("token", "status", "refresh", "login", "logout")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_the_database_and_change_nothing(
    command: str, cli: CommandLine, sandbox: Sandbox, copy: Path, url: str, file: Path, tmp_path: Path
) -> None:
    before = len(sandbox.requests)
    refused = cli.run(command)
    assert (refused.returncode, refused.stdout) == (7, "")
    assert f"The login in {file} was moved to the SQLite database {tmp_path}/tokens.db." in refused.stderr
    assert "Set NOTION_OAUTH_DATABASE_URL" in refused.stderr
    assert len(sandbox.requests) == before
    assert sandbox.live_grants == 1
    assert "The token is valid" in cli.run("refresh", NOTION_OAUTH_DATABASE_URL=url).stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_token_file_that_is_restored_is_refused(
    command: str, cli: CommandLine, sandbox: Sandbox, copy: Path, url: str, file: Path
) -> None:
    """Its refresh token is older than that in the database."""
    shutil.copy(copy, file)
    before = len(sandbox.requests)
    refused = cli.run(command)
    assert (refused.returncode, refused.stdout) == (7, "")
    assert f"notion-oauth import {file}" in refused.stderr or f"cli.py import {file}" in refused.stderr
    assert len(sandbox.requests) == before
    assert cli.run("refresh", NOTION_OAUTH_DATABASE_URL=url).returncode == 0
    assert cli.run("import", str(file), NOTION_OAUTH_DATABASE_URL=url).returncode == 0
    assert not file.exists()
    assert cli.run("refresh", NOTION_OAUTH_DATABASE_URL=url).returncode == 0


def test_moved_profiles_are_listed_and_others_are_used(cli: CommandLine, copy: Path, file: Path) -> None:
    anyio.run(save_login, JsonFileStore(file), "new", other("new", expires_at=datetime.now(UTC) + timedelta(hours=1)))
    listed = json.loads(cli.run("profiles", "--json").stdout)
    assert list(listed) == ["default", "new"]
    assert "was moved to the SQLite database" in listed["default"]["message"]
    assert cli.run("token", "--profile", "new", "--server-url", "https://mcp.notion.com/mcp").stdout == "new\n"
    all_profiles = cli.run("logout", "--all")
    assert (all_profiles.returncode, "default: Error: The login in" in all_profiles.stderr) == (7, True)


def test_doctor_says_where_the_login_is(cli: CommandLine, copy: Path) -> None:
    report = cli.run("doctor")
    assert report.returncode == 1
    assert report.stdout.count("was moved to the SQLite database") == 1
    assert "Not signed in" not in report.stdout


def test_a_new_login_needs_the_marker_to_be_deleted(cli: CommandLine, sandbox: Sandbox, copy: Path, file: Path) -> None:
    marker = file.with_name("tokens.json.moved")
    assert f"delete {marker}" in cli.run("login").stderr
    assert marker.stat().st_mode & 0o777 == 0o600
    marker.unlink()
    assert cli.run("login").returncode == 0
    assert sandbox.live_grants == 2, "the login in the database is another one"


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"database": 1}'])
def test_a_marker_that_cannot_be_read_is_one(content: str, cli: CommandLine, copy: Path, file: Path) -> None:
    file.with_name("tokens.json.moved").write_text(content)
    assert "was moved to a database." in cli.run("status").stderr


def test_export_ends_the_marker(cli: CommandLine, copy: Path, url: str, file: Path) -> None:
    assert cli.run("export", str(file), NOTION_OAUTH_DATABASE_URL=url).returncode == 0
    assert cli.run("refresh").returncode == 0
    assert not file.with_name("tokens.json.moved").exists()


def test_export_ends_the_marker_of_a_login_that_was_signed_out_in_the_database(
    cli: CommandLine, copy: Path, url: str, file: Path, tmp_path: Path
) -> None:
    other_url = f"sqlite:///{tmp_path}/other.db"
    schema.migrate(SqliteDatabase(tmp_path / "other.db"))
    assert cli.run("export", str(file), NOTION_OAUTH_DATABASE_URL=other_url).returncode == 0
    assert "was moved" in cli.run("status").stderr, "to another database"
    anyio.run(create_store(Settings(database_url=url)).forget, "default")
    assert cli.run("export", str(file), NOTION_OAUTH_DATABASE_URL=url).returncode == 0
    assert "Not signed in" in cli.run("status").stdout


def test_import_replaces_no_record_of_the_end_of_the_same_login(cli: CommandLine, url: str, file: Path) -> None:
    """The file is from before that end."""
    login = other("default", authorized_at=SIGNED_IN)
    end = ended().model_copy(update={"authorized_at": SIGNED_IN})
    files, store = JsonFileStore(file), create_store(Settings(database_url=url))
    anyio.run(save_login, files, "default", login)
    anyio.run(save_login, files, "again", login)
    anyio.run(save_login, store, "default", end)
    anyio.run(save_login, store, "again", end.model_copy(update={"authorized_at": SIGNED_IN - timedelta(days=1)}))
    assert cli.run("import", str(file), NOTION_OAUTH_DATABASE_URL=url).returncode == 0
    assert anyio.run(load_ended_login, store, "default") == end
    assert anyio.run(load_login, store, "again") == login


def test_a_login_that_cannot_be_moved_stays_in_use(cli: CommandLine, url: str, file: Path) -> None:
    files, store = JsonFileStore(file), create_store(Settings(database_url=url))
    anyio.run(save_login, files, "default", other("default"))
    anyio.run(save_login, store, "default", other("of another sign-in", authorized_at=SIGNED_IN))
    assert cli.run("import", str(file), NOTION_OAUTH_DATABASE_URL=url).returncode == 7
    assert anyio.run(load_login, files, "default") == other("default")


def test_service_of_a_moved_login_is_not_ready_and_signs_nobody_in(
    sandbox: Sandbox, copy: Path, file: Path, url: str
) -> None:
    settings = Settings(server_url=sandbox.mcp_url, token_file=file)
    service = Visitor(create_app(settings), "http://localhost", client="127.0.0.1")
    ready = service.get("/readyz")
    assert (ready.status_code, ready.json()["failing"]) == (503, ["store"])
    answers = [service.get(path, headers={"Accept": "*/*"}) for path in ("/auth/status", "/auth/login")]
    assert [(each.status_code, each.json()["error"]) for each in answers] == [(500, "LoginMoved")] * 2


def test_service_of_moved_visitors_signs_nobody_in(cli: CommandLine, sandbox: Sandbox, file: Path, url: str) -> None:
    """The client that their sign-ins start with was moved too."""
    anyio.run(save_registration, JsonFileStore(file), "web-", registration())
    assert cli.run("import", str(file), NOTION_OAUTH_DATABASE_URL=url).returncode == 0
    service = Visitor(create_app(Settings(server_url=sandbox.mcp_url, token_file=file, public_url=PUBLIC)), PUBLIC)
    assert service.get("/readyz").status_code == 503
    assert service.get("/auth/login").status_code == 500
    assert "tokens.db" not in service.get("/auth/login").text


@pytest.mark.anyio
async def test_gateway_of_a_moved_login_says_so(sandbox: Sandbox, copy: Path, file: Path) -> None:
    settings = Settings(server_url=sandbox.mcp_url, token_file=file)
    async with client_of(create_gateway(NotionOAuth(settings)), bearer(settings)) as client:
        answer = await client.send(INITIALIZE)
    assert "was moved to the SQLite database" in json.dumps(answer)
    with pytest.raises(LoginMoved):
        await NotionOAuth(settings).tokens.token()
