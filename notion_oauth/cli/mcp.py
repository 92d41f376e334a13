"""The commands `mcp ...`: the gateway for MCP clients."""

from __future__ import annotations

from importlib import import_module

import typer

from notion_oauth.cli.options import EnvFile, Profile, ServerUrl, TokenFile, oauth_from_options

mcp = typer.Typer(name="mcp", add_completion=False)


@mcp.callback(invoke_without_command=True, epilog="Example: `notion-oauth mcp`, as the command of an MCP client")
def stdio(
    ctx: typer.Context,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
) -> None:
    """Be the MCP server of a client on this machine, with a token that is always valid (on standard input and output).

    The client starts this command.
    """
    if ctx.invoked_subcommand is None:
        oauth = oauth_from_options(ctx, profile, token_file, server_url, env_file)
        import_module("notion_oauth.gateway.stdio").run(oauth)
