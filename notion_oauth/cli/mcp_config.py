"""The command `mcp config`: how a client starts the gateway or reaches it, and writing that into its configuration."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer

from notion_oauth.cli.options import echo, run_async
from notion_oauth.cli.work_tree import work_tree_warning
from notion_oauth.errors import ConfigurationError, NotionOAuthError, StorageError, escape
from notion_oauth.files import atomic
from notion_oauth.gateway.clients import (
    CLIENTS,
    SECRET_VARIABLE,
    Configuration,
    Endpoint,
    Launch,
    UnsupportedTransport,
    configure,
    differences,
)
from notion_oauth.gateway.launch import SELECTING, launch, login_arguments, machine, server_name
from notion_oauth.gateway.local_secret import DEFAULT_PORT, local_secret
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import PREFIX, Settings

TIME_LIMIT = 60.0  # seconds for a client's own command
_BACKUP = re.compile(r"\.\d{8}T\d{6}\.bak")
_TEMPORARY = re.compile(r"[/\\](?:(?:archive|environments)-v\d+|pipx[/\\]\.cache)[/\\]")


@dataclass(frozen=True)
class GatewayOptions:
    """The options that `mcp`, `mcp serve` and `mcp config` share."""

    read_only: bool = False
    allow_tool: Sequence[str] = ()
    deny_tool: Sequence[str] = ()
    patience: timedelta | None = None

    def arguments(self) -> list[str]:
        """The options as one types them."""
        return [
            *(["--read-only"] if self.read_only else ()),
            *(word for pattern in self.allow_tool for word in ("--allow-tool", pattern)),
            *(word for pattern in self.deny_tool for word in ("--deny-tool", pattern)),
            *([] if self.patience is None else ["--patience", f"{int(self.patience.total_seconds())}s"]),
        ]


def run(
    client: str, settings: Settings, options: GatewayOptions, *, port: int | None, write: bool, sign_in: str
) -> None:
    """The command. `port` is that of the HTTP face; None if the client starts the gateway itself.

    `sign_in` is what to do if nobody is signed in.

    Raises ConfigurationError, StorageError.
    """
    server: Launch | Endpoint
    server = launch(settings, program_command(), options.arguments()) if port is None else endpoint(settings, port)
    if client not in CLIENTS:
        raise _unknown(client, server)
    try:
        configuration = configure(client, server, machine())
    except UnsupportedTransport as error:
        raise ConfigurationError(str(error)) from None
    why = write_configuration(configuration) if write else None
    if not write or why is not None:
        _print(configuration, why)
    steps = _next_steps(configuration, server, settings, serve_command(settings, options, port or DEFAULT_PORT))
    with suppress(NotionOAuthError):  # a store that cannot be read is not what this command is about
        if run_async(NotionOAuth(settings).status).status == "unauthenticated":
            steps.append(f"Nobody is signed in yet. {sign_in}")
    if steps:
        echo("\n" + "\n".join(steps), err=True)


def _unknown(client: str, server: Launch | Endpoint) -> ConfigurationError:
    """The error for a client that this program does not know: it has what any client needs."""
    if isinstance(server, Endpoint):
        secret = machine().render_command((*server.secret_command, "--headers"))
        needs = f"the URL {server.url}, and the header that this command prints: {secret}"
    else:
        needs = f"the command {server.command} with these arguments: {json.dumps(server.arguments)}"
    return ConfigurationError(
        f"{client!r} is not among the clients that this program knows: {', '.join(CLIENTS)}.",
        hint=f"Any other client needs {needs}",
    )


def _print(configuration: Configuration, why: str | None) -> None:
    """Print the text to stdout, and where it goes to stderr. `why` it could not be written."""
    file = user_file(configuration)
    if why is not None:
        echo(f"Nothing was written{f' to {file}' if file else ''}: {why}.", err=True)
    where = f"to {file}" if file else f"to the configuration of {configuration.client}"
    echo(f"Add this {where}:\n", err=True)
    typer.echo(configuration.text)
    if configuration.add is not None:
        echo(f"\nOr run: {machine().render_command(configuration.add)}", err=True)


def _next_steps(
    configuration: Configuration, server: Launch | Endpoint, settings: Settings, serve: tuple[str, ...]
) -> list[str]:
    """What to do after this."""
    steps = [configuration.note] if configuration.note else []
    if isinstance(server, Endpoint):
        steps.append(f"Start the gateway, and let it run: {machine().render_command(serve)}")
        secret = machine().render_command(server.secret_command)
        if SECRET_VARIABLE in configuration.text:
            variable = (
                f"$env:{SECRET_VARIABLE} = {secret}" if os.name == "nt" else f'export {SECRET_VARIABLE}="$({secret})"'
            )
            steps.append(f"Set this variable where {configuration.client} starts: {variable}")
        elif "inputs" in configuration.text:
            steps.append(f"{configuration.client} asks for the secret once: paste the output of: {secret}")
    elif left := sorted(PREFIX + name.upper() for name in settings.given.difference(SELECTING)):
        message = f"{configuration.client} may start the gateway without what is set in this shell: {', '.join(left)}."
        steps.append(f"Warning: {message} Put it into a file, and name the file with --env-file.")
    if is_temporary(sys.prefix):
        message = "uvx and `pipx run` delete the environment of this program at some time."
        steps.append(f"Warning: {message} Install it with `uv tool install` or `pipx install`, and run this again.")
    return steps


def program_command() -> tuple[str, ...]:
    """The command that starts this program from any directory and with an empty environment."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return sys.executable, "-m", "notion_oauth"
    if started.suffix == ".py":
        return sys.executable, str(started.absolute())
    found = shutil.which(sys.argv[0]) or sys.argv[0]
    return (str(Path(found).absolute()),)


def endpoint(settings: Settings, port: int) -> Endpoint:
    """The HTTP face of the gateway with these settings. Raises StorageError if its secret cannot be read or created."""
    command = (*program_command(), "mcp", "secret", *login_arguments(settings, ("token_file", "env_file")))
    return Endpoint(server_name(settings), f"http://127.0.0.1:{port}/mcp", local_secret(settings), command)


def serve_command(settings: Settings, options: GatewayOptions, port: int) -> tuple[str, ...]:
    """The command that starts the HTTP face."""
    ports = [] if port == DEFAULT_PORT else ["--port", str(port)]
    return (*program_command(), "mcp", "serve", *login_arguments(settings), *options.arguments(), *ports)


def is_temporary(environment: str) -> bool:
    """Whether uvx or `pipx run` has made this Python environment, which they delete at some time."""
    return _TEMPORARY.search(environment) is not None


def user_file(configuration: Configuration) -> Path | None:
    """The client's file: the first that exists, otherwise the usual one. None if the client has none of the user's."""
    for candidate in configuration.files:
        pattern = candidate.relative_to(candidate.anchor).as_posix()
        found = sorted(Path(candidate.anchor).glob(pattern)) if "*" in pattern else [candidate]
        if (file := next((each for each in found if os.path.lexists(each)), None)) is not None:
            return file
    return next((each for each in reversed(configuration.files)), None)


@dataclass(frozen=True)
class ClientFile:
    """A client's file as it is. `document` is None if it cannot be read as this program could write it: `why`."""

    path: Path  # after links
    text: str = ""
    document: dict[str, Any] | None = None
    why: str = ""

    def entry(self, keys: Sequence[str]) -> Any:
        """The value at these keys; None if there is none."""
        value: Any = self.document
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def read_client_file(configuration: Configuration) -> ClientFile | None:
    """Read the client's file. Raises ConfigurationError if the operating system does not let it."""
    file = user_file(configuration)
    if file is None:
        return None
    path = Path(os.path.realpath(file))
    yaml = configuration.syntax == "yaml"
    why = "it is YAML, whose comments would be lost" if yaml else ""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return ClientFile(path, document=None if yaml else {}, why=why)
    except UnicodeDecodeError:
        return ClientFile(path, why="it is not UTF-8 text")
    except OSError as error:
        hint = "Fix that, or omit --write and paste the text yourself."
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.", hint=hint) from None
    if yaml:
        return ClientFile(path, text, why=why)
    try:
        document = tomllib.loads(text) if configuration.syntax == "toml" else _parse_json(text)
    except (ValueError, RecursionError):
        return ClientFile(path, text, why=f"it is not plain {configuration.syntax.upper()}: it may have comments")
    if not isinstance(document, dict) or not isinstance(document.get(configuration.keys[0], {}), dict):
        return ClientFile(path, text, why=f"its content is not what {configuration.client} expects")
    return ClientFile(path, text, document)


def _parse_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("the same key twice")
        return dict(pairs)

    return json.loads(text, object_pairs_hook=unique) if text.strip() else {}


def write_configuration(configuration: Configuration) -> str | None:
    """Write the entry into the user's configuration of the client. Returns why not, if this cannot be done for it.

    Says on stderr what was changed. Raises ConfigurationError; the configuration is then unchanged.
    """
    found = read_client_file(configuration)
    name = configuration.keys[-1]
    if found is None:
        return f"{configuration.client} does not have its configuration in your home directory"
    before = found.entry(configuration.keys)
    if isinstance(before, dict) and not differences(before, configuration.entry):
        echo(f"{configuration.client} is already configured: {name} in {found.path}.", err=True)
        return None
    program = _own_program(configuration)
    if program is None and (why := _why_not(found, configuration)):
        return why
    backup = _back_up(found.path)
    if program is not None:
        _run_own(program, configuration, exists=before is not None)
    else:
        _merge(found, configuration)
    echo(_changes(configuration, found.path, before, backup), err=True)
    return None


def _why_not(found: ClientFile, configuration: Configuration) -> str:
    """Why the file cannot be written; empty if it can."""
    if found.document is None:
        return found.why
    if configuration.syntax != "json":
        return f"a change would lose its comments, and the command of {configuration.client} was not found"
    if configuration.contains_secret and work_tree_warning(found.path) is not None:
        return "it is in a git work tree that does not ignore it, and the text contains a secret"
    if "inputs" in configuration.text:
        return "it asks for the secret when it starts, which only its own command sets up"
    return ""


def _own_program(configuration: Configuration) -> str | None:
    """The client's own command, if it is installed. Batch files of Windows are not used: they change quotes."""
    found = Path(shutil.which(configuration.add[0]) or "") if configuration.add else Path()
    # Not absolute: in the working directory, which may be anyone's
    return str(found) if found.is_absolute() and found.suffix.lower() not in (".cmd", ".bat") else None


def _run_own(program: str, configuration: Configuration, *, exists: bool) -> None:
    commands = (configuration.remove if exists else None, configuration.add)
    for command in filter(None, commands):
        try:
            done = subprocess.run(  # noqa: S603 - the client's own command, without a shell
                [program, *command[1:]],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIME_LIMIT,
                check=False,
            )
            reason = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2] if done.returncode else None
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = str(error)
        if reason is not None:
            hint = f"Run it yourself: {machine().render_command(command)}"
            raise ConfigurationError(f"The command of {configuration.client} failed: {escape(reason)}", hint=hint)


def _back_up(path: Path) -> Path | None:
    """Copy the file beside it, with the same mode, in the place of earlier copies. Returns the copy, if it exists."""
    try:
        content, mode = path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None
    backup = path.with_name(f"{path.name}.{time.strftime('%Y%m%dT%H%M%S')}.bak")
    _write_private(backup, content, mode)
    for earlier in path.parent.iterdir():
        if earlier != backup and _BACKUP.fullmatch(earlier.name.removeprefix(path.name)):
            earlier.unlink(missing_ok=True)
    return backup


def _merge(found: ClientFile, configuration: Configuration) -> None:
    document, (section, name) = found.document or {}, configuration.keys
    merged = {**document, section: {**document.get(section, {}), name: configuration.entry}}
    indent = re.search(r'^([ \t]+)"', found.text, re.MULTILINE)
    text = json.dumps(merged, indent=indent[1] if indent else 2, ensure_ascii=False)
    if found.text.endswith("\n") or not found.text:
        text += "\n"
    mode = stat.S_IMODE(found.path.stat().st_mode) if found.path.exists() else 0o600
    content = text.replace("\n", "\r\n") if "\r\n" in found.text else text
    _write_private(found.path, content.encode(), mode & 0o700 if configuration.contains_secret else mode)


def _write_private(path: Path, content: bytes, mode: int) -> None:
    """Replace the file in one step. It is the user's alone until it gets its mode."""
    try:
        atomic.write_file(path, content, remove_abandoned=False)
        path.chmod(mode)
    except (StorageError, OSError) as error:
        message = error.message if isinstance(error, StorageError) else f"{path}: {error.strerror}."
        raise ConfigurationError(message, hint="Omit --write, and paste the text yourself.") from None


def _changes(configuration: Configuration, path: Path, before: object, backup: Path | None) -> str:
    """What was changed, without values: an entry of another server may contain secrets."""
    name = configuration.keys[-1]
    kept = "" if backup is None else f" The file as it was: {backup}"
    if not isinstance(before, dict):
        return f"Added {name} to {path}.{kept}"
    return f"Replaced {name} in {path}: {', '.join(differences(before, configuration.entry))} changed.{kept}"
