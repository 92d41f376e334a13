"""`notion-oauth mcp` is a clean process: it ends when it should, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from notion_oauth.sandbox import Sandbox
from tests.process.gateway.connecting import PROGRAM, Home, wait_until
from tests.process.gateway.json_lines import gateway
from tests.support.mcp_server import McpServer
from tests.support.signing_in import age

pytestmark = [pytest.mark.slow, pytest.mark.anyio]
SOON = 3.0  # seconds; one on an idle machine


def children_of(pid: int) -> list[str]:
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


def locks(home: Home) -> list[Path]:
    return [file for file in home.directory.rglob("*") if "lock" in file.name]


async def test_end_of_input_ends_the_process_and_the_session(server: McpServer, home: Home) -> None:
    await home.sign_in()
    before = locks(home)
    with gateway(home) as running:
        running.initialize()
        running.call("echo", word="x")
        assert children_of(running.process.pid) == []
        running.close()
        assert running.wait(SOON) == 0
        assert running.messages  # each line is JSON-RPC
        assert "Traceback" not in running.log
    assert [request.status for request in server.received("DELETE")] == [200]
    assert locks(home) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_and_the_session(server: McpServer, home: Home, number: int) -> None:
    await home.sign_in()
    with gateway(home) as running:
        running.initialize()
        running.call("echo", word="x")
        running.start("tools/call", name="wait", arguments={})
        assert server.tools.waiting.wait(10)
        running.process.send_signal(number)
        running.wait(SOON)
        assert "Traceback" not in running.log
    assert [request.status for request in server.received("DELETE")] == [200]


async def test_a_client_that_never_reads_does_not_keep_the_process(server: McpServer, home: Home) -> None:
    await home.sign_in()
    with gateway(home, reads=False) as running:
        info = {"name": "a test", "version": "1"}
        running.start("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=info)
        running.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        for _ in range(5):
            running.start("tools/call", name="large", arguments={"size": 500_000})
        wait_until(lambda: len(server.received("tools/call")) >= 2)
        running.process.terminate()
        running.wait(SOON)


FORWARDS = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:])
print(child.pid, file=sys.stderr, flush=True)
time.sleep(600)
"""


async def test_it_ends_when_its_parent_has_died(home: Home, server: McpServer) -> None:
    """Also if somebody else keeps its standard input open, as a host's other children do."""
    await home.sign_in()

    def launch(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        parent = [sys.executable, "-c", FORWARDS, str(PROGRAM), *arguments]
        return subprocess.Popen(parent, env=home.environment, cwd=home.directory, text=True, **options)

    with gateway(home, launch=launch) as running:
        running.initialize()
        pid = int(running.log.split()[0])
        running.process.send_signal(signal.SIGKILL)
        try:
            wait_until(lambda: not _runs(pid), SOON)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


async def test_a_killed_process_leaves_nothing_in_the_way(home: Home, server: McpServer) -> None:
    await home.sign_in()
    for _ in range(2):
        with gateway(home) as running:
            running.initialize()
            running.call("echo", word="x")
            running.process.kill()
    with gateway(home) as running:
        running.initialize()
        assert running.call("echo", word="x")["result"]


async def test_a_refresh_that_was_sent_is_awaited_and_stored(home: Home, server: McpServer, sandbox: Sandbox) -> None:
    await home.sign_in()
    age(home.oauth.settings.token_file, minutes=120)
    stored = home.oauth.settings.token_file.read_text()
    sandbox.misbehave_next("/token", "slow", seconds=1.0)
    with gateway(home) as running:
        running.start(
            "initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo={"name": "a test", "version": "1"}
        )
        wait_until(lambda: any("refresh_token" in each.form for each in sandbox.requests_to("/token")))
        running.process.terminate()
        started = time.monotonic()
        running.wait(SOON + 1)
        assert time.monotonic() - started > 0.5
    assert home.oauth.settings.token_file.read_text() != stored
    assert sandbox.is_access_token_live((await home.oauth.tokens.token()).get_secret_value())
    assert len([each for each in sandbox.requests_to("/token") if "refresh_token" in each.form]) == 1


async def test_it_ends_in_the_middle_of_a_sign_in(home: Home, sandbox: Sandbox) -> None:
    sandbox.options.auto_consent = False  # the browser shows a page, and nobody consents
    with gateway(home) as running:
        running.initialize()
        running.start("tools/call", name="notion-sign-in", arguments={})
        wait_until(lambda: home.tabs)
        running.close()
        running.wait(SOON)
        assert "Traceback" not in running.log


def test_output_without_a_reader_ends_the_process(home: Home) -> None:
    with gateway(home, reads=False) as running:
        assert running.process.stdout is not None
        running.start("ping")
        running.process.stdout.readline()
        running.process.stdout.close()
        running.start("ping")
        running.wait(SOON)
        assert "Traceback" not in running.log
