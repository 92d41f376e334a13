"""Sign-in without a browser on this machine: the redirect is pasted, or comes from a browser through a tunnel."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from notion_oauth.sandbox import Sandbox
from tests.support.command_line import CommandLine
from tests.support.terminal import Terminal

pytestmark = pytest.mark.slow  # processes in terminals

PYTHON_CLI = (sys.executable, "cli.py")  # of the clone in the working directory
ASKS = "URL: "
NEXT_PROGRAM = f"'{PYTHON_CLI[0]}' '{PYTHON_CLI[1]}' login --no-browser; read line; echo \"the next got: $line\""


def printed_url(shown: str) -> str:
    """The address, which is printed on one line however narrow the terminal is."""
    return next(line for line in re.split(r"\r?\n", shown) if line.startswith("http"))


def redirected(url: str) -> str:
    """The address to which a browser on another machine is redirected after consent."""
    return httpx.get(url, trust_env=False).headers["location"]


def redirect_uri_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["redirect_uri"][0]


def code_of(location: str) -> str:
    return parse_qs(urlsplit(location).query)["code"][0]


def terminal(cli: CommandLine, *command: str, **changes: str) -> Terminal:
    return Terminal(*command, cwd=cli.directory, env={**cli.environment, "COLUMNS": "60", "TERM": "xterm", **changes})


def test_browser_completes_the_sign_in_while_the_prompt_waits(
    cli: CommandLine, opened: Callable[[], list[str]]
) -> None:
    """The shell then gets what is typed: no reader is left over."""
    with terminal(cli, "sh", "-c", NEXT_PROGRAM) as person:
        url = printed_url(person.see(ASKS))
        person.type("half a line")
        page = httpx.get(url, follow_redirects=True, trust_env=False)
        assert "You are signed in" in page.text
        person.see("Signed in to ")
        person.type("typed later\r")
        person.see("the next got: typed later")
        assert person.end() == 0
        assert person.attributes() == person.before
    assert opened() == []


def test_paste_completes_the_sign_in_after_invalid_ones(cli: CommandLine, sandbox: Sandbox) -> None:
    with terminal(cli, "sh", "-c", NEXT_PROGRAM) as person:
        shown = person.see(ASKS)
        url = printed_url(shown)
        location, redirect_uri = redirected(url), redirect_uri_of(url)
        code = code_of(location)
        twice = f"{location}&state=other"
        for wrong, said in (
            ("where is it?", "That is not the URL to which the browser is redirected."),
            (location.replace("127.0.0.1", "127.0.0.2"), "That is not the URL to which the browser is redirected."),
            (url, "That is the URL to open, not the one to which the browser is redirected."),
            (location.partition("&state")[0], "That URL is incomplete: its code or its state is missing."),
            (f"{redirect_uri}?code={code}&state=other", "That URL belongs to another sign-in."),
            (re.sub("iss=.*", "iss=https%3A%2F%2Fevil.example", location), "another authorization server"),
            (twice, "The redirect contains state twice."),
        ):
            person.type(f"{wrong}\r")
            answered = " ".join(person.see(ASKS).split())
            assert said in answered
            assert f"It starts with {redirect_uri}" in answered.replace(" /", "/")
            shown += answered
        person.type(f"  '{location}' \rfor the next\r")
        shown += person.see("the next got: for the next")
        assert person.end() == 0
        assert person.attributes() == person.before
    assert "Signed in to " in shown
    assert code not in re.sub(r"\s", "", shown), "what a terminal has shown stays"
    assert sandbox.live_grants == 1
    codes = [request.form["code"] for request in sandbox.requests_to("/token", "POST")]
    assert codes.count(code) == 1, "a wrong paste sends nothing"


def test_ctrl_c_at_the_prompt_is_130_and_restores_the_terminal(cli: CommandLine) -> None:
    with terminal(cli, *PYTHON_CLI, "login", "--no-browser") as person:
        person.see(ASKS)
        assert person.attributes() != person.before
        person.type("half a line\x03")
        person.see("Interrupted.")
        assert person.end() == 130
        assert person.attributes() == person.before


def test_background_job_does_not_read_the_terminal(cli: CommandLine) -> None:
    """A background job that reads or changes its terminal is stopped, and could not complete the sign-in."""
    jobs = f"set -m; '{PYTHON_CLI[0]}' '{PYTHON_CLI[1]}' login --no-browser & read line; echo \"got: $line\"; wait"
    with terminal(cli, "sh", "-c", jobs) as person:
        url = printed_url(person.see(ASKS))
        person.type("hello\r")
        person.see("got: hello")
        assert "You are signed in" in httpx.get(url, follow_redirects=True, trust_env=False).text
        person.see("Signed in to ")
        assert person.end() == 0


def test_json_goes_to_stdout_and_the_prompt_to_the_terminal(cli: CommandLine) -> None:
    environment = {**cli.environment, "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "20"}
    command = (*PYTHON_CLI, "login", "--no-browser", "--json")
    with Terminal(*command, cwd=cli.directory, env=environment, stdout=subprocess.PIPE) as person:
        location = redirected(printed_url(person.see(ASKS)))
        person.type(f"{urlsplit(location).query}\r")
        assert person.process.stdout is not None
        assert json.loads(person.process.stdout.read())["status"] == "authenticated"
        assert person.end() == 0
        assert "\x1b" not in person.screen
        person.process.stdout.close()


def test_redirect_can_be_piped(cli: CommandLine) -> None:
    """Only one line is read: the rest is for the next program."""
    command = ["sh", "-c", f"'{PYTHON_CLI[0]}' '{PYTHON_CLI[1]}' login --no-browser; cat"]
    with subprocess.Popen(
        command,
        cwd=cli.directory,
        env=cli.environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        url = next(line for line in process.stderr if line.startswith("http")).strip()
        location = redirected(url)
        out, err = process.communicate(f"not this\n\n{location}\nfor the next", timeout=60)
    assert (process.returncode, out) == (0, "for the next"), err
    assert "That is not the URL to which the browser is redirected." in err
    assert "Signed in to " in err
    assert ASKS not in err, "no prompt without a terminal"
    assert code_of(location) not in err


@pytest.mark.parametrize("stdin", ["<&-", "< /dev/null"])
def test_empty_input_leaves_the_sign_in_to_the_browser(cli: CommandLine, stdin: str) -> None:
    command = ["sh", "-c", f"exec '{PYTHON_CLI[0]}' '{PYTHON_CLI[1]}' login --no-browser {stdin}"]
    with subprocess.Popen(
        command, cwd=cli.directory, env=cli.environment, text=True, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        url = next(line for line in process.stderr if line.startswith("http")).strip()
        assert "You are signed in" in httpx.get(url, follow_redirects=True, trust_env=False).text
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def test_pipe_is_not_read_if_a_browser_opens(cli: CommandLine) -> None:
    """For example `while read name; do notion-oauth login --profile "$name"; done < names`."""
    command = ["sh", "-c", f"'{PYTHON_CLI[0]}' '{PYTHON_CLI[1]}' login; cat"]
    with subprocess.Popen(
        command, cwd=cli.directory, env=cli.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        out, _ = process.communicate("all of it\n", timeout=60)
    assert (process.returncode, out) == (0, "all of it\n")


def test_ssh_tunnel_to_a_server_on_this_machine_forwards_both_ports(cli: CommandLine) -> None:
    environment = {"SSH_CONNECTION": "198.51.100.9 50123 192.0.2.7 2222", "LOGNAME": "ada", "COLUMNS": "20"}
    with cli.start("login", "--no-browser", **environment) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.strip().startswith("ssh ")).strip()
        url = next(line for line in process.stderr if line.startswith("http")).strip()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    server, port = urlsplit(url).port, urlsplit(redirect_uri_of(url)).port
    assert line == f"ssh -L {server}:127.0.0.1:{server} -L {port}:127.0.0.1:{port} -p 2222 ada@192.0.2.7"


def test_port_option_sets_the_redirect_uri(cli: CommandLine, sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = cli.run("login", "--port", port)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"Cannot listen on port {port} of 127.0.0.1" in done.stderr
        assert "Choose another port with --port, or omit --port" in done.stderr
        assert sandbox.requests == []
    assert cli.run("login", "--port", port).returncode == 0
    assert sandbox.requests_to("/token")[-1].form["redirect_uri"] == f"http://127.0.0.1:{port}/callback"
