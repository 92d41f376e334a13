"""Environments of the subjects: ours runs in this one, each peer in a separate one that is made for this run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXCLUDE_NEWER = "2026-11-20"  # as in pyproject.toml, so that all packages are from the same day
TIME_LIMIT = 300  # seconds for making an environment


@dataclass(frozen=True)
class Candidate:
    """A client to compare, and the packages to install for it; none for our own."""

    name: str
    module: str
    packages: Sequence[str]
    shown: Sequence[str]  # the packages whose versions matter to a reader


CANDIDATES = (
    Candidate("notion-oauth", "benchmarks.subjects.ours", (), ("notion-oauth", "httpx")),
    Candidate("Authlib", "benchmarks.subjects.authlib_client", ("authlib", "httpx"), ("authlib", "httpx")),
    Candidate("MCP Python SDK", "benchmarks.subjects.mcp_sdk", ("mcp",), ("mcp", "httpx2")),
    Candidate("FastMCP", "benchmarks.subjects.fastmcp_client", ("fastmcp",), ("fastmcp", "mcp", "httpx2")),
)


@dataclass(frozen=True)
class Installed:
    """A subject whose environment was made."""

    name: str
    module: str
    python: str
    versions: str


@dataclass(frozen=True)
class Skipped:
    """A subject whose environment could not be made, and the reason."""

    name: str
    reason: str


def prepare(candidate: Candidate, directory: Path) -> Installed | Skipped:
    """Make the environment of one subject in `directory`. Failures are reported."""
    python = sys.executable
    try:
        if candidate.packages:
            environment = directory / candidate.module.rpartition(".")[2]
            python = str(environment / "bin" / "python")
            _run("uv", "venv", "--no-project", *_options(sys.executable), str(environment))
            _run("uv", "pip", "install", *_options(python), *candidate.packages)
        versions = versions_of(python, candidate.shown)
    except subprocess.TimeoutExpired:
        return Skipped(candidate.name, f"its environment was not made within {TIME_LIMIT} seconds")
    except subprocess.CalledProcessError as error:
        return Skipped(candidate.name, summary(error.stderr))
    except OSError as error:
        return Skipped(candidate.name, f"uv could not be run: {error.strerror}")
    return Installed(candidate.name, candidate.module, python, versions)


def child_environment() -> dict[str, str]:
    """Variables for the measured processes: no settings or proxies of this machine; compiled files are written."""
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NOTION_OAUTH_", "FASTMCP_", "PYTHON", "VIRTUAL_ENV", "COVERAGE"))
        and not name.lower().endswith("_proxy")
    }
    return {**variables, "PYTHONPATH": str(ROOT), "FASTMCP_CHECK_FOR_UPDATES": "off"}


def _options(python: str) -> Sequence[str]:
    return ("--quiet", "--python", python, "--exclude-newer", EXCLUDE_NEWER)


def versions_of(python: str, packages: Sequence[str]) -> str:
    return _run(python, "-c", _VERSIONS, *packages).strip()


_VERSIONS = """
import sys
from importlib.metadata import version
print(*(f"{name} {version(name)}" for name in sys.argv[1:]), sep=", ")
"""


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIME_LIMIT).stdout


def summary(output: str) -> str:
    """The beginning of an error in one line, without addresses and paths."""
    words = [word for word in output.split() if any(letter.isalnum() for letter in word)]
    shown = ["…" if "/" in word else word for word in words[:40]]
    return " ".join(shown) or "no reason was given"
