"""The TypeScript SDK as a client, which most hosts use: version 1, and version 2 on both wires."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.conformance.suite import find_node
from tests.process.gateway.connecting import Home, http_gateway
from tests.support.mcp_server import FIXED_TOKEN, McpServer

pytestmark = [pytest.mark.slow, pytest.mark.anyio]
NODE = "20"  # or later
SOURCES = Path(__file__).parent / "typescript"
CLIENTS: dict[str, dict[str, Any]] = {
    "1": {"sdk": 1},
    "2": {"sdk": 2},
    "2, without sessions": {"sdk": 2, "pin": "2026-07-28"},
}


@pytest.fixture(scope="module")
def program() -> list[str]:
    """The command of the program with its packages, which are installed once into the user's cache directory."""
    version = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(SOURCES.iterdir()))).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "notion-oauth-typescript"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "lock"):  # of the workers of a run
        directory = cache / version
        if not (directory / "installed").exists():
            shutil.copytree(SOURCES, directory, dirs_exist_ok=True)
            npm = shutil.which("npm") or "npm"
            subprocess.run([npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=directory, check=True)
            (directory / "installed").touch()
        return [find_node(cache, NODE), str(directory / "client.mjs")]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("route", ["direct", "stdio", "http"])
async def test_every_kind_of_message(
    program: list[str], route: str, client: str, server: McpServer, home: Home
) -> None:
    await home.sign_in()
    with ExitStack() as stack:
        asked = dict(CLIENTS[client])
        if route == "stdio":
            started = home.stdio()
            asked["stdio"] = {"command": started.command, "args": started.args, "env": started.env}
        else:
            url, token = server.url, FIXED_TOKEN
            if route == "http":
                running = stack.enter_context(http_gateway(home))
                url, token = running.url, running.secret
            asked |= {"url": url, "headers": {"Authorization": f"Bearer {token}"}}
        done = subprocess.run(
            [*program, json.dumps(asked)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert {"echo", "write"} <= set(seen.pop("tools"))
    assert seen.pop("steps")[0] == "step 1"  # this SDK drops progress that it reads together with the result
    assert seen == {
        "echo": "größe",
        "progress": "done",
        "elicit": "elicited",
        "sample": "sampled",
        "roots": "file:///a%20root",
        "poll": "resumed",
        "large": 5_000_000,
        "changed": True,
    }
