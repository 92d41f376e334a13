"""The commands `mcp config`, `mcp secret` and `token --headers`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import anyio
import pytest

from notion_oauth.cli.mcp import ClientName
from notion_oauth.cli.mcp_config import is_temporary, user_file
from notion_oauth.files.default_profile import write_default_profile
from notion_oauth.gateway.clients import CLIENTS, Launch, Machine, configure
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import load_settings
from tests.support.command_line import CommandLine
from tests.support.signing_in import sign_in

PROJECT = {"other": {"command": "x", "env": {"KEY": "canary-of-another-server"}}}


@pytest.fixture
def home(cli: CommandLine, tmp_path: Path) -> Path:
    """An empty home directory, and a PATH without any client's own command."""
    home = tmp_path / "home"
    (home / "bin").mkdir(parents=True)
    for name in [name for name in cli.environment if name.startswith("XDG")]:
        del cli.environment[name]
    del cli.environment["NOTION_OAUTH_SERVER_URL"]
    cli.environment |= {"HOME": str(home), "PATH": f"{home / 'bin'}:/usr/bin:/bin"}
    return home


def own_program(home: Path, name: str, *, code: int = 0) -> Path:
    """A client's own command that records its arguments. Returns the record."""
    log, program = home / f"{name}.log", home / "bin" / name
    program.write_text(
        f"#!{sys.executable} -I\nimport json, sys\nprint('it failed', file=sys.stderr)\n"
        f"open({str(log)!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\nsys.exit({code})\n"
    )
    program.chmod(0o755)
    return log


def start_command(cli: CommandLine) -> dict[str, object]:
    return {"command": sys.executable, "args": [str(cli.program), "mcp"]}


def write_cursor(home: Path, text: str, mode: int = 0o644) -> Path:
    (home / ".cursor").mkdir()
    file = home / ".cursor" / "mcp.json"
    file.write_text(text)
    file.chmod(mode)
    return file


def test_every_client_can_be_named() -> None:
    assert get_args(ClientName) == tuple(CLIENTS)


def test_config_prints_the_text_on_stdout_and_where_it_goes_on_stderr(cli: CommandLine, home: Path) -> None:
    done = cli.run("mcp", "config", "cursor")
    assert json.loads(done.stdout) == {"mcpServers": {"notion": start_command(cli)}}
    assert f"Add this to {home / '.cursor' / 'mcp.json'}:" in done.stderr
    assert not (home / ".cursor").exists()


@pytest.mark.parametrize("name", ["Cursor", "CURSOR"])
def test_client_can_be_named_in_any_case(cli: CommandLine, home: Path, name: str) -> None:
    assert cli.run("mcp", "config", name).stdout == cli.run("mcp", "config", "cursor").stdout


@pytest.mark.parametrize(("name", "similar"), [("claude", "claude-desktop or claude-code"), ("cursr", "cursor")])
def test_similar_clients_are_suggested(cli: CommandLine, home: Path, name: str, similar: str) -> None:
    done = cli.run("mcp", "config", name)
    words = " ".join(done.stderr.replace("│", " ").split())  # the box around an error wraps at the terminal's width
    assert (done.returncode, f"Did you mean {similar}?" in words) == (2, True)


def test_unknown_client_gets_what_every_client_needs(cli: CommandLine, home: Path) -> None:
    done = cli.run("mcp", "config", "windsurf", "--read-only")
    arguments = json.dumps([str(cli.program), "mcp", "--read-only"])
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Any other client needs the command {sys.executable} with these arguments: {arguments}" in done.stderr
    over_http = cli.run("mcp", "config", "windsurf", "--http").stderr
    assert "the URL http://127.0.0.1:8765/mcp, and the header that this command prints: " in over_http
    assert "mcp secret --headers" in over_http


def test_only_the_newest_copy_is_kept(cli: CommandLine, home: Path) -> None:
    file = write_cursor(home, "{}")
    earlier, other = (file.with_name(f"mcp.json.{each}.bak") for each in ("20200101T000000", "mine"))
    earlier.touch()
    other.touch()
    assert cli.run("mcp", "config", "cursor", "--write").returncode == 0
    assert not earlier.exists()
    assert other.exists()
    assert len(list(file.parent.glob("*.bak"))) == 2


def test_config_says_that_nobody_is_signed_in(cli: CommandLine, home: Path) -> None:
    assert "Nobody is signed in yet. Sign in with: " in cli.run("mcp", "config", "cursor").stderr
    assert "login --profile work\n" in cli.run("mcp", "config", "cursor", "--profile", "work").stderr


def test_options_and_the_environment_are_carried_over(cli: CommandLine, home: Path) -> None:
    options = ("--token-file", "my tokens.json", "--read-only", "--deny-tool", "notion-*", "--patience", "1m")
    shell = {"NOTION_OAUTH_PROFILE": "work", "NOTION_OAUTH_CLIENT_NAME": "mine"}
    done = cli.run("mcp", "config", "cursor", *options, **shell)
    ((name, entry),) = json.loads(done.stdout)["mcpServers"].items()
    assert name == "notion-work"
    assert entry["args"] == [
        *(str(cli.program), "mcp", "--profile", "work", "--token-file", str(cli.directory / "my tokens.json")),
        *("--read-only", "--deny-tool", "notion-*", "--patience", "60s"),
    ]
    assert "without what is set in this shell: NOTION_OAUTH_CLIENT_NAME." in done.stderr


def test_stored_default_profile_and_data_directory_are_carried_over(cli: CommandLine, home: Path) -> None:
    write_default_profile(home / "data" / "notion-oauth" / "tokens.json", "work")
    cli.clone = None
    done = cli.run("mcp", "config", "cursor", XDG_DATA_HOME=str(home / "data"))
    entry = json.loads(done.stdout)["mcpServers"]["notion-work"]
    file = str(home / "data" / "notion-oauth" / "tokens.json")
    assert entry == {"command": str(cli.program), "args": ["mcp", "--profile", "work", "--token-file", file]}


def test_claude_desktop_from_the_store_of_windows_has_its_file_elsewhere(tmp_path: Path) -> None:
    windows = Machine("win32", tmp_path, {"LOCALAPPDATA": str(tmp_path), "APPDATA": str(tmp_path / "Roaming")})
    configuration = configure("claude-desktop", Launch("notion", "notion-oauth", ("mcp",)), windows)
    assert user_file(configuration) == tmp_path / "Roaming" / "Claude" / "claude_desktop_config.json"
    directory = tmp_path / "Packages" / "Claude_pzs8" / "LocalCache" / "Roaming" / "Claude"
    directory.mkdir(parents=True)
    (directory / "claude_desktop_config.json").touch()
    assert user_file(configuration) == directory / "claude_desktop_config.json"


def test_write_keeps_everything_else_and_a_second_time_changes_nothing(cli: CommandLine, home: Path) -> None:
    file = write_cursor(home, json.dumps({"b": "ü", "mcpServers": PROJECT, "a": [1]}, indent="\t", ensure_ascii=False))
    link = file.rename(home / "dotfile.json")
    file.symlink_to(link)
    before = link.read_bytes()
    done = cli.run("mcp", "config", "cursor", "--write")
    assert (done.returncode, done.stdout) == (0, "")
    assert file.is_symlink()
    expected = {"b": "ü", "mcpServers": {**PROJECT, "notion": start_command(cli)}, "a": [1]}
    assert link.read_text() == json.dumps(expected, indent="\t", ensure_ascii=False)
    (backup,) = home.glob("dotfile.json.*.bak")
    assert backup.read_bytes() == before
    assert [each.stat().st_mode & 0o777 for each in (link, backup)] == [0o644, 0o644]
    assert "already configured" in cli.run("mcp", "config", "cursor", "--write").stderr
    assert list(home.glob("dotfile.json.*.bak")) == [backup]


def test_write_says_what_of_another_entry_it_replaces_without_its_values(cli: CommandLine, home: Path) -> None:
    old = {"command": "npx", "args": ["mcp-remote"], "env": {"KEY": "canary-of-the-old-entry"}}
    file = write_cursor(home, json.dumps({"mcpServers": {"notion": old}}))
    done = cli.run("mcp", "config", "cursor", "--write")
    assert f"Replaced notion in {file}: command, args, env changed." in done.stderr
    assert "canary" not in done.stderr
    assert json.loads(file.read_text())["mcpServers"]["notion"] == start_command(cli)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"mcpServers": {}} // mine', "it is not plain JSON: it may have comments"),
        ('{"a": 1, "a": 2}', "it is not plain JSON"),
        ('{"mcpServers": []}', "its content is not what Cursor expects"),
        ("[]", "its content is not what Cursor expects"),
    ],
)
def test_a_file_that_could_lose_something_is_not_written(cli: CommandLine, home: Path, text: str, why: str) -> None:
    file = write_cursor(home, text)
    done = cli.run("mcp", "config", "cursor", "--write")
    assert file.read_text() == text
    assert f"Nothing was written to {file}: {why}" in done.stderr
    assert json.loads(done.stdout) == {"mcpServers": {"notion": start_command(cli)}}


@pytest.mark.parametrize(
    ("client", "why"), [("goose", "YAML"), ("codex", "the command of Codex was not found"), ("n8n", "home directory")]
)
def test_clients_whose_file_is_not_json_are_printed(cli: CommandLine, home: Path, client: str, why: str) -> None:
    done = cli.run("mcp", "config", client, "--write", *(["--http"] if client == "n8n" else []))
    assert done.stdout
    assert "Nothing was written" in done.stderr
    assert why in done.stderr


def test_own_command_of_the_client_replaces_the_entry(cli: CommandLine, home: Path) -> None:
    log = own_program(home, "claude")
    (home / ".claude.json").write_text(json.dumps({"mcpServers": {"notion": {"command": "npx", "args": []}}}))
    done = cli.run("mcp", "config", "claude-code", "--write", "--allow-tool", "a b*")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in log.read_text().splitlines()] == [
        ["mcp", "remove", "--scope", "user", "notion"],
        [
            "mcp",
            "add",
            "--scope",
            "user",
            "notion",
            "--",
            sys.executable,
            str(cli.program),
            "mcp",
            "--allow-tool",
            "a b*",
        ],
    ]
    assert len(list(home.glob(".claude.json.*.bak"))) == 1


def test_a_program_of_the_working_directory_is_not_run(cli: CommandLine, home: Path) -> None:
    log = own_program(home, "gemini")
    (home / "bin" / "gemini").rename(cli.directory / "gemini")
    assert cli.run("mcp", "config", "gemini", "--write", PATH=f".:{cli.environment['PATH']}").returncode == 0
    assert not log.exists()


def test_without_its_own_command_the_file_of_the_client_is_written(cli: CommandLine, home: Path) -> None:
    assert cli.run("mcp", "config", "gemini", "--write").returncode == 0
    assert json.loads((home / ".gemini" / "settings.json").read_text()) == {
        "mcpServers": {"notion": start_command(cli)}
    }


def test_a_failure_of_the_own_command_is_2_and_shows_the_command(cli: CommandLine, home: Path) -> None:
    own_program(home, "codex", code=1)
    done = cli.run("mcp", "config", "codex", "--write")
    assert done.returncode == 2
    assert "The command of Codex failed: it failed Run it yourself: codex mcp add notion -- " in done.stderr


def test_an_entry_that_the_own_command_has_written_is_recognized(cli: CommandLine, home: Path) -> None:
    """Claude Code adds `type` and `env` to entries."""
    log = own_program(home, "claude")
    entry = {"type": "stdio", **start_command(cli), "env": {}}
    (home / ".claude.json").write_text(json.dumps({"mcpServers": {"notion": entry}}))
    assert "already configured" in cli.run("mcp", "config", "claude-code", "--write").stderr
    assert not log.exists()


def test_a_written_secret_can_be_read_by_its_owner_alone(cli: CommandLine, home: Path) -> None:
    file = write_cursor(home, "{}")
    assert cli.run("mcp", "config", "cursor", "--http", "--port", "9999", "--write").returncode == 0
    secret = cli.run("mcp", "secret").stdout.strip()
    entry = {"url": "http://127.0.0.1:9999/mcp", "headers": {"Authorization": f"Bearer {secret}"}}
    assert json.loads(file.read_text()) == {"mcpServers": {"notion": entry}}
    assert json.loads(cli.run("mcp", "secret", "--headers").stdout) == entry["headers"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_no_secret_is_written_where_git_would_add_it_to_a_commit(cli: CommandLine, home: Path) -> None:
    file = write_cursor(home, "{}")
    subprocess.run(["git", "init", "-q", str(home)], check=True)  # noqa: S607
    done = cli.run("mcp", "config", "cursor", "--http", "--write")
    assert "it is in a git work tree that does not ignore it" in done.stderr
    assert file.read_text() == "{}"


def test_a_file_that_cannot_be_written_is_2(cli: CommandLine, home: Path) -> None:
    (home / ".cursor").write_text("a file in place of the directory")
    done = cli.run("mcp", "config", "cursor", "--write")
    assert done.returncode == 2
    assert "paste the text yourself" in done.stderr


@pytest.mark.parametrize(
    ("environment", "temporary"),
    [
        ("/home/ada/.cache/uv/archive-v0/x1", True),
        ("/home/ada/.local/share/pipx/.cache/7a", True),
        ("/home/ada/.local/share/uv/tools/notion-oauth", False),
    ],
)
def test_environments_that_are_deleted_at_some_time(environment: str, temporary: bool) -> None:
    assert is_temporary(environment) is temporary


def test_headers_of_a_valid_token_as_json(cli: CommandLine) -> None:
    file = cli.directory / ".notion-tokens.json"
    settings = load_settings(server_url=cli.environment["NOTION_OAUTH_SERVER_URL"], token_file=file)
    anyio.run(sign_in, NotionOAuth(settings))
    token = cli.run("token").stdout.strip()
    assert json.loads(cli.run("token", "--headers").stdout) == {"Authorization": f"Bearer {token}"}
    assert os.linesep not in token
