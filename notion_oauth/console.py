"""What all commands share: their options, their words, and how they end."""

from __future__ import annotations

import json
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
NOT_SIGNED_IN, REFUSED = 3, 4
INTERRUPTED = 130


def span(text: str) -> Any:
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


def as_run(text: str) -> str:
    """The text, with our own commands spelled as this program was started."""
    started = Path(sys.argv[0])
    return text.replace("notion-oauth ", f"python {started.name} ") if started.suffix == ".py" else text


def oauth_for(profile: str | None, token_file: Path | None, server_url: str | None) -> NotionOAuth:
    from notion_oauth.service import NotionOAuth
    from notion_oauth.settings import load_settings

    return NotionOAuth(load_settings(profile=profile, token_file=token_file, server_url=server_url))


def run_to_end(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    from notion_oauth.blocking import run_here

    return run_here(function)


def talk() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=2))
