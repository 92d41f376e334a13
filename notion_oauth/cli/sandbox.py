"""`cli.py sandbox`: the practice server in the foreground, with words on how to use it."""

from __future__ import annotations

import threading

import typer

from notion_oauth.errors import ConfigurationError
from notion_oauth.sandbox import SandboxOptions, serve_sandbox


def run_sandbox(*, port: int, token_lifetime: float, auto_consent: bool) -> None:
    """Serve until Ctrl-C. Raises ConfigurationError where the port is taken."""
    options = SandboxOptions(access_token_lifetime=token_lifetime, auto_consent=auto_consent)
    try:
        with serve_sandbox(options, port=port) as sandbox:
            typer.echo(
                f"A practice server that behaves as Notion's does runs at {sandbox.base_url}\n"
                f"Access tokens live {token_lifetime:g} seconds. In another terminal:\n\n"
                f"  export NOTION_OAUTH_SERVER_URL={sandbox.mcp_url}\n"
                f"  export NOTION_OAUTH_TOKEN_FILE=.notion-tokens.sandbox.json\n"
                f"  uv run python cli.py login\n\n"
                "Nothing is kept: stopped with Ctrl-C, it forgets everybody.",
                err=True,
            )
            threading.Event().wait()
    except OSError as error:
        message = f"Port {port} of this machine cannot be used: {error.strerror or error}."
        raise ConfigurationError(message, hint="Choose another with --port, or 0 for any that is free.") from None
