"""The commands with encrypted logins: keys from the environment and the keyring, and missing keys."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import pytest

from notion_oauth.cli.fast_path import read_fast
from notion_oauth.files.encryption import Key, new_key
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import load_settings
from tests.support import fake_keyring
from tests.support.command_line import CommandLine
from tests.support.signing_in import sign_in

NAME = "NOTION_OAUTH_ENCRYPTION_KEY"


@pytest.fixture
def keyring_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return fake_keyring.install(tmp_path, monkeypatch)


def sign_in_with(cli: CommandLine, key: str | None) -> None:
    """Sign in like the command, without a process and a browser."""
    server_url, file = cli.environment["NOTION_OAUTH_SERVER_URL"], cli.directory / ".notion-tokens.json"
    anyio.run(sign_in, NotionOAuth(load_settings(server_url=server_url, token_file=file, encryption_key=key)))


@pytest.mark.slow
def test_printed_key_encrypts_the_stored_login(cli: CommandLine, sandbox: Sandbox) -> None:
    made = cli.run("key")
    key = made.stdout.strip()
    assert key not in made.stderr
    assert f"This is key {Key(key, '').id}." in made.stderr
    keyed = {NAME: key}
    assert cli.process("login", **keyed).returncode == 0
    token = cli.process("token", **keyed)
    assert (token.returncode, token.stderr) == (0, "")
    assert sandbox.is_access_token_live(token.stdout.strip())
    files = list(cli.directory.iterdir())
    assert all(token.stdout.strip().encode() not in file.read_bytes() for file in files)
    status = json.loads(cli.run("status", "--json", **keyed).stdout)
    assert status["storage"] == f"encrypted with key {Key(key, '').id} from NOTION_OAUTH_ENCRYPTION_KEY"
    assert cli.run("logout", **keyed).returncode == 0
    assert sandbox.live_grants == 0


def test_commands_without_the_key_are_7_and_change_nothing(cli: CommandLine, sandbox: Sandbox) -> None:
    key = new_key()
    sign_in_with(cli, key)
    file = cli.directory / ".notion-tokens.json"
    before = file.read_bytes()
    for other in ({}, {NAME: new_key()}):
        for command in (["status"], ["token"], ["refresh"], ["logout"], *([["login"]] if other else [])):
            done = cli.run(*command, **other)
            assert done.returncode == 7, command
            assert done.stdout == ""
            assert f"is encrypted with key {Key(key, '').id}" in done.stderr
    assert cli.run("reseal").returncode == 2
    assert file.read_bytes() == before
    assert sandbox.live_grants == 1


def test_fast_path_does_not_read_an_encrypted_login(cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cli.directory)
    monkeypatch.setenv("NOTION_OAUTH_SERVER_URL", cli.environment["NOTION_OAUTH_SERVER_URL"])
    sign_in_with(cli, None)
    key = new_key()
    assert read_fast(None, None, None, clone=cli.clone) is not None
    monkeypatch.setenv(NAME, key)
    assert read_fast(None, None, None, clone=cli.clone) is None, "the normal path reports that it is in plain text"
    assert json.loads(cli.run("reseal", "--json").stdout) == {"default": True}
    monkeypatch.delenv(NAME)
    assert read_fast(None, None, None, clone=cli.clone) is None


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_hanging_keyring_is_7_and_leaves_no_process(keyring_file: Path, cli: CommandLine) -> None:
    """The command fails with a hint before it opens a browser, and ends the process that reads the keyring."""
    done = cli.process("login", **os.environ, NOTION_OAUTH_ENCRYPTION_KEY="keyring", FAKE_KEYRING_DOES="hang")
    assert done.returncode == 7
    assert "The system keyring did not answer within 3 seconds." in done.stderr
    assert "set NOTION_OAUTH_ENCRYPTION_KEY to a key, instead of the word `keyring`" in done.stderr
    assert not is_running(int(keyring_file.with_name("pid").read_text()))


@pytest.mark.slow
def test_keys_in_the_keyring_are_created_used_and_replaced(keyring_file: Path, cli: CommandLine) -> None:
    environment = {**os.environ, "NOTION_OAUTH_ENCRYPTION_KEY": "keyring"}
    assert cli.run("key", "--keyring", **environment).returncode == 0
    sign_in_with(cli, keyring_file.read_text())
    first = cli.run("status", **environment).stdout
    assert f"Storage    encrypted with key {Key(keyring_file.read_text(), '').id} from the system keyring" in first
    added = cli.run("key", "--keyring", **environment)
    assert added.stdout == "", "a key in the keyring is not printed"
    assert all(key not in added.stderr for key in keyring_file.read_text().split())
    assert "Warning: .notion-tokens.json is encrypted with key" in cli.run("status", **environment).stdout
    assert cli.run("reseal", **environment).stdout == "default\tencrypted\n"
    assert "Warning" not in cli.run("status", **environment).stdout


def test_reseal_also_encrypts_registrations_without_a_login(cli: CommandLine) -> None:
    """After a sign-out, and those for visitors of the service: without the old key, a sign-in would fail."""
    old, new = new_key(), new_key()
    server_url, file = cli.environment["NOTION_OAUTH_SERVER_URL"], cli.directory / ".notion-tokens.json"

    def keyed(*keys: str) -> NotionOAuth:
        joined = " ".join(keys)
        return NotionOAuth(load_settings(server_url=server_url, token_file=file, encryption_key=joined))

    for profile in ("default", "web-"):
        login = keyed(old).for_profile(profile)
        anyio.run(sign_in, login)
        anyio.run(login.sign_out)
    assert set(json.loads(cli.run("reseal", "--json", **{NAME: f"{new} {old}"}).stdout)) == {"default", "web-"}
    for profile in ("default", "web-"):
        assert anyio.run(keyed(new).store.load_registrations, profile)
