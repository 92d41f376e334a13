"""The blocks and commands in the documentation."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name / "README.md" for name in ("deploy", "examples")),
]
SHELLS = ("sh", "console", "powershell")  # what is in `powershell` without its syntax is for every shell
STARTS = ("uv run python cli.py", "uv run notion-oauth", "notion-oauth")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(
    rf"(?:^|&& |\(|= |exec notion-oauth )(?:\$ )?(?:{'|'.join(STARTS)})(?![-.\w])([^|)\n]*)", re.MULTILINE
)


def commands(text: str) -> list[list[str]]:
    """The words of each of our own commands, without the program's name."""
    found = _COMMAND.findall(text.replace("\\\n", " "))
    return [shlex.split(line.partition(" >")[0].strip('"'), comments=True) for line in found]


@dataclass(frozen=True)
class Block:
    """A block of code in a document."""

    document: Path
    number: int  # in the document
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.number}"

    @property
    def lines(self) -> list[str]:
        """The lines with code, without comments at their ends; a line that goes on is one line."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line for line in (re.sub(r"(^|\s+)# .*", "", each) for each in lines) if line.strip()]


def _blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        for number, found in enumerate(_BLOCK.finditer(document.read_text()), start=1):
            yield Block(document, number, found[1], found[2])


BLOCKS = list(_blocks())


NOT_COMPARED = {  # the beginning of a block that is no output of the block above it, and what checks it instead
    "   PROFILE  WORKSPACE": "the table on a terminal: tests/component/cli/test_profiles.py",
    "0 6 * * * ": "tests/process/test_timers_and_profiles.py runs it as cron does",
    "GRANT SELECT, INSERT": "the rights of the role that the tests of the store use: tests/support/databases.py",
    "2026-11-25T09:58:18.733Z INFO notion_oauth.audit": "lines of a log: tests/component/test_reference_pages.py",
}
OUTPUTS = [block for block in BLOCKS if block.language == "text" and not block.code.startswith((*NOT_COMPARED,))]
TUTORIALS = [document for document in DOCUMENTS if sum(block.document == document for block in OUTPUTS) > 2]


def inline_code() -> Iterator[tuple[Path, str]]:
    """What is between backticks on one line, outside of blocks."""
    for document in DOCUMENTS:
        for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", _BLOCK.sub("", document.read_text())):
            yield document, code
