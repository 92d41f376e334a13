"""The blocks for a shell in README.md, docs/, deploy/ and examples/ run in a clone, against the practice server.

All lines run, except those that NOT_RUN names. Three things differ from what a reader sees: ports are free ones,
Notion's address is the practice server's, and a server is stopped once it answers.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pytest

from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.support.clone import Clone
from tests.support.documents import BLOCKS, SHELLS, Block
from tests.support.servers import free_port
from tests.support.signing_in import sign_in

pytestmark = [pytest.mark.slow, pytest.mark.anyio]
INSTALLS = "installs; .ci/run installs everything that the tests use"
DOCKER, ROOT_RIGHTS, SYSTEMD = "needs Docker", "needs root", "needs systemd"
POWERSHELL = "needs PowerShell"
NOT_RUN = {  # the beginning of a line, and why it is not run; what it has of our commands is parsed in any case
    "uv sync": INSTALLS,
    "uv tool install": INSTALLS,
    "docker compose": DOCKER,
    "sudo ": ROOT_RIGHTS,
    "systemctl ": SYSTEMD,
    "notion-oauth key --keyring": "needs the system keyring: tests/process/test_system_keyring.py",
    "export NOTION_OAUTH_ENCRYPTION_KEY=keyring": "needs the system keyring: tests/process/test_system_keyring.py",
    "$env:": POWERSHELL,
    "$token = ": POWERSHELL,
    "Invoke-RestMethod ": POWERSHELL,
    "  Authorization = ": POWERSHELL,
    "} -ContentType ": POWERSHELL,
}
DATABASE = 'export NOTION_OAUTH_DATABASE_URL="sqlite:///$HOME/tokens.db"'
CLIENT = "https://me.example/enterprise.json"
BEFORE = {  # the beginning of a line, and what is run before it
    "$ curl http://localhost:8000/": "uv run uvicorn main:app --port 8000",
    "notion-oauth adopt ": "notion-oauth logout",
    "notion-oauth migrate": DATABASE,
    "notion-oauth status": "notion-oauth login",
    "notion-oauth import ": f"{DATABASE}\nnotion-oauth migrate",
    "notion-oauth login --assertion-file ": f"export NOTION_OAUTH_CLIENT_ID={CLIENT}",
}
SERVES = re.compile(r"(?:uvicorn|sandbox|mcp serve) .*--port (\d+)")
SHELL_BLOCKS = [block for block in BLOCKS if block.language in SHELLS]


@dataclass
class Script:
    """What of a block is run."""

    block: Block

    @property
    def lines(self) -> list[str]:
        if self.block.code.startswith("$ "):  # with output
            return [line for line in self.block.lines if line.startswith("$ ")]
        if any(
            NOT_RUN[start] is POWERSHELL and line.startswith(start) for line in self.block.lines for start in NOT_RUN
        ):
            return []
        return [line for line in self.block.lines if not line.startswith((*NOT_RUN,))]

    def text(self, clone: Clone) -> str:
        """For /bin/sh, with free ports in place of the documented ones."""
        lines = [each for line in self.lines for each in self._steps(line)]
        text = "\n".join(lines)
        for port in {*re.findall(r"(?:--port |localhost:)(\d+)", text)}:
            text = text.replace(port, str(free_port()))
        addresses = ("https://mcp.notion.com/mcp", "http://127.0.0.1:9000/mcp")
        for address in addresses:
            text = text.replace(address, clone.server_url)
        return text.replace("COMMAND", "true").replace(
            "/data/tokens.json", str(clone.directory / ".notion-tokens.json")
        )

    def _steps(self, line: str) -> list[str]:
        before = [command for start, command in BEFORE.items() if line.startswith(start)]
        return [step for each in [*"\n".join(before).splitlines(), line.removeprefix("$ ")] for step in _step(each)]


def _step(line: str) -> list[str]:
    """A command, or the start of a server and a wait until it answers."""
    if not (serves := SERVES.search(line)):
        return [line]
    answers = f"curl -q -s -o /dev/null http://127.0.0.1:{serves[1]}/"
    return [f"{line} >serving.log 2>&1 & serving=$!", f"until {answers}; do kill -0 $serving; sleep 0.1; done"]


RUN = [block for block in SHELL_BLOCKS if Script(block).lines]


def test_almost_all_blocks_are_run() -> None:
    assert len(RUN) > 20
    shells = {str(block) for block in SHELL_BLOCKS}
    assert len(shells - {str(block) for block in RUN}) < 12


@pytest.mark.parametrize("start", [*NOT_RUN, *BEFORE])
def test_every_exception_is_a_line_of_the_documentation(start: str) -> None:
    assert any(line.startswith(start) for block in SHELL_BLOCKS for line in block.lines)


@pytest.fixture
async def signed_in(clone: Clone, sandbox: Sandbox) -> Clone:
    """A clone with a login beside `cli.py`, and one of the command `notion-oauth`."""
    file = clone.directory / ".notion-tokens.json"
    await sign_in(clone.oauth)
    await sign_in(NotionOAuth(Settings(server_url=clone.server_url, token_file=file)))
    (clone.home / ".curlrc").write_text("fail\n")  # an HTTP error is an error
    sandbox.options.client_metadata_documents = {CLIENT: {"client_id": CLIENT, "redirect_uris": ["https://me.example"]}}
    (clone.directory / "FILE").write_text(sandbox.identity_provider.assertion(CLIENT))
    return clone


@pytest.mark.parametrize("block", RUN, ids=str)
async def test_block_runs(block: Block, signed_in: Clone) -> None:
    done = signed_in.run(Script(block).text(signed_in))
    assert done.returncode == 0, done.stdout + done.stderr
    if "curl http" in block.code and block.code.startswith("$ "):
        pattern = re.sub(r"\d+", r"\\d+", re.escape(block.code.partition("\n")[2].strip()).replace("…", ".*"))
        assert re.fullmatch(pattern, done.stdout.strip().replace('":', '": ').replace(',"', ', "')), done.stdout


async def test_checks_of_doctor_have_the_documented_names(signed_in: Clone) -> None:
    (shown,) = [block.code for block in SHELL_BLOCKS if block.code.startswith("$ notion-oauth doctor")]
    names = set(re.findall(r"^(?:ok|warning|failure) +(\w+)  ", shown, re.MULTILINE))
    done = json.loads(signed_in.run("notion-oauth doctor --json").stdout)
    assert len(names) > 3
    assert names <= {check["check"] for check in done["checks"]}
