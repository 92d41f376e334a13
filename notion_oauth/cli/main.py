"""The command line: parse, call the service, print. Data goes to stdout, messages to stderr.

Exit codes: 0 success, 1 internal error, output that cannot be written, or a failed check or demo, 2 invalid usage or
setting, 3 not signed in, 4 the server refused, or its answer is invalid, 5 no usable answer from the network
(temporary), 6 the login has ended: sign in again, 7 token file cannot be used, 130 interrupted.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from notion_oauth import __version__, errors
from notion_oauth.cli.options import (
    ENDED,
    INTERRUPTED,
    NOT_SIGNED_IN,
    REFUSED,
    AsJson,
    EnvFile,
    Profile,
    ServerUrl,
    TokenFile,
    accept_verbose,
    check_typed_options,
    duration_option,
    echo,
    exit_code,
    fast_login,
    name_options,
    oauth_from_options,
    output_failed,
    print_json,
    print_rows,
    render_hint,
    run_async,
    valid_token,
)

if TYPE_CHECKING:
    from notion_oauth.files.locations import Origin
    from notion_oauth.service import NotionOAuth

OUTPUT_ERRORS = {errno.EPIPE, errno.ENOSPC, errno.EBADF, errno.EIO, errno.EDQUOT, errno.EFBIG}
STOPPED = errors.Hint("Interrupted. A request that was already sent may have taken effect. Check the status", "status")
ORDER = (
    *(
        "login",
        "whoami",
        "status",
        "token",
        "refresh",
        "run",
        "mcp",
        "profiles",
        "profile",
        "logout",
        "adopt",
        "key",
        "reseal",
        "migrate",
        "import",
        "export",
    ),
    *("doctor", "sandbox", "demo"),
)


class _Commands(TyperGroup):
    """Prints a NotionOAuthError as a message and exits with its exit code.

    Only the commands that scripts run often are loaded at every start; the others on demand.
    """

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name == "mcp" and cmd_name not in self.commands:
            self.commands[cmd_name] = typer.main.get_command(import_module("notion_oauth.cli.mcp").mcp)
        elif cmd_name not in self.commands:
            self.commands.update(_rare_commands(cmd_name))
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            accept_verbose(command)
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        check_typed_options(ctx, name, command)
        return name, command, rest

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(ORDER)

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        accept_verbose(self)
        try:
            with _escaped_message():
                return super().make_context(*arguments, **options)
        except OSError as error:  # of --help
            if error.errno not in OUTPUT_ERRORS:
                raise
            output_failed(error)

    def invoke(self, ctx: Any) -> Any:
        try:
            with _escaped_message():
                return super().invoke(ctx)
        except errors.NotionOAuthError as error:
            echo(f"Error: {name_options(error.message, ctx)} {render_hint(error.hint, ctx)}".rstrip(), err=True)
            raise typer.Exit(exit_code(error)) from None
        except OSError as error:
            if error.errno not in OUTPUT_ERRORS:
                raise
            output_failed(error)
        except KeyboardInterrupt:
            echo(f"\n{render_hint(STOPPED, ctx)}", err=True)
            raise typer.Exit(INTERRUPTED) from None


def _rare_commands(name: str) -> dict[str, Any]:
    """The command of this name, because it takes time to prepare all; all, if it is in a group, or there is none."""
    rare: typer.Typer = import_module("notion_oauth.cli.commands").rare_commands
    one = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    one.registered_commands = [
        each for each in rare.registered_commands if getattr(each.callback, "__name__", "") == name
    ]
    if one.registered_commands:
        return {name: typer.main.get_command(one)}
    commands: dict[str, Any] = typer.main.get_command(rare).commands  # type: ignore[attr-defined]
    return commands


@contextmanager
def _escaped_message() -> Iterator[None]:
    """Escape the message of an error of the parser: it may repeat an argument."""
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):
            with suppress(AttributeError):  # an error of another kind, whose message cannot be set
                error.message = errors.escape(message, keep="\n")  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    name="notion-oauth",
    cls=_Commands,
    help="Sign in to Notion once, and every program you run has a valid Notion MCP token.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # they would print local variables, which hold tokens
)


def main(*, clone: Path) -> None:
    """Run the command line of a clone: its token file and its `.env` are in the directory `clone`."""
    app(obj=clone)


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"notion-oauth {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
) -> None:
    pass


@app.command(epilog="Example: `notion-oauth status --json`")
def status(
    ctx: typer.Context,
    remote: Annotated[bool, typer.Option("--remote", help="Also ask the server about the token.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Print nothing: the exit code is the answer.")] = False,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the status of the login, without any request unless --remote is set.

    Exits with 3 if not signed in, with 6 if the login has ended; with --remote, with 4 if the server does not accept
    the token.
    """
    from notion_oauth.cli.status_text import describe, describe_remote
    from notion_oauth.cli.work_tree import is_surely_ignored
    from notion_oauth.protocol.lifetime import Lifetimes
    from notion_oauth.tokens.status import login_status

    options = (ctx, profile, token_file, server_url, env_file)
    fast = fast_login(*options)
    if fast is not None and is_surely_ignored(fast.file):
        found = login_status(fast, now=datetime.now(UTC), lifetimes=Lifetimes(), protection=fast.protection)
        place, shown_file = _file(fast.file, fast.origin, None)
        name, url = fast.profile, fast.server_url
        signed_out = errors.NotSignedIn("Not signed in.")
    else:
        oauth = oauth_from_options(*options)
        place, shown_file, warning = _place(oauth)
        name, url = oauth.profile, oauth.settings.server_url
        signed_out = oauth.tokens.not_signed_in()
        found = run_async(oauth.status).with_storage_warning(warning)
    render = partial(render_hint, ctx=ctx)
    content = {**found.as_json(render=render), "profile": name, **place}
    text = describe(found, render, profile=name, file=shown_file, server_url=url, signed_out=signed_out)
    active, error = True, None
    if remote and found.status != "unauthenticated":
        introspection, expired = None, found.status == "expired"
        try:
            if not expired:
                introspection = run_async(oauth_from_options(*options).introspect)
            text = f"{text}\n{describe_remote(introspection, render, expired=expired)}"
        except errors.NotionOAuthError as caught:
            error = caught  # the stored status is printed all the same
        content["remote"] = None if introspection is None else introspection.model_dump(mode="json")
        active = introspection is None or introspection.active
    if as_json:
        print_json(content)
    elif not check:
        echo(text, colour=_COLOURS[found.status])
    if error is not None:
        raise error
    if not active:
        raise typer.Exit(REFUSED)
    if found.status == "unauthenticated":
        raise typer.Exit(NOT_SIGNED_IN if found.ended_at is None else ENDED)


def _file(file: Path, origin: Origin, env_file: Path | None) -> tuple[dict[str, str], str]:
    """Where a login is stored, for JSON and for people."""
    from notion_oauth.files.locations import describe_origin

    shown = errors.escape(f"{file} ({describe_origin(origin, env_file)})")
    return {"token_file": str(file), "token_file_source": origin}, shown


def _place(oauth: NotionOAuth) -> tuple[dict[str, str], str, errors.WarningWithHint | None]:
    """Where the login is stored, for JSON and for people, and who may read it by mistake."""
    from notion_oauth.cli.work_tree import work_tree_warning
    from notion_oauth.profile_names import profile_file
    from notion_oauth.stores.factory import database_for

    settings = oauth.settings
    if (database := database_for(settings)) is not None:
        return {"database": database.name}, errors.escape(database.name), None
    file = profile_file(settings.token_file, oauth.profile)
    return *_file(file, settings.token_file_origin, settings.env_file), work_tree_warning(file)


_COLOURS = {"authenticated": "green", "expired": "yellow", "unauthenticated": "red"}


@app.command(epilog="Example: `notion-oauth whoami --json`")
def whoami(
    ctx: typer.Context,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Show who is signed in, and to which workspace. The server is asked once, and its answer is stored."""
    from notion_oauth.protocol.lifetime import Lifetimes
    from notion_oauth.protocol.urls import server_name
    from notion_oauth.tokens.status import login_status

    options = (ctx, profile, token_file, server_url, env_file)
    fast = fast_login(*options)
    if fast is not None and fast.workspace is not None:
        name, email = fast.profile, fast.email
        found = login_status(fast, now=datetime.now(UTC), lifetimes=Lifetimes())
    else:
        oauth = oauth_from_options(*options)
        name, email = oauth.profile, run_async(oauth.identify).email
        found = run_async(oauth.status)
    if found.status == "unauthenticated":
        raise errors.SignInRequired(found.message or "The login has ended.")
    shown = {
        "user": found.user,
        "email": email,
        "workspace": found.workspace,
        "server": found.resource and server_name(found.resource),
        "profile": name,
    }
    if as_json:
        print_json({**shown, "user_id": found.user_id, "workspace_id": found.workspace_id, "server": found.resource})
        return
    print_rows([(label.capitalize(), value) for label, value in shown.items() if value])
    if found.user is None and found.workspace is None:
        echo("The server does not say who has signed in.", err=True)


@app.command(epilog='Example: `curl -H "Authorization: Bearer $(notion-oauth token)" https://mcp.notion.com/mcp`')
def token(
    ctx: typer.Context,
    min_ttl: Annotated[
        timedelta, duration_option("Refresh first if the token expires within this time, such as 10m.")
    ] = timedelta(),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the time of its expiry.")] = False,
    headers: Annotated[bool, typer.Option("--headers", help="Print the header that contains it, as JSON.")] = False,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
) -> None:
    """Print a valid access token and nothing else. Refreshes it if needed; never opens a browser."""
    from notion_oauth.tokens.status import rfc3339

    valid, expires_at = valid_token(ctx, profile, token_file, server_url, env_file, min_ttl=min_ttl)
    if as_json:
        print_json({"access_token": valid, "token_type": "Bearer", "expires_at": expires_at and rfc3339(expires_at)})
    elif headers:
        print_json({"Authorization": f"Bearer {valid}"})
    else:
        echo(valid)
