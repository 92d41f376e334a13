"""What all commands share: options, exit codes, output."""

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
    (errors.NotionOAuthError, 4),  # all others: the server refused, or its answer is invalid
)
FAILED = 1  # the demo or a check of doctor failed; also Python's exit code for an unhandled exception
NOT_SIGNED_IN, REFUSED = 3, 4
INTERRUPTED = 130


def duration_option(help_text: str) -> Any:
    """An option that takes a duration, such as 10m."""
    return typer.Option(parser=_parse_duration, metavar="SPAN", show_default=False, help=help_text)


def _parse_duration(value: str | timedelta) -> timedelta:
    from notion_oauth.humanize import parse_duration

    if isinstance(value, timedelta):
        return value  # the default
    try:
        return parse_duration(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def exit_code(error: errors.NotionOAuthError) -> int:
    """The exit code of the program for this error."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def _login_option(option: str, help_text: str) -> Any:
    """An option that selects the login. Its value is recorded, for `render_commands` to repeat it."""

    def record(ctx: typer.Context, value: Any) -> Any:
        if value is not None:
            ctx.meta[option] = str(value)
        return value

    return typer.Option(option, help=help_text, show_default=False, callback=record)


TokenFile = Annotated[Path | None, _login_option("--token-file", "The token file. [NOTION_OAUTH_TOKEN_FILE]")]
ServerUrl = Annotated[str | None, _login_option("--server-url", "The URL of the MCP server. [NOTION_OAUTH_SERVER_URL]")]
Profile = Annotated[str | None, _login_option("--profile", "The profile, which names a login. [NOTION_OAUTH_PROFILE]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_COMMAND = re.compile(r"notion-oauth (?P<name>login|refresh|logout)(?P<options>(?: --[a-z-]+ \S+)*)")


def render_commands(text: str, ctx: typer.Context) -> str:
    """The text with our commands as the user can run them: the program as started, and the same login options."""
    started = Path(sys.argv[0])
    program = f"python {started.name}" if started.suffix == ".py" else "notion-oauth"

    def render(command: re.Match[str]) -> str:
        options = {name: value for name, value in ctx.meta.items() if name.startswith("--")}
        missing = [(name, value) for name, value in options.items() if f"{name} " not in command["options"]]
        words = [word for option in missing for word in option]
        return " ".join([f"{program} {command['name']}{command['options']}", *map(shlex.quote, words)])

    return _COMMAND.sub(render, text)


def oauth_from_options(profile: str | None, token_file: Path | None, server_url: str | None) -> NotionOAuth:
    from notion_oauth.service import NotionOAuth
    from notion_oauth.settings import load_settings

    return NotionOAuth(load_settings(profile=profile, token_file=token_file, server_url=server_url))


def log_to_stderr(*, everything: bool) -> None:
    """Log to stderr, with one request id for the whole command. Raises ConfigurationError for an invalid setting."""
    from notion_oauth.observability.context import REQUEST_ID, new_request_id
    from notion_oauth.observability.log_format import configure
    from notion_oauth.settings import load_settings

    settings = load_settings()
    configure("debug" if everything else settings.log_level, settings.log_format)
    REQUEST_ID.set(new_request_id())


def run_async(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    from notion_oauth.concurrency import run_in_this_thread

    return run_in_this_thread(function)


def stderr_console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=2))
