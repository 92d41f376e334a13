"""What all commands share: options, exit codes, output."""

from __future__ import annotations

import json
import os
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
_TYPED = "notion_oauth.typed_options"


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
    """An option that selects the login. Its value is recorded, for `render_hint` to repeat it."""

    def record(ctx: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
        if value is not None:
            ctx.meta.setdefault(_TYPED, {})[parameter.name] = str(value)
        return value

    return typer.Option(option, help=help_text, show_default=False, callback=record)


TokenFile = Annotated[Path | None, _login_option("--token-file", "The token file. [NOTION_OAUTH_TOKEN_FILE]")]
ServerUrl = Annotated[str | None, _login_option("--server-url", "The URL of the MCP server. [NOTION_OAUTH_SERVER_URL]")]
Profile = Annotated[str | None, _login_option("--profile", "The profile, which names a login. [NOTION_OAUTH_PROFILE]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def program_name() -> str:
    """How the user started this program."""
    started = Path(sys.argv[0])
    program = f"python {started.name}" if started.suffix == ".py" else "notion-oauth"
    return f"uv run {program}" if _needs_uv_run() else program


def _needs_uv_run() -> bool:
    """Whether `uv run` has started this program, and finds the same environment from this directory again."""
    environment = os.environ.get("VIRTUAL_ENV")
    if environment is None or "UV_RUN_RECURSION_DEPTH" not in os.environ:
        return False
    return Path(environment) == Path(sys.prefix) and Path.cwd().is_relative_to(Path(environment).parent)


def render_hint(hint: errors.Hint, ctx: typer.Context) -> str:
    """The hint with its command as the user can run it: the program as started, and the same login options."""
    if hint.command is None:
        return str(hint)
    root = ctx.find_root()
    accepted = {option.name for option in root.command.get_command(root, hint.command).params}  # type: ignore[attr-defined]
    typed = {name: value for name, value in ctx.meta.get(_TYPED, {}).items() if name in accepted}
    return hint.with_options(typed).with_command(program_name())


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


def echo(text: str, *, err: bool = False) -> None:
    """Print text that may contain what others have written: it cannot control the terminal."""
    typer.echo(errors.escape(text, keep="\n"), err=err)


def print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=2))  # escapes control characters
