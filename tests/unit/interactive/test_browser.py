"""The browser for each environment, and the SSH tunnel command.

Windows and WSL are simulated: scripts take the place of their programs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from notion_oauth.interactive.browser import Browser, Environment, detect_environment
from tests.support.terminal import Terminal

URL = "https://issuer.example/authorize?a=1&state=x%20y"
KERNEL = "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@host) #1 SMP"
SSH = {"SSH_CONNECTION": "198.51.100.9 50123 192.0.2.7 22"}


def place(environment: Mapping[str, str], *programs: str, kernel: str = "", platform: str = "linux") -> Environment:
    there = {name: program for program in programs for name in (program, Path(program).name)}
    return Environment(environment, platform=platform, kernel=kernel, which=there.get)


@pytest.mark.parametrize(
    ("connection", "command"),
    [
        ("198.51.100.9 50123 192.0.2.7 22", "ssh -L 4321:127.0.0.1:4321 ada@192.0.2.7"),
        ("198.51.100.9 50123 192.0.2.7 2222", "ssh -L 4321:127.0.0.1:4321 -p 2222 ada@192.0.2.7"),
        ("2001:db8::9 50123 2001:db8::7 22", "ssh -L 4321:127.0.0.1:4321 ada@2001:db8::7"),
        ("::1 50123 ::ffff:192.0.2.7 22", "ssh -L 4321:127.0.0.1:4321 ada@192.0.2.7"),
        ("", None),
        ("UNKNOWN 65535 UNKNOWN 65535", None),
        ("198.51.100.9 50123 192.0.2.7", None),
        ("198.51.100.9 50123 192.0.2.7 $(reboot)", None),
        ("198.51.100.9 50123 -oProxyCommand=reboot 22", None),
    ],
)
def test_ssh_tunnel_command(connection: str, command: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert place({"SSH_CONNECTION": connection}).ssh_tunnel_command("127.0.0.1:4321") == command


def test_ssh_tunnel_of_two_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    command = place(SSH).ssh_tunnel_command("[::1]:9000", "127.0.0.1:4321")
    assert command == "ssh -L 9000:[::1]:9000 -L 4321:127.0.0.1:4321 ada@192.0.2.7"


def test_user_name_is_quoted_for_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada; reboot")
    assert place(SSH).ssh_tunnel_command("127.0.0.1:4321") == "ssh -L 4321:127.0.0.1:4321 'ada; reboot@192.0.2.7'"


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        (place({}), "this machine has no graphical display"),
        (Environment({}, container=True), "this container has no graphical display"),
        (place({"TERM": "xterm"}, "/usr/bin/w3m", "/usr/bin/www-browser"), "this machine has no graphical display"),
        (place(SSH), "you are connected to this machine over SSH"),
        (place(SSH, platform="darwin"), "you are connected to this machine over SSH"),
        (place(SSH, "/w/rundll32.exe", kernel=KERNEL), "you are connected to this machine over SSH"),
        (place({"SSH_TTY": "/dev/pts/0"}, platform="darwin"), "you are connected to this machine over SSH"),
        (place({"BROWSER": "w3m", "DISPLAY": ":0"}, "/usr/bin/w3m"), "w3m would take over this terminal"),
        (place({"BROWSER": "/usr/bin/lynx -x %s"}, "/usr/bin/lynx"), "lynx would take over this terminal"),
        (place({"BROWSER": "gone:' %s"}), "BROWSER names no installed program"),
        (place({"WSL_DISTRO_NAME": "Ubuntu"}), "this machine has no graphical display"),
    ],
)
def test_no_browser_is_opened_if_the_user_cannot_see_it(environment: Environment, why: str) -> None:
    said = environment.browser()
    assert isinstance(said, str)
    assert said.startswith(f"No browser is opened: {why}")


@pytest.mark.parametrize(
    "environment",
    [
        place({"DISPLAY": ":0"}),
        place({"WAYLAND_DISPLAY": "wayland-0"}),
        place({**SSH, "DISPLAY": "localhost:10.0"}),
        place({}, platform="darwin"),
        place({}, platform="win32"),
        place({**SSH, "BROWSER": "/opt/helper.sh"}, "/opt/helper.sh"),
        place({"WSL_DISTRO_NAME": "Ubuntu", "DISPLAY": ":0"}),
    ],
)
def test_python_chooses_the_browser_on_a_desktop(environment: Environment) -> None:
    browser = environment.browser()
    assert isinstance(browser, Browser)
    assert browser.command[0] == sys.executable


def test_first_available_browser_of_the_variable_is_used() -> None:
    environment = {"BROWSER": os.pathsep.join(("gone", "lynx", "firefox %s", "chromium"))}
    browser = place(environment, "/usr/bin/lynx", "firefox", "chromium").browser()
    assert isinstance(browser, Browser)
    assert browser.environment["BROWSER"] == "firefox %s"


@pytest.mark.parametrize("known", [{"WSL_DISTRO_NAME": "Ubuntu"}, {}])
@pytest.mark.parametrize(
    ("programs", "command"),
    [
        (("/w/rundll32.exe", "/usr/bin/wslview"), ("/w/rundll32.exe", "url.dll,FileProtocolHandler")),
        (("/usr/bin/wslview",), ("/usr/bin/wslview",)),
    ],
)
def test_wsl_opens_the_browser_of_windows(
    known: Mapping[str, str], programs: tuple[str, ...], command: tuple[str, ...]
) -> None:
    browser = place({**known, "DISPLAY": ":0"}, *programs, kernel=KERNEL).browser()
    assert isinstance(browser, Browser)
    assert browser.command == command


def test_windows_browser_is_found_without_the_path() -> None:
    whole = "/mnt/c/Windows/System32/rundll32.exe"
    environment = Environment({}, kernel=KERNEL, which=lambda name: name if name == whole else None)
    browser = environment.browser()
    assert isinstance(browser, Browser)
    assert browser.command[0] == whole


def script(path: Path, *, code: int = 0) -> Path:
    """A program that logs its arguments, its standard input, and whether it has a terminal."""
    path.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" "stdin:$(cat)" >> "{path}.log"\n'
        f': 2>&1 < /dev/tty && echo "has a terminal" >> "{path}.log"\nexit {code}\n'
    )
    path.chmod(0o755)
    return path


def noted(path: Path) -> list[str]:
    log = Path(f"{path}.log")
    return log.read_text().splitlines() if log.exists() else []


def test_url_is_passed_to_windows_unchanged(tmp_path: Path) -> None:
    """Windows programs exit with 1 in WSL even on success."""
    program = script(tmp_path / "rundll32.exe", code=1)
    browser = place({"WSL_DISTRO_NAME": "Ubuntu"}, str(program)).browser()
    assert isinstance(browser, Browser)
    assert browser.open(URL)
    assert noted(program) == ["url.dll,FileProtocolHandler", URL, "stdin:"]


@pytest.mark.parametrize("character", list("$`'\"();|<>\\^! \n*{}"))
def test_url_with_shell_metacharacters_is_not_passed_to_windows(tmp_path: Path, character: str) -> None:
    program = script(tmp_path / "wslview")
    browser = place({"WSL_DISTRO_NAME": "Ubuntu"}, str(program)).browser()
    assert isinstance(browser, Browser)
    assert not browser.open(f"{URL}&x={character}")
    assert not browser.open(f"file:///c:/windows/{character}")
    assert noted(program) == []


def test_browser_gets_no_terminal(tmp_path: Path) -> None:
    program = script(tmp_path / "browser")
    module = "notion_oauth.interactive.browser"
    opening = f"from {module} import detect_environment\ndetect_environment().browser().open({URL!r})"
    environment = {"PATH": os.environ["PATH"], "BROWSER": str(program), "TERM": "xterm"}
    with Terminal(sys.executable, "-c", opening, cwd=tmp_path, env=environment) as terminal:
        assert terminal.end() == 0
        assert terminal.screen == ""
    assert noted(program) == [URL, "stdin:"]


def test_no_second_browser_is_tried_after_a_failure(tmp_path: Path) -> None:
    """The first may have opened a page all the same."""
    first, second = script(tmp_path / "first", code=1), script(tmp_path / "xdg-open")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "BROWSER": f"{first} %s", "DISPLAY": ":0", "TERM": "xterm"}
    browser = Environment(environment).browser()
    assert isinstance(browser, Browser)
    assert not browser.open(URL)
    assert noted(first) == [URL, "stdin:"]
    assert noted(second) == []


def test_text_browsers_are_not_started(tmp_path: Path) -> None:
    names = ("www-browser", "w3m", "lynx", "links", "elinks")
    programs = [script(tmp_path / name) for name in names]
    browser = Environment({"PATH": str(tmp_path), "DISPLAY": ":0", "TERM": "xterm"}).browser()
    assert isinstance(browser, Browser)
    assert not browser.open(URL)
    assert [noted(program) for program in programs] == [[]] * 5


def test_webbrowser_module_of_the_working_directory_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("webbrowser.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    browser = Environment({"BROWSER": "true %s", "PATH": os.environ["PATH"]}).browser()
    assert isinstance(browser, Browser)
    assert browser.open(URL)
    assert not (tmp_path / "ran").exists()


def test_open_is_false_if_the_program_cannot_be_started() -> None:
    assert not Browser(("/no/such/program",), {}).open(URL)


def test_environment_of_this_process_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", SSH["SSH_CONNECTION"])
    environment = detect_environment()
    assert environment.ssh
    assert environment.container == any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
    assert "198.51.100.9" not in repr(environment)
