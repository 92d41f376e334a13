"""Where this program runs: over SSH, in a container, in WSL; and how a browser is started there, if at all."""

from __future__ import annotations

import getpass
import ipaddress
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_TEXT_BROWSERS = frozenset({"www-browser", "w3m", "lynx", "links", "links2", "elinks", "browsh"})
_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")
_WINDOWS = Path("/mnt/c/Windows/System32")
# Windows gets one string for all arguments, and wslview hands it to PowerShell: nothing that a shell would act on
_SAFE_FOR_WINDOWS = re.compile(r"https?://[A-Za-z0-9:/?\[\]@&=+,._~%-]+")
# The first browser alone, once: after one that failed, another may open a second page. `-I`: not the working
# folder's own webbrowser.py
_OPEN = (sys.executable, "-I", "-c", "import sys, webbrowser; sys.exit(not webbrowser.get().open(sys.argv[1]))")

Which = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Browser:
    """A command that opens the URL given to it as one more argument."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    for_windows: bool = False

    def open(self, url: str) -> bool:
        """Start it, and wait for it to say whether it has opened the URL; a browser may stay until it is closed.

        It gets no terminal: nothing that it starts can take the keyboard from us or draw over what we say.
        """
        if self.for_windows and not _SAFE_FOR_WINDOWS.fullmatch(url):
            return False
        try:
            started = subprocess.Popen(  # noqa: S603 - no shell: the URL stays one argument
                [*self.command, url],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            return False
        return started.wait() == 0 or self.for_windows  # Windows programs that worked say 1 there, too


def open_once(browser: Browser, url: str, failed: Callable[[], None]) -> None:
    """Open the URL in a thread that nobody waits for; calls `failed` in it where no browser could be started."""

    def run() -> None:
        if not browser.open(url):
            failed()

    threading.Thread(target=run, name="browser", daemon=True).start()


@dataclass(frozen=True, slots=True)
class Environment:
    """What is known of the place. `which` finds a program as the shell would."""

    environment: Mapping[str, str] = field(repr=False)
    platform: str = sys.platform
    kernel: str = ""
    container: bool = False
    which: Which = shutil.which

    @property
    def ssh(self) -> bool:
        return any(self.environment.get(name) for name in ("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"))

    @property
    def wsl(self) -> bool:
        return bool(self.environment.get("WSL_DISTRO_NAME")) or "microsoft" in self.kernel.lower()

    def tunnel(self, port: int) -> str | None:
        """The command for the person's own computer that makes this machine's port theirs; None without SSH.

        SSH_CONNECTION is the client's address and port, then ours as the client reached us.
        """
        parts = self.environment.get("SSH_CONNECTION", "").split()
        if len(parts) != 4 or not parts[3].isdecimal():
            return None
        try:
            address = ipaddress.ip_address(parts[2])
        except ValueError:
            return None
        host = getattr(address, "ipv4_mapped", None) or address
        other_port = "" if parts[3] == "22" else f"-p {parts[3]} "
        return f"ssh -L {port}:127.0.0.1:{port} {other_port}{shlex.quote(f'{_user()}@{host}')}"

    def browser(self) -> Browser | str:
        """How to open a browser that the person sees, or why none is opened, as a sentence.

        The BROWSER variable goes first: VS Code sets one over SSH that opens the page on the person's own computer.
        """
        if chosen := self.environment.get("BROWSER"):
            return self._chosen(chosen)
        if self.ssh and not self._display:
            return "No browser is opened: you are connected to this machine over SSH."
        if self.wsl and (windows := self._windows()):
            return windows
        if self._native or self._display:
            return self._with_webbrowser({})
        place = "in this container" if self.container else "on this machine"
        return f"No browser is opened: there is none {place} that could show a page."

    @property
    def _native(self) -> bool:
        """Whether there is always a browser, which is found by other means than the PATH."""
        return self.platform in ("win32", "darwin")

    @property
    def _display(self) -> bool:
        return bool(self.environment.get("DISPLAY") or self.environment.get("WAYLAND_DISPLAY"))

    def _chosen(self, browsers: str) -> Browser | str:
        why = "No browser is opened: the BROWSER variable names none that is here."
        for entry in filter(None, browsers.split(os.pathsep)):
            try:
                program = shlex.split(entry)[0]
            except (ValueError, IndexError):
                continue
            if Path(program).name in _TEXT_BROWSERS:
                why = f"No browser is opened: {Path(program).name} would take this terminal over."
            elif self._native or self.which(program):
                return self._with_webbrowser({"BROWSER": entry})
        return why

    def _with_webbrowser(self, changes: Mapping[str, str]) -> Browser:
        """Python's own `webbrowser`. Without TERM it knows no browser that runs in a terminal."""
        kept = {name: value for name, value in self.environment.items() if name != "TERM"}
        return Browser(_OPEN, {**kept, **changes})

    def _windows(self) -> Browser | None:
        """Windows' own, seen from WSL. Neither cmd.exe, which splits a URL at each `&`, nor explorer.exe, which opens
        a folder for a URL with a query."""
        for name, *arguments in (("rundll32.exe", "url.dll,FileProtocolHandler"), ("wslview",)):
            if found := self.which(name) or self.which(str(_WINDOWS / name)):
                return Browser((found, *arguments), self.environment, for_windows=True)
        return None


def here() -> Environment:
    """The place where this process runs."""
    try:
        kernel = Path("/proc/version").read_text()
    except (OSError, ValueError):
        kernel = ""
    container = any(Path(mark).exists() for mark in _CONTAINER_MARKS)
    return Environment(dict(os.environ), kernel=kernel, container=container)


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a user without a name, as in many containers
        return "USER"
