"""The program itself, where it runs, what is set, and what a sign-in needs of this machine."""

from __future__ import annotations

import difflib
import platform
import ssl
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic_settings import DotEnvSettingsSource

from notion_oauth import __version__
from notion_oauth.cli.doctor.context import CheckContext
from notion_oauth.cli.doctor.findings import Finding, NotChecked, failure, ok, warning, weak
from notion_oauth.clock import utc_now
from notion_oauth.errors import ConfigurationError
from notion_oauth.files import permissions
from notion_oauth.interactive import loopback
from notion_oauth.interactive.browser import Browser, Environment
from notion_oauth.settings import PREFIX, Settings
from notion_oauth.tokens.client_factory import build_client_and_audit

_PACKAGES = ("anyio", "authlib", "cryptography", "filelock", "httpcore", "httpx", "pydantic", "pydantic-settings")
_EXTRAS = ("httpx2", "keyring", "opentelemetry-api", "socksio", "truststore")
_DOTENV = Path(".env")
_WORDS = ("log_level", "log_format", "client_auth_method")  # settings whose values are one of a few words


def program() -> list[Finding]:
    """The version of this program, and what it runs on."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return [ok(f"notion-oauth {__version__}, {python}, {ssl.OPENSSL_VERSION}")]


def packages() -> list[Finding]:
    """The packages whose versions matter most, and the optional ones that are here."""
    return [ok(", ".join(f"{name} {found}" for name in (*_PACKAGES, *_EXTRAS) if (found := _version(name))))]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def place(around: Environment) -> list[Finding]:
    """The system, and whether a person sits before it."""
    seen = {"over SSH": around.ssh, "in a container": around.container, "in WSL": around.wsl}
    where = [words for words, so in seen.items() if so]
    return [ok(", ".join([f"{platform.system()} {platform.release()} on {platform.machine()}", *where]))]


def given(settings: Settings, environment: Mapping[str, str]) -> list[Finding]:
    """The settings that are not left at their defaults, and those that there are not."""
    from_environment = {
        name.upper() for name, value in environment.items() if name.upper().startswith(PREFIX) and value
    }
    dotenv = in_dotenv()
    from_dotenv = {name for name in dotenv if name.startswith(PREFIX)} - from_environment
    fields = {PREFIX + name.upper(): name for name in Settings.model_fields}
    shown = [_shown(name, fields[name], settings) for name in sorted(from_environment & fields.keys())]
    shown += [f"{_shown(name, fields[name], settings)} from .env" for name in sorted(from_dotenv & fields.keys())]
    where = "there is a .env here" if _DOTENV.exists() else "there is no .env here"
    return [
        ok(f"{', '.join(shown) or 'none is set'}; {where}"),
        *(_unknown(name, list(fields)) for name in sorted((from_environment | from_dotenv) - fields.keys())),
        *(weak(permissions.weakness(_DOTENV.absolute())) if _holds_secrets(dotenv) else ()),
        *_telemetry(settings),
    ]


def in_dotenv() -> dict[str, str]:
    """All that the `.env` in the working folder sets, ours or not; nothing where it cannot be read."""
    try:
        found = DotEnvSettingsSource(Settings).env_vars if _DOTENV.exists() else {}
    except (OSError, UnicodeDecodeError):
        return {}
    return {name.upper(): value for name, value in found.items() if value}


def _shown(variable: str, field: str, settings: Settings) -> str:
    """The name, with its value where that can be nothing private: a number, a switch, one of a few words."""
    value = getattr(settings, field)
    plain = isinstance(value, bool | float) or field in _WORDS
    return f"{variable} ({value})" if plain else variable


def secret_settings() -> set[str]:
    """The variables whose values are nobody's business."""
    fields = Settings.model_fields.items()
    return {PREFIX + name.upper() for name, field in fields if "SecretStr" in str(field.annotation)}


def _holds_secrets(dotenv: Mapping[str, str]) -> bool:
    return bool(secret_settings() & dotenv.keys())


def _unknown(name: str, known: list[str]) -> Finding:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Write {near[0]}, if that is meant; else unset it." if near else "Unset it."
    return warning(f"{name} is set, and there is no such setting: nothing reads it.", hint)


def _telemetry(settings: Settings) -> list[Finding]:
    try:
        build_client_and_audit(settings, settings.profile, utc_now)
    except ConfigurationError as error:
        return [failure(error.message, error.hint)]
    return []


async def port(case: CheckContext) -> Sequence[Finding]:
    """Whether the redirect can be received on this machine (RFC 8252 §7.3)."""
    try:
        kept = await case.registrations.there()
    except NotChecked:
        kept = None
    uris = [each.redirect_uri for each in reversed(kept.content if kept else ())]
    try:
        with loopback.bound(uris) as (_, redirect_uri):
            known = redirect_uri in uris
    except OSError as error:
        message = f"No port of {loopback.HOST} can be listened on: {error.strerror or type(error).__name__}."
        return [failure(message, "Let this program listen on that address: a sandbox or a firewall forbids it.")]
    if known:
        return [ok(f"one of {loopback.HOST} that this client is registered with is free")]
    taken = "those that this client is registered with are taken; with another it is registered anew" if uris else ""
    return [ok(f"{taken or 'there is a free one'} on {loopback.HOST}")]


def browser(around: Environment) -> list[Finding]:
    """How `login` would show its page."""
    found = around.browser()
    chosen = around.environment.get("BROWSER")
    if isinstance(found, Browser):
        what = "of Windows" if found.for_windows else "in the BROWSER variable" if chosen else "of this desktop"
        return [ok(f"login opens the one {what}")]
    if chosen:
        return [warning(found, "Correct BROWSER, or unset it. Until then login prints the address.")]
    return [ok(f"{found} login prints the address, and takes the answer by paste")]
