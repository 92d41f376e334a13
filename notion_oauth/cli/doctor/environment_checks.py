"""Checks of the program, its packages, its environment, its settings, and what a sign-in needs of this machine."""

from __future__ import annotations

import difflib
import platform
import ssl
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from notion_oauth import __version__
from notion_oauth.cli.doctor.context import CheckContext
from notion_oauth.cli.doctor.findings import CheckSkipped, Finding, failure, ok, warning, warnings_for
from notion_oauth.clock import utc_now
from notion_oauth.errors import ConfigurationError
from notion_oauth.files import permissions
from notion_oauth.files.env_file import ignored_env_file, read_env_file
from notion_oauth.interactive import loopback
from notion_oauth.interactive.browser import Browser, Environment
from notion_oauth.settings import PREFIX, Settings
from notion_oauth.tokens.client_factory import build_client

_PACKAGES = ("anyio", "authlib", "cryptography", "filelock", "httpcore", "httpx", "pydantic")
_EXTRAS = ("httpx2", "keyring", "opentelemetry-api", "socksio", "truststore")
# Settings whose values are one of a few keywords
_KEYWORDS = ("log_level", "log_format", "client_auth_method", "compat")


def program() -> list[Finding]:
    """The versions of this program, of Python and of OpenSSL."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return [ok(f"notion-oauth {__version__}, {python}, {ssl.OPENSSL_VERSION}")]


def packages() -> list[Finding]:
    """The versions of the most important packages, and of the optional ones that are installed."""
    return [ok(", ".join(f"{name} {found}" for name in (*_PACKAGES, *_EXTRAS) if (found := _version(name))))]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def system(environment: Environment) -> list[Finding]:
    """The operating system, and whether this is SSH, a container or WSL."""
    kinds = {"over SSH": environment.ssh, "in a container": environment.container, "in WSL": environment.wsl}
    where = [text for text, present in kinds.items() if present]
    return [ok(", ".join([f"{platform.system()} {platform.release()} on {platform.machine()}", *where]))]


def configured(settings: Settings, environment: Mapping[str, str]) -> list[Finding]:
    """The settings that are set, unknown settings, and weaknesses of the env file."""
    from_environment = {
        name.upper() for name, value in environment.items() if name.upper().startswith(PREFIX) and value
    }
    file = settings.env_file
    in_file = in_env_file(file)
    from_file = {name for name in in_file if name.startswith(PREFIX)} - from_environment
    fields = {PREFIX + name.upper(): name for name in Settings.model_fields}
    values = [_format_setting(name, fields[name], settings) for name in sorted(from_environment & fields.keys())]
    values += [
        f"{_format_setting(name, fields[name], settings)} from {file.name if file else ''}"
        for name in sorted(from_file & fields.keys())
    ]
    where = "no env file" if file is None else f"with the env file {file}"
    return [
        ok(f"{', '.join(values) or 'none set'}; {where}"),
        *(_unknown(name, list(fields)) for name in sorted((from_environment | from_file) - fields.keys())),
        *(warnings_for(permissions.weakness(file)) if file is not None and _holds_secrets(in_file) else ()),
        *_ignored(file),
        *_telemetry(settings),
    ]


def in_env_file(path: Path | None) -> dict[str, str]:
    """All variables in the env file, of this program or not; empty if there is none, or it cannot be read."""
    try:
        return {} if path is None else read_env_file(path)
    except ConfigurationError:
        return {}


def _ignored(read: Path | None) -> list[Finding]:
    found = ignored_env_file(read)
    if found is None:
        return []
    message = f"{found[0]} is not read, although it has settings."
    return [warning(message, f"Remove these settings from it, or use it with --env-file {found[0].name}.")]


def _format_setting(variable: str, field: str, settings: Settings) -> str:
    """The name, with its value only if that cannot be private: a number, a switch, a keyword."""
    value = getattr(settings, field)
    plain = isinstance(value, bool | float) or field in _KEYWORDS
    return f"{variable} ({value})" if plain else variable


def secret_settings() -> set[str]:
    """The names of the variables whose values are secret."""
    fields = Settings.model_fields.items()
    return {PREFIX + name.upper() for name, field in fields if "SecretStr" in str(field.annotation)}


def _holds_secrets(variables: Mapping[str, str]) -> bool:
    return bool(secret_settings() & variables.keys())


def _unknown(name: str, known: list[str]) -> Finding:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}? Otherwise unset it." if near else "Unset it."
    return warning(f"{name} is set, but there is no such setting.", hint)


def _telemetry(settings: Settings) -> list[Finding]:
    try:
        build_client(settings, utc_now)
    except ConfigurationError as error:
        return [failure(error.message, error.hint)]
    return []


async def port(context: CheckContext) -> Sequence[Finding]:
    """Whether the redirect can be received on this machine (RFC 8252 §7.3)."""
    try:
        stored = await context.registrations.get_or_skip()
    except CheckSkipped:
        stored = None
    uris = [each.redirect_uri for each in reversed(stored.content if stored else ())]
    try:
        with loopback.bind_redirect_uri(uris, host=loopback.registered_host(uris)) as (_, redirect_uri):
            known = redirect_uri in uris
    except OSError as error:
        message = f"Cannot listen on any port of {loopback.HOST}: {error.strerror or type(error).__name__}."
        return [
            failure(message, "Allow this program to listen on that address: a firewall or a container may prevent it.")
        ]
    if known:
        return [ok(f"a registered redirect port on {loopback.HOST} is free")]
    used = (
        "the ports of the registered redirect URIs are in use; a sign-in registers another redirect URI" if uris else ""
    )
    return [ok(f"{used or 'a free port is available'} on {loopback.HOST}")]


def browser(environment: Environment) -> list[Finding]:
    """How `login` would open its page."""
    found = environment.browser()
    variable = environment.variables.get("BROWSER")
    if isinstance(found, Browser):
        which = "browser of Windows" if found.for_windows else "BROWSER variable" if variable else "default browser"
        return [ok(f"login opens its page with the {which}")]
    if variable:
        return [warning(found, "Correct or unset BROWSER. Until then, login only prints the URL.")]
    return [ok(f"{found} login prints the URL, and you paste the redirect URL")]
