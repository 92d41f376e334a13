"""Which token file and which env file a command uses, what it says of them, and the command `adopt`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import pytest

from notion_oauth.app import create_app
from notion_oauth.auth.httpx_auth import BearerAuth
from notion_oauth.errors import NotSignedIn, ResourceMismatch
from notion_oauth.files.encryption import new_key
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings, load_settings
from tests.support.command_line import CommandLine
from tests.support.servers import refusing_proxy

KEY = "NOTION_OAUTH_ENCRYPTION_KEY"
SEVEN = ("access_token", "token_type", "expires_in", "refresh_token", "client_id", "client_secret", "updated_at")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The token file in the user's data directory."""
    return tmp_path / "data" / "notion-oauth" / "tokens.json"


@pytest.fixture
def installed(cli: CommandLine) -> CommandLine:
    """The installed command, in the same working directory."""
    cli.program.unlink()
    cli.clone = None
    return cli


def status(cli: CommandLine, *options: str, **environment: str) -> tuple[str, str]:
    shown = cli.run("status", *options, **environment).stdout
    found = json.loads(cli.run("status", "--json", *options, **environment).stdout)
    assert f"  File       {found['token_file']} (" in shown
    return found["token_file"], found["token_file_source"]


def keep_seven_fields(file: Path) -> None:
    """Leave what another program would have stored: nothing about the server."""
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({name: stored[name] for name in SEVEN}))


# The token file


def test_installed_command_has_one_login_per_user(installed: CommandLine, data: Path, tmp_path: Path) -> None:
    assert status(installed) == (str(data), "user_data")
    login = installed.run("login")
    assert f"It is stored in {data}." in login.stderr
    assert data.parent.stat().st_mode & 0o777 == 0o700
    installed.directory = tmp_path
    assert installed.run("token").returncode == 0
    assert status(installed) == (str(data), "user_data")
    assert list((tmp_path / "work").iterdir()) == []


def test_clone_keeps_its_login_beside_it(cli: CommandLine, tmp_path: Path) -> None:
    cli.directory = tmp_path
    assert cli.run("login").returncode == 0
    assert status(cli) == (f"{cli.clone}/.notion-tokens.json", "clone")
    assert cli.process("token").stdout == cli.run("token").stdout != ""


@pytest.mark.slow
def test_option_and_variable_go_first(installed: CommandLine, tmp_path: Path) -> None:
    installed.environment["HOME"] = str(tmp_path)
    variable = {"NOTION_OAUTH_TOKEN_FILE": "~/variable.json"}
    assert status(installed, **variable) == (f"{tmp_path}/variable.json", "environment")
    assert status(installed, "--token-file", "~/option.json", **variable) == (f"{tmp_path}/option.json", "option")
    assert installed.run("login", "--token-file", "~/option.json").returncode == 0
    assert (tmp_path / "option.json").exists()
    assert installed.run("token", "--token-file", "~/option.json").returncode == 0
    (installed.directory / "my.env").write_text("NOTION_OAUTH_TOKEN_FILE=of-the-file.json\n")
    assert status(installed, "--env-file", "my.env") == (f"{installed.directory}/of-the-file.json", "env_file")
    assert status(installed, "--profile", "work", **variable)[0] == f"{tmp_path}/variable.json.work.profile"


def test_doctor_says_why_the_file_is_used(installed: CommandLine, data: Path) -> None:
    lines = json.loads(installed.run("doctor", "--json").stdout)["checks"]
    found = next(line["message"] for line in lines if line["check"] == "file")
    assert found == f"{data}: does not exist yet (in the user's data directory)"


# Files with settings


@pytest.mark.parametrize("command", ["token", "status", "refresh", "profiles", "logout", "doctor", "reseal"])
def test_command_says_that_a_file_is_not_read(installed: CommandLine, command: str) -> None:
    (installed.directory / ".env").write_text("OTHER=1\nexport NOTION_OAUTH_SERVER_URL=https://canary.example/mcp\n")
    done = installed.run(command)
    warning = f"Warning: {installed.directory}/.env is not read, although it has settings (NOTION_OAUTH_SERVER_URL)."
    assert done.stderr.count(warning) == 1
    assert f"or use it with: notion-oauth {command} --env-file .env\n" in done.stderr
    assert "canary" not in done.stdout + done.stderr
    (installed.directory / ".env").write_text("OTHER=NOTION_OAUTH_SERVER_URL\n# NOTION_OAUTH_PROFILE=work\n")
    assert "is not read" not in installed.run(command).stderr


@pytest.mark.slow
def test_login_stops_if_a_file_is_not_read(installed: CommandLine, sandbox: Sandbox, cli: CommandLine) -> None:
    (installed.directory / ".env").write_text("NOTION_OAUTH_CLIENT_NAME=Mine\n")
    done = installed.run("login")
    assert (done.returncode, "login --env-file .env" in done.stderr) == (2, True)
    assert not sandbox.requests
    assert installed.run("login", NOTION_OAUTH_ENV_FILE=".env").returncode == 0
    assert installed.run("--env-file", ".env", "login").returncode == 0
    assert installed.run("login", "--env-file", ".env").returncode == 0
    assert [(request.json or {}).get("client_name") for request in sandbox.requests_to("/register")] == ["Mine"]


def test_clone_reads_only_the_file_beside_it(cli: CommandLine, tmp_path: Path) -> None:
    (cli.directory / ".env").write_text("NOTION_OAUTH_PROFILE=of-the-clone\n")
    assert status(cli)[0].endswith(".of-the-clone.profile")
    assert "is not read" not in cli.run("status").stderr
    cli.directory = tmp_path
    assert status(cli)[0].endswith(".of-the-clone.profile")
    (tmp_path / ".env").write_text("NOTION_OAUTH_PROFILE=of-the-directory\n")
    done = cli.run("token")
    assert f"{tmp_path}/.env is not read" in done.stderr
    assert cli.run("login").returncode == 2
    assert status(cli, "--env-file", ".env")[0].endswith(".of-the-directory.profile")


def test_fifo_in_place_of_a_file_does_not_block(cli: CommandLine) -> None:
    os.mkfifo(cli.directory / ".env")
    done = cli.run("status")
    assert (done.returncode, "is not a regular file" in done.stderr) == (2, True)


def test_hint_repeats_the_env_file(installed: CommandLine) -> None:
    (installed.directory / "my.env").write_text("")
    for arguments in (("--env-file", "my.env", "token"), ("token", "--env-file", "my.env")):
        assert "Sign in with: notion-oauth login --env-file my.env\n" in installed.run(*arguments).stderr


def test_service_says_that_a_file_is_not_read(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    (clone / ".env").write_text(f"NOTION_OAUTH_SERVER_URL={settings.server_url}\nNOTION_OAUTH_LOG_LEVEL=debug\n")
    create_app(clone=clone)
    assert not caplog.records
    assert (clone / ".notion-tokens.json.session-key").exists()
    (tmp_path / ".env").write_text("NOTION_OAUTH_SERVER_URL=canary\n")
    create_app()
    assert f"{tmp_path}/.env is not read" in caplog.text
    assert "canary" not in caplog.text


# A login that names no server


@pytest.fixture
def unbound(installed: CommandLine, data: Path) -> Path:
    """A login of the practice server that does not name it, and an env file that does."""
    assert installed.run("login").returncode == 0
    keep_seven_fields(data)
    file = installed.directory / "my.env"
    file.write_text(f"NOTION_OAUTH_SERVER_URL={installed.environment.pop('NOTION_OAUTH_SERVER_URL')}\n")
    return file


@pytest.mark.parametrize("command", [("token", "--min-ttl", "2h"), ("token",), ("refresh",), ("status", "--remote")])
def test_env_file_sends_no_login_to_its_server(
    installed: CommandLine, unbound: Path, sandbox: Sandbox, command: tuple[str, ...], data: Path
) -> None:
    before = len(sandbox.requests)
    for options in (("--env-file", str(unbound)), ()):
        with refusing_proxy(b"HTTP/1.1 502 No\r\n\r\n") as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            done = installed.run(*command, *options, HTTPS_PROXY=url, NOTION_OAUTH_RETRY_FOR="0")
        if options:
            assert (done.returncode, proxy.heads) == (3, [])
            assert "names no server, so it is for https://mcp.notion.com/mcp" in done.stderr
        else:
            assert all("mcp.notion.com" in head for head in proxy.heads)
    assert len(sandbox.requests) == before
    assert set(json.loads(data.read_text())) == set(SEVEN)


def test_sign_out_sends_a_login_without_a_server_to_notion(
    installed: CommandLine, unbound: Path, sandbox: Sandbox, data: Path
) -> None:
    before = len(sandbox.requests)
    with refusing_proxy(b"HTTP/1.1 502 No\r\n\r\n") as proxy:
        done = installed.run("logout", "--env-file", str(unbound), HTTPS_PROXY=f"http://127.0.0.1:{proxy.port}")
    assert "Signed out, but Notion was not asked" in done.stderr
    assert {head.split()[1] for head in proxy.heads} == {"mcp.notion.com:443"}
    assert len(sandbox.requests) == before
    assert not data.exists()


def test_bearer_auth_sends_no_login_to_the_server_of_an_env_file(unbound: Path, sandbox: Sandbox) -> None:
    before = len(sandbox.requests)
    oauth = NotionOAuth(load_settings(env_file=unbound))
    with httpx.Client(auth=BearerAuth(oauth), trust_env=False) as client, pytest.raises(ResourceMismatch):
        client.post(oauth.settings.server_url)
    assert len(sandbox.requests) == before


@pytest.mark.parametrize("how", ["variable", "option"])
def test_first_refresh_binds_the_login_to_the_named_server(
    installed: CommandLine, unbound: Path, sandbox: Sandbox, data: Path, how: str
) -> None:
    variable = {"NOTION_OAUTH_SERVER_URL": sandbox.mcp_url} if how == "variable" else {}
    option = ["--server-url", sandbox.mcp_url] if how == "option" else []
    assert installed.run("refresh", *option, **variable).returncode == 0
    stored = json.loads(data.read_text())
    assert (stored["resource"], stored["issuer"]) == (sandbox.mcp_url, sandbox.issuer)
    assert installed.run("token", "--env-file", str(unbound)).returncode == 0, "it is the login's server now"
    assert installed.run("token").returncode == 3


# adopt


@pytest.fixture
def old(installed: CommandLine) -> Path:
    """A token file in the working directory, as earlier versions made it, with two profiles."""
    file = installed.directory / ".notion-tokens.json"
    for profile in ("default", "work"):
        assert installed.run("login", "--profile", profile, "--token-file", str(file)).returncode == 0
    return file


@pytest.mark.slow
def test_error_names_a_login_in_the_working_directory(installed: CommandLine, old: Path) -> None:
    adopt = f"notion-oauth adopt {old}"
    for command in ("token", "refresh", "status", "doctor"):
        done = installed.run(command)
        assert f"If that login is yours, move it to the one in use with: {adopt}\n" in done.stdout + done.stderr
    assert f"with: {adopt} --profile work\n" in installed.run("token", "--profile", "work").stderr
    assert "adopt" not in installed.run("token", "--profile", "other").stderr
    assert "adopt" not in installed.run("token", "--token-file", old.name, "--profile", "other").stderr
    with contextlib.chdir(installed.directory):
        oauth = NotionOAuth()
        with pytest.raises(NotSignedIn, match="with: notion-oauth adopt") as caught:
            anyio.run(oauth.tokens.token)
    assert caught.value.hint.arguments == (str(old),)


@pytest.mark.slow
@pytest.mark.parametrize("encrypted", [False, True])
def test_adopt_moves_logins_with_their_registrations(
    installed: CommandLine, old: Path, data: Path, sandbox: Sandbox, encrypted: bool
) -> None:
    if encrypted:
        installed.environment[KEY] = new_key()
        assert installed.run("reseal", "--token-file", str(old)).returncode == 0
    tokens = {
        name: installed.run("token", "--token-file", str(old), "--profile", name).stdout for name in ("default", "work")
    }
    done = installed.run("adopt", old.name)
    assert done.stdout == f"default\tmoved to {data}\nwork\tmoved to {data}.work.profile\n"
    assert not list(installed.directory.glob(".notion-tokens*"))
    assert {name: installed.run("token", "--profile", name).stdout for name in tokens} == tokens
    assert ("sealed" in data.read_text()) == encrypted
    registered = len(sandbox.requests_to("/register"))
    assert installed.run("refresh").returncode == installed.run("login").returncode == 0
    assert len(sandbox.requests_to("/register")) == registered, "the registration was moved"


def test_clone_says_where_a_login_that_was_moved_is_now(cli: CommandLine, data: Path) -> None:
    installed = replace(cli, clone=None)
    assert cli.run("login").returncode == 0
    assert installed.run("adopt", str(cli.directory / ".notion-tokens.json")).returncode == 0
    for command in ("status", "token"):
        done = cli.run(command)
        assert done.returncode == 3
        said = f"To use it, name its file, for example with: python cli.py status --token-file {data}\n"
        assert said in done.stdout + done.stderr
    assert "data directory" not in installed.run("token", "--profile", "other").stderr


@pytest.mark.slow
def test_adopt_moves_one_profile(installed: CommandLine, old: Path, data: Path) -> None:
    assert json.loads(installed.run("adopt", str(old), "--profile", "work", "--json").stdout) == {
        "token_file": str(data),
        "profiles": ["work"],
    }
    assert installed.run("adopt", f"{old}.work.profile").returncode == 2
    assert installed.run("token", "--profile", "work").returncode == 0
    assert installed.run("token").returncode == 3
    assert old.exists()


@pytest.mark.slow
def test_adopt_overwrites_no_other_login(installed: CommandLine, old: Path, data: Path) -> None:
    installed.run("login", "--profile", "work")
    before = {
        file: file.read_bytes() for file in (old, old.with_name(f"{old.name}.work.profile"), *data.parent.iterdir())
    }
    done = installed.run("adopt", str(old))
    assert (done.returncode, f"There is a login in {data}.work.profile already." in done.stderr) == (7, True)
    assert {file: file.read_bytes() for file in before} == before
    assert not data.exists(), "nothing was moved"


@pytest.mark.slow
@pytest.mark.parametrize("refreshed", [None, "old", "new"])
def test_adopt_completes_a_move_that_was_interrupted(
    installed: CommandLine, old: Path, data: Path, refreshed: str | None
) -> None:
    data.parent.mkdir(parents=True)
    shutil.copy(old, data)  # the crash was between saving the login and deleting it
    files = {"old": old, "new": data}
    if refreshed:
        assert installed.run("refresh", "--token-file", str(files[refreshed])).returncode == 0
    newest = installed.run("token", "--token-file", str(files[refreshed or "new"])).stdout
    assert installed.run("adopt", str(old)).returncode == 0
    assert installed.run("token").stdout == newest
    assert not old.exists()


@pytest.mark.slow
def test_adopt_that_cannot_save_leaves_the_login(installed: CommandLine, old: Path, data: Path) -> None:
    before = old.read_bytes()
    data.parent.parent.mkdir(parents=True, exist_ok=True)
    data.parent.write_text("not a directory")
    assert installed.run("adopt", str(old)).returncode == 7
    assert old.read_bytes() == before


@pytest.mark.parametrize(
    ("file", "said"),
    [("missing.json", "There is no login to move in "), ("{data}", "is the token file in use already")],
)
def test_adopt_says_what_is_wrong(installed: CommandLine, data: Path, file: str, said: str) -> None:
    installed.run("login")
    done = installed.run("adopt", file.format(data=data))
    assert (done.returncode, said in done.stderr) == (2, True)


# A git work tree


def git(directory: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=directory, check=True, capture_output=True)  # noqa: S607


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_file_in_a_work_tree_that_does_not_ignore_it_is_reported(cli: CommandLine) -> None:
    git(cli.directory, "init", "--quiet")
    inside = cli.directory / "sub"
    inside.mkdir()
    file = inside / "t.json"
    line = f"Add this line to {cli.directory}/.gitignore: /sub/t.json*"
    option = ("--token-file", str(file))
    login = cli.run("login", *option)
    assert (
        f"Warning: {file} is inside the git work tree {cli.directory}, which does not ignore it. {line}" in login.stderr
    )
    assert f"which does not ignore it. {line}" in cli.run("status", *option).stdout
    assert line in json.loads(cli.run("status", "--json", *option).stdout)["storage_warning"]
    assert line in cli.run("doctor", *option).stdout
    (cli.directory / ".gitignore").write_text("/sub/t.json*\n")
    for command in ("login", "status", "doctor"):
        assert "work tree" not in (done := cli.run(command, *option)).stdout + done.stderr
    git(inside, "add", "--force", "t.json")
    assert "work tree" in cli.run("doctor", *option).stdout, "it is tracked"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_no_program_of_a_work_tree_is_run(cli: CommandLine) -> None:
    git(cli.directory, "init", "--quiet")
    git(cli.directory, "config", "core.fsmonitor", f"touch {cli.directory}/ran; false")
    cli.run("login", "--token-file", "t.json")
    assert "work tree" in cli.run("status", "--token-file", "t.json").stdout
    assert not (cli.directory / "ran").exists()
