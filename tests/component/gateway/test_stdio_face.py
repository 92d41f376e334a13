"""The gateway on standard input and output."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from notion_oauth.gateway.server_sent_events import EventParser
from tests.component.gateway.talking import INITIALIZE

PROGRAM = str(Path(sys.executable).with_name("notion-oauth"))


def environment(directory: Path) -> dict[str, str]:
    return {**os.environ, "XDG_DATA_HOME": str(directory / "data"), "XDG_CACHE_HOME": str(directory / "cache")}


@pytest.mark.slow
def test_an_id_that_is_not_json_does_not_end_the_process(tmp_path: Path) -> None:
    lines = [b'{"jsonrpc":"2.0","id":NaN,"method":"ping"}', json.dumps({**INITIALIZE, "method": "ping"}).encode()]
    done = subprocess.run(
        [PROGRAM, "mcp"],
        input=b"\n".join(lines),
        env=environment(tmp_path),
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, b'"id":0' in done.stdout) == (0, True), done.stderr[-300:]


@pytest.mark.slow
def test_standard_input_may_be_non_blocking(tmp_path: Path) -> None:
    """It is shared with the parent, if that has made its own end of the same terminal or socket non-blocking."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        process = subprocess.Popen(
            [PROGRAM, "mcp"],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.DEVNULL,
            env=environment(tmp_path),
        )
        try:
            with pytest.raises(subprocess.TimeoutExpired):  # it waits for input
                process.wait(3)
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_retry_that_is_no_time_is_ignored(digits: int) -> None:
    (event,) = EventParser().feed(b"retry: " + b"9" * digits + b"\ndata: {}\n\n")
    assert event.retry is None


def test_a_byte_order_mark_before_the_first_event_is_ignored() -> None:
    assert [event.data for event in EventParser().feed(b"\xef\xbb\xbfdata: {}\n\n")] == [b"{}"]
