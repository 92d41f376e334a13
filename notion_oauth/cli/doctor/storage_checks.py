"""Checks of the token file, its directory, its lock, its encryption, and the login in it."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import filelock

from notion_oauth import humanize
from notion_oauth.cli.doctor.context import CheckContext
from notion_oauth.cli.doctor.findings import Finding, failure, ok, warning, warnings_for
from notion_oauth.cli.doctor.lock_holder import lock_holder
from notion_oauth.cli.work_tree import work_tree_warning
from notion_oauth.concurrency import run_in_daemon_thread
from notion_oauth.errors import SIGN_IN_AGAIN, Hint
from notion_oauth.files import atomic, permissions
from notion_oauth.files.locations import describe_origin, other_token_file
from notion_oauth.models import EndedLogin, TokenSet
from notion_oauth.protocol import end_reasons, lifetime
from notion_oauth.tokens.login_server import mismatch, not_signed_in
from notion_oauth.tokens.status import LoginStatus, login_status
from notion_oauth.web.sessions import keys

PROBE_SIZE = 64 * 1024  # bytes; more than all files of a login need
LOCK_TIMEOUT = 1.0  # seconds; reads and writes hold the lock for less, but a refresh may hold it for longer
_OTHER_PATH = "Fix that, or set NOTION_OAUTH_TOKEN_FILE to another path."


async def file(context: CheckContext) -> Sequence[Finding]:
    """The path of the token file, and who may open it."""
    path = context.token_file
    why = describe_origin(context.settings.token_file_origin, context.settings.env_file)
    exposed = await run_in_daemon_thread(lambda: work_tree_warning(path))
    if await context.file_size.get() is None:  # raises if it cannot be a token file
        return [ok(f"{path}: does not exist yet ({why})"), *warnings_for(exposed)]
    found, weaknesses = (
        os.lstat(path),
        [*warnings_for(permissions.mode_weakness(path), permissions.link_weakness(path), exposed)],
    )
    mode = "" if os.name == "nt" else f", mode {stat.S_IMODE(found.st_mode):04o}"
    if os.name != "nt" and found.st_uid != os.geteuid():
        mode += f", owned by another user (uid {found.st_uid})"
    return [ok(f"{path}{mode} ({why})"), *weaknesses]


def directory(context: CheckContext) -> Sequence[Finding]:
    """Whether files can be written and locked there. The test uses an unnamed file, which vanishes at once."""
    wanted = context.token_file.parent
    existing = next((each for each in (wanted, *wanted.absolute().parents) if os.path.lexists(each)), wanted)
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(PROBE_SIZE))
            probe.flush()
            os.fsync(probe.fileno())
            lockable = _lockable(probe.fileno())
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return [failure(f"Files cannot be written in {existing.absolute()}: {error.strerror}.", _OTHER_PATH)]
    if not lockable:
        message = f"The file system of {existing.absolute()} does not support locks, which sign-in and refresh need."
        return [failure(message, "Set NOTION_OAUTH_TOKEN_FILE to a path on a local disk.")]
    created = "" if existing == wanted else "; it is created when needed"
    return [
        ok(f"{wanted.absolute()} can be written and locked, {free // 1024**2} MiB are free{created}"),
        *warnings_for(permissions.directory_weakness(wanted)),
    ]


def _lockable(descriptor: int) -> bool:
    try:
        return filelock.lock_descriptor(descriptor, blocking=False)
    except OSError:
        return False


def lock(context: CheckContext) -> Sequence[Finding]:
    """Whether the lock is free. An existing lock file is locked for a moment; none is created."""
    path = context.sibling(".lock")
    weaknesses = warnings_for(permissions.mode_weakness(path))
    try:
        if _is_free(path):
            return [ok("free"), *weaknesses]
    except OSError as error:
        return [failure(f"{path} cannot be locked: {error.strerror}.", _OTHER_PATH)]
    process = lock_holder(path)
    if process is None:
        hint = Hint("If none of your programs is signing in or refreshing, find the process that hangs and end it.")
        return [warning(f"Another process holds {path.name}.", hint)]
    hint = Hint(
        "If none of your programs is signing in or refreshing, that process hangs. End it",
        other_command=f"kill {process}",
    )
    return [warning(f"Process {process} holds {path.name}.", hint)]


def _is_free(path: Path) -> bool:
    """Whether the lock becomes free within LOCK_TIMEOUT. Raises StorageError if the path cannot be a lock file."""
    atomic.check_lock_file(path)
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return True
    try:
        until = time.monotonic() + LOCK_TIMEOUT
        while not (free := filelock.lock_descriptor(descriptor, blocking=False)) and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        os.close(descriptor)  # releases the lock
    return free


async def protection(context: CheckContext) -> Sequence[Finding]:
    """How the stored login is encrypted, and with which key."""
    await context.file_size.get_or_skip()
    found = await context.login.get()
    if found is None or isinstance(found.content, EndedLogin):
        return await _future_protection(context)
    if found.key is not None:
        return warnings_for(found.weakness) or [ok(f"encrypted with key {found.key.id} from {found.key.source}")]
    return warnings_for(found.weakness) or [
        ok("in plain text: protected from other users, but not in backups (see the command key)")
    ]


async def _future_protection(context: CheckContext) -> list[Finding]:
    encryption = await context.encryption.get()
    if encryption is None:
        return [ok("no token; the next one will be stored in plain text (see the command key)")]
    first = (await run_in_daemon_thread(encryption.all_keys))[0]
    return [ok(f"no token; the next one will be encrypted with key {first.id} from {first.source}")]


async def registrations(context: CheckContext) -> Sequence[Finding]:
    """The stored client registrations, and how they are protected."""
    found = await context.registrations.get()
    weaknesses = warnings_for(permissions.mode_weakness(context.sibling(".clients")))
    if found is None:
        return [ok("none yet")]
    issuers = ", ".join(sorted({each.issuer for each in found.content})) or "no issuer"
    return [
        ok(f"{len(found.content)} at {issuers}"),
        *weaknesses,
        *warnings_for(found.weakness),
    ]


def session_key(context: CheckContext) -> Sequence[Finding]:
    """The source of the key of the service's session cookies."""
    if context.settings.secret_keys:
        return [ok("from NOTION_OAUTH_SECRET_KEY")]
    path = keys.key_file(context.settings)
    if not keys.session_key_available(context.settings, fix=False):
        return [ok("none yet; the service creates one when it starts")]
    return [ok(f"in {path.name}"), *warnings_for(permissions.mode_weakness(path))]


async def login(context: CheckContext) -> Sequence[Finding]:
    """Whether there is a login, and how long it is valid."""
    found, settings = await context.login.get_or_skip(), context.settings
    if found is None:
        in_file = settings.database is None
        signed_out = not_signed_in(other_token_file(settings.token_file, settings.profile) if in_file else None)
        return [warning(signed_out.message, signed_out.hint)]
    if isinstance(found.content, EndedLogin):
        reason = end_reasons.describe_end(found.content, context.settings.lifetimes)
        return [failure(f"The login has ended: {reason}.", SIGN_IN_AGAIN)]
    tokens = found.content
    wrong = mismatch(tokens, settings.server_url, unbound=settings.server_of_unbound_login)
    if wrong is not None:
        return [failure(wrong.message, wrong.hint)]
    status = login_status(tokens, now=context.clock(), lifetimes=context.settings.lifetimes)
    return [_token(status), *_future_timestamp(context, tokens), *_grant(context, status)]


def _token(status: LoginStatus) -> Finding:
    if status.status == "unauthenticated":
        return failure("The access token has expired, and there is no refresh token.", SIGN_IN_AGAIN)
    if status.status == "expired":
        return ok("signed in; the access token has expired, and the next use will refresh it")
    if status.expires_in_seconds is None:
        return ok("signed in")
    left = humanize.format_duration(timedelta(seconds=status.expires_in_seconds))
    return ok(f"signed in; the access token is valid for {left}")


def _future_timestamp(context: CheckContext, tokens: TokenSet) -> list[Finding]:
    if tokens.updated_at - context.clock() <= lifetime.CLOCK_SKEW:
        return []
    stored_at = humanize.format_time(tokens.updated_at)
    message = f"The tokens were stored at {stored_at}, in the future: a clock is or was wrong."
    return [warning(message, Hint("Correct the clock, then refresh the token", "refresh"))]


def _grant(context: CheckContext, status: LoginStatus) -> list[Finding]:
    if status.warning is not None:
        return [warning(status.warning.message, status.warning.hint)]
    if not status.refreshable or status.login_ends_at is None:
        return []
    left = humanize.format_duration(status.login_ends_at - context.clock())
    until = humanize.format_time(status.login_ends_at)
    return [ok(f"without a refresh, the login ends in {left}, on {until}")]
