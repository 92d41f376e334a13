"""Detect the environment (SSH, container, WSL), and find out whether and how to open a browser there."""

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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

_TEXT_BROWSERS = frozenset({"www-browser", "w3m", "lynx", "links", "links2", "elinks", "browsh"})
_CONTAINER_MARKERS = ("/.dockerenv", "/run/.containerenv")
_INITIAL_NAMESPACES = {"pid": 0xEFFFFFFC, "user": 0xEFFFFFFD}  # their inodes (linux/nsfs.h)
_WINDOWS = Path("/mnt/c/Windows/System32")
# Windows passes all arguments as one string, and wslview passes it to PowerShell: allow no shell metacharacters
_SAFE_FOR_WINDOWS = re.compile(r"https?://[A-Za-z0-9:/?\[\]@&=+,._~%-]+")
# Only the first browser, once: if it fails, a second attempt might open a second page. `-I` keeps Python from
# importing a webbrowser.py of the working directory
_OPEN = (sys.executable, "-I", "-c", "import sys, webbrowser; sys.exit(not webbrowser.get().open(sys.argv[1]))")

Which = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Browser:
    """A command that opens a URL, which is passed as its last argument."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    for_windows: bool = False

    def open(self, url: str) -> bool:
        """Open the URL; returns whether that succeeded. Blocks until the command exits, which may take long.

        The command gets no terminal, so that it can neither read the input nor draw over the output of this program.
        """
        if self.for_windows and not _SAFE_FOR_WINDOWS.fullmatch(url):
            return False
        try:
            process = subprocess.Popen(  # noqa: S603 - no shell: the URL stays one argument
                [*self.command, url],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            return False
        return process.wait() == 0 or self.for_windows  # Windows programs exit with 1 there even on success


def open_in_thread(browser: Browser, url: str, on_failure: Callable[[], None]) -> None:
    """Open the URL in a daemon thread, which calls `on_failure` if no browser could be started."""

    def run() -> None:
        if not browser.open(url):
            on_failure()

    threading.Thread(target=run, name="browser", daemon=True).start()


@dataclass(frozen=True, slots=True)
class Environment:
    """Where the program runs: its environment variables, and whether that is SSH, a container or WSL.

    `which` finds a program on the PATH. `namespaced`: processes or users have other numbers here than outside.
    """

    variables: Mapping[str, str] = field(repr=False)
    platform: str = sys.platform
    kernel: str = ""
    container: bool = False
    namespaced: bool = False
    which: Which = shutil.which

    @property
    def ssh(self) -> bool:
        return any(self.variables.get(name) for name in ("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"))

    @property
    def wsl(self) -> bool:
        return bool(self.variables.get("WSL_DISTRO_NAME")) or "microsoft" in self.kernel.lower()

    @property
    def tells_users_apart(self) -> bool:
        """Whether each connection to a loopback port shows the user who opened it.

        In a container and in WSL, the browser is outside: its connection shows no user, or another number.
        """
        return self.platform == "linux" and not (self.container or self.namespaced or self.wsl)

    def ssh_tunnel_command(self, *targets: str) -> str | None:
        """Return the command that forwards ports of the user's own computer to this machine; None without SSH.

        Each target is an address and a port, such as 127.0.0.1:39443: the forwarded port has the same number.
        SSH_CONNECTION holds the client's address and port, then the server's as it sees itself: behind NAT, the client
        may have used another one.
        """
        parts = self.variables.get("SSH_CONNECTION", "").split()
        if len(parts) != 4 or not parts[3].isdecimal():
            return None
        try:
            address = ipaddress.ip_address(parts[2])
        except ValueError:
            return None
        host = getattr(address, "ipv4_mapped", None) or address
        forwards = "".join(f"-L {target.rpartition(':')[2]}:{target} " for target in targets)
        ssh_port = "" if parts[3] == "22" else f"-p {parts[3]} "
        return f"ssh {forwards}{ssh_port}{shlex.quote(f'{_user_name()}@{host}')}"

    def browser(self) -> Browser | str:
        """Return how to open a browser that the user can see, or the reason why none is opened, as a sentence.

        The BROWSER variable comes first: over SSH, VS Code sets one that opens the page on the user's own computer.
        """
        if browsers := self.variables.get("BROWSER"):
            return self._from_browser_variable(browsers)
        if self.ssh and not self._has_display:
            return "No browser is opened: you are connected to this machine over SSH."
        if self.wsl and (windows := self._windows_browser()):
            return windows
        if self._has_native_browser or self._has_display:
            return self._with_webbrowser({})
        place = "container" if self.container else "machine"
        return f"No browser is opened: this {place} has no graphical display."

    @property
    def _has_native_browser(self) -> bool:
        """Whether the system always has a browser, which is not looked up on the PATH."""
        return self.platform in ("win32", "darwin")

    @property
    def _has_display(self) -> bool:
        return bool(self.variables.get("DISPLAY") or self.variables.get("WAYLAND_DISPLAY"))

    def _from_browser_variable(self, browsers: str) -> Browser | str:
        reason = "No browser is opened: BROWSER names no installed program."
        for entry in filter(None, browsers.split(os.pathsep)):
            try:
                program = shlex.split(entry)[0]
            except (ValueError, IndexError):
                continue
            if Path(program).name in _TEXT_BROWSERS:
                reason = f"No browser is opened: {Path(program).name} would take over this terminal."
            elif self._has_native_browser or self.which(program):
                return self._with_webbrowser({"BROWSER": entry})
        return reason

    def _with_webbrowser(self, changes: Mapping[str, str]) -> Browser:
        """Python's own `webbrowser` module. Without TERM it tries no browser that runs in a terminal."""
        variables = {name: value for name, value in self.variables.items() if name != "TERM"}
        return Browser(_OPEN, {**variables, **changes})

    def _windows_browser(self) -> Browser | None:
        """Return the default browser of Windows, started from WSL.

        Not through cmd.exe, which splits a URL at each `&`, nor explorer.exe, which opens a directory for a URL with
        a query.
        """
        for name, *arguments in (("rundll32.exe", "url.dll,FileProtocolHandler"), ("wslview",)):
            if found := self.which(name) or self.which(str(_WINDOWS / name)):
                return Browser((found, *arguments), self.variables, for_windows=True)
        return None


def detect_environment() -> Environment:
    """Return the environment of this process."""
    try:
        kernel = Path("/proc/version").read_text()
    except (OSError, ValueError):
        kernel = ""
    container = any(Path(marker).exists() for marker in _CONTAINER_MARKERS)
    return Environment(dict(os.environ), kernel=kernel, container=container, namespaced=_namespaced())


def _namespaced() -> bool:
    """Return whether this process is in another PID or user namespace than the first of the system, as in containers.

    Some container runtimes, such as containerd, leave no other marker.
    """
    for name, inode in _INITIAL_NAMESPACES.items():
        with suppress(OSError):  # no Linux, or a kernel without such namespaces
            if os.stat(f"/proc/self/ns/{name}").st_ino != inode:  # noqa: PTH116 - no path of a file
                return True
    return False


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # this user id has no name, as in many containers
        return "USER"
