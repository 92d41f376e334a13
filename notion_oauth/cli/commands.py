"""The commands that people run; those that scripts run again and again are in `cli`, which loads these when asked."""

from __future__ import annotations

import os
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notion_oauth.cli.options import (
    FAILED,
    AsJson,
    Profile,
    ServerUrl,
    TokenFile,
    oauth_for,
    print_json,
    render_commands,
    run_to_end,
    span,
    talk,
)
from notion_oauth.errors import ResourceMismatch, StorageError
from notion_oauth.profile_names import profile_file

if TYPE_CHECKING:
    from notion_oauth.service import NotionOAuth

TOKEN_VARIABLE = "NOTION_MCP_TOKEN"  # noqa: S105 - its name

others = typer.Typer()


@others.command(epilog="Example: `notion-oauth login --no-browser`, over SSH")
def login(
    no_browser: Annotated[
        bool,
        typer.Option("--no-browser", help="Open none, print the address; take the redirected one from a pipe, too."),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(help="The port of 127.0.0.1 to be redirected to; any free one unless told.", min=1, max=65535),
    ] = None,
    scope: Annotated[
        str | None, typer.Option(help="Ask for these scopes, beside those that the login has.", show_default=False)
    ] = None,
    acr_values: Annotated[
        str | None, typer.Option(help="Ask for a sign-in of this strength (RFC 9470).", show_default=False)
    ] = None,
    max_age: Annotated[
        int | None, typer.Option(help="Ask for a sign-in that is no older, in seconds.", min=0, show_default=False)
    ] = None,
    assertion_file: Annotated[
        Path | None,
        typer.Option(help="Sign in without a browser, by the JWT in this file (RFC 7523); - for standard input."),
    ] = None,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Sign in through a browser, on this machine or another, and keep the tokens."""
    from notion_oauth.cli.sign_in_options import assertion_in, challenge_of
    from notion_oauth.cli.status_text import validity

    oauth, console = oauth_for(profile, token_file, server_url), talk()
    challenge = challenge_of(scope, acr_values, max_age)
    if assertion_file is not None:
        if no_browser or port is not None or acr_values is not None or max_age is not None:
            message = "takes --scope beside it, and nothing that is for browsers"
            raise typer.BadParameter(message, param_hint="--assertion-file")
        run_to_end(partial(oauth.sign_in_with_assertion, assertion_in(assertion_file), scope=scope))
    else:
        from notion_oauth.interactive.sign_in import sign_in

        run_to_end(partial(sign_in, oauth, console, challenge, no_browser=no_browser, port=port))
    status = run_to_end(oauth.status)
    kept_in = profile_file(oauth.settings.token_file, oauth.profile)
    achieved = f"Signed in. The token is {validity(status)}.\nIt is kept in {kept_in}."
    console.print(achieved, markup=False, highlight=False)
    if as_json:
        print_json(status.as_json())


@others.command(epilog="Example: `notion-oauth refresh --if-older-than 20d`, from a timer")
def refresh(
    if_older_than: Annotated[timedelta, span("Only if the last refresh is older, such as 20d.")] = timedelta(),
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Renew the access token now, valid or not."""
    from notion_oauth.cli.status_text import validity

    oauth = oauth_for(profile, token_file, server_url)
    before = run_to_end(oauth.status).updated_at
    run_to_end(partial(oauth.refresh, if_older_than=if_older_than))
    found = run_to_end(oauth.status)
    if as_json:
        print_json(found.as_json())
    else:
        done = "Renewed" if found.updated_at != before else "Not due yet"
        talk().print(f"{done}. The token is {validity(found)}.", markup=False, highlight=False)


@others.command(
    epilog="Example: `notion-oauth run -- python my_agent.py`",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def run(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, after --.")],
    variable: Annotated[str, typer.Option("--env", help="The variable that holds the token.")] = TOKEN_VARIABLE,
    min_ttl: Annotated[timedelta, span("How long the token is to be good, such as 10m.")] = timedelta(),
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
) -> None:
    """Run a program with a valid token in its environment. Its exit code becomes ours."""
    from notion_oauth.cli.exec import replace_process

    oauth = oauth_for(profile, token_file, server_url)
    valid = run_to_end(partial(oauth.tokens.token, min_ttl=min_ttl))
    run_to_end(oauth.tokens.wait_until_idle)  # a refresh in the background would die with this program
    replace_process(command, {variable: valid.get_secret_value()})


@others.command(epilog="Example: `notion-oauth profiles`")
def profiles(
    ctx: typer.Context, token_file: TokenFile = None, server_url: ServerUrl = None, as_json: AsJson = False
) -> None:
    """List the profiles, and which of them are signed in."""
    from notion_oauth.storage import JsonFileStore

    store = JsonFileStore(oauth_for(None, token_file, server_url).settings.token_file)
    names = run_to_end(store.profiles)
    found = {name: _look(oauth_for(name, token_file, server_url)) for name in names}
    if as_json:
        print_json(found)
        return
    for name, status in found.items():
        typer.echo(f"{name}  {status['status']}  {status.get('resource') or status.get('message') or ''}".rstrip())
    if not found:
        typer.echo(render_commands("Not signed in. Sign in with: notion-oauth login --profile NAME", ctx), err=True)


def _look(oauth: NotionOAuth) -> dict[str, Any]:
    """The status of one profile among others: one that cannot be used here does not hide the rest."""
    try:
        return run_to_end(oauth.status).as_json()
    except (ResourceMismatch, StorageError) as error:
        return {"status": "unusable", "message": error.message}


@others.command(epilog="Example: `notion-oauth logout`")
def logout(
    profile: Profile = None, token_file: TokenFile = None, server_url: ServerUrl = None, as_json: AsJson = False
) -> None:
    """End the grant at the server and forget the tokens."""
    from notion_oauth.tokens.revocation import SIGN_OUT_MESSAGES

    outcome = run_to_end(oauth_for(profile, token_file, server_url).sign_out)
    if as_json:
        print_json({"status": "unauthenticated", "outcome": outcome.name.lower()})
    else:
        typer.echo(SIGN_OUT_MESSAGES[outcome], err=True)


@others.command(epilog="Example: `notion-oauth key`")
def key(
    keyring: Annotated[bool, typer.Option("--keyring", help="Put it into the system keyring, before others.")] = False,
) -> None:
    """Make a key to seal the stored logins with, and print it."""
    from notion_oauth.files import encryption
    from notion_oauth.files.system_keyring import add_key

    made = encryption.Key(encryption.new_key(), encryption.KEYRING_SOURCE if keyring else encryption.KEY_SETTING)
    if keyring:
        add_key(made.secret)
        typer.echo(
            f"Key {made.id} is in the system keyring. Use it with {encryption.KEY_SETTING}={encryption.USE_KEYRING}",
            err=True,
        )
        return
    typer.echo(made.secret)
    said = f"This is key {made.id}. Set {encryption.KEY_SETTING} to it, and keep a copy: without it, logins are lost."
    typer.echo(said, err=True)


@others.command(epilog="Example: `notion-oauth reseal`, after a change of keys")
def reseal(token_file: TokenFile = None, as_json: AsJson = False) -> None:
    """Seal all stored logins and registrations with the first key, now and not at their next save."""
    from notion_oauth.settings import load_settings
    from notion_oauth.stores.factory import file_store

    store = file_store(load_settings(token_file=token_file))

    async def seal(name: str) -> bool:
        async with store.exclusive(name):
            return await store.reencrypt(name)

    names = run_to_end(partial(store.profiles, registered=True))
    done = {name: run_to_end(partial(seal, name)) for name in names}
    if as_json:
        print_json(done)
        return
    for name, changed in done.items():
        typer.echo(f"{name}  {'sealed' if changed else 'was sealed'}")


@others.command(epilog="Example: `notion-oauth doctor --json`")
def doctor(
    ctx: typer.Context,
    profile: Profile = None,
    token_file: TokenFile = None,
    server_url: ServerUrl = None,
    as_json: AsJson = False,
) -> None:
    """Check all that a login needs, and say what mends what is not well. Changes nothing; exits with 1 on a failure."""
    from notion_oauth.cli.doctor.report import run_checks
    from notion_oauth.settings import load_settings

    load = partial(load_settings, profile=profile, token_file=token_file, server_url=server_url)
    report = run_to_end(partial(run_checks, load, os.environ, render_command=partial(render_commands, ctx=ctx)))
    if as_json:
        print_json(report.as_json())
    else:
        typer.echo(report.in_lines(_painted), color=False if os.environ.get("NO_COLOR") else None)
    if report.result == "failure":
        raise typer.Exit(FAILED)


def _painted(result: str, word: str) -> str:
    return typer.style(word, fg={"ok": "green", "warning": "yellow"}.get(result, "red"))


@others.command(epilog="Example: `notion-oauth sandbox --port 9000 --token-lifetime 60`")
def sandbox(
    port: Annotated[int, typer.Option(help="The port to listen on; 0 takes a free one.", min=0, max=65535)] = 9000,
    token_lifetime: Annotated[float, typer.Option(help="Seconds that an access token lives.", min=1)] = 3600,
    auto_consent: Annotated[bool, typer.Option("--auto-consent", help="Agree without showing a page.")] = False,
) -> None:
    """Run a practice server on this machine, for those who develop without a Notion workspace."""
    from notion_oauth.cli.sandbox import run_sandbox

    run_sandbox(port=port, token_lifetime=token_lifetime, auto_consent=auto_consent)


@others.command(epilog="Example: `notion-oauth demo`")
def demo() -> None:
    """Show it all in a few seconds against a practice server: sign in, use, refresh, sign out."""
    from notion_oauth.cli.demo import run_demo

    if not run_demo():
        raise typer.Exit(FAILED)
