"""The documentation is true: Python blocks run against the practice server, every command parses, and files and exit
codes are as shown. tests/process/test_documented_commands.py runs the blocks for a shell, and compares their output.
test_reference_pages.py has the tables.
"""

from __future__ import annotations

import base64
import inspect
import json
import re
import secrets
import shlex
import subprocess
import tomllib
from pathlib import Path
from types import FunctionType
from typing import Any

import anyio
import pytest
import typer
import yaml  # type: ignore[import-untyped]
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient
from typer.testing import CliRunner
from uvicorn.main import main as uvicorn_command

from notion_oauth import JsonFileStore, NotionOAuth, Settings, create_app
from notion_oauth.cli import options
from notion_oauth.cli.main import app as command_line
from notion_oauth.gateway.clients import CLIENTS, Launch, Machine, configure
from notion_oauth.sandbox import Sandbox
from notion_oauth.settings import load_settings
from tests.support.documents import BLOCKS, DOCUMENTS, NOT_COMPARED, OUTPUTS, SHELLS, Block, commands, inline_code
from tests.support.paths import ROOT
from tests.support.signing_in import sign_in
from tests.support.stores import load_login

PYTHON = [block for block in BLOCKS if block.language == "python"]
SHELL = [block for block in BLOCKS if block.language in SHELLS]
DATA = [block for block in BLOCKS if block.language not in ("python", *SHELLS)]
TOKEN_FILES = [block for block in DATA if '"access_token":' in block.code]
ENV_FILES = [block for block in DATA if block.code.startswith("NOTION_OAUTH_")]
MANIFESTS = [block for block in DATA if "initContainers:" in block.code]
CLIENT_FILES = [block for block in DATA if "/home/ada/.local/bin/notion-oauth" in block.code]
RESPONSES = [
    block for block in DATA if block.language == "json" and ('"issuer":' in block.code or '"error":' in block.code)
]
LAYOUTS = [block for block in DATA if block.code.startswith("notion_oauth/")]
OTHER_OPTIONS = {"--network", "--no-proxy-headers", "--timeout-graceful-shutdown"}  # of docker run, and of uvicorn
TEXT = "\n".join(document.read_text() for document in DOCUMENTS)
INLINE = sorted({" ".join(words) for _, code in inline_code() for words in commands(code)})
UVICORN = re.compile(r"^(?:uv run )?(uvicorn .*)$", re.MULTILINE)
LAUNCH = Launch("notion", "/home/ada/.local/bin/notion-oauth", ("mcp",))
LINUX = Machine("linux", Path("/home/ada"), {})


@pytest.fixture
def signed_in(sandbox: Sandbox, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings of the environment mean the practice server, with logins in the profiles that the examples use."""
    monkeypatch.setenv("NOTION_OAUTH_SERVER_URL", sandbox.mcp_url)
    monkeypatch.setenv("NOTION_OAUTH_TOKEN_FILE", str(settings.token_file))
    for profile in ("default", "work", "user-1"):
        anyio.run(sign_in, NotionOAuth(settings, profile=profile))
    return settings


@pytest.mark.parametrize("example", PYTHON, ids=str)
def test_python_example_runs(example: Block, signed_in: Settings) -> None:
    names: dict[str, Any] = {"__name__": "__example__"}
    exec(example.code, names)  # noqa: S102 - our own documentation
    for function in [value for name, value in names.items() if name in ("main", "workspace")]:
        assert isinstance(function, FunctionType)
        keys = (
            [SecretStr(base64.urlsafe_b64encode(secrets.token_bytes(32)).decode())]
            if inspect.signature(function).parameters
            else []
        )
        anyio.run(function, *keys)
    if isinstance(names.get("app"), FastAPI):
        _ask(names["app"], has_users="profile" in names)


def _ask(app: FastAPI, *, has_users: bool) -> None:
    """Ask each route of an example's application that needs no form."""
    paths = set(app.openapi()["paths"])
    gateway = any(getattr(route, "path", "") == "/mcp" for route in app.routes)
    assert gateway or paths & {"/auth/status", "/pages"}
    with TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        if "/auth/status" in paths:
            answer = client.get("/auth/status")
            expected = (401, None) if has_users else (200, "authenticated")
            assert (answer.status_code, answer.json().get("status")) == expected
        if "/pages" in paths:
            assert client.get("/pages").json()["length"] > 0
        if gateway:
            client.headers |= {"Accept": "application/json, text/event-stream", "Authorization": "Bearer secret-of-ann"}
            params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
            message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
            assert "practice server" in client.post("/mcp", json=message).text
            assert client.post("/mcp", json=message, headers={"Authorization": "Bearer other"}).status_code == 403


def test_every_block_is_checked() -> None:
    checked = {*TOKEN_FILES, *ENV_FILES, *MANIFESTS, *CLIENT_FILES, *RESPONSES, *OUTPUTS, *LAYOUTS}
    assert [str(block) for block in DATA if block not in checked and not block.code.startswith((*NOT_COMPARED,))] == []
    assert len(PYTHON) > 8
    assert len(SHELL) > 20
    assert len(INLINE) > 30


@pytest.mark.parametrize("start", NOT_COMPARED)
def test_every_exception_is_a_block(start: str) -> None:
    assert any(block.code.startswith(start) for block in DATA)


def _parse(words: list[str]) -> None:
    """Let the program parse a command with its options; values are not checked."""
    if words[0] == "COMMAND":
        words = ["status", *words[1:]]
    if words[0] in ("--version", "--install-completion"):
        return  # of the program itself; test_options_in_the_text_exist knows them
    at = next(place for place, word in enumerate(words, 1) if not word.startswith("-"))  # after the command's name
    done = CliRunner().invoke(command_line, [*words[:at], "--help", *words[at:]])
    assert done.exit_code == 0, f"{words}: {done.output}"
    assert "Example" in done.output


@pytest.mark.parametrize("block", [block for block in SHELL if commands(block.code)], ids=str)
def test_commands_in_blocks_exist_with_their_options(block: Block) -> None:
    for words in commands(block.code):
        _parse(words)


@pytest.mark.parametrize("command", INLINE)
def test_commands_in_the_text_exist_with_their_options(command: str) -> None:
    if command:
        _parse(shlex.split(command))


def test_options_in_the_text_exist() -> None:
    """Options that are named without their command. Those of other programs stand after the program's name."""
    named = {code.split()[0].partition("=")[0] for _, code in inline_code() if code.startswith("--")}
    group = typer.main.get_command(command_line)
    assert named - _options(group) == OTHER_OPTIONS


def _options(command: Any) -> set[str]:
    context = typer.Context(command)
    own = {name for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)}
    names = command.list_commands(context) if hasattr(command, "list_commands") else []
    return own.union(*(_options(command.get_command(context, name)) for name in names))


def test_extras_and_groups_that_are_named_exist() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"--extra (\w+)|\.\[(\w+)\]|notion-oauth\[(\w+)\]|[Ee]xtra `(\w+)`", TEXT)
    assert {name for names in named for name in names if name} <= {*known}
    assert len(named) > 5


UVICORN_COMMANDS = sorted(
    {command for block in SHELL for command in UVICORN.findall("\n".join(block.lines))}
    | {command for _, code in inline_code() for command in UVICORN.findall(code) if ":" in command}
)


@pytest.mark.parametrize("command", UVICORN_COMMANDS)
def test_uvicorn_commands_parse(command: str) -> None:
    chosen = uvicorn_command.make_context("uvicorn", shlex.split(command)[1:]).params
    assert chosen["app"] in ("main:app", "example:app", "fastapi_users:app", "notion_oauth.app:create_app")


def test_exit_codes_in_the_text_are_in_the_table() -> None:
    named = re.findall(r"[Ee]xit codes?(?: is)? (\d+)|exits? with (\d+)", TEXT)
    known = {0, options.FAILED, options.INTERRUPTED, *(code for _, code in options.EXIT_CODES)}
    assert len(named) > 2
    assert {int(code) for codes in named for code in codes if code} <= known


@pytest.mark.anyio
@pytest.mark.parametrize("block", TOKEN_FILES, ids=str)
async def test_documented_token_file_is_a_login(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(block.code)
    tokens = await load_login(JsonFileStore(path), "default")
    assert tokens is not None
    assert tokens.access_token.get_secret_value() == "secret_xyz"
    assert tokens.client is not None
    assert tokens.client.client_id == "dynamic_id_123"
    assert tokens.expires_at is not None
    assert tokens.expires_at.timestamp() == 1707734160 + 3600


@pytest.mark.anyio
@pytest.mark.parametrize("block", RESPONSES, ids=str)
async def test_responses_have_the_fields_that_are_shown(block: Block, oauth: NotionOAuth) -> None:
    shown = json.loads(block.code)
    with TestClient(create_app(oauth.settings), base_url="http://localhost", client=("127.0.0.1", 50000)) as client:
        if "error" in shown:
            response = client.get("/auth/callback")
        else:
            await sign_in(oauth)
            await oauth.identify()
            response = client.get("/auth/status")
    assert {name: type(value) for name, value in response.json().items()} == {
        name: type(value) for name, value in shown.items()
    }


@pytest.mark.parametrize("block", CLIENT_FILES, ids=str)
def test_files_of_mcp_clients_are_what_the_program_prints(block: Block) -> None:
    texts = {configure(client, LAUNCH, LINUX).text for client in CLIENTS if client != "n8n"}
    assert block.code.removesuffix("\n") in texts


def test_commands_of_mcp_clients_are_what_the_program_runs() -> None:
    shown = [code for _, code in inline_code() if "/home/ada/" in code and code.startswith(("claude mcp", "codex mcp"))]
    run = {configure(client, LAUNCH, LINUX).add for client in CLIENTS if client != "n8n"}
    assert len(shown) > 2
    for command in shown:
        words = shlex.split(command)
        if words[2] == "add-json":
            headers = json.loads(words[-1])["headersHelper"]
            assert commands(headers.removeprefix("/home/ada/.local/bin/")) == [["token", "--headers"]]
        else:
            assert tuple(words) in run


@pytest.mark.parametrize("block", ENV_FILES, ids=str)
def test_env_files_are_read(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "documented.env"
    file.write_text(block.code)
    file.chmod(0o600)
    names = re.findall(r"^NOTION_OAUTH_(\w+)=.", block.code, re.MULTILINE)
    settings = load_settings(env_file=file)
    assert [name for name in names if not settings.is_set(name.lower())] == []


@pytest.mark.parametrize("block", MANIFESTS, ids=str)
def test_init_container_copies_a_login_once(block: Block, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/tokens.json").write_text("first")
    pod = yaml.safe_load(block.code)["spec"]["template"]["spec"]
    command = [re.sub(r"/(data|secret)\b", rf"{tmp_path}/\1", word) for word in pod["initContainers"][0]["command"]]
    for _ in range(2):
        subprocess.run(command, check=True)
        (tmp_path / "secret/tokens.json").write_text("later")
    copy = tmp_path / "data/login/tokens.json"
    assert (copy.read_text(), copy.stat().st_mode & 0o777) == ("first", 0o600)
    assert pod["containers"][0]["env"] == [{"name": "NOTION_OAUTH_TOKEN_FILE", "value": "/data/login/tokens.json"}]


@pytest.mark.parametrize("block", LAYOUTS, ids=str)
def test_layout_names_what_exists(block: Block) -> None:
    names = re.findall(r"── (\w+\.py)", block.code)
    packages = block.code.rpartition(": ")[2].replace("\n", "").split(", ")
    assert names
    assert [name for name in (*names, *packages) if not (ROOT / "notion_oauth" / name).exists()] == []
