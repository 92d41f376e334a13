"""The official suite, `@modelcontextprotocol/conformance` from npm, pinned: install it, list and run its scenarios."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.2.0-alpha.12"
NODE = "22"  # the suite imports fs.globSync, which older versions lack
WIRES = ("2025-11-25", "2026-07-28")  # with the handshake, and without
TIMEOUT = 60  # seconds for one scenario; the suite's default of 30 is too short on a busy machine


@dataclass(frozen=True)
class Verdict:
    """The suite's result for one scenario. A warning fails it, and so does an unexpected error exit of the client."""

    scenario: str
    wire: str
    succeeded: int
    checks: int
    exit_code: int
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.exit_code == 0 and self.checks > 0 and self.succeeded == self.checks

    def __str__(self) -> str:
        word = "ok" if self.passed else "FAILED " + (", ".join(self.reasons) or f"exit code {self.exit_code}")
        return f"{self.wire}  {self.scenario:<44} {self.succeeded:>3}/{self.checks:<3} {word}"


@dataclass(frozen=True)
class Suite:
    """The suite and the Node that runs it."""

    node: str
    script: Path

    @classmethod
    def installed(cls) -> Suite:
        """Install the suite on first use, into the user's cache directory. Raises CalledProcessError if npm fails."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "notion-oauth-conformance"
        suite = _package(cache / f"suite-{VERSION}", "@modelcontextprotocol/conformance", VERSION)
        return cls(find_node(cache, NODE), suite / "dist" / "index.js")

    def scenarios(self) -> list[str]:
        """The authorization scenarios that the specification requires of every client, without extensions."""
        listed = subprocess.run(
            [self.node, self.script, "list", "--client"], capture_output=True, text=True, check=True
        ).stdout
        found = re.findall(r"^ *- (auth/\S+) \[(.*)\]$", listed, re.MULTILINE)
        return [name for name, kind in found if "extension" not in kind]

    def run(self, scenario: str, *, wire: str, command: Sequence[str], into: Path) -> Verdict:
        """Run one scenario with one wire, and read its checks."""
        directory = into / scenario
        directory.mkdir(parents=True)
        with (directory / "suite.log").open("w") as log:
            done = subprocess.run(
                [
                    *(self.node, self.script, "client", "--scenario", scenario, "--command", shlex.join(command)),
                    *("--timeout", str(TIMEOUT * 1000), "--spec-version", wire, "--force", "-o", directory),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        return _verdict(scenario, wire, done.returncode, directory)


def _verdict(scenario: str, wire: str, exit_code: int, directory: Path) -> Verdict:
    found = sorted(directory.rglob("checks.json"))
    checks = json.loads(found[-1].read_text()) if found else []
    counted = [check for check in checks if check["status"] in ("SUCCESS", "FAILURE", "WARNING")]
    failed = [check["id"] for check in counted if check["status"] != "SUCCESS"]
    if not found:
        failed.append("no result: see suite.log (--keep)")
    return Verdict(scenario, wire, len(counted) - len(failed), len(counted), exit_code, tuple(dict.fromkeys(failed)))


def _package(directory: Path, name: str, version: str) -> Path:
    package = directory / "node_modules" / name
    if not (package / "package.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "package.json").write_text('{"private": true}')
        npm = shutil.which("npm") or "npm"
        subprocess.run(
            [npm, "install", "--no-audit", "--no-fund", "--loglevel=error", f"{name}@{version}"],
            cwd=directory,
            check=True,
        )
    return package


def find_node(cache: Path, least: str) -> str:
    """The installed Node if it is new enough, otherwise one from npm."""
    installed = shutil.which("node")
    if installed is not None:
        version = subprocess.run([installed, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.removeprefix("v").partition(".")[0]) >= int(least):
            return installed
    kind = "arm64" if platform.machine() in ("aarch64", "arm64") else "x64"
    name = f"node-{platform.system().lower()}-{kind}"
    return str(_package(cache / f"node-{least}", name, least) / "bin" / "node")
