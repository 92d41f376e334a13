"""`whoami`, and the workspace and the user in the output of other commands."""

from __future__ import annotations

import json

import pytest

from notion_oauth.sandbox import Sandbox
from notion_oauth.sandbox.mcp import PERSON, WORKSPACE
from tests.support.command_line import CommandLine
from tests.support.signing_in import age


def test_whoami(cli: CommandLine, sandbox: Sandbox) -> None:
    login = cli.run("login")
    assert f" as {PERSON['name']}, workspace {WORKSPACE['name']}." in login.stderr
    before = len(sandbox.requests)
    done = cli.run("whoami")
    rows = dict(line.split("\t") for line in done.stdout.splitlines())
    assert (done.returncode, done.stderr) == (0, "")
    assert (rows["User"], rows["Email"], rows["Workspace"]) == (PERSON["name"], PERSON["email"], WORKSPACE["name"])
    assert rows["Profile"] == "default"
    found = json.loads(cli.run("whoami", "--json").stdout)
    assert found["server"] == sandbox.mcp_url
    assert (found["user_id"], found["workspace_id"]) == (PERSON["id"], WORKSPACE["id"])
    status = cli.run("status").stdout
    assert f"  Workspace  {WORKSPACE['name']}\n  User       {PERSON['name']}\n" in status
    assert WORKSPACE["name"] in cli.run("profiles").stdout
    assert len(sandbox.requests) == before, "the answer is stored"


def test_whoami_asks_if_the_login_does_not_say(cli: CommandLine, sandbox: Sandbox) -> None:
    sandbox.fail_next("/mcp", status=401)  # the challenge before the sign-in
    sandbox.fail_next("/mcp", status=503)
    assert cli.run("login").returncode == 0
    assert json.loads(cli.run("status", "--json").stdout)["workspace"] is None
    sandbox.fail_next("/mcp", status=503)
    done = cli.run("whoami")
    assert (done.returncode, "does not say" in done.stderr) == (0, True)
    assert PERSON["name"] in cli.run("whoami").stdout


def test_whoami_without_a_login(cli: CommandLine) -> None:
    done = cli.run("whoami")
    assert (done.returncode, done.stdout) == (3, "")
    assert "Not signed in." in done.stderr


@pytest.mark.parametrize("command", ["status", "token", "whoami", "refresh"])
def test_login_that_has_ended_is_6_for_every_command(cli: CommandLine, sandbox: Sandbox, command: str) -> None:
    sandbox.options.token_response_overrides = {"refresh_token": None}
    cli.run("login")
    age(cli.directory / ".notion-tokens.json", hours=2)
    done = cli.run(command)
    assert (done.returncode, "issued no refresh token" in done.stdout + done.stderr) == (6, True)


def test_wrong_path_of_the_server_is_reported(cli: CommandLine, sandbox: Sandbox) -> None:
    """A sign-in succeeds there, because the metadata of the origin covers the path."""
    url = f"{sandbox.base_url}/wrong"
    done = cli.run("login", NOTION_OAUTH_SERVER_URL=url)
    said = f"There is no MCP server at {url} (HTTP 404). Check NOTION_OAUTH_SERVER_URL."
    assert (done.returncode, f"Warning: {said}" in done.stderr) == (0, True)
    whoami = cli.run("whoami", NOTION_OAUTH_SERVER_URL=url)
    assert (whoami.returncode, said in whoami.stderr) == (4, True)
    status = cli.run("status", NOTION_OAUTH_SERVER_URL=url).stdout
    assert f"  Server     {sandbox.base_url}\n  URL        {url}\n" in status
    typed = cli.run("whoami", "--server-url", url)
    assert "Check --server-url." in typed.stderr


def test_configured_url_is_not_repeated(cli: CommandLine, sandbox: Sandbox) -> None:
    cli.run("login")
    assert cli.run("status").stdout.count(sandbox.mcp_url) == 1
