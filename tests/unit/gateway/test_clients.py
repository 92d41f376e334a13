"""What MCP clients need in their configuration."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from notion_oauth.gateway.clients import CLIENTS, Endpoint, Launch, Machine, UnsupportedTransport, configure
from tests.support.paths import ROOT

SECRET = "made-up-gateway-secret"
ARGUMENTS = ("mcp", "--token-file", 'C:\\my "tokens"\\ü 😀.json')
LAUNCH = Launch("notion-work", "/opt/my tools/notion-oauth", ARGUMENTS)
ENDPOINT = Endpoint(
    "notion", "http://127.0.0.1:8765/mcp", SecretStr(SECRET), ("/opt/my tools/notion-oauth", "mcp", "secret")
)
LINUX = Machine("linux", Path("/home/ada"), {})
PARSERS: Mapping[str, Callable[[str], Any]] = {
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": import_module("yaml").safe_load,  # it has no types
}


@pytest.mark.parametrize("client", sorted(CLIENTS.keys() - {"n8n"}))
def test_the_text_to_paste_starts_the_gateway_whatever_its_path_contains(client: str) -> None:
    found = configure(client, LAUNCH, LINUX)
    entry = PARSERS[found.syntax](found.text)[found.keys[0]]["notion-work"]
    assert entry == found.entry
    assert (entry.get("command") or entry["cmd"], tuple(entry["args"])) == (LAUNCH.command, ARGUMENTS)


@pytest.mark.parametrize("client", sorted(CLIENTS.keys() - {"claude-desktop", "n8n"}))
def test_the_text_to_paste_reaches_the_http_face(client: str) -> None:
    found = configure(client, ENDPOINT, LINUX)
    entry = PARSERS[found.syntax](found.text)[found.keys[0]]["notion"]
    assert entry == found.entry
    assert ENDPOINT.url in (entry.get("url"), entry.get("uri"))


def test_the_secret_is_in_files_only_of_clients_that_can_take_it_from_nowhere_else() -> None:
    found = {name: configure(name, ENDPOINT, LINUX) for name in CLIENTS if name != "claude-desktop"}
    assert {name for name, each in found.items() if each.contains_secret} == {"cursor", "zed", "goose", "n8n"}
    assert {name for name, each in found.items() if SECRET in each.text} == {"cursor", "zed", "goose", "n8n"}
    assert not [name for name, each in found.items() if SECRET in f"{each.add} {each!r}"]
    assert found["claude-code"].entry["headersHelper"] == "'/opt/my tools/notion-oauth' mcp secret --headers"


@pytest.mark.parametrize(("client", "server"), [("claude-desktop", ENDPOINT), ("n8n", LAUNCH)])
def test_a_transport_that_the_client_does_not_have_is_an_error(client: str, server: Launch | Endpoint) -> None:
    with pytest.raises(UnsupportedTransport, match=CLIENTS[client]):
        configure(client, server, LINUX)


@pytest.mark.parametrize("client", sorted(CLIENTS.keys() - {"n8n"}))
def test_the_documentation_has_the_text_of_each_client(client: str) -> None:
    found = configure(client, Launch("notion", "/home/ada/.local/bin/notion-oauth", ("mcp",)), LINUX)
    assert f"```{found.syntax}\n{found.text}\n```\n" in (ROOT / "docs" / "mcp-clients.md").read_text()


MAC, WINDOWS = Machine("darwin", Path("/Users/ada"), {}), Machine("win32", Path("/Users/ada"), {"APPDATA": "/Roaming"})


@pytest.mark.parametrize(
    ("client", "machine", "file"),
    [
        ("claude-desktop", MAC, "/Users/ada/Library/Application Support/Claude/claude_desktop_config.json"),
        ("claude-desktop", WINDOWS, "/Roaming/Claude/claude_desktop_config.json"),
        ("claude-code", WINDOWS, "/Users/ada/.claude.json"),
        ("claude-code", Machine("linux", Path("/home/ada"), {"CLAUDE_CONFIG_DIR": "/c"}), "/c/.claude.json"),
        ("codex", Machine("linux", Path("/home/ada"), {"CODEX_HOME": "/c"}), "/c/config.toml"),
        ("gemini", Machine("linux", Path("/home/ada"), {"GEMINI_CLI_HOME": "/c"}), "/c/.gemini/settings.json"),
        ("vscode", LINUX, "/home/ada/.config/Code/User/mcp.json"),
        ("vscode", MAC, "/Users/ada/Library/Application Support/Code/User/mcp.json"),
        ("zed", MAC, "/Users/ada/.config/zed/settings.json"),
        ("zed", Machine("linux", Path("/home/ada"), {"XDG_CONFIG_HOME": "/x"}), "/x/zed/settings.json"),
        ("goose", WINDOWS, "/Roaming/Block/goose/config/config.yaml"),
    ],
)
def test_file_of_the_client(client: str, machine: Machine, file: str) -> None:
    assert configure(client, LAUNCH, machine).files[-1] == Path(file)
