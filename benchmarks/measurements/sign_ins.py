"""Sign-ins at the practice server: their processor time, whether any is lost, and how much memory remains in use."""

from __future__ import annotations

import secrets
import statistics
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.browsers import HOST, REQUESTS, request_bare, sign_in_and_out
from benchmarks.measurements.context import Context
from benchmarks.servers import Server, serving
from benchmarks.tables import Table, times
from notion_oauth.sandbox import Sandbox, serve_sandbox

# Seconds for one request to the practice server, which answers a thousand simultaneous requests one by one
REQUEST_TIMEOUT = "300"
WARM_UP = 20  # sign-ins
COUNTS = "After", "Signed in", "Most at once", "Signed out"


def measure(context: Context) -> Iterator[Table]:
    yield _processor_time(context)
    yield _very_many(context)


def _processor_time(context: Context) -> Table:
    sign_ins, rounds = context.choose(20, 200), context.choose(1, 5)
    table = Table(
        "Processor time of a sign-in",
        f"`uvicorn main:app` with a public URL: {sign_ins} browser sessions sign in, and sign out when all are signed"
        f" in. A sign-in is {REQUESTS} requests (login, callback, status), each over a new connection; a sign-out is"
        f" {REQUESTS} more. Medians of {rounds} rounds that alternate with as many requests to a bare FastAPI route. It"
        " is the time of the service's process, without the practice server and the browsers.",
        ("At once", "Sign-in", "Sign-out", f"{REQUESTS} requests to a bare route", "Sign-in, ratio"),
    )
    with (
        serve_sandbox() as sandbox,
        _service(context.new_directory(), sandbox) as server,
        serving("benchmarks.bare:app", context.new_directory()) as bare,
    ):
        sign_in_and_out(server, WARM_UP, at_once=1)
        costs: dict[int, list[tuple[float, ...]]] = {1: [], 20: []}
        for _ in range(rounds):
            for at_once, found in costs.items():
                result = sign_in_and_out(server, sign_ins, at_once=at_once)
                if result["lost"]:
                    raise RuntimeError(f"sign-ins were lost: {result['lost']}")
                seconds = result["sign_in_seconds"], result["sign_out_seconds"], request_bare(bare, sign_ins)
                found.append(tuple(each / sign_ins for each in seconds))
    for at_once, found in costs.items():
        sign_in, sign_out, requests = (statistics.median(column) for column in zip(*found, strict=True))
        cells = [f"{each * 1000:.1f} ms" for each in (sign_in, sign_out, requests)]
        table.add(str(at_once), *cells, times(sign_in / requests))
    return table


def _very_many(context: Context) -> Table:
    browsers, waves = context.choose(50, 1000), context.choose(2, 3)
    table = Table(
        f"{browsers} sign-ins at once",
        f"`uvicorn main:app` with a public URL, one worker: {browsers} browser sessions start a sign-in together,"
        " consent at the practice server, return to the callback, and see that they are signed in; then each signs out."
        " Each has a separate login with separate files; sign-ins that start together start with one client. Rate"
        " limits are off, because all come from one address, and a request to the practice server may take"
        f" {REQUEST_TIMEOUT} seconds. Memory is the"
        " resident set of the service's process. The times are processor time of one sign-in and one sign-out.",
        (*COUNTS, "Lost", "Sign-in", "Sign-out", "Grants alive", "Files left", "Memory"),
    )
    directory = context.new_directory()
    tokens = directory / "store" / "tokens.json"
    with serve_sandbox() as sandbox, _service(directory, sandbox) as server:
        table.add("the start", *[""] * 7, str(_files(tokens)), _memory(server))
        for wave in range(1, waves + 1):
            table.add(f"{wave * browsers}", *_wave(server, browsers, sandbox, tokens))
    return table


def _service(directory: Path, sandbox: Sandbox) -> AbstractContextManager[Server]:
    (directory / "store").mkdir()
    return serving(
        "main:app",
        directory,
        server_url=sandbox.mcp_url,
        token_file=str(directory / "store" / "tokens.json"),
        public_url=f"https://{HOST}",
        secret_key=secrets.token_hex(32),
        rate_limit="0",
        status_rate_limit="0",
        timeout=REQUEST_TIMEOUT,
    )


def _wave(server: Server, browsers: int, sandbox: Sandbox, tokens: Path) -> list[str]:
    found = sign_in_and_out(server, browsers, at_once=browsers)
    lost = ", ".join(f"{number} {what}" for what, number in found["lost"].items()) or "0"
    counts = [str(found[name]) for name in ("signed_in", "at_once", "signed_out")]
    costs = [f"{found[name] / browsers * 1000:.1f} ms" for name in ("sign_in_seconds", "sign_out_seconds")]
    return [*counts, lost, *costs, str(sandbox.live_grants), str(_files(tokens)), _memory(server)]


def _files(tokens: Path) -> int:
    return sum(1 for _ in tokens.parent.iterdir())


def _memory(server: Server) -> str:
    return f"{server.resident_bytes() / 2**20:.0f} MB"
