"""Checks of the gateway for MCP clients: its command, its port, and the clients that are configured for it."""

from __future__ import annotations

import http.client
import sys
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus
from pathlib import Path

from notion_oauth.cli import mcp_config
from notion_oauth.cli.doctor.context import CheckContext
from notion_oauth.cli.doctor.findings import Finding, ok, warning
from notion_oauth.concurrency import run_in_daemon_thread
from notion_oauth.errors import ConfigurationError, Hint
from notion_oauth.gateway.clients import (
    CLIENTS,
    Entry,
    Launch,
    UnsupportedTransport,
    configure,
    gateway_entries,
    local_port,
    words_of,
)
from notion_oauth.gateway.launch import machine
from notion_oauth.gateway.local_secret import DEFAULT_PORT
from notion_oauth.gateway.port_holder import find_port_holder

TIME_LIMIT = 3.0  # seconds


async def gateway(_: CheckContext) -> Sequence[Finding]:
    """Whether clients could start the gateway, and whether `mcp serve` runs. A login is another check."""
    command = machine().render_command([*mcp_config.program_command(), "mcp"])
    if mcp_config.is_temporary(sys.prefix):
        hint = "Install the program with `uv tool install` or `pipx install`."
        started = warning(f"Clients would start {command}, which uvx or `pipx run` deletes at some time.", hint)
    else:
        started = ok(f"clients start it with: {command}")
    return [started, await run_in_daemon_thread(partial(port_finding, DEFAULT_PORT))]


def port_finding(port: int, *, needed_by: str | None = None) -> Finding:
    """Whether `mcp serve` answers at the port, could listen on it, or who prevents that.

    `needed_by` is the client that connects to it.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIME_LIMIT)
    try:
        connection.request("GET", "/mcp")  # without the secret: another program may listen
        status = connection.getresponse().status
    except ConnectionRefusedError:
        if needed_by is not None:
            start = Hint("Start the gateway", "mcp serve", {} if port == DEFAULT_PORT else {"port": str(port)})
            return warning(f"{needed_by} connects to port {port}, where nothing listens.", start)
        return ok(f"mcp serve is not running; port {port} is free")
    except (OSError, http.client.HTTPException):
        status = None
    finally:
        connection.close()
    holder = find_port_holder(port)
    if status in (HTTPStatus.FORBIDDEN, HTTPStatus.METHOD_NOT_ALLOWED) and (holder is None or holder.is_gateway):
        return ok(f"mcp serve answers on port {port}")
    if holder is not None and holder.is_gateway:
        message = f"mcp serve listens on port {port} and does not answer."
        return warning(message, f"Stop process {holder.pid}, and start it again.")
    who = "another program" if holder is None else str(holder)
    return warning(f"Port {port} is in use by {who}.", "Use another port: mcp serve --port, mcp config --port.")


def clients(_: CheckContext) -> Sequence[Finding]:
    """Which clients have the gateway in their configuration, and whether what they start exists."""
    configured, problems = [], []
    for client, title in CLIENTS.items():
        try:
            found = _entries(client)
        except ConfigurationError as error:
            problems.append(warning(error.message, error.hint))
            continue
        configured += [f"{title} ({name})" for name in found]
        for name, entry in found.items():
            port = local_port(entry)
            if port is not None and (reached := port_finding(port, needed_by=f"{title} ({name})")).result != "ok":
                problems.append(reached)
            started = (word for word in words_of(entry)[:2] if Path(word).is_absolute())  # the second: `cli.py`
            missing = next((word for word in started if not Path(word).exists()), None)
            if missing is not None:
                message = f"{name} in the configuration of {title} starts {missing}, which does not exist."
                problems.append(
                    warning(message, Hint("Write it again", "mcp config", {"write": None}, arguments=(client,)))
                )
    return [ok(f"configured for {', '.join(configured)}" if configured else "none configured yet"), *problems]


def _entries(client: str) -> dict[str, Entry]:
    """The gateway's entries in the user's file of a client, by name. For YAML, only whether there is one."""
    try:
        configuration = configure(client, Launch("notion", "", ()), machine())
    except UnsupportedTransport:
        return {}
    found = mcp_config.read_client_file(configuration)
    if found is None:
        return {}
    if found.document is None:
        return {"notion": {}} if "notion-oauth" in found.text else {}
    return gateway_entries(found.document.get(configuration.keys[0], {}))
