"""A thousand simultaneous sign-ins at the practice server: whether any is lost, and how much memory remains in use."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

from benchmarks.browsers import HOST, sign_in_and_out
from benchmarks.measurements.context import Context
from benchmarks.servers import Server, serving
from benchmarks.tables import Table
from notion_oauth.sandbox import Sandbox, serve_sandbox

# Seconds for one request to the practice server, which answers a thousand simultaneous requests one by one
REQUEST_TIMEOUT = "300"


def measure(context: Context) -> Iterator[Table]:
    browsers, waves = context.choose(50, 1000), context.choose(2, 3)
    table = Table(
        f"{browsers} sign-ins at once",
        f"`uvicorn main:app` with a public URL, one worker: {browsers} browser sessions start a sign-in together,"
        " consent at the practice server, return to the callback, and see that they are signed in; then each signs out."
        " Each has a separate login with separate files; sign-ins that start together start with one client. Rate"
        " limits are off, because all come from one address, and a request to the practice server may take"
        f" {REQUEST_TIMEOUT} seconds. Memory is the"
        " resident set of the service's process.",
        ("After", "Signed in", "Most at once", "Signed out", "Lost", "Grants alive", "Files left", "Memory"),
    )
    directory = context.new_directory()
    tokens = directory / "store" / "tokens.json"
    tokens.parent.mkdir()
    with (
        serve_sandbox() as sandbox,
        serving(
            "main:app",
            directory,
            server_url=sandbox.mcp_url,
            token_file=str(tokens),
            public_url=f"https://{HOST}",
            secret_key=secrets.token_hex(32),
            rate_limit="0",
            status_rate_limit="0",
            timeout=REQUEST_TIMEOUT,
        ) as server,
    ):
        table.add("the start", "", "", "", "", "", str(_files(tokens)), _memory(server))
        for wave in range(1, waves + 1):
            table.add(f"{wave * browsers}", *_wave(server, browsers, sandbox, tokens))
    yield table


def _wave(server: Server, browsers: int, sandbox: Sandbox, tokens: Path) -> list[str]:
    found = sign_in_and_out(server.port, browsers)
    lost = ", ".join(f"{number} {what}" for what, number in found["lost"].items()) or "0"
    counts = [str(found[name]) for name in ("signed_in", "at_once", "signed_out")]
    return [*counts, lost, str(sandbox.live_grants), str(_files(tokens)), _memory(server)]


def _files(tokens: Path) -> int:
    return sum(1 for _ in tokens.parent.iterdir())


def _memory(server: Server) -> str:
    return f"{server.resident_bytes() / 2**20:.0f} MB"
