"""Programs that are an MCP server on stdio and pass every message on to a remote one: how each is installed and run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import EXCLUDE_NEWER, ROOT, TIME_LIMIT, Skipped, summary, versions_of

Install = Callable[[Path], tuple[Sequence[str], str]]
Options = Callable[[str, str], Sequence[str]]


@dataclass(frozen=True)
class Gateway:
    """A program with its options for a server's URL and a token; ours has both in its settings."""

    name: str
    install: Install  # into an empty directory; returns the command and the versions
    options: Options


@dataclass(frozen=True)
class Ready:
    """A gateway that is installed."""

    name: str
    command: Sequence[str]
    options: Options
    versions: str


def prepare(gateway: Gateway, directory: Path) -> Ready | Skipped:
    """Install one gateway in `directory`. Failures are reported."""
    directory.mkdir(parents=True)
    try:
        command, versions = gateway.install(directory)
    except subprocess.TimeoutExpired:
        return Skipped(gateway.name, f"it was not installed within {TIME_LIMIT} seconds")
    except subprocess.CalledProcessError as error:
        return Skipped(gateway.name, summary(error.stderr))
    except OSError as error:
        return Skipped(gateway.name, f"a program could not be run: {error.strerror}")
    return Ready(gateway.name, command, gateway.options, versions)


def _ours(directory: Path) -> tuple[Sequence[str], str]:
    """As a user has it: the wheel in an environment without development packages."""
    _run("uv", "build", "--quiet", "--wheel", "--out-dir", str(directory), str(ROOT))
    [wheel] = directory.glob("*.whl")
    return _python(str(wheel), "notion-oauth", "notion-oauth")(directory)


def _python(requirement: str, program: str, *shown: str) -> Install:
    def install(directory: Path) -> tuple[Sequence[str], str]:
        environment = directory / "environment"
        _run("uv", "venv", "--quiet", "--no-project", "--python", sys.executable, str(environment))
        python = str(environment / "bin" / "python")
        _run(
            *("uv", "pip", "install", "--quiet", "--compile-bytecode", "--python", python),
            *("--exclude-newer", EXCLUDE_NEWER, requirement),
        )
        return [str(environment / "bin" / program)], versions_of(python, shown)

    return install


def _node(package: str, script: str) -> Install:
    def install(directory: Path) -> tuple[Sequence[str], str]:
        (directory / "package.json").write_text('{"private": true}')
        _run(
            "npm", "install", "--silent", "--no-audit", "--no-fund", f"--before={EXCLUDE_NEWER}", package, at=directory
        )
        installed = directory / "node_modules" / package
        version = _run("node", "-p", f"require({str(installed / 'package.json')!r}).version").strip()
        node = _run("node", "--version").strip().removeprefix("v")
        return ["node", str(installed / script)], f"{package} {version}, node {node}"

    return install


def _run(*command: str, at: Path | None = None) -> str:
    done = subprocess.run(command, cwd=at, check=True, capture_output=True, text=True, timeout=TIME_LIMIT)
    return done.stdout


GATEWAYS = (
    Gateway("notion-oauth", _ours, lambda _url, _token: ("mcp",)),
    Gateway(
        "mcp-remote",
        _node("mcp-remote", "dist/proxy.js"),
        lambda url, token: (url, "--transport", "http-only", "--silent", "--header", f"Authorization: Bearer {token}"),
    ),
    Gateway(
        "mcp-proxy",
        _python("mcp-proxy", "mcp-proxy", "mcp-proxy", "mcp"),
        lambda url, token: (
            *("--transport", "streamablehttp", "--log-level", "ERROR"),
            *("-H", "Authorization", f"Bearer {token}", url),
        ),
    ),
    Gateway(
        "supergateway",
        _node("supergateway", "dist/index.js"),
        lambda url, token: ("--streamableHttp", url, "--logLevel", "none", "--oauth2Bearer", token),
    ),
    Gateway(
        "FastMCP",
        _python("fastmcp-remote", "fastmcp-remote", "fastmcp-remote", "mcp"),
        lambda url, token: (url, "--silent", "--header", f"Authorization: Bearer {token}"),
    ),
)
