"""The commands that are run less often. `main` has `status` and `token`, and loads these on demand."""

from __future__ import annotations

import os
import re
import shutil
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from notion_oauth.cli.options import (
    FAILED,
    AsJson,
    EnvFile,
    Profile,
    ServerUrl,
    TokenFile,
    complete_profile,
    duration_option,
    echo,
    env_file_in_use,
    exit_code,
    fast_login,
    has_colours,
    ignored_env_file,
    log_without_login,
    oauth_from_options,
    parse_port,
    print_json,
    print_rows,
    print_text,
    render_hint,
    run_async,
    run_with_notice,
    settings_from_options,
    stderr_console,
    valid_token,
)
from notion_oauth.errors import (
    UNCHANGED,
    ConfigurationError,
    Hint,
    MetadataError,
    NotionOAuthError,
    ResourceMismatch,
    StorageError,
    TransientError,
    escape,
)
from notion_oauth.profile_names import DEFAULT_PROFILE, VISITOR_PROFILE, profile_file

if TYPE_CHECKING:
    from notion_oauth.protocol.challenge import BearerChallenge
    from notion_oauth.service import NotionOAuth
    from notion_oauth.settings import Settings
    from notion_oauth.storage import TokenStore
    from notion_oauth.tokens.status import LoginStatus

TOKEN_VARIABLE = "NOTION_MCP_TOKEN"  # noqa: S105 - the name of a variable

rare_commands = typer.Typer(rich_markup_mode="markdown")


@rare_commands.command(epilog="Example: `notion-oauth login --profile work`")
def login(
    ctx: typer.Context,
    no_browser: Annotated[
        bool,
        typer.Option("--no-browser", help="Do not open a browser: print the URL. The final URL can also be piped in."),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            parser=partial(parse_port, lowest=1),
            metavar="PORT",
            help="The port of 127.0.0.1 for the redirect; by default any free port.",
        ),
    ] = None,
    callback_host: Annotated[
        Literal["127.0.0.1", "localhost"] | None,
        typer.Option(help="The host of the redirect URI, for servers that take only one of them.", show_default=False),
    ] = None,
    new_client: Annotated[
        bool, typer.Option("--new-client", help="Register a new client, if the server has forgotten the stored one.")
    ] = False,
    scope: Annotated[
        str | None,
        typer.Option(
            metavar="SCOPES", help="Request these scopes in addition to those of the login.", show_default=False
        ),
    ] = None,
    acr_values: Annotated[
        str | None,
        typer.Option(
            metavar="VALUES",
            help="Request these authentication context classes (acr_values, RFC 9470).",
            show_default=False,
        ),
    ] = None,
    max_age: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", help="Request a sign-in that is at most this old.", min=0, show_default=False),
    ] = None,
    assertion_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Sign in without a browser, with the JWT in this file (RFC 7523); - means standard input.",
        ),
    ] = None,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Sign in through a browser, on this machine or another, and store the tokens."""
    from notion_oauth.cli.sign_in_options import parse_sign_in_options, read_assertion
    from notion_oauth.cli.status_text import identity_text, signed_in_to, validity
    from notion_oauth.cli.work_tree import work_tree_warning
    from notion_oauth.stores.factory import database_for

    if (ignored := ignored_env_file(ctx, env_file)) is not None:
        raise ConfigurationError(ignored[0], hint=ignored[1])
    oauth = oauth_from_options(ctx, profile, token_file, server_url, env_file)
    challenge = parse_sign_in_options(scope, acr_values, max_age)
    if assertion_file is not None:
        for_browser = (port, callback_host, acr_values, max_age)
        if no_browser or new_client or any(option is not None for option in for_browser):
            message = "can be used only with --scope and the options that select a login"
            raise typer.BadParameter(message, param_hint="--assertion-file")
        run_async(partial(oauth.sign_in_with_assertion, read_assertion(assertion_file), scope=scope))
    else:
        options = {"no_browser": no_browser, "port": port, "callback_host": callback_host, "new_client": new_client}
        _sign_in_through_browser(ctx, oauth, challenge, options)
    wrong_url = _identify(ctx, oauth)
    database, file = database_for(oauth.settings), profile_file(oauth.settings.token_file, oauth.profile)
    warning = None if database is not None else work_tree_warning(file)
    status = run_async(oauth.status).with_storage_warning(warning)
    place = escape(str(file) if database is None else f"the {database.name}")
    done = f"{signed_in_to(status, oauth.settings.server_url)}{identity_text(status)}."
    echo(f"{done} The token is {validity(status)}.\nIt is stored in {place}.", err=True)
    for each in filter(None, (warning, wrong_url)):
        echo(f"Warning: {each}", err=True)
    if as_json:
        print_json(status.as_json(render=partial(render_hint, ctx=ctx)))


def _sign_in_through_browser(
    ctx: typer.Context, oauth: NotionOAuth, challenge: BearerChallenge | None, options: dict[str, Any]
) -> None:
    from notion_oauth.interactive.sign_in import no_redirect_hint, sign_in

    has_login = _has_login(oauth, announce=challenge is None)
    try:
        run_async(partial(sign_in, oauth, challenge, console=stderr_console(), **options))
    except KeyboardInterrupt:
        echo(f"\nNo redirect has arrived. {render_hint(no_redirect_hint(oauth), ctx)}", err=True)
        raise
    except TransientError as error:
        if not has_login:
            error.hint = replace(error.hint, text=error.hint.text.removeprefix(UNCHANGED).lstrip())
        raise


def _identify(ctx: typer.Context, oauth: NotionOAuth) -> str | None:
    """Ask who has signed in. Returns a warning if there is no MCP server at the URL."""
    try:
        run_async(oauth.identify)
    except MetadataError as error:
        return f"{error.message} {render_hint(error.hint, ctx)}"
    except NotionOAuthError:
        pass  # the sign-in has succeeded
    return None


def _has_login(oauth: NotionOAuth, *, announce: bool) -> bool:
    """Whether a login may be stored. If it is good, and with `announce`, say that the sign-in replaces it."""
    from notion_oauth.cli.status_text import identity_text

    try:
        status = run_async(oauth.status)
    except NotionOAuthError:  # the sign-in reports it
        return True
    signed_in = status.status != "unauthenticated"
    if signed_in and announce:
        echo(f"You are signed in already{identity_text(status)}. A new sign-in replaces that login.", err=True)
    return signed_in


@rare_commands.command(epilog="Example: `notion-oauth refresh --if-older-than 20d`, from a timer")
def refresh(
    ctx: typer.Context,
    if_older_than: Annotated[
        timedelta, duration_option("Only if the last refresh is older than this, such as 20d.", in_days=True)
    ] = timedelta(),
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Refresh the access token now, even if it is still valid."""
    from notion_oauth.cli.status_text import validity

    oauth = oauth_from_options(ctx, profile, token_file, server_url, env_file)
    before = run_async(oauth.status).updated_at
    run_with_notice(oauth.settings, partial(oauth.refresh, if_older_than=if_older_than))
    run_async(oauth.tokens.wait_until_idle)
    oauth.tokens.check_saved()
    found = run_async(oauth.status)
    if as_json:
        print_json(found.as_json(render=partial(render_hint, ctx=ctx)))
    else:
        result = "Refreshed" if found.updated_at != before else "Not due yet"
        echo(f"{result}. The token is {validity(found)}.", err=True)


def _variable_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise typer.BadParameter(f"{text!r} is not the name of a variable: use letters, digits and _")
    return text


@rare_commands.command(
    epilog="Example: `notion-oauth run -- python my_agent.py`",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def run(
    ctx: typer.Context,
    command: Annotated[
        list[str], typer.Argument(metavar="COMMAND...", help="The program and its arguments, after --.")
    ],
    variable: Annotated[
        str,
        typer.Option("--env", parser=_variable_name, metavar="NAME", help="The environment variable for the token."),
    ] = TOKEN_VARIABLE,
    min_ttl: Annotated[
        timedelta, duration_option("Refresh first if the token expires within this time, such as 10m.")
    ] = timedelta(),
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
) -> None:
    """Run a program with a valid token in its environment; exits with its exit code."""
    from notion_oauth.cli.exec import replace_process

    valid, _ = valid_token(ctx, profile, token_file, server_url, env_file, min_ttl=min_ttl)
    replace_process(command, {variable: valid})


@rare_commands.command(epilog="Example: `notion-oauth profiles`")
def profiles(
    ctx: typer.Context,
    after: Annotated[
        str, typer.Option(metavar="NAME", help="List only those whose name comes after this one.", show_default=False)
    ] = "",
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="List at most this number.", min=1, max=1000, show_default=False)
    ] = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """List the profiles and their status."""
    in_part = bool(after) or limit is not None
    if not in_part and (fast := _fast_profiles(ctx, token_file, server_url, env_file)) is not None:
        found, default = fast
    else:
        oauth = oauth_from_options(ctx, None, token_file, server_url, env_file)
        from notion_oauth.storage import PAGE

        part = partial(oauth.store.profiles, after=after, limit=limit or PAGE)
        names = run_async(part if in_part else partial(_all_profiles, oauth.store))
        found, default = {name: _profile_status(oauth.for_profile(name), ctx) for name in names}, oauth.profile
    if as_json:
        print_json(found)
        return
    if found:
        columns = ("workspace", "user", "status", "resource")
        rows = [(name, *(status.get(each) or "" for each in columns)) for name, status in found.items()]
        print_rows(rows, header=("profile", "workspace", "user", "status", "server"), marked=default)
    for name, status in found.items():
        if message := status.get("message"):
            echo(f"{name}: {message}", err=True)
    if not found:
        echo(f"No profiles. {render_hint(Hint('Sign in', 'login', {'profile': 'NAME'}), ctx)}", err=True)


class _ProfileCommands(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] == "list":
            raise ConfigurationError("There is no command `profile list`.", hint=Hint("List the profiles", "profiles"))
        return super().resolve_command(ctx, args)


profile_commands = typer.Typer(
    name="profile", cls=_ProfileCommands, help="Choose the profile that is used if none is named."
)
rare_commands.add_typer(profile_commands)


@profile_commands.callback(no_args_is_help=True, epilog="Example: `notion-oauth profile use work`")
def profile_group() -> None:
    pass


@profile_commands.command(epilog="Example: `notion-oauth profile use work`")
def use(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A profile with a login.", autocompletion=complete_profile)
    ],
    token_file: TokenFile = None,
    env_file: EnvFile = None,
) -> None:
    """Use this profile wherever neither --profile nor NOTION_OAUTH_PROFILE names one."""
    from notion_oauth.files.default_profile import write_default_profile
    from notion_oauth.service import NotionOAuth

    settings = settings_from_options(ctx, None, token_file, None, env_file, default_profile=False)
    oauth = NotionOAuth(settings, profile=name)
    names = run_async(partial(_all_profiles, oauth.store))
    if name not in (*names, DEFAULT_PROFILE):
        known = f"Profiles with a login: {', '.join(names) or 'none yet'}."
        hint = Hint(f"{known} Sign in to it", "login", {"profile": name})
        raise ConfigurationError(f"There is no login in the profile {name}.", hint=hint)
    write_default_profile(settings.token_file, name)
    workspace = _profile_status(oauth, ctx).get("workspace")
    label = f" (workspace {workspace})" if workspace else ""
    echo(f"The profile {name}{label} is used now wherever none is named.", err=True)
    if settings.is_set("profile") and settings.profile != name:
        echo(f"Warning: NOTION_OAUTH_PROFILE names {settings.profile}, and takes precedence.", err=True)


def _fast_profiles(
    ctx: typer.Context, token_file: Path | None, server_url: str | None, env_file: Path | None
) -> tuple[dict[str, dict[str, Any]], str] | None:
    """The status of all profiles, and the one that is used if none is named; None if the engine is needed."""
    from notion_oauth.cli.fast_path import stored_profiles
    from notion_oauth.protocol.lifetime import Lifetimes
    from notion_oauth.tokens.status import login_status

    if (default := fast_login(ctx, None, token_file, server_url, env_file)) is None:
        return None
    found: dict[str, dict[str, Any]] = {}
    for name in stored_profiles(token_file, clone=ctx.obj):
        if (login := fast_login(ctx, name, token_file, server_url, env_file)) is None:
            return None
        status = login_status(login, now=datetime.now(UTC), lifetimes=Lifetimes(), protection=login.protection)
        found[name] = _as_json(status, name, ctx)
    return found, default.profile


async def _all_profiles(store: TokenStore, *, registered: bool = False) -> list[str]:
    return [name async for name in store.all_profiles(registered=registered)]


def _profile_status(oauth: NotionOAuth, ctx: typer.Context) -> dict[str, Any]:
    """The status of one profile. An unusable profile is listed as such, so that the others are still shown."""
    try:
        return _as_json(run_async(oauth.status), oauth.profile, ctx)
    except (ResourceMismatch, StorageError) as error:
        return {"status": "unusable", "message": error.message}


def _as_json(status: LoginStatus, profile: str, ctx: typer.Context) -> dict[str, Any]:
    selected = {} if profile == DEFAULT_PROFILE else {"profile": profile}
    return status.as_json(render=lambda hint: render_hint(hint.with_options(selected), ctx))


@rare_commands.command(epilog="Example: `notion-oauth logout`")
def logout(
    ctx: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Sign out of all profiles.")] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Delete the client registration too, so that nothing of the profile is left."),
    ] = False,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Revoke the grant at the server and delete the tokens."""
    from notion_oauth.files.default_profile import write_default_profile

    oauth = oauth_from_options(ctx, profile, token_file, server_url, env_file)
    if not every:
        content, message = _sign_out(oauth, named=profile is not None, forget=forget)
        print_json(content) if as_json else echo(message, err=True)
        return
    if profile is not None:
        raise typer.BadParameter("--profile selects one login, and --all all of them", param_hint="--all")
    done, failure = {}, None
    for name in run_async(partial(_all_profiles, oauth.store)):
        if VISITOR_PROFILE.match(name):
            continue  # of a service, not of this user
        try:
            done[name], message = _sign_out(oauth.for_profile(name), named=True, forget=forget)
        except NotionOAuthError as error:
            failure, message = failure or error, f"Error: {error.message}"
        echo(f"{name}: {message}", err=True)
    if as_json:
        print_json(done)
    elif not done and failure is None:
        echo("You were not signed in.", err=True)
    if failure is not None:
        raise typer.Exit(exit_code(failure))
    write_default_profile(oauth.settings.token_file, DEFAULT_PROFILE)


def _sign_out(oauth: NotionOAuth, *, named: bool, forget: bool) -> tuple[dict[str, str], str]:
    """Sign out. Returns the outcome as JSON, and in words: those for a profile that is `named` name it."""
    from notion_oauth.protocol.urls import server_name
    from notion_oauth.tokens.revocation import SignOut, sign_out_message

    server = server_name(run_async(oauth.server_of_login))
    settings = oauth.settings  # without the directory of the token file, a lock would create it
    stored = settings.database is not None or settings.token_file.parent.exists()
    forget = forget or VISITOR_PROFILE.match(oauth.profile) is not None  # its browser starts with another client
    outcome = run_async(partial(oauth.sign_out, forget=forget)) if stored else SignOut.NOT_SIGNED_IN
    message = sign_out_message(outcome, server)
    if outcome is SignOut.NOT_SIGNED_IN and named:
        message = f"There was no login in the profile {oauth.profile}."
    return {"status": "unauthenticated", "outcome": outcome.name.lower()}, message


@rare_commands.command(epilog="Example: `notion-oauth adopt .notion-tokens.json`")
def adopt(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The token file to move the logins from.")],
    profile: Profile = None,
    token_file: TokenFile = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Move logins with their client registrations from FILE into the token file in use: all profiles, or one.

    The programs that used FILE must then use the other file. Each profile is locked in both while it is moved.
    """
    from notion_oauth.cli.adopt import move_logins, named_profile

    settings = settings_from_options(ctx, profile, token_file, None, env_file)
    path, profile = named_profile(file, profile)
    if settings.database is not None:
        hint = Hint("Move all logins of FILE into the database", "import", arguments=(str(path),))
        raise ConfigurationError("NOTION_OAUTH_DATABASE_URL is set: no token file is in use.", hint=hint)
    moved = run_async(partial(move_logins, path, settings, profile))
    if as_json:
        print_json({"token_file": str(settings.token_file), "profiles": moved})
        return
    print_rows([(name, f"moved to {profile_file(settings.token_file, name)}") for name in moved])


@rare_commands.command(epilog="Example: `notion-oauth key`")
def key(
    ctx: typer.Context,
    keyring: Annotated[
        bool, typer.Option("--keyring", help="Store it in the system keyring, as the first key.")
    ] = False,
) -> None:
    """Create a key that encrypts the stored logins, and print it."""
    from notion_oauth.files import encryption
    from notion_oauth.files.system_keyring import add_key

    log_without_login(ctx)
    made = encryption.Key(encryption.new_key(), encryption.KEYRING_SOURCE if keyring else encryption.KEY_SETTING)
    if keyring:
        add_key(made.secret)
        echo(
            f"Key {made.id} is in the system keyring. Use it with {encryption.KEY_SETTING}={encryption.USE_KEYRING}",
            err=True,
        )
        return
    echo(made.secret)
    message = f"This is key {made.id}. Set {encryption.KEY_SETTING} to it and keep a copy: without it, logins are lost."
    echo(message, err=True)


@rare_commands.command(epilog="Example: `notion-oauth migrate`, before the first start and after an update")
def migrate(
    ctx: typer.Context,
    check: Annotated[bool, typer.Option("--check", help="Only check that the tables are up to date.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Only print the SQL that is missing.")] = False,
    env_file: EnvFile = None,
) -> None:
    """Create or update the tables in the database of NOTION_OAUTH_DATABASE_URL."""
    from notion_oauth.stores import schema
    from notion_oauth.stores.factory import database_for

    settings = settings_from_options(ctx, None, None, None, env_file)
    if (database := database_for(settings)) is None:
        hint = "Set it to the URL of a database. The token file needs no migration."
        raise ConfigurationError("NOTION_OAUTH_DATABASE_URL is not set.", hint=hint)
    if check:
        database.run(partial(schema.check, database))
    elif sql:
        print_text(schema.script(database, database.run(partial(schema.version, database))))
        return
    else:
        found = schema.migrate(database)
        if found < schema.VERSION:
            echo(f"The {database.name} has the tables of version {schema.VERSION} now.", err=True)
            return
    echo(f"The {database.name} is up to date.", err=True)


@rare_commands.command(name="import", epilog="Example: `notion-oauth import /data/tokens.json`")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The token file to move the logins from.")],
    env_file: EnvFile = None,
) -> None:
    """Move all logins with their client registrations from FILE into the database, also those of a service's visitors.

    Stop the programs that use FILE first. Afterwards, they refuse it until they have the database's URL. An interrupted
    import can be repeated.
    """
    _move_between(settings_from_options(ctx, None, None, None, env_file), file, into_database=True)


@rare_commands.command(epilog="Example: `notion-oauth export /data/tokens.json`")
def export(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The token file to move the logins to.")],
    env_file: EnvFile = None,
) -> None:
    """Move all logins with their client registrations from the database into FILE and the files beside it.

    Stop the programs that use the database first. An interrupted export can be repeated.
    """
    _move_between(settings_from_options(ctx, None, None, None, env_file), file, into_database=False)


def _move_between(settings: Settings, file: Path, *, into_database: bool) -> None:
    from notion_oauth.cli.adopt import Move
    from notion_oauth.stores.factory import create_store, database_for, encryption_for

    if (database := database_for(settings)) is None:
        hint = "Set it to the URL of a database."
        raise ConfigurationError("NOTION_OAUTH_DATABASE_URL is not set.", hint=hint)
    store = create_store(settings)
    store.check_usable()
    failures: list[NotionOAuthError] = []

    def failed(name: str, error: NotionOAuthError) -> None:
        failures.append(error)
        echo(f"{name}: {error.message}", err=True)

    move = Move(file.expanduser().absolute(), store, database.name, encryption_for(settings), failed)
    moved = run_async(move.into_database if into_database else move.into_files)
    echo(f"Profiles moved: {moved}. Not moved: {len(failures)}.", err=True)
    if failures:
        raise typer.Exit(exit_code(failures[0]))


@rare_commands.command(epilog="Example: `notion-oauth reseal`, after a change of keys")
def reseal(
    ctx: typer.Context,
    after: Annotated[
        str,
        typer.Option(metavar="NAME", help="Encrypt only profiles whose name comes after this one.", show_default=False),
    ] = "",
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", help="Encrypt at most this number of profiles.", min=1, show_default=False),
    ] = None,
    token_file: TokenFile = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Encrypt all stored logins and registrations with the first key now, instead of at their next save.

    A profile that cannot be encrypted is reported, and the others are. An interrupted run can be repeated.
    """
    # The command is named after the key `sealed` of an encrypted file
    from notion_oauth.cli.reseal import Output, Reencryption

    work = Reencryption(oauth_from_options(ctx, None, token_file, None, env_file).store, after=after, limit=limit)
    output = Output(as_json=as_json)
    try:
        while (page := run_async(work.next_page)).count:
            output.add(page, work)
    except (NotionOAuthError, KeyboardInterrupt):
        if work.count:
            hint = Hint(f"{work.count} profiles are done. Continue", "reseal", {"after": work.last})
            echo(f"\n{render_hint(hint, ctx)}", err=True)
        raise
    output.end()
    if output.failure is not None:
        raise typer.Exit(exit_code(output.failure))


@rare_commands.command(epilog="Example: `notion-oauth doctor --json`")
def doctor(
    ctx: typer.Context,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    env_file: EnvFile = None,
    as_json: AsJson = False,
) -> None:
    """Check everything that a login needs, and suggest fixes. Changes nothing; exits with 1 if a check fails."""
    from notion_oauth.cli.doctor.report import run_checks

    load = partial(settings_from_options, ctx, profile, token_file, server_url, env_file)
    read = env_file_in_use(ctx, env_file)
    report = run_async(partial(run_checks, load, os.environ, env_file=read, render=partial(render_hint, ctx=ctx)))
    if as_json:
        print_json(report.as_json())
    else:
        on_terminal = sys.stdout is not None and sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if on_terminal else None
        print_text(report.as_text(_styled if has_colours(sys.stdout) else _plain, width=width))
    if report.result == "failure":
        raise typer.Exit(FAILED)


def _plain(_: str, text: str) -> str:
    return text


def _styled(result: str, text: str) -> str:
    return typer.style(text, fg={"ok": "green", "warning": "yellow"}.get(result, "red"))


@rare_commands.command(epilog="Example: `notion-oauth sandbox --port 9000 --token-lifetime 60`")
def sandbox(
    ctx: typer.Context,
    port: Annotated[
        int,
        typer.Option(
            parser=partial(parse_port, lowest=0), metavar="PORT", help="The port to listen on; 0 means any free port."
        ),
    ] = 9000,
    token_lifetime: Annotated[
        float, typer.Option(metavar="SECONDS", help="The lifetime of an access token.", min=1)
    ] = 3600,
    auto_consent: Annotated[bool, typer.Option("--auto-consent", help="Grant consent without showing a page.")] = False,
) -> None:
    """Run a practice server on this machine, for development without a Notion workspace."""
    from notion_oauth.cli.sandbox import run_sandbox

    log_without_login(ctx)
    run_sandbox(port=port, token_lifetime=token_lifetime, auto_consent=auto_consent, clone=ctx.obj)


@rare_commands.command(epilog="Example: `notion-oauth demo`")
def demo(ctx: typer.Context) -> None:
    """Show sign-in, use, refresh and sign-out in a few seconds, against a practice server."""
    from notion_oauth.cli.demo import run_demo

    log_without_login(ctx)
    if not run_demo():
        raise typer.Exit(FAILED)
