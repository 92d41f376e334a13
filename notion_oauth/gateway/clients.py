"""What MCP clients need in their configuration to use the gateway: entries, files, and their own commands. Pure."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import SecretStr

SECRET_VARIABLE = "NOTION_MCP_GATEWAY_SECRET"  # noqa: S105 - the name of a variable
Syntax = Literal["json", "toml", "yaml", "text"]
Entry: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Launch:
    """The command that a client runs to start the gateway. `name` is the server's name in the client."""

    name: str
    command: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Endpoint:
    """The gateway's HTTP face. `secret_command` prints its secret, and with `--headers` the header as JSON."""

    name: str
    url: str
    secret: SecretStr
    secret_command: tuple[str, ...]

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret.get_secret_value()}"}


@dataclass(frozen=True)
class Machine:
    """The machine that the client runs on. `system` is as `sys.platform`."""

    system: str
    home: Path
    environment: Mapping[str, str]

    @property
    def config(self) -> Path:
        """The directory in which most programs have their configuration."""
        if self.system == "win32":
            return Path(self.environment.get("APPDATA") or self.home / "AppData" / "Roaming")
        if self.system == "darwin":
            return self.home / "Library" / "Application Support"
        return self.xdg_config

    @property
    def xdg_config(self) -> Path:
        return Path(self.environment.get("XDG_CONFIG_HOME") or self.home / ".config")

    def render_command(self, words: Sequence[str]) -> str:
        """The command line for the system's shell."""
        return subprocess.list2cmdline(words) if self.system == "win32" else shlex.join(words)


@dataclass(frozen=True, repr=False)
class Configuration:
    """What one client needs. Its `repr` shows nothing: `text` and `entry` may contain the secret."""

    client: str
    syntax: Syntax
    text: str  # to paste
    entry: Entry  # what the client's file has for the server
    keys: tuple[str, ...]  # where in the file
    files: tuple[Path, ...]  # the user's file; several: the first that exists; a name may be a pattern with *
    add: tuple[str, ...] | None  # the client's own command that adds the entry
    remove: tuple[str, ...] | None  # its command that must remove an entry of that name first
    note: str
    contains_secret: bool


class UnsupportedTransport(Exception):
    """The client has no such transport. The message says what to do."""


@dataclass(frozen=True)
class _Client:
    title: str
    section: str
    files: Callable[[Machine], tuple[Path, ...]]
    stdio: Callable[[Launch, Machine], Entry] | None
    http: Callable[[Endpoint, Machine], Entry] | None
    syntax: Syntax = "json"
    add: Callable[[str, Entry], tuple[str, ...]] | None = None
    remove: Callable[[str], tuple[str, ...]] | None = None
    more: Callable[[Endpoint], Entry] | None = None  # other sections that HTTP needs
    stdio_note: str = ""
    http_note: str = ""


def _stdio(launch: Launch, _: Machine) -> Entry:
    return {"command": launch.command, "args": [*launch.arguments]}


def _typed_stdio(launch: Launch, machine: Machine) -> Entry:
    return {"type": "stdio", **_stdio(launch, machine)}


def _goose_stdio(launch: Launch, _: Machine) -> Entry:
    command = {"type": "stdio", "cmd": launch.command, "args": [*launch.arguments], "envs": {}}
    return {"enabled": True, "name": launch.name, "description": "notion-oauth", **command, "timeout": 300}


def _http(endpoint: Endpoint, _: Machine) -> Entry:
    return {"url": endpoint.url, "headers": endpoint.bearer}


def _claude_code_http(endpoint: Endpoint, machine: Machine) -> Entry:
    helper = machine.render_command([*endpoint.secret_command, "--headers"])
    return {"type": "http", "url": endpoint.url, "headersHelper": helper}


def _vscode_http(endpoint: Endpoint, _: Machine) -> Entry:
    return {"type": "http", "url": endpoint.url, "headers": {"Authorization": f"Bearer ${{input:{_INPUT['id']}}}"}}


def _codex_http(endpoint: Endpoint, _: Machine) -> Entry:
    return {"url": endpoint.url, "bearer_token_env_var": SECRET_VARIABLE}


def _gemini_http(endpoint: Endpoint, _: Machine) -> Entry:
    return {"url": endpoint.url, "type": "http", "headers": {"Authorization": f"Bearer ${SECRET_VARIABLE}"}}


def _goose_http(endpoint: Endpoint, _: Machine) -> Entry:
    server = {"type": "streamable_http", "uri": endpoint.url, "headers": endpoint.bearer, "envs": {}}
    return {"enabled": True, "name": endpoint.name, "description": "notion-oauth", **server, "timeout": 300}


def _librechat_http(endpoint: Endpoint, _: Machine) -> Entry:
    headers = {"Authorization": f"Bearer ${{{SECRET_VARIABLE}}}"}
    return {"type": "streamable-http", "url": endpoint.url, "headers": headers}


def _add_to_claude_code(name: str, entry: Entry) -> tuple[str, ...]:
    if "url" in entry:
        return "claude", "mcp", "add-json", "--scope", "user", name, json.dumps(entry)
    return "claude", "mcp", "add", "--scope", "user", name, "--", entry["command"], *entry["args"]


def _add_to_vscode(name: str, entry: Entry) -> tuple[str, ...]:
    inputs = {"inputs": [_INPUT]} if "url" in entry else {}
    return "code", "--add-mcp", json.dumps({"name": name, **entry, **inputs})


def _add_to_codex(name: str, entry: Entry) -> tuple[str, ...]:
    if "url" in entry:
        return "codex", "mcp", "add", name, "--url", entry["url"], "--bearer-token-env-var", SECRET_VARIABLE
    return "codex", "mcp", "add", name, "--", entry["command"], *entry["args"]


def _add_to_gemini(name: str, entry: Entry) -> tuple[str, ...]:
    start = ("gemini", "mcp", "add", "--scope", "user")
    if "url" in entry:
        header = f"Authorization: {entry['headers']['Authorization']}"
        return *start, "--transport", "http", "--header", header, name, entry["url"]
    return *start, name, entry["command"], "--", *entry["args"]


def _claude_desktop_files(machine: Machine) -> tuple[Path, ...]:
    file = Path("Claude", "claude_desktop_config.json")
    usual = machine.config / file
    if machine.system != "win32":
        return (usual,)
    local = Path(machine.environment.get("LOCALAPPDATA") or machine.home / "AppData" / "Local")
    return local / "Packages" / "Claude_*" / "LocalCache" / "Roaming" / file, usual  # from the Store, or not


def _zed_files(machine: Machine) -> tuple[Path, ...]:
    if machine.system == "win32":
        return (machine.config / "Zed" / "settings.json",)
    directory = machine.home / ".config" if machine.system == "darwin" else machine.xdg_config
    return (directory / "zed" / "settings.json",)


def _goose_files(machine: Machine) -> tuple[Path, ...]:
    if machine.system == "win32":
        return (machine.config / "Block" / "goose" / "config" / "config.yaml",)
    return (machine.xdg_config / "goose" / "config.yaml",)


def _in_home(*parts: str, variable: str = "", without: int = 1) -> Callable[[Machine], tuple[Path, ...]]:
    """A file in the home directory. The variable replaces the home and the first parts of the path, `without` many."""

    def files(machine: Machine) -> tuple[Path, ...]:
        if variable and (directory := machine.environment.get(variable)):
            return (Path(directory, *parts[without:]),)
        return (machine.home.joinpath(*parts),)

    return files


_GEMINI_NOTE = "Gemini CLI uses servers only in directories that it trusts."
_CONTAINER_NOTE = (
    "In a container, 127.0.0.1 is the container itself: docs/mcp-clients.md says how to reach this machine."
)
_DEFAULTS: tuple[object, ...] = ({}, "stdio", True)  # of `env`, `type` and `enabled`
_INPUT = {
    "type": "promptString",
    "id": "notion-gateway-secret",
    "description": "Secret of the Notion gateway (notion-oauth mcp secret)",
    "password": True,
}
_CLIENTS = {
    "claude-desktop": _Client(
        "Claude Desktop",
        "mcpServers",
        _claude_desktop_files,
        _stdio,
        None,
        stdio_note="Quit Claude Desktop and start it again.",
    ),
    "claude-code": _Client(
        "Claude Code",
        "mcpServers",
        _in_home(".claude.json", variable="CLAUDE_CONFIG_DIR", without=0),
        _typed_stdio,
        _claude_code_http,
        add=_add_to_claude_code,
        remove=lambda name: ("claude", "mcp", "remove", "--scope", "user", name),
    ),
    "cursor": _Client("Cursor", "mcpServers", _in_home(".cursor", "mcp.json"), _stdio, _http),
    "vscode": _Client(
        "VS Code",
        "servers",
        lambda machine: (machine.config / "Code" / "User" / "mcp.json",),
        _typed_stdio,
        _vscode_http,
        add=_add_to_vscode,
        more=lambda _: {"inputs": [_INPUT]},
    ),
    "codex": _Client(
        "Codex",
        "mcp_servers",
        _in_home(".codex", "config.toml", variable="CODEX_HOME"),
        _stdio,
        _codex_http,
        syntax="toml",
        add=_add_to_codex,
    ),
    "gemini": _Client(
        "Gemini CLI",
        "mcpServers",
        _in_home(".gemini", "settings.json", variable="GEMINI_CLI_HOME", without=0),
        _stdio,
        _gemini_http,
        add=_add_to_gemini,
        stdio_note=_GEMINI_NOTE,
        http_note=_GEMINI_NOTE,
    ),
    "zed": _Client("Zed", "context_servers", _zed_files, _stdio, _http),
    "goose": _Client("goose", "extensions", _goose_files, _goose_stdio, _goose_http, syntax="yaml"),
    "librechat": _Client(
        "LibreChat",
        "mcpServers",
        lambda _: (),
        _typed_stdio,
        _librechat_http,
        syntax="yaml",
        more=lambda endpoint: {"mcpSettings": {"allowedAddresses": [urlsplit(endpoint.url).netloc]}},
        stdio_note="LibreChat in a container cannot start programs of this machine: there, use --http.",
        http_note=_CONTAINER_NOTE,
    ),
    "n8n": _Client("n8n", "", lambda _: (), None, _http, syntax="text", http_note=_CONTAINER_NOTE),
}
CLIENTS: Mapping[str, str] = {name: client.title for name, client in _CLIENTS.items()}


def configure(client: str, server: Launch | Endpoint, machine: Machine) -> Configuration:
    """Return what a client of `CLIENTS` needs to use the gateway. Raises UnsupportedTransport."""
    found = _CLIENTS[client]
    more: Entry = {}
    if isinstance(server, Launch):
        if found.stdio is None:
            raise UnsupportedTransport(f"{found.title} connects to servers over HTTP only: add --http.")
        entry = found.stdio(server, machine)
    else:
        if found.http is None:
            raise UnsupportedTransport(f"{found.title} starts servers itself, and does not take a URL: omit --http.")
        entry = found.http(server, machine)
        more = {} if found.more is None else found.more(server)
    keys = (found.section, server.name)
    return Configuration(
        client=found.title,
        syntax=found.syntax,
        text=_render(found.syntax, {found.section: {server.name: entry}, **more}),
        entry=entry,
        keys=keys,
        files=found.files(machine),
        add=None if found.add is None else found.add(server.name, entry),
        remove=None if found.remove is None else found.remove(server.name),
        note=found.stdio_note if isinstance(server, Launch) else found.http_note,
        contains_secret=isinstance(server, Endpoint) and server.secret.get_secret_value() in json.dumps(entry),
    )


def differences(entry: Entry, wanted: Entry) -> list[str]:
    """Return the keys in which two entries differ, apart from values that clients add, and that change nothing."""
    one, other = ({key: value for key, value in each.items() if value not in _DEFAULTS} for each in (entry, wanted))
    return [key for key in {**one, **other} if one.get(key) != other.get(key)]


def gateway_entries(servers: Entry) -> dict[str, Entry]:
    """Return those of a client's servers that are this gateway, by name."""
    return {name: entry for name, entry in servers.items() if isinstance(entry, dict) and _is_gateway(name, entry)}


def words_of(entry: Entry) -> list[str]:
    """Return the program and the arguments that an entry starts; empty if it connects to a URL."""
    arguments = entry.get("args")
    return [str(word) for word in (entry.get("command"), *arguments)] if isinstance(arguments, list) else []


def local_port(entry: Entry) -> int | None:
    """Return the port of the gateway's HTTP face that an entry connects to; None if it connects to something else."""
    with suppress(ValueError):  # not a URL
        url = urlsplit(str(entry.get("url")))
        if (url.hostname, url.path) == ("127.0.0.1", "/mcp"):
            return url.port
    return None


def _is_gateway(name: str, entry: Entry) -> bool:
    words = words_of(entry)
    if "mcp" not in words[1:]:
        return name.startswith("notion") and local_port(entry) is not None
    return any("notion-oauth" in word or word == "notion_oauth" or Path(word).name == "cli.py" for word in words)


def _render(syntax: Syntax, document: Entry) -> str:
    if syntax == "json":
        return json.dumps(document, indent=2, ensure_ascii=False)
    if syntax == "toml":
        return "\n".join(_toml_lines(document))
    if syntax == "yaml":
        return "\n".join(_yaml_lines(document))
    ((_, servers),) = document.items()
    ((_, entry),) = servers.items()
    return (
        "Node: MCP Client Tool (or MCP Client)\n"
        "Server Transport: HTTP Streamable\n"
        f"Endpoint: {entry['url']}\n"
        "Authentication: Bearer Auth\n"
        f"Bearer Token: {entry['headers']['Authorization'].removeprefix('Bearer ')}"
    )


def _scalar(value: object) -> str:
    """A string, number, list of strings or empty table: JSON's syntax is also that of YAML 1.2 and of TOML."""
    return json.dumps(value, ensure_ascii=False)


def _toml_lines(document: Entry) -> list[str]:
    ((section, servers),) = document.items()
    ((name, entry),) = servers.items()
    return [f"[{section}.{name}]", *(f"{key} = {_scalar(value)}" for key, value in entry.items())]


def _yaml_lines(document: Entry) -> list[str]:
    lines = []
    for key, value in document.items():
        if isinstance(value, dict) and value:
            lines += [f"{key}:", *(f"  {line}" for line in _yaml_lines(value))]
        else:
            lines.append(f"{key}: {_scalar(value)}")
    return lines
