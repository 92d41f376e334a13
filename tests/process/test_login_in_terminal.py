"""What `login` shows in a terminal while the browser is open, and when it does not come back."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import httpx
import pytest

from notion_oauth.interactive import sign_in
from notion_oauth.sandbox import Sandbox
from tests.process.test_no_browser import ASKS, printed_url, terminal
from tests.support.command_line import CommandLine
from tests.support.signing_in import age

pytestmark = pytest.mark.slow  # processes in terminals

RUN_IMPATIENTLY = """
import sys
from pathlib import Path
from notion_oauth.cli.main import main
from notion_oauth.interactive import sign_in
sign_in.ADVICE_AFTER = 0.2
main(clone=Path.cwd())
"""
IMPATIENT = (sys.executable, "-c", RUN_IMPATIENTLY)


def test_login_is_quiet_if_the_browser_comes_back(cli: CommandLine) -> None:
    with terminal(cli, sys.executable, "cli.py", "login") as person:
        shown = person.see("It is stored in ")
        assert person.end() == 0
        assert person.attributes() == person.before
    assert "Waiting for your consent in the browser" in shown
    for advice in ("http://", "address bar", "container", "ssh -L", ASKS):
        assert advice not in shown
    assert "Signed in to " in shown
    assert "\x1b[?25h" in shown, "the cursor is shown again"


@pytest.mark.parametrize(
    ("browser", "reason"),
    [("true %s", "The browser has not come back yet."), ("false %s", "No browser could be opened.")],
)
def test_advice_follows_if_the_browser_does_not_come_back(cli: CommandLine, browser: str, reason: str) -> None:
    command = IMPATIENT if browser == "true %s" else (sys.executable, "cli.py")
    with terminal(cli, *command, "login", BROWSER=browser) as person:
        shown = person.see(ASKS)
        assert reason in shown
        assert "Copy the address from the browser's address bar and paste it here." in " ".join(shown.split())
        assert "You are signed in" in httpx.get(printed_url(shown), follow_redirects=True, trust_env=False).text
        person.see("Signed in to ")
        assert person.end() == 0


def test_ctrl_c_during_the_wait_is_130_and_restores_the_terminal(cli: CommandLine) -> None:
    with terminal(cli, sys.executable, "cli.py", "login", BROWSER="true %s") as person:
        person.see("Waiting for your consent")
        person.process.send_signal(signal.SIGINT)
        assert "\x1b[?25h" in person.see("Interrupted."), "the cursor is shown again"
        assert person.end() == 130
        assert person.attributes() == person.before


def test_delay_is_some_seconds() -> None:
    assert 3 <= sign_in.ADVICE_AFTER <= 20


def test_sign_in_over_a_good_login_says_so_first(cli: CommandLine, sandbox: Sandbox) -> None:
    said = "You are signed in already as Practice person, workspace Practice workspace."
    assert said not in cli.run("login").stderr
    again = cli.run("login", "--json")
    assert again.stderr.startswith(said)
    assert json.loads(again.stdout)["status"] == "authenticated"
    cli.run("logout")
    assert "already" not in cli.run("login").stderr


def test_status_has_colours_on_a_terminal_alone(cli: CommandLine) -> None:
    cli.run("login")

    def shown(*arguments: str, **environment: str) -> str:
        with terminal(cli, sys.executable, "cli.py", *arguments, **environment) as person:
            person.end()
            return person.screen

    assert "\x1b[32mSigned in to " in shown("status")
    assert "\x1b[32mauthenticated\x1b[0m" in shown("profiles")
    assert "PROFILE  WORKSPACE" in shown("profiles")
    file = cli.directory / ".notion-tokens.json"
    wide = Path(shutil.copy(file, file.with_name(f"{file.name}.wide.profile")))
    wide.write_text(file.read_text().replace("Practice person", "🔑 世界"))
    rows = [row.replace("🔑 世界", "🔑 世界   ") for row in shown("profiles", NO_COLOR="1").splitlines()]
    assert len({row.index("authenticated") for row in rows[1:]}) == 1, "columns are aligned"
    assert "\x1b[31m\x1b[1mError:" in shown("token", "--profile", "other")
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b[" not in shown("status", **environment)
    assert "\x1b[" not in cli.process("status", TERM="xterm").stdout


@pytest.mark.parametrize("command", ["refresh", "token"])
def test_commands_that_wait_for_the_server_say_so_on_a_terminal(
    cli: CommandLine, sandbox: Sandbox, command: str
) -> None:
    cli.run("login")
    age(cli.directory / ".notion-tokens.json", hours=2)
    sandbox.fail_next("/token", status=503, times=3)
    with terminal(cli, sys.executable, "cli.py", command, NOTION_OAUTH_RETRY_FOR="15") as person:
        shown = " ".join(person.see("Ctrl-C to stop)").split())
        assert shown.endswith("has not answered yet; trying again for up to 15 s (Ctrl-C to stop)")
        assert person.end() == 0
    sandbox.fail_next("/token", status=503, times=3)
    assert "not answered" not in cli.process("refresh", NOTION_OAUTH_RETRY_FOR="15").stderr
