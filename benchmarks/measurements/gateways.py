"""What a gateway costs an MCP client: its start, each call, many calls at once, and its memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import anyio
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from benchmarks import process_tree
from benchmarks.environments import child_environment
from benchmarks.gateways import GATEWAYS, Ready, prepare
from benchmarks.logins import FRESH, sign_in
from benchmarks.measurements.context import Context
from benchmarks.servers import free_port, serving, wait_until_listening
from benchmarks.tables import Table, milliseconds, times
from notion_oauth.sandbox import SandboxOptions, serve_sandbox

DIRECT = "directly over HTTP"
OURS = "notion-oauth"
SERVED = "`notion-oauth mcp serve`"
AT_ONCE = 50
TIME_LIMIT = 120.0  # seconds for the calls of one start, and for one round of calls


@dataclass
class Results:
    """Everything measured with one gateway."""

    start: list[float] = field(default_factory=list)  # processor time
    start_wall: list[float] = field(default_factory=list)
    call: list[float] = field(default_factory=list)  # processor time
    memory: int = 0
    rates: list[float] = field(default_factory=list)  # relative to direct HTTP in the same round


def measure(context: Context) -> Iterator[Table]:
    directory = context.new_directory()
    versions = Table("Gateways", "Installed for this run.", ("Gateway", "Versions"))
    ready: list[Ready] = []
    for gateway in GATEWAYS:
        print(f"installing {gateway.name} …", file=sys.stderr, flush=True)
        prepared = prepare(gateway, directory / "installed" / gateway.name)
        if isinstance(prepared, Ready):
            ready.append(prepared)
            versions.add(prepared.name, prepared.versions)
        else:
            versions.add(prepared.name, f"skipped: {prepared.reason}")
    yield versions
    options = SandboxOptions()
    with (
        serve_sandbox(options) as sandbox,
        serving("benchmarks.mcp_upstream:app", directory, issuer=sandbox.issuer) as server,
    ):
        url = f"http://127.0.0.1:{server.port}/mcp"
        options.other_resources = (url,)
        login = sign_in(sandbox, directory / "tokens.json", left=FRESH, server_url=url)
        environment = {
            **child_environment(),
            "NOTION_OAUTH_SERVER_URL": url,
            "NOTION_OAUTH_TOKEN_FILE": str(login),
            "MCP_REMOTE_CONFIG_DIR": str(directory / "mcp-remote"),
        }
        token = json.loads(login.read_text())["access_token"]
        commands = {each.name: [*each.command, *each.options(url, token)] for each in ready}
        yield from _measure(context, commands, environment, url, token)


def _measure(
    context: Context, commands: Mapping[str, Sequence[str]], environment: Mapping[str, str], url: str, token: str
) -> Iterator[Table]:
    directory = context.new_directory()
    results = {name: Results() for name in commands}
    failed: dict[str, str] = {}
    for number in range(context.choose(2, 8)):
        for name, command in commands.items():
            try:
                with _talking(command, environment, directory) as talk:
                    if number:  # the first start compiles modules
                        results[name].start.append(talk.processor_seconds)
                        results[name].start_wall.append(talk.seconds)
                        results[name].call.append(talk.cost_of_a_call(context.choose(50, 200)))
            except (OSError, EOFError) as error:
                failed[name] = str(error) or "no answer"
    working = {name: command for name, command in commands.items() if name not in failed}
    served = Results()
    with Path(os.devnull).open("w") as log, ExitStack() as stack:
        endpoints = {DIRECT: (url, token)}
        if OURS in working:
            endpoints[SERVED] = stack.enter_context(_serving(working[OURS], environment, directory, served))
        measured = {**results, SERVED: served}
        direct = anyio.run(
            _measure_rates, working, environment, endpoints, context.choose(2, 21), measured, failed, log
        )
    rounds, calls = context.choose(1, 7), context.choose(50, 200)
    table = Table(
        "An MCP client's gateway on stdio",
        f"A session of 2025-11-25 with a server of the MCP Python SDK in another process. Medians of {rounds} starts,"
        f" each with {calls} calls one after another; processor time and memory include child processes."
        f" {AT_ONCE} calls at once: a client of the SDK, alternating with the same client directly over HTTP,"
        f" {direct:.0f} calls per second.",
        (
            "Gateway",
            "Start to the initialize answer",
            "of it processor time",
            "Processor time per call",
            "50 at once, ratio",
            "Memory",
        ),
    )
    for name, result in results.items():
        if name in failed:
            table.add_failed(name, failed[name])
            continue
        table.add(
            name,
            milliseconds(statistics.median(result.start_wall)),
            milliseconds(statistics.median(result.start)),
            f"{statistics.median(result.call) * 1000:.1f} ms",
            times(statistics.median(result.rates)),
            f"{result.memory / 1e6:.0f} MB",
        )
    if served.rates:
        note = (
            f"{SERVED} over HTTP: 50 calls at once have {times(statistics.median(served.rates))} the direct rate, and"
        )
        table.note += f" {note} it takes {served.memory / 1e6:.0f} MB."
    yield table


@contextmanager
def _serving(
    command: Sequence[str], environment: Mapping[str, str], directory: Path, results: Results
) -> Iterator[tuple[str, str]]:
    """Run our gateway's HTTP face. Yields its URL and its secret."""
    port = free_port()
    with (directory / "serve.log").open("wb") as log:
        serve = [*command, "serve", "--port", str(port)]
        process = subprocess.Popen(serve, env=environment, cwd=directory, stdout=log, stderr=log)
    with process:
        try:
            wait_until_listening(process, port)
            secret = Path(f"{environment['NOTION_OAUTH_TOKEN_FILE']}.gateway-secret").read_text().strip()
            yield f"http://127.0.0.1:{port}/mcp", secret
            results.memory = process_tree.resident_bytes(process.pid)
        finally:
            process.terminate()


class _Talk:
    """A gateway's process, spoken to in JSON lines."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        started = time.perf_counter()
        client = {"name": "benchmark", "version": "1"}
        self.request("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
        self.seconds = time.perf_counter() - started
        self.processor_seconds = process_tree.processor_seconds(process.pid)
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        self.request("tools/list")

    def request(self, method: str, **params: Any) -> Any:
        """Send a request and return its response. Raises EOFError if the process ends, or is killed by the limit."""
        self._send({"jsonrpc": "2.0", "id": method, "method": method, "params": params})
        while self._process.stdout is not None and (line := self._process.stdout.readline()):
            message = json.loads(line)
            if message.get("id") == method:
                if "result" not in message:
                    raise EOFError("an error for an answer")
                return message["result"]
        raise EOFError("no answer")

    def cost_of_a_call(self, calls: int) -> float:
        before = process_tree.processor_seconds(self._process.pid)
        for _ in range(calls):
            self.request("tools/call", name="echo", arguments={"word": "word"})
        return (process_tree.processor_seconds(self._process.pid) - before) / calls

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()


@contextmanager
def _talking(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> Iterator[_Talk]:
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    limit = threading.Timer(TIME_LIMIT, process.kill)
    limit.start()
    try:
        with process:
            yield _Talk(process)
            if process.stdin is not None:
                process.stdin.close()
            process.terminate()
    finally:
        process.kill()
        limit.cancel()


async def _measure_rates(
    commands: Mapping[str, Sequence[str]],
    environment: Mapping[str, str],
    endpoints: Mapping[str, tuple[str, str]],
    rounds: int,
    results: Mapping[str, Results],
    failed: dict[str, str],
    log: TextIO,
) -> float:
    """Many calls at once, directly and through each gateway in turn. Returns the rate of direct calls."""
    direct: list[float] = []
    async with AsyncExitStack() as stack:
        clients = {name: await stack.enter_async_context(_over_http(*each)) for name, each in endpoints.items()}
        for name, command in commands.items():
            program, *arguments = command
            transport = StdioServerParameters(command=program, args=arguments, env=dict(environment))
            before = set(process_tree.children_of(os.getpid()))
            clients[name] = await stack.enter_async_context(Client(stdio_client(transport, log), mode="legacy"))
            [pid] = set(process_tree.children_of(os.getpid())) - before
            await _rate(clients[name])
            results[name].memory = process_tree.resident_bytes(pid)
        for _ in range(rounds):
            rates: dict[str, float] = {}
            for name, client in clients.items():
                if name not in failed:
                    try:
                        rates[name] = await _rate(client)
                    except (TimeoutError, MCPError) as error:
                        failed[name] = f"{AT_ONCE} calls at once: {type(error).__name__}"
            direct.append(rates.pop(DIRECT))
            for name, rate in rates.items():
                results[name].rates.append(rate / direct[-1])
    return statistics.median(direct)


@asynccontextmanager
async def _over_http(url: str, token: str) -> AsyncGenerator[Client]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=TIME_LIMIT, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), mode="legacy") as client,
    ):
        yield client


async def _rate(client: Client) -> float:
    """Calls per second, for so many at once."""
    started = time.perf_counter()
    with anyio.fail_after(TIME_LIMIT):
        async with anyio.create_task_group() as calls:
            for _ in range(AT_ONCE):
                calls.start_soon(client.call_tool, "echo", {"word": "word"})
    return AT_ONCE / (time.perf_counter() - started)
