"""What all commands share: their options, their words, and how they end."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

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
FAILED = 1  # a demo, or a check of doctor; and an error of our own, which Python ends with the same
NOT_SIGNED_IN, REFUSED = 3, 4
INTERRUPTED = 130


def span(text: str) -> Any:
    """An option that takes a span of time, such as 10m."""
    return typer.Option(parser=_parsed_span, metavar="SPAN", show_default=False, help=text)


def _parsed_span(value: str | timedelta) -> timedelta:
    from notion_oauth.humanize import parse_duration

    if isinstance(value, timedelta):
        return value  # the default
    try:
        return parse_duration(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def exit_code(error: errors.NotionOAuthError) -> int:
    """The exit code that an error ends the program with."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def _which_login(option: str, said: str) -> Any:
    """An option that says which login is meant: the commands that we name are to be about the same one."""

    def note(ctx: typer.Context, value: Any) -> Any:
        if value is not None:
            ctx.meta[option] = str(value)
        return value

    return typer.Option(option, help=said, show_default=False, callback=note)


TokenFile = Annotated[Path | None, _which_login("--token-file", "Where the tokens lie. [NOTION_OAUTH_TOKEN_FILE]")]
ServerUrl = Annotated[str | None, _which_login("--server-url", "The MCP server. [NOTION_OAUTH_SERVER_URL]")]
Profile = Annotated[str | None, _which_login("--profile", "Which login is meant. [NOTION_OAUTH_PROFILE]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_OUR_COMMAND = re.compile(r"notion-oauth (?P<name>login|refresh|logout)(?P<options>(?: --[a-z-]+ \S+)*)")


def render_commands(text: str, ctx: typer.Context) -> str:
    """The text, with our own commands spelled as this program was started, and with the options it was given."""
    started = Path(sys.argv[0])
    program = f"python {started.name}" if started.suffix == ".py" else "notion-oauth"

    def spelled(command: re.Match[str]) -> str:
        given = {name: value for name, value in ctx.meta.items() if name.startswith("--")}
        lacking = [(name, value) for name, value in given.items() if f"{name} " not in command["options"]]
        words = [word for option in lacking for word in option]
        return " ".join([f"{program} {command['name']}{command['options']}", *map(shlex.quote, words)])

    return _OUR_COMMAND.sub(spelled, text)


def oauth_for(profile: str | None, token_file: Path | None, server_url: str | None) -> NotionOAuth:
    from notion_oauth.service import NotionOAuth
    from notion_oauth.settings import load_settings

    return NotionOAuth(load_settings(profile=profile, token_file=token_file, server_url=server_url))


def log_to_stderr(*, everything: bool) -> None:
    """Show what happens, under one request id for the whole command. Raises ConfigurationError for wrong settings."""
    from notion_oauth.observability.context import REQUEST_ID, new_request_id
    from notion_oauth.observability.log_format import configure
    from notion_oauth.settings import load_settings

    settings = load_settings()
    configure("debug" if everything else settings.log_level, settings.log_format)
    REQUEST_ID.set(new_request_id())


def run_to_end(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    from notion_oauth.concurrency import run_in_this_thread

    return run_in_this_thread(function)


def talk() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=2))
