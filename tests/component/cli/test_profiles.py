"""Which profile a command uses, and how the shell completes its name."""

from __future__ import annotations

import json

import anyio
import pytest
from fastapi.testclient import TestClient

from notion_oauth.app import create_app
from notion_oauth.cli.fast_path import read_fast
from notion_oauth.sandbox.mcp import WORKSPACE
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings, load_settings
from tests.support.command_line import CommandLine
from tests.support.signing_in import sign_in


@pytest.fixture
def two(cli: CommandLine, settings: Settings) -> CommandLine:
    """With a login in the profiles `default` and `work`."""
    for profile in ("default", "work"):
        in_clone = settings.model_copy(update={"token_file": cli.directory / ".notion-tokens.json"})
        anyio.run(signed_in, NotionOAuth(in_clone, profile=profile))
    return cli


async def signed_in(oauth: NotionOAuth) -> None:
    await sign_in(oauth)
    await oauth.identify()


def profile_of(cli: CommandLine, *arguments: str, **environment: str) -> str:
    done = cli.run(*arguments, "whoami", "--json", **environment)
    assert done.returncode == 0, done.stderr
    name: str = json.loads(done.stdout)["profile"]
    return name


def test_profile_use_sets_the_default(two: CommandLine) -> None:
    assert profile_of(two) == "default"
    done = two.run("profile", "use", "work")
    assert (done.returncode, done.stdout) == (0, "")
    assert f"The profile work (workspace {WORKSPACE['name']}) is used now" in done.stderr
    assert profile_of(two) == "work"
    assert "  Profile    work\n" in two.run("status").stdout
    assert json.loads(two.run("status", "--json").stdout)["profile"] == "work"
    assert profile_of(two, "--profile", "default") == "default"
    assert profile_of(two, NOTION_OAUTH_PROFILE="default") == "default"
    two.run("profile", "use", "default")
    assert profile_of(two) == "default"
    assert not list(two.directory.glob("*default-profile"))


def test_both_paths_and_the_library_use_it(two: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    two.run("profile", "use", "work")
    assert profile_of(two, NOTION_OAUTH_TIMEOUT="5") == "work"
    monkeypatch.setenv("NOTION_OAUTH_SERVER_URL", two.environment["NOTION_OAUTH_SERVER_URL"])
    fast = read_fast(None, None, None, clone=two.directory)
    assert fast is not None
    assert fast.profile == "work"
    monkeypatch.setenv("NOTION_OAUTH_TOKEN_FILE", str(two.directory / ".notion-tokens.json"))
    assert NotionOAuth().profile == "work"
    assert load_settings(profile="default").profile == "default"


def test_service_does_not_use_it(two: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    two.run("profile", "use", "work")
    two.run("logout", "--profile", "default")
    monkeypatch.setenv("NOTION_OAUTH_SERVER_URL", two.environment["NOTION_OAUTH_SERVER_URL"])
    with TestClient(
        create_app(clone=two.directory), base_url="http://localhost", client=("127.0.0.1", 50000)
    ) as client:
        assert client.get("/auth/status").json()["status"] == "unauthenticated"


def test_profile_without_a_login_cannot_be_used(two: CommandLine) -> None:
    done = two.run("profile", "use", "nope")
    assert (done.returncode, done.stdout) == (2, "")
    assert "There is no login in the profile nope. Profiles with a login: default, work." in done.stderr
    assert "Sign in to it with: python cli.py login --profile nope\n" in done.stderr
    assert profile_of(two) == "default"


def test_profile_list_hints_at_profiles(cli: CommandLine) -> None:
    done = cli.run("profile", "list")
    assert (done.returncode, "List the profiles with: python cli.py profiles\n" in done.stderr) == (2, True)
    assert "list" not in cli.run("profile", "--help").stdout


def test_variable_that_takes_precedence_is_named(two: CommandLine) -> None:
    done = two.run("profile", "use", "work", NOTION_OAUTH_PROFILE="default")
    assert "Warning: NOTION_OAUTH_PROFILE names default, and takes precedence." in done.stderr


@pytest.mark.parametrize("content", ["", "no/name", "a" * 65])
def test_damaged_default_is_reported(two: CommandLine, content: str) -> None:
    (two.directory / ".notion-tokens.json.default-profile").write_text(content)
    done = two.run("token")
    assert (done.returncode, done.stdout) == (7, "")
    assert "does not contain the name of a profile" in done.stderr
    assert two.run("profile", "use", "work").returncode == 0
    assert profile_of(two) == "work"


def complete(cli: CommandLine, words: str) -> str:
    variables = {"_CLI.PY_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": words}
    return cli.process("whoami", **variables).stdout


@pytest.mark.slow
@pytest.mark.parametrize("words", ["cli.py token --profile ", "cli.py profile use ", "cli.py --profile "])
def test_shell_completes_profiles_with_their_workspaces(two: CommandLine, words: str) -> None:
    assert f'"work":"{WORKSPACE["name"]}"' in complete(two, words)
    assert "default" not in complete(two, f"{words}w")


def test_profiles_lists_one_in_a_line(two: CommandLine) -> None:
    lines = [line.split("\t") for line in two.run("profiles").stdout.splitlines()]
    assert [(line[0], line[1], line[3]) for line in lines] == [
        ("default", WORKSPACE["name"], "authenticated"),
        ("work", WORKSPACE["name"], "authenticated"),
    ]
