"""What all commands share: options, exit codes, output."""

from __future__ import annotations

import atexit
import errno
import gc
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperOption

from notion_oauth import errors

if TYPE_CHECKING:
    from rich.console import Console

    from notion_oauth.cli.fast_path import FastLogin
    from notion_oauth.service import NotionOAuth
    from notion_oauth.settings import Settings

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
NOT_SIGNED_IN, REFUSED, ENDED = 3, 4, 6
INTERRUPTED = 130
NOTICE_AFTER = 2.0  # seconds
_TYPED = "notion_oauth.typed_options"
_VERBOSITY = "notion_oauth.verbosity"
_SAW_ENV_FILE = "notion_oauth.saw_env_file"


def duration_option(help_text: str, *, in_days: bool = False) -> Any:
    """An option that takes a duration, such as 10m. Where days are usual, a number without a unit is refused."""
    parse = partial(_parse_duration, needs_unit=in_days)
    return typer.Option(parser=parse, metavar="SPAN", show_default=False, help=help_text)


def _parse_duration(value: str | timedelta, *, needs_unit: bool = False) -> timedelta:
    from notion_oauth.humanize import parse_duration

    if isinstance(value, timedelta):
        return value  # the default
    if needs_unit and value.strip().isdecimal():
        raise typer.BadParameter(f"{value.strip()} has no unit: use s, m, h or d, such as {value.strip()}d") from None
    try:
        return parse_duration(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_port(value: str | int, *, lowest: int) -> int:
    """Return the number of a port. Raises BadParameter."""
    if not str(value).isdecimal() or not lowest <= int(value) <= 65535:
        raise typer.BadParameter(f"{value!r} is not a port: use a number from {lowest} to 65535")
    return int(value)


def exit_code(error: errors.NotionOAuthError) -> int:
    """The exit code of the program for this error."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))


def _login_option(option: str, help_text: str, **more: Any) -> Any:
    """An option that selects the login, before or after the command. It is recorded, for `render_hint` to repeat it."""

    def record(ctx: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
        typed = ctx.meta.setdefault(_TYPED, {})
        if value is not None:
            typed[parameter.name] = value
        return typed.get(parameter.name)

    return typer.Option(option, help=help_text, show_default=False, callback=record, **more)


def check_typed_options(ctx: typer.Context, name: str | None, command: Any) -> None:
    """Raise UsageError for an option before the command which the command does not have."""
    accepted = {parameter.name for parameter in command.params} | {"env_file"}
    unknown = sorted(ctx.meta.get(_TYPED, {}).keys() - accepted)
    if unknown and not hasattr(command, "commands"):
        ctx.fail(f"The command {name} has no option --{unknown[0].replace('_', '-')}.")


def complete_profile(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """The profiles with a login, and their workspaces, for the shell to complete a name."""
    from notion_oauth.cli.fast_path import stored_profiles

    typed = ctx.params.get("token_file") or ctx.meta.get(_TYPED, {}).get("token_file")
    found = stored_profiles(typed and Path(typed), clone=ctx.find_root().obj)
    return [(name, workspace) for name, workspace in found.items() if name.startswith(incomplete)]


TokenFile = Annotated[
    Path | None, _login_option("--token-file", "The token file. [NOTION_OAUTH_TOKEN_FILE]", metavar="FILE")
]
ServerUrl = Annotated[
    str | None, _login_option("--server-url", "The URL of the MCP server. [NOTION_OAUTH_SERVER_URL]", metavar="URL")
]
Profile = Annotated[
    str | None,
    _login_option(
        "--profile",
        "The profile, which names a login. [NOTION_OAUTH_PROFILE]",
        metavar="NAME",
        autocompletion=complete_profile,
    ),
]
EnvFile = Annotated[
    Path | None,
    _login_option("--env-file", "A file with settings, such as .env. [NOTION_OAUTH_ENV_FILE]", metavar="FILE"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def program_name() -> str:
    """How the user started this program."""
    started = Path(sys.argv[0])
    here = Path(started.name)
    file = here if here.exists() and started.exists() and here.samefile(started) else started
    if started.name == "__main__.py":
        return "python -m notion_oauth"
    program = f"python {shlex.quote(str(file))}" if started.suffix == ".py" else "notion-oauth"
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
        return name_options(str(hint), ctx)
    root = ctx.find_root()
    command: Any = root.command
    for word in hint.command.split():
        command = command.get_command(root, word)
    accepted = {option.name for option in command.params}
    typed = {name: str(value) for name, value in ctx.meta.get(_TYPED, {}).items() if name in accepted}
    return name_options(hint.with_options(typed).with_command(program_name()), ctx)


def name_options(text: str, ctx: typer.Context) -> str:
    """The text, with an option in the place of its setting if the user has typed the option."""
    for name in ctx.meta.get(_TYPED, {}):
        text = text.replace(f"NOTION_OAUTH_{name.upper()}", f"--{name.replace('_', '-')}")
    return text


def settings_from_options(
    ctx: typer.Context,
    profile: str | None = None,
    token_file: Path | None = None,
    server_url: str | None = None,
    env_file: Path | None = None,
    *,
    default_profile: bool = True,
) -> Settings:
    """The settings for these options. Says on stderr if a `.env` in the working directory is not read."""
    _load_engine()
    from notion_oauth.settings import load_settings

    warn_of_ignored_env_file(ctx, env_file)
    options: dict[str, Any] = {"profile": profile, "token_file": token_file, "server_url": server_url}
    settings = load_settings(clone=ctx.obj, default_profile=default_profile, env_file=env_file, **options)
    _log_if_verbose(ctx, settings)
    return settings


def _load_engine() -> None:
    """Import what most commands need. None of it is garbage: to look for some, also at exit, takes as long as Typer."""
    if "notion_oauth.service" in sys.modules:
        return
    gc.disable()
    try:
        import notion_oauth.service  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()
    atexit.register(gc.freeze)


def oauth_from_options(
    ctx: typer.Context,
    profile: str | None,
    token_file: Path | None,
    server_url: str | None,
    env_file: Path | None,
) -> NotionOAuth:
    settings = settings_from_options(ctx, profile, token_file, server_url, env_file)
    from notion_oauth.service import NotionOAuth

    return NotionOAuth(settings)


def fast_login(
    ctx: typer.Context, profile: str | None, token_file: Path | None, server_url: str | None, env_file: Path | None
) -> FastLogin | None:
    """The login for these options, read without the engine; None if that is needed."""
    from notion_oauth.cli.fast_path import read_fast

    if env_file is not None or is_verbose(ctx):
        return None
    warn_of_ignored_env_file(ctx, env_file)
    return read_fast(profile, token_file, server_url, clone=ctx.obj)


def valid_token(
    ctx: typer.Context,
    profile: str | None,
    token_file: Path | None,
    server_url: str | None,
    env_file: Path | None,
    *,
    min_ttl: timedelta,
) -> tuple[str, datetime | None]:
    """A valid access token, and when it expires. Nothing that was started for it runs on in the background."""
    from notion_oauth.protocol.lifetime import Lifetimes, Phase, phase

    fast = fast_login(ctx, profile, token_file, server_url, env_file)
    if fast is not None and not min_ttl and phase(fast, datetime.now(UTC), Lifetimes().refresh_window) is Phase.VALID:
        return fast.access_token, fast.expires_at
    oauth = oauth_from_options(ctx, profile, token_file, server_url, env_file)
    started = datetime.now(UTC)
    token = run_with_notice(oauth.settings, partial(oauth.tokens.token_at_exit, min_ttl=min_ttl)).get_secret_value()
    status = run_async(oauth.status)
    left = None if status.expires_at is None else status.expires_at - datetime.now(UTC)
    refreshed = status.updated_at is not None and status.updated_at >= started
    if left is not None and left < min_ttl and not refreshed:
        from notion_oauth.humanize import format_duration

        echo(f"Warning: The token could not be refreshed. It expires in {format_duration(left)}.", err=True)
    return token, status.expires_at


def env_file_in_use(ctx: typer.Context, env_file: Path | None) -> Path | None:
    """The file with settings that the command reads; None if it reads none."""
    from notion_oauth.settings import find_env_file

    return find_env_file(env_file, ctx.obj)


def ignored_env_file(ctx: typer.Context, env_file: Path | None) -> tuple[str, errors.Hint] | None:
    """What to say of a `.env` in the working directory that has settings and is not read; None if there is none.

    If another file is named, the user has decided. `ctx.obj` is the directory of a clone's `cli.py`.
    """
    from notion_oauth.files import env_file as env_files

    if env_file is not None or any(name.upper() == "NOTION_OAUTH_ENV_FILE" and os.environ[name] for name in os.environ):
        return None
    found = env_files.ignored_env_file(None if ctx.obj is None else ctx.obj / env_files.NAME)
    if found is None:
        return None
    path, names = found
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    command = f"{ctx.parent.info_name} {ctx.info_name}" if ctx.parent and ctx.parent.parent else ctx.info_name
    hint = errors.Hint("Remove these settings from it, or use it", command, {"env_file": env_files.NAME})
    return f"{path} is not read, although it has settings ({shown}).", hint


def warn_of_ignored_env_file(ctx: typer.Context, env_file: Path | None) -> None:
    """Say once on stderr that a `.env` in the working directory is not read."""
    if ctx.meta.setdefault(_SAW_ENV_FILE, False):
        return
    ctx.meta[_SAW_ENV_FILE] = True
    if (found := ignored_env_file(ctx, env_file)) is not None:
        echo(errors.escape(f"Warning: {found[0]} {render_hint(found[1], ctx)}"), err=True)


def accept_verbose(command: Any) -> None:
    """Let a command and its subcommands take `-v`: once to log to stderr as the settings say, twice to log all."""

    def add(ctx: typer.Context, parameter: object, value: int | None) -> None:  # noqa: ARG001 - Typer calls it so
        ctx.meta[_VERBOSITY] = ctx.meta.get(_VERBOSITY, 0) + (value or 0)

    if not any(parameter.name == "verbose" for parameter in command.params):
        shown: dict[str, Any] = {"metavar": " ", "show_default": False, "help": "Log to stderr; -vv logs everything."}
        option = TyperOption(param_decls=["--verbose", "-v"], count=True, expose_value=False, callback=add, **shown)
        command.params.append(option)
    for each in getattr(command, "commands", {}).values():
        accept_verbose(each)


def is_verbose(ctx: typer.Context) -> bool:
    return bool(ctx.meta.get(_VERBOSITY))


def log_without_login(ctx: typer.Context) -> None:
    """Log to stderr, if that is wanted, in a command that has no options for a login."""
    from notion_oauth.settings import load_settings

    if is_verbose(ctx):
        _log_if_verbose(ctx, load_settings(clone=ctx.obj, env_file=ctx.meta.get(_TYPED, {}).get("env_file")))


def _log_if_verbose(ctx: typer.Context, settings: Settings) -> None:
    """Log to stderr, with one request id for the whole command."""
    from notion_oauth.observability.context import REQUEST_ID, new_request_id
    from notion_oauth.observability.log_format import configure

    if verbosity := ctx.meta.get(_VERBOSITY):
        configure("debug" if verbosity > 1 else settings.log_level, settings.log_format)
        REQUEST_ID.set(new_request_id())


def run_async(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    from notion_oauth.concurrency import run_in_this_thread

    return run_in_this_thread(function)


def run_with_notice(settings: Settings, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run what may wait for the server. On a terminal, say so after a while."""
    import threading  # the engine has loaded it

    from notion_oauth.protocol.urls import server_name

    seconds, host = settings.retry_for or settings.timeout, server_name(settings.server_url)
    message = f"{host} has not answered yet; trying again for up to {seconds:g} s (Ctrl-C to stop)"
    timer = threading.Timer(NOTICE_AFTER, partial(echo, message, err=True))
    timer.daemon = True
    if sys.stderr is not None and sys.stderr.isatty():
        timer.start()
    try:
        return run_async(function)
    finally:
        timer.cancel()


def stderr_console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def echo(text: str, *, err: bool = False, colour: str | None = None) -> None:
    """Print text that may contain what others have written: it cannot control the terminal.

    On a terminal, the first line gets the `colour`, and "Error:" and "Warning:" have colours of their own.
    """
    text = errors.escape(text, keep="\n")
    if has_colours(sys.stderr if err else sys.stdout):
        first, newline, rest = text.partition("\n")
        first = first if colour is None else typer.style(first, fg=colour)
        text = re.sub(r"^(Error|Warning):", _coloured_label, first + newline + rest, flags=re.MULTILINE)
    print_text(text, err=err)


def has_colours(stream: Any) -> bool:
    """Whether the stream is a terminal that shows colours, and the user wants them."""
    is_terminal = stream is not None and stream.isatty()
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _coloured_label(label: re.Match[str]) -> str:
    return typer.style(label[0], fg="red" if label[1] == "Error" else "yellow", bold=True)


def print_text(text: str, *, err: bool = False) -> None:
    """Print text as it is. Raises OSError if standard output, but not if standard error, is closed or full."""
    if err:
        with suppress(OSError):
            typer.echo(text, err=True)
    elif sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed")
    else:
        typer.echo(text)


def output_failed(error: OSError) -> NoReturn:
    """Exit; if standard output is closed or full, say so. A pipe that its reader has closed, such as head, is usual."""
    with suppress(OSError, ValueError, AttributeError):  # what is not written yet must not fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno != errno.EPIPE:
        echo(f"Error: The output cannot be written: {error.strerror or error}.", err=True)
    raise typer.Exit(FAILED)


_COLOURS = {"authenticated": "green", "expired": "yellow", "unauthenticated": "red", "unusable": "red"}


def print_rows(rows: Sequence[Sequence[str]], *, header: Sequence[str] = (), marked: str = "") -> None:
    """Print a table: in aligned columns with a header on a terminal, else separated by tabs, as programs read it.

    On a terminal, a star marks the row whose first cell is `marked`.
    """
    cells = [[errors.escape(cell) for cell in row] for row in rows]
    if sys.stdout is not None and sys.stdout.isatty():
        cells = [["*" if row[0] == marked else "", *row] for row in cells] if marked else cells
        cells = [[*([""] if marked else []), *map(str.upper, header)], *cells] if header else cells
        widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(map(_padded, row, widths)).rstrip() for row in cells]
    else:
        lines = ["\t".join(row).rstrip() for row in cells]
    print_text("\n".join(lines))


def _padded(cell: str, width: int) -> str:
    """Return the cell with spaces up to the width, and the word for a status in its colour."""
    colour = _COLOURS.get(cell) if has_colours(sys.stdout) else None
    return (cell if colour is None else typer.style(cell, fg=colour)) + " " * (width - _width(cell))


def _width(text: str) -> int:
    """Return how many columns of a terminal the text takes: two for each wide character, such as an emoji."""
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(each) else 2 if east_asian_width(each) in "WF" else 1 for each in text)


def print_json(content: dict[str, Any]) -> None:
    print_text(json.dumps(content, indent=2))  # escapes control characters
