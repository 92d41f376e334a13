"""Which browser is opened where, and the tunnel for those who have none there.

Windows and WSL are environments that are given here: the programs that stand for theirs are scripts.
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
def test_the_tunnel(connection: str, command: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert place({"SSH_CONNECTION": connection}).ssh_tunnel_command(4321) == command


def test_a_user_name_is_no_shell_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada; reboot")
    assert place(SSH).ssh_tunnel_command(4321) == "ssh -L 4321:127.0.0.1:4321 'ada; reboot@192.0.2.7'"


@pytest.mark.parametrize(
    ("around", "why"),
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
        (place({"BROWSER": "gone:' %s"}), "no program that the BROWSER variable names was found"),
        (place({"WSL_DISTRO_NAME": "Ubuntu"}), "this machine has no graphical display"),
    ],
)
def test_where_nobody_would_see_a_browser_none_is_opened(around: Environment, why: str) -> None:
    said = around.browser()
    assert isinstance(said, str)
    assert said.startswith(f"No browser is opened: {why}")


@pytest.mark.parametrize(
    "around",
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
def test_elsewhere_it_is_left_to_python_which_browser(around: Environment) -> None:
    browser = around.browser()
    assert isinstance(browser, Browser)
    assert browser.command[0] == sys.executable


def test_the_first_browser_that_is_there_is_taken() -> None:
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
def test_in_wsl_the_browser_of_windows_is_opened(
    known: Mapping[str, str], programs: tuple[str, ...], command: tuple[str, ...]
) -> None:
    browser = place({**known, "DISPLAY": ":0"}, *programs, kernel=KERNEL).browser()
    assert isinstance(browser, Browser)
    assert browser.command == command


def test_windows_is_found_where_its_folders_are_not_on_the_path() -> None:
    whole = "/mnt/c/Windows/System32/rundll32.exe"
    around = Environment({}, kernel=KERNEL, which=lambda name: name if name == whole else None)
    browser = around.browser()
    assert isinstance(browser, Browser)
    assert browser.command[0] == whole


def script(path: Path, *, code: int = 0) -> Path:
    """A program that notes its arguments, what is on its standard input, and a terminal that it could take over."""
    path.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" "stdin:$(cat)" >> "{path}.log"\n'
        f': 2>&1 < /dev/tty && echo "has a terminal" >> "{path}.log"\nexit {code}\n'
    )
    path.chmod(0o755)
    return path


def noted(path: Path) -> list[str]:
    log = Path(f"{path}.log")
    return log.read_text().splitlines() if log.exists() else []


def test_a_url_reaches_windows_whole_and_past_every_shell(tmp_path: Path) -> None:
    """Programs of Windows end with 1 there although they worked."""
    program = script(tmp_path / "rundll32.exe", code=1)
    browser = place({"WSL_DISTRO_NAME": "Ubuntu"}, str(program)).browser()
    assert isinstance(browser, Browser)
    assert browser.open(URL)
    assert noted(program) == ["url.dll,FileProtocolHandler", URL, "stdin:"]


@pytest.mark.parametrize("character", list("$`'\"();|<>\\^! \n*{}"))
def test_what_a_shell_would_act_on_does_not_reach_windows(tmp_path: Path, character: str) -> None:
    program = script(tmp_path / "wslview")
    browser = place({"WSL_DISTRO_NAME": "Ubuntu"}, str(program)).browser()
    assert isinstance(browser, Browser)
    assert not browser.open(f"{URL}&x={character}")
    assert not browser.open(f"file:///c:/windows/{character}")
    assert noted(program) == []


def test_a_browser_cannot_take_our_terminal_over(tmp_path: Path) -> None:
    program = script(tmp_path / "browser")
    module = "notion_oauth.interactive.browser"
    opening = f"from {module} import detect_environment\ndetect_environment().browser().open({URL!r})"
    environment = {"PATH": os.environ["PATH"], "BROWSER": str(program), "TERM": "xterm"}
    with Terminal(sys.executable, "-c", opening, cwd=tmp_path, env=environment) as terminal:
        assert terminal.end() == 0
        assert terminal.screen == ""
    assert noted(program) == [URL, "stdin:"]


def test_no_other_browser_is_tried_after_one_that_failed(tmp_path: Path) -> None:
    """What failed may have opened a page all the same."""
    first, second = script(tmp_path / "first", code=1), script(tmp_path / "xdg-open")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "BROWSER": f"{first} %s", "DISPLAY": ":0", "TERM": "xterm"}
    browser = Environment(environment).browser()
    assert isinstance(browser, Browser)
    assert not browser.open(URL)
    assert noted(first) == [URL, "stdin:"]
    assert noted(second) == []


def test_no_browser_of_the_terminal_is_started_in_the_place_of_another(tmp_path: Path) -> None:
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


def test_a_program_that_cannot_be_started_has_opened_nothing() -> None:
    assert not Browser(("/no/such/program",), {}).open(URL)


def test_this_place_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", SSH["SSH_CONNECTION"])
    around = detect_environment()
    assert around.ssh
    assert around.container == any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
    assert "198.51.100.9" not in repr(around)
