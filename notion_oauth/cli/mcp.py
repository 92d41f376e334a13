"""The commands `mcp ...`: the gateway for MCP clients."""

from __future__ import annotations

import logging
import sys
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from notion_oauth import errors
from notion_oauth.cli.options import (
    EnvFile,
    Profile,
    ServerUrl,
    TokenFile,
    duration_option,
    echo,
    oauth_from_options,
    parse_port,
    print_json,
    render_hint,
    settings_from_options,
)
from notion_oauth.gateway.local_secret import DEFAULT_PORT

if TYPE_CHECKING:
    from notion_oauth.service import NotionOAuth

ReadOnly = Annotated[bool, typer.Option("--read-only", help="Offer only the tools that change nothing.")]
AllowTool = Annotated[
    list[str] | None,
    typer.Option("--allow-tool", metavar="GLOB", help="Offer only the tools that match. Can be repeated."),
]
DenyTool = Annotated[
    list[str] | None,
    typer.Option("--deny-tool", metavar="GLOB", help="Do not offer the tools that match. Can be repeated."),
]
Patience = Annotated[
    timedelta | None,
    duration_option("How long a request is repeated if the server cannot be reached, such as 20s."),
]
Port = Annotated[int, typer.Option(parser=partial(parse_port, lowest=1), metavar="PORT", help="The port of 127.0.0.1.")]
ClientName = Literal[
    "claude-desktop", "claude-code", "cursor", "vscode", "codex", "gemini", "zed", "goose", "librechat", "n8n"
]


def _client_name(text: str) -> str:
    """Return the client of this name, in any case, or the text if no client has a similar name. Raises BadParameter."""
    import difflib

    names, name = get_args(ClientName), text.lower().replace(" ", "-")
    if name in names:
        return name
    similar = [each for each in names if each.startswith(name)] or difflib.get_close_matches(name, names)
    if similar and name:
        raise typer.BadParameter(f"{text!r} is not a name of a client. Did you mean {' or '.join(similar)}?")
    return text


def _complete_client(incomplete: str) -> list[str]:
    return [name for name in get_args(ClientName) if name.startswith(incomplete.lower())]


mcp = typer.Typer(name="mcp", add_completion=False, rich_markup_mode="markdown")


@mcp.callback(invoke_without_command=True, epilog="Example: `notion-oauth mcp`, as the command of an MCP client")
def stdio(
    ctx: typer.Context,
    read_only: ReadOnly = False,
    allow_tool: AllowTool = None,
    deny_tool: DenyTool = None,
    patience: Patience = None,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
) -> None:
    """Be the MCP server of a client on this machine, with a token that is always valid (on standard input and output).

    The client starts this command.
    """
    if ctx.invoked_subcommand is None:
        from notion_oauth.gateway import stdio as face

        oauth = oauth_from_options(ctx, profile, token_file, server_url, env_file)
        if sys.stdin.isatty():
            hint = errors.Hint("To configure one", "mcp config", arguments=("CLIENT",))
            text = "Waiting for the messages of an MCP client on standard input. Clients start this command themselves."
            echo(f"{text} {render_hint(hint, ctx)} (Ctrl-C to stop)", err=True)
        face.run(oauth, **_gateway_options(ctx, oauth, read_only, allow_tool, deny_tool, patience))


def _gateway_options(
    ctx: typer.Context,
    oauth: NotionOAuth,
    read_only: bool,
    allow_tool: list[str] | None,
    deny_tool: list[str] | None,
    patience: timedelta | None,
) -> dict[str, Any]:
    from notion_oauth.gateway.gateway import PATIENCE
    from notion_oauth.gateway.tools import ToolFilter
    from notion_oauth.observability.log_format import configure

    configure(oauth.settings.log_level, oauth.settings.log_format)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # below, it says that it starts and ends
    return {
        "tool_filter": ToolFilter(read_only, allow_tool or (), deny_tool or ()),
        "patience": PATIENCE if patience is None else patience.total_seconds(),
        "render_hint": partial(render_hint, ctx=ctx),
    }


@mcp.command(epilog="Example: `notion-oauth mcp config cursor --write`")
def config(
    ctx: typer.Context,
    client: Annotated[
        str,
        typer.Argument(parser=_client_name, autocompletion=_complete_client, metavar="CLIENT", help="The MCP client."),
    ],
    http: Annotated[bool, typer.Option("--http", help="For `mcp serve` instead of `mcp`: print its URL.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write it into your configuration of the client.")] = False,
    port: Port = DEFAULT_PORT,
    read_only: ReadOnly = False,
    allow_tool: AllowTool = None,
    deny_tool: DenyTool = None,
    patience: Patience = None,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
) -> None:
    """Print what an MCP client needs in its configuration to have Notion through this program.

    CLIENT is claude-desktop, claude-code, cursor, vscode, codex, gemini, zed, goose, librechat or n8n. For any other
    name, it shows what every client needs.
    The options that select a login, and those of the gateway, are repeated in what is printed.
    """
    from notion_oauth.cli import mcp_config

    settings = settings_from_options(ctx, profile, token_file, server_url, env_file)
    options = mcp_config.GatewayOptions(read_only, allow_tool or (), deny_tool or (), patience)
    sign_in = render_hint(errors.SIGN_IN, ctx)
    mcp_config.run(client, settings, options, port=port if http else None, write=write, sign_in=sign_in)


@mcp.command(epilog="Example: `notion-oauth mcp serve --read-only`")
def serve(
    ctx: typer.Context,
    port: Annotated[
        int, typer.Option(metavar="PORT", help="The port to listen on; 0 is any free port.", min=0, max=65535)
    ] = DEFAULT_PORT,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Answer requests for this host name, too. Can be repeated.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Let web pages of this origin use it. Can be repeated.")
    ] = None,
    no_local_secret: Annotated[
        bool, typer.Option("--no-local-secret", help="Accept requests of every program on this machine.")
    ] = False,
    read_only: ReadOnly = False,
    allow_tool: AllowTool = None,
    deny_tool: DenyTool = None,
    patience: Patience = None,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
) -> None:
    """Be the MCP server of all clients of this machine, over Streamable HTTP, until it is stopped.

    Clients must send the secret that `mcp config CLIENT --http` shows.
    """
    from notion_oauth.gateway import serving

    oauth = oauth_from_options(ctx, profile, token_file, server_url, env_file)
    serving.serve(
        oauth,
        host=host,
        port=port,
        needs_secret=not no_local_secret,
        allow_origins=allow_origin or (),
        allow_hosts=allow_host or (),
        on_started=lambda url: echo(f"The gateway is at {url} (Ctrl-C to stop).", err=True),
        **_gateway_options(ctx, oauth, read_only, allow_tool, deny_tool, patience),
    )


@mcp.command(epilog="Example: `notion-oauth mcp secret`")
def secret(
    ctx: typer.Context,
    headers: Annotated[bool, typer.Option("--headers", help="Print the header that contains it, as JSON.")] = False,
    token_file: TokenFile = None,
    env_file: EnvFile = None,
) -> None:
    """Print the secret that clients send to `mcp serve`. It is made at the first use."""
    from notion_oauth.gateway.local_secret import local_secret

    value = local_secret(settings_from_options(ctx, None, token_file, None, env_file)).get_secret_value()
    if headers:
        print_json({"Authorization": f"Bearer {value}"})
    else:
        echo(value)
