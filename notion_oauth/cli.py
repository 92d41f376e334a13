"""The commands: parse, call the service, print. Data goes to stdout, talk to stderr.

Exit codes: 0 done, 1 an error of our own, 2 wrong usage or setting, 3 not signed in, 4 refused by the server,
5 no usable answer from the network (passing), 6 the login has ended: sign in again, 7 the token file, 130 stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from notion_oauth import errors

if TYPE_CHECKING:
    from rich.console import Console

    from notion_oauth.service import NotionOAuth

T = TypeVar("T")

EXIT_CODES: tuple[tuple[type[errors.NotionOAuthError], int], ...] = (
    (errors.ConfigurationError, 2),
    (errors.NotSignedIn, 3),
    (errors.TransientError, 5),
    (errors.SignInRequired, 6),
    (errors.StorageError, 7),
    (errors.NotionOAuthError, 4),  # the rest: the server refused, or contradicts itself
)
TOKEN_VARIABLE = "NOTION_MCP_TOKEN"  # noqa: S105 - its name
NOT_SIGNED_IN = 3
INTERRUPTED = 130


def _span(text: str) -> Any:
    """An option that takes a span of time, such as 10m."""
    return typer.Option(parser=_parsed_span, metavar="SPAN", show_default=False, help=text)


def _parsed_span(value: str | timedelta) -> timedelta:
    from notion_oauth.words import parse_span

    if isinstance(value, timedelta):
        return value  # the default
    try:
        return parse_span(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def exit_code(error: errors.NotionOAuthError) -> int:
    """The exit code that an error ends the program with."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


ORDER = ("login", "status", "token", "refresh", "run", "profiles", "logout", "sandbox", "demo")


class _Commands(TyperGroup):
    """Ends the program with one sentence and an exit code where a command raises one of our errors.

    Of the commands only those that scripts run again and again are made at every start, the others when asked for.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self.commands.update(typer.main.get_command(others).commands)  # type: ignore[attr-defined]
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(ORDER)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except errors.NotionOAuthError as error:
            typer.echo(f"Error: {as_run(str(error))}", err=True)
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

others = typer.Typer()

TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="Where the tokens lie. [NOTION_OAUTH_TOKEN_FILE]", show_default=False),
]
ServerUrl = Annotated[
    str | None, typer.Option("--server-url", help="The MCP server. [NOTION_OAUTH_SERVER_URL]", show_default=False)
]
Profile = Annotated[
    str | None, typer.Option("--profile", help="Which login is meant. [NOTION_OAUTH_PROFILE]", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@others.command(epilog="Example: `notion-oauth login`")
def login(
    profile: Profile = None, token_file: TokenFile = None, server_url: ServerUrl = None, as_json: AsJson = False
) -> None:
    """Sign in through the browser, and keep the tokens."""
    from notion_oauth.login import sign_in
    from notion_oauth.words import validity

    oauth, talk = _oauth(profile, token_file, server_url), _talk()
    _run(lambda: sign_in(oauth, talk))
    status = _run(oauth.status)
    achieved = f"Signed in. The token is {validity(status)}.\nIt is kept in {oauth.settings.token_file}."
    talk.print(achieved, markup=False, highlight=False)
    if as_json:
        _print_json(status.as_json())


@app.command(epilog="Example: `notion-oauth status --json`")
def status(
    profile: Profile = None, token_file: TokenFile = None, server_url: ServerUrl = None, as_json: AsJson = False
) -> None:
    """Show whether anybody is signed in. Asks no server; exits with 3 where nobody is."""
    from notion_oauth.glance import glance
    from notion_oauth.protocol.lifetime import Lifetimes
    from notion_oauth.status import status_of
    from notion_oauth.words import describe

    seen = glance(profile, token_file, server_url)
    if seen is not None:
        found = status_of(seen, now=datetime.now(UTC), lifetimes=Lifetimes())
    else:
        found = _run(_oauth(profile, token_file, server_url).status)
    if as_json:
        _print_json(found.as_json())
    else:
        typer.echo(as_run(describe(found)))
    if found.status == "unauthenticated":
        raise typer.Exit(NOT_SIGNED_IN)


@app.command(epilog='Example: `curl -H "Authorization: Bearer $(notion-oauth token)" https://mcp.notion.com/mcp`')
def token(
    min_ttl: Annotated[timedelta, _span("Refresh first if it would expire within this, such as 10m.")] = timedelta(),
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
) -> None:
    """Print a valid access token and nothing else; refreshes where needed, never opens a browser."""
    from notion_oauth.glance import glance
    from notion_oauth.protocol.lifetime import Lifetimes, Phase, phase

    seen = glance(profile, token_file, server_url)
    if seen is not None and not min_ttl and phase(seen, datetime.now(UTC), Lifetimes().window) is Phase.GOOD:
        typer.echo(seen.access_token)
        return
    oauth = _oauth(profile, token_file, server_url)
    typer.echo(_run(partial(oauth.tokens.token, min_ttl=min_ttl)).get_secret_value())


@others.command(epilog="Example: `notion-oauth refresh --if-older-than 20d`, from a timer")
def refresh(
    if_older_than: Annotated[timedelta, _span("Only if the last refresh is older, such as 20d.")] = timedelta(),
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Renew the access token now, valid or not."""
    from notion_oauth.words import validity

    oauth = _oauth(profile, token_file, server_url)
    before = _run(oauth.status).updated_at
    _run(partial(oauth.refresh, if_older_than=if_older_than))
    found = _run(oauth.status)
    if as_json:
        _print_json(found.as_json())
    else:
        done = "Renewed" if found.updated_at != before else "Not due yet"
        _talk().print(f"{done}. The token is {validity(found)}.", markup=False, highlight=False)


@others.command(
    epilog="Example: `notion-oauth run -- python my_agent.py`",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def run(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, after --.")],
    variable: Annotated[str, typer.Option("--env", help="The variable that holds the token.")] = TOKEN_VARIABLE,
    min_ttl: Annotated[timedelta, _span("How long the token is to be good, such as 10m.")] = timedelta(),
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
) -> None:
    """Run a program with a valid token in its environment. Its exit code becomes ours."""
    from notion_oauth.running import become

    oauth = _oauth(profile, token_file, server_url)
    valid = _run(partial(oauth.tokens.token, min_ttl=min_ttl))
    _run(oauth.tokens.settle)  # a refresh in the background would die with this program
    become(command, {variable: valid.get_secret_value()})


@others.command(epilog="Example: `notion-oauth profiles`")
def profiles(token_file: TokenFile = None, server_url: ServerUrl = None, as_json: AsJson = False) -> None:
    """List the profiles, and which of them are signed in."""
    from notion_oauth.storage import JsonFileStore

    store = JsonFileStore(_oauth(None, token_file, server_url).settings.token_file)
    found = {name: _run(_oauth(name, token_file, server_url).status) for name in _run(store.profiles)}
    if as_json:
        _print_json({name: status.as_json() for name, status in found.items()})
        return
    for name, status in found.items():
        typer.echo(f"{name}  {status.status}  {status.resource or ''}".rstrip())
    if not found:
        typer.echo(as_run("Nobody is signed in. Sign in with: notion-oauth login --profile NAME"), err=True)


@others.command(epilog="Example: `notion-oauth logout`")
def logout(
    profile: Profile = None, token_file: TokenFile = None, server_url: ServerUrl = None, as_json: AsJson = False
) -> None:
    """End the grant at the server and forget the tokens."""
    from notion_oauth.service import SIGNED_OUT

    outcome = _run(_oauth(profile, token_file, server_url).sign_out)
    if as_json:
        _print_json({"status": "unauthenticated", "outcome": outcome.name.lower()})
    else:
        typer.echo(SIGNED_OUT[outcome], err=True)


@others.command(epilog="Example: `notion-oauth sandbox --port 9000 --token-lifetime 60`")
def sandbox(
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.", min=0, max=65535)] = 9000,
    token_lifetime: Annotated[float, typer.Option(help="Seconds that an access token lives.", min=1)] = 3600,
    auto_consent: Annotated[bool, typer.Option("--auto-consent", help="Agree without showing a page.")] = False,
) -> None:
    """Run a practice server on this machine, for those who develop without a Notion workspace."""
    from notion_oauth.practice import run_sandbox

    run_sandbox(port=port, token_lifetime=token_lifetime, auto_consent=auto_consent)


@others.command(epilog="Example: `notion-oauth demo`")
def demo() -> None:
    """Show it all in a few seconds against a practice server: sign in, use, refresh, sign out."""
    from notion_oauth.demo import run_demo

    if not run_demo():
        raise typer.Exit(1)


def as_run(text: str) -> str:
    """The text, with our own commands spelled as this program was started."""
    started = Path(sys.argv[0])
    return text.replace("notion-oauth ", f"python {started.name} ") if started.suffix == ".py" else text


def _oauth(profile: str | None, token_file: Path | None, server_url: str | None) -> NotionOAuth:
    from notion_oauth.service import NotionOAuth
    from notion_oauth.settings import load_settings

    return NotionOAuth(load_settings(profile=profile, token_file=token_file, server_url=server_url))


def _run(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    from notion_oauth.blocking import run_here

    return run_here(function)


def _talk() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=2))
