"""The blocks for a shell in README.md, docs/, deploy/ and examples/ run in a clone, against the practice server.

All lines run, except those that NOT_RUN names, and what they print is compared with the block of text that follows.
Three things differ from what a reader sees: ports are free ones, Notion's address is the practice server's, and a
server is stopped at the end. The tutorial runs as one script.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from tests.support.clone import Clone
from tests.support.documents import BLOCKS, OUTPUTS, SHELLS, TUTORIALS, Block
from tests.support.servers import free_port
from tests.support.signing_in import sign_in

pytestmark = [pytest.mark.slow, pytest.mark.anyio]
INSTALLS = "installs packages; .ci/run installs all that the tests use"
KEYRING = "needs the system keyring: tests/process/test_system_keyring.py"
POWERSHELL = "needs PowerShell"
POSTGRESQL = "needs the operator's PostgreSQL, and replaces its database"
NOT_RUN = {  # the beginning of a line, and why it is not run; commands of this program in it are parsed in any case
    "uv sync": INSTALLS,
    "uv add ": INSTALLS,
    "uv tool install": INSTALLS,
    "docker compose": "needs Docker",
    "sudo ": "needs root, and changes the machine",
    "systemctl ": "needs systemd",
    "pg_dump ": POSTGRESQL,
    "createdb ": POSTGRESQL,
    "pg_restore ": POSTGRESQL,
    "psql ": POSTGRESQL,
    "notion-oauth key --keyring": KEYRING,
    "export NOTION_OAUTH_ENCRYPTION_KEY=keyring": KEYRING,
    "$env:": POWERSHELL,
    "$token = ": POWERSHELL,
}
DATABASE = 'export NOTION_OAUTH_DATABASE_URL="sqlite:///$HOME/tokens.db"'
BEFORE = {  # the beginning of a line, and what is run before it
    "$ curl http://localhost:8000/": "uv run uvicorn main:app --port 8000",
    "install -m 600 database.env.example": "cd deploy",
    "notion-oauth adopt ": "notion-oauth logout",
    "notion-oauth migrate": DATABASE,
    "notion-oauth import ": f"{DATABASE}\nnotion-oauth migrate",
    "notion-oauth profile use work": "notion-oauth login --profile work",
    "notion-oauth status": "notion-oauth login",
}
INSTEAD = {  # in the tutorial: of choosing Allow, and of waiting a minute
    "notion-oauth sandbox": "notion-oauth sandbox --auto-consent",
    "notion-oauth token\nnotion-oauth status": "notion-oauth refresh\nnotion-oauth token\nnotion-oauth status",
}
SERVES = re.compile(r"(?:uvicorn|sandbox|mcp serve) .*--port (\d+)")
END = "-- the end of a block --"
SHELL_BLOCKS = [block for block in BLOCKS if block.language in SHELLS]


def lines_to_run(block: Block) -> list[str]:
    lines = block.lines
    if block.code.startswith("$ "):  # the others are output
        return [line for line in lines if line.startswith("$ ")]
    if any(line.startswith(start) for line in lines for start, reason in NOT_RUN.items() if reason == POWERSHELL):
        return []
    return [line for line in lines if not line.startswith((*NOT_RUN,))]


RUN = [block for block in SHELL_BLOCKS if lines_to_run(block)]


def shown_after(block: Block) -> list[Block]:
    """The output of a block that is run, as the document shows it."""
    later = [each.number for each in RUN if each.document == block.document and each.number > block.number]
    numbers = range(block.number, min(later, default=1000))
    return [each for each in OUTPUTS if each.document == block.document and each.number in numbers]


def for_sh(line: str) -> str:
    """A command, or the start of a server and a wait until it answers."""
    if not (serves := SERVES.search(line)):
        return line.removeprefix("$ ")
    answers = f"curl -q -s -o /dev/null http://127.0.0.1:{serves[1]}/"
    return f"{line} >serving 2>&1 & serving=$!\nuntil {answers}; do kill -0 $serving; sleep 0.1; done\ncat serving >&2"


def adapted(script: str, clone: Clone) -> str:
    """The script with this test's addresses, ports and files."""
    script = re.sub(r"https://mcp\.[\w.]+/mcp", clone.server_url, script)
    if "sandbox -" not in script:
        script = script.replace("http://127.0.0.1:9000/mcp", clone.server_url)
    for port in {*re.findall(r"(?:--port |localhost:)(\d+)", script)}:
        script = re.sub(rf"\b{port}\b", str(free_port()), script)
    file = clone.directory / ".notion-tokens.json"
    return script.replace("COMMAND", "true").replace("/data/tokens.json", str(file))


def pattern(shown: str, clone: Clone) -> str:
    """For output with other numbers, times and tokens, and with anything in place of `…`."""
    text = re.escape(shown.replace("/home/ada", str(clone.home)).strip()).replace("…", ".*")
    text = re.sub(r"\b[0-9a-f]{8}\b", r"\\w+", text)  # a fingerprint
    text = re.sub(r"user:[\w:\\-]+", r"user:[\\w:-]+", text)
    text = re.sub(r"\\\(in\\ .*?\\\)|\\\(\d.*?\\ ago\\\)|\\\(now\\\)", r"\\([^)]+\\)", text)
    return re.sub(r"\d+", r"\\d+", re.sub(r"(\\ )+", " +", text))


@pytest.fixture
async def signed_in(clone: Clone) -> Clone:
    """A clone with a login beside `cli.py`, and one of the command `notion-oauth`."""
    file = clone.directory / ".notion-tokens.json"
    await sign_in(clone.oauth)
    await sign_in(NotionOAuth(Settings(server_url=clone.server_url, token_file=file)))
    (clone.home / ".curlrc").write_text("fail\n")  # an HTTP error is an error
    return clone


def test_almost_all_blocks_are_run() -> None:
    assert len(RUN) > 25
    assert len([block for block in SHELL_BLOCKS if block not in RUN]) < 13
    assert len(TUTORIALS) == 1
    assert {*OUTPUTS} == {shown for block in RUN for shown in shown_after(block)}


@pytest.mark.parametrize("start", [*NOT_RUN, *BEFORE])
def test_every_exception_is_a_line_of_the_documentation(start: str) -> None:
    assert any(line.startswith(start) for block in SHELL_BLOCKS for line in block.lines)


@pytest.mark.parametrize("block", [block for block in RUN if block.document not in TUTORIALS], ids=str)
async def test_block_runs(block: Block, signed_in: Clone) -> None:
    lines = lines_to_run(block)
    before = [[first for start, first in BEFORE.items() if line.startswith(start)] for line in lines]
    all_lines = [line for first, line in zip(before, lines, strict=True) for line in (*first, line)]
    script = "\n".join(for_sh(line) for each in all_lines for line in each.splitlines())
    done = signed_in.run(adapted(script, signed_in))
    assert done.returncode == 0, done.stdout + done.stderr
    for each in shown_after(block):
        assert re.search(pattern(each.code, signed_in), done.stdout + done.stderr, re.DOTALL), f"{each}: {done}"
    if "status" in block.code and block.code.startswith("$ curl "):
        shown, printed = (json.loads(text) for text in (re.sub(r", …", "", block.code.partition("\n")[2]), done.stdout))
        assert shown.keys() <= printed.keys()
        assert shown["status"] == printed["status"]


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda file: file.name)
def test_tutorial_prints_what_it_shows(tutorial: Path, clone: Clone) -> None:
    steps = [block for block in RUN if block.document == tutorial]
    script = "exec 2>&1\n" + "".join(
        "\n".join([f"echo {END}", *map(for_sh, lines_to_run(block)), ""]) for block in steps
    )
    for line, instead in INSTEAD.items():
        assert line in script
        script = script.replace(line, instead)
    done = clone.run(adapted(script, clone))
    assert done.returncode == 0, done.stdout
    for step, printed in zip(steps, done.stdout.split(f"{END}\n")[1:], strict=True):
        for block in shown_after(step):
            assert re.search(pattern(block.code, clone), printed, re.DOTALL), f"{block}: {printed}"


async def test_checks_of_doctor_have_the_documented_names(signed_in: Clone) -> None:
    (shown,) = [block.code for block in SHELL_BLOCKS if block.code.startswith("$ notion-oauth doctor")]
    names = set(re.findall(r"^(?:ok|warning|failure) +(\w+)  ", shown, re.MULTILINE))
    done = json.loads(signed_in.run("notion-oauth doctor --json").stdout)
    assert len(names) > 3
    assert names <= {check["check"] for check in done["checks"]}
