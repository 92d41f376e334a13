"""Make the images in docs/images/ again: `uv run python docs/screenshots.py`. Needs Chromium."""

from __future__ import annotations

import io
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import httpx
from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
COMMAND = Path(sys.executable).with_name("notion-oauth")
SANDBOX_PORT, SERVICE_PORT = 9000, 8000  # the ones that the documentation uses
STARTUP = 30.0  # seconds
COLUMNS = 96
SHOWN_HOME = "/home/ada"  # in the place of the temporary directory
TERMINAL = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0; padding: 20px 24px; color: {foreground};
background: {background}; }} pre {{ font: 14px/1.5 monospace; margin: 0; white-space: pre-wrap; }}</style>
<pre>{code}</pre>"""
CHROMIUM = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server"),
)


@contextmanager
def running(command: list[str], url: str, *, directory: str, environment: dict[str, str]) -> Iterator[None]:
    """Run a program of this repository until the block ends; the block starts when `url` answers."""
    with subprocess.Popen([sys.executable, *command], cwd=directory, env=environment) as process:  # noqa: S603
        try:
            deadline = monotonic() + STARTUP
            while True:
                try:
                    httpx.get(url, trust_env=False)
                    break
                except httpx.TransportError:
                    if process.poll() is not None or monotonic() > deadline:
                        raise
                    sleep(0.1)
            yield
        finally:
            process.terminate()


def in_terminal(words: list[str], *, directory: str, environment: dict[str, str]) -> str:
    """Return what a command of this repository writes to a terminal, with its colours."""
    terminal, end = pty.openpty()
    with subprocess.Popen(  # noqa: S603
        [str(COMMAND), *words], cwd=directory, env=environment, stdout=end, stderr=end
    ):
        os.close(end)
        parts = []
        with suppress(OSError):  # the command has ended
            while part := os.read(terminal, 65536):
                parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode().replace("\r\n", "\n")


def terminal_page(commands: list[list[str]], *, directory: str, environment: dict[str, str]) -> str:
    """Return a page that shows commands and their output in a terminal of COLUMNS columns."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    wide = {**environment, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    for words in commands:
        console.print(f"[bold green]$[/] [bold]notion-oauth {' '.join(words)}[/]", highlight=False)
        output = in_terminal(words, directory=directory, environment=wide)
        console.print(Text.from_ansi(output.rstrip("\n").replace(directory, SHOWN_HOME)))
        console.print()
    return console.export_html(theme=DIMMED_MONOKAI, code_format=TERMINAL, inline_styles=True)


def photograph(url: str, image: Path, size: tuple[int, int]) -> None:
    browser = next(
        (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
    )
    if not browser:
        raise SystemExit("Chromium is not installed.")
    with tempfile.TemporaryDirectory() as profile:
        options = [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", f"--screenshot={image}"]
        subprocess.run([browser, *CHROMIUM, *options, url], check=True, capture_output=True, timeout=60)  # noqa: S603


def main() -> None:
    """Sign in at the practice server, as a browser does, and photograph the status page and a terminal."""
    server, service = f"http://127.0.0.1:{SANDBOX_PORT}", f"http://127.0.0.1:{SERVICE_PORT}"
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NOTION_OAUTH_", "XDG_"))}
        path = f"{COMMAND.parent}{os.pathsep}{kept['PATH']}"  # the command is found by its name
        environment = {**kept, "HOME": directory, "PATH": path, "NOTION_OAUTH_SERVER_URL": f"{server}/mcp"}
        sandbox = [str(ROOT / "cli.py"), "sandbox", "--port", str(SANDBOX_PORT), "--auto-consent"]
        stack.enter_context(running(sandbox, server, directory=directory, environment=environment))
        app = ["-m", "uvicorn", "notion_oauth.app:create_app", "--factory", "--port", str(SERVICE_PORT)]
        stack.enter_context(running(app, f"{service}/healthz", directory=directory, environment=environment))
        with httpx.Client(follow_redirects=True, trust_env=False) as browser:
            browser.get(f"{service}/auth/login").raise_for_status()
        photograph(f"{service}/", IMAGES / "status.png", (900, 1030))
        page = Path(directory, "terminal.html")
        commands = [["whoami"], ["status"], ["profiles"]]
        page.write_text(terminal_page(commands, directory=directory, environment=environment))
        photograph(page.as_uri(), IMAGES / "terminal.png", (840, 510))


if __name__ == "__main__":
    main()
