"""The command `sandbox`: run the practice server in the foreground and print how to use it."""

from __future__ import annotations

import os
import shlex
import threading
from pathlib import Path

import typer

from notion_oauth.cli.options import INTERRUPTED, echo, program_name
from notion_oauth.errors import ConfigurationError
from notion_oauth.files.locations import CLONE_TOKEN_FILE, user_token_file
from notion_oauth.sandbox import SandboxOptions, serve_sandbox


def _set_variable(name: str, value: str) -> str:
    """The command for sh, or for PowerShell on Windows."""
    return f'$env:{name} = "{value}"' if os.name == "nt" else f"export {name}={shlex.quote(value)}"


def run_sandbox(*, port: int, token_lifetime: float, auto_consent: bool, clone: Path | None = None) -> None:
    """Serve until Ctrl-C. Raises ConfigurationError, also if the port cannot be bound.

    `clone` is the directory of a clone's `cli.py`.
    """
    default = user_token_file() if clone is None else clone / CLONE_TOKEN_FILE
    token_file = default.with_name(f"{default.stem}.sandbox{default.suffix}")
    options = SandboxOptions(access_token_lifetime=token_lifetime, auto_consent=auto_consent)
    try:
        with serve_sandbox(options, port=port) as sandbox:
            echo(
                f"The practice server, which behaves like Notion's, runs at {sandbox.base_url}\n"
                f"Access tokens are valid for {token_lifetime:g} seconds. In another terminal, run:\n\n"
                f"  {_set_variable('NOTION_OAUTH_SERVER_URL', sandbox.mcp_url)}\n"
                f"  {_set_variable('NOTION_OAUTH_TOKEN_FILE', str(token_file))}\n"
                f"  {program_name()} login\n\n"
                "Stop it with Ctrl-C. It stores nothing: every login ends with it.",
                err=True,
            )
            threading.Event().wait()
    except KeyboardInterrupt:
        echo("\nStopped. The logins of the practice server have ended.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except OSError as error:
        message = f"Cannot listen on port {port}: {error.strerror or error}."
        raise ConfigurationError(message, hint="Choose another port with --port; 0 means any free port.") from None
