"""What programs on the service's machine need to use its login, for the service's page."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from notion_oauth.gateway.clients import CLIENTS, Configuration, Machine, UnsupportedTransport, configure
from notion_oauth.gateway.launch import SELECTING, launch, login_arguments, machine, selected
from notion_oauth.settings import Settings
from notion_oauth.web.status_page import Snippet, Usage

_TERMINAL = "Terminal"
_CURL = """curl {url} \\
  -H "Authorization: Bearer $({token})" \\
  -H "Accept: application/json, text/event-stream" \\
  -H "Content-Type: application/json" \\
  -d '{{"jsonrpc": "2.0", "id": 1, "method": "ping"}}'"""
_PYTHON = """import httpx
from notion_oauth import {names}

oauth = NotionOAuth({arguments})
ping = {{"jsonrpc": "2.0", "id": 1, "method": "ping"}}
headers = {{"Accept": "application/json, text/event-stream"}}
with httpx.Client(auth=BearerAuth(oauth), headers=headers) as client:
    print(client.post(oauth.settings.server_url, json=ping).text)"""


def service_usages(settings: Settings, clone: Path | None, profile: str | None = None) -> list[Usage]:
    """How each MCP client, a shell and Python use the login of a profile, by default that of the settings.

    `clone` is the directory of a clone's `main.py`.
    """
    settings = settings if profile is None else settings.model_copy(update={"profile": profile})
    here = machine()
    program = _program(clone)
    name = Path(program[0]).stem
    typed = (name,) if program == (shutil.which(name),) else program  # in a shell
    found = []
    for client in CLIENTS:
        try:
            configuration = configure(client, launch(settings, program), here)
        except UnsupportedTransport:  # it connects over HTTP only
            continue
        command = [*typed, "mcp", "config", client, "--write", *login_arguments(settings)]
        found.append(_client(configuration, command, here))
    found.append(_shell(here, settings, here.render_command([*typed, "token", *login_arguments(settings)])))
    found.append(_python(settings, clone))
    return found


def _program(clone: Path | None) -> tuple[str, ...]:
    """What starts the command line of this installation, from any directory."""
    if clone is not None:
        return sys.executable, str(clone / "cli.py")
    return (str(Path(sys.executable).with_name("notion-oauth.exe" if os.name == "nt" else "notion-oauth")),)


def _client(configuration: Configuration, write: list[str], here: Machine) -> Usage:
    """The command that changes the client's configuration, if there is one, and the lines for it."""
    command: list[str] | tuple[str, ...] | None = configuration.add
    if configuration.files and configuration.syntax == "json":
        command = write
    snippets = []
    if command is not None:
        purpose = f"Run this once. It adds the server {configuration.keys[-1]} to {configuration.client}."
        snippets.append(Snippet(purpose, _TERMINAL, here.render_command(command)))
    file = _shown(configuration.files[-1], here) if configuration.files else f"Configuration of {configuration.client}"
    purpose = "Or add it to the configuration yourself" if snippets else "Add this to the configuration."
    snippets.append(Snippet(purpose, file, configuration.text, alternative=bool(snippets)))
    return Usage(configuration.client, snippets, configuration.note)


def _shown(file: Path, here: Machine) -> str:
    """The path, with ~ for the home directory."""
    return f"~/{file.relative_to(here.home)}" if here.system != "win32" and here.home in file.parents else str(file)


def _shell(here: Machine, settings: Settings, token: str) -> Usage:
    snippets = [Snippet("This prints a token that is valid now, and nothing else.", _TERMINAL, token)]
    if here.system != "win32":  # its shells quote differently
        request = _CURL.format(url=settings.server_url, token=token)
        snippets.append(Snippet("A request with it:", "curl", request))
    return Usage("Shell", snippets)


def _python(settings: Settings, clone: Path | None) -> Usage:
    chosen = selected(settings, SELECTING)
    if clone is not None:
        chosen["token_file"] = str(settings.token_file)
    arguments = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
    text = _PYTHON.format(
        names="BearerAuth, NotionOAuth" + (", Settings" if chosen else ""),
        arguments=f"Settings({arguments})" if chosen else "",
    )
    return Usage("Python", [Snippet("Each request carries a valid token.", "example.py", text)])
