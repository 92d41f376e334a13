"""The commands: parse, call the service, print. Data goes to stdout, talk to stderr.

Exit codes: 0 done, 1 an error of our own, or a failed check or demo, 2 wrong usage or setting, 3 not signed in,
4 refused by the server, 5 no usable answer from the network (passing), 6 the login has ended: sign in again,
7 the token file, 130 stopped.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from notion_oauth import errors
from notion_oauth.cli.options import (
    INTERRUPTED,
    NOT_SIGNED_IN,
    REFUSED,
    AsJson,
    Profile,
    ServerUrl,
    TokenFile,
    exit_code,
    log_to_stderr,
    oauth_for,
    print_json,
    render_commands,
    run_to_end,
    span,
)

ORDER = (
    *("login", "status", "token", "refresh", "run", "profiles", "logout", "key", "reseal", "doctor"),
    *("sandbox", "demo"),
)


class _Commands(TyperGroup):
    """Ends the program with one sentence and an exit code where a command raises one of our errors.

    Of the commands only those that scripts run again and again are made at every start, the others when asked for.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self.commands.update(typer.main.get_command(import_module("notion_oauth.cli.commands").others).commands)  # type: ignore[attr-defined]
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(ORDER)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except errors.NotionOAuthError as error:
            typer.echo(f"Error: {render_commands(str(error), ctx)}", err=True)
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt:
            typer.echo("\nStopped. Nothing was changed.", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="notion-oauth",
    cls=_Commands,
    help="Sign in to Notion once, and every program you run has a valid Notion MCP token.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # they would print local variables, and so tokens
)


@app.callback()
def common(
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, show_default=False, help="Log to stderr; -vv: all there is.")
    ] = 0,
) -> None:
    if verbose:
        log_to_stderr(everything=verbose > 1)


@app.command(epilog="Example: `notion-oauth status --json`")
def status(
    ctx: typer.Context,
    remote: Annotated[bool, typer.Option("--remote", help="Ask the server, too: it may know better.")] = False,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show whether anybody is signed in. Asks no server, unless told to; exits with 3 where nobody is."""
    from notion_oauth.cli.fast_path import read_fast
    from notion_oauth.cli.status_text import describe, describe_remote
    from notion_oauth.protocol.lifetime import Lifetimes
    from notion_oauth.tokens.status import login_status

    seen = read_fast(profile, token_file, server_url)
    if seen is not None:
        found = login_status(seen, now=datetime.now(UTC), lifetimes=Lifetimes(), protection=seen.protection)
    else:
        found = run_to_end(oauth_for(profile, token_file, server_url).status)
    content, text, good, failed = found.as_json(), describe(found), True, None
    if remote and found.status != "unauthenticated":
        said, expired = None, found.status == "expired"
        try:
            said = None if expired else run_to_end(oauth_for(profile, token_file, server_url).introspect)
            text = f"{text}\n{describe_remote(said, expired=expired)}"
        except errors.NotionOAuthError as error:
            failed = error  # what is known here is told all the same
        content["remote"] = None if said is None else said.model_dump(mode="json")
        good = said is None or said.active
    if as_json:
        print_json(content)
    else:
        typer.echo(render_commands(text, ctx))
    if failed is not None:
        raise failed
    if not good:
        raise typer.Exit(REFUSED)
    if found.status == "unauthenticated":
        raise typer.Exit(NOT_SIGNED_IN)


@app.command(epilog='Example: `curl -H "Authorization: Bearer $(notion-oauth token)" https://mcp.notion.com/mcp`')
def token(
    min_ttl: Annotated[timedelta, span("Refresh first if it would expire within this, such as 10m.")] = timedelta(),
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
) -> None:
    """Print a valid access token and nothing else; refreshes where needed, never opens a browser."""
    from notion_oauth.cli.fast_path import read_fast
    from notion_oauth.protocol.lifetime import Lifetimes, Phase, phase

    seen = read_fast(profile, token_file, server_url)
    if seen is not None and not min_ttl and phase(seen, datetime.now(UTC), Lifetimes().window) is Phase.GOOD:
        typer.echo(seen.access_token)
        return
    oauth = oauth_for(profile, token_file, server_url)
    typer.echo(run_to_end(partial(oauth.tokens.token, min_ttl=min_ttl)).get_secret_value())
