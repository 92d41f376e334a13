"""Where the tokens lie: the file, its folder, its lock, how it is sealed, and the login in it."""

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
from notion_oauth.cli.doctor.findings import Finding, failure, ok, warning, weak
from notion_oauth.cli.doctor.lock_holder import holder
from notion_oauth.concurrency import run_in_daemon_thread
from notion_oauth.errors import SIGN_IN, SIGN_IN_AGAIN, ResourceMismatch
from notion_oauth.files import atomic, permissions
from notion_oauth.models import EndedLogin, TokenSet
from notion_oauth.protocol import end_reasons, lifetime
from notion_oauth.protocol.urls import resource_covers
from notion_oauth.tokens.status import LoginStatus, login_status
from notion_oauth.web.sessions import keys

ROOM = 64 * 1024  # bytes; more than all files of a login take
LOCK_PATIENCE = 1.0  # seconds; whoever reads or writes holds it for less, and a refresh may take longer
_ELSEWHERE = "Mend that, or set NOTION_OAUTH_TOKEN_FILE to another path."


async def file(case: CheckContext) -> Sequence[Finding]:
    """Where the tokens lie, and whom that is open to."""
    path = case.token_file
    if await case.readable.get() is None:  # raises for what is no file of ours
        return [ok(f"{path.absolute()}: nothing is kept there yet")]
    found, weaknesses = os.lstat(path), weak(permissions.mode_weakness(path))
    mode = "" if os.name == "nt" else f", mode {stat.S_IMODE(found.st_mode):04o}"
    if os.name != "nt" and found.st_uid != os.geteuid():
        mode += f", of another user (uid {found.st_uid})"
    return [ok(f"{path.absolute()}{mode}"), *weaknesses]


def folder(case: CheckContext) -> Sequence[Finding]:
    """Whether files can be written and locked there. What is written for that has no name, and is gone at once."""
    wanted = case.token_file.parent
    existing = next((each for each in (wanted, *wanted.absolute().parents) if os.path.lexists(each)), wanted)
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(ROOM))
            probe.flush()
            os.fsync(probe.fileno())
            lockable = _lockable(probe.fileno())
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return [failure(f"Nothing can be written in {existing.absolute()}: {error.strerror}.", _ELSEWHERE)]
    if not lockable:
        message = f"The file system of {existing.absolute()} has no locks, and so nobody can refresh or sign in."
        return [failure(message, "Set NOTION_OAUTH_TOKEN_FILE to a path on a local disk.")]
    made = "" if existing == wanted else "; it is made when it is needed"
    return [
        ok(f"{wanted.absolute()} can be written and locked, {free // 1024**2} MiB are free{made}"),
        *weak(permissions.directory_weakness(wanted)),
    ]


def _lockable(descriptor: int) -> bool:
    try:
        return filelock.lock_descriptor(descriptor, blocking=False)
    except OSError:
        return False


def lock(case: CheckContext) -> Sequence[Finding]:
    """Whether the lock can be had. It is held for a moment, where there is one already, and never made."""
    path = case.beside(".lock")
    weaknesses = weak(permissions.mode_weakness(path))
    try:
        if _is_free(path):
            return [ok("free"), *weaknesses]
    except OSError as error:
        return [failure(f"{path} cannot be locked: {error.strerror}.", _ELSEWHERE)]
    number = holder(path)
    who, how = ("another process", "look for one that hangs and end it")
    if number is not None:
        who, how = f"process {number}", f"that one hangs: end it with: kill {number}"
    return [warning(f"{who} holds {path.name}.", f"If no program of yours is signing in or refreshing, {how}")]


def _is_free(path: Path) -> bool:
    """Whether nobody holds the lock for long. Raises StorageError where it can be none."""
    atomic.secure_lock_file(path, fix=False)
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return True
    try:
        until = time.monotonic() + LOCK_PATIENCE
        while not (free := filelock.lock_descriptor(descriptor, blocking=False)) and time.monotonic() < until:
            time.sleep(0.05)
    finally:
        os.close(descriptor)  # which lets go
    return free


async def kept(case: CheckContext) -> Sequence[Finding]:
    """How the login is kept at rest, and where the key comes from."""
    await case.readable.there()
    found = await case.login.get()
    if found is None or isinstance(found.content, EndedLogin):
        return await _would_be_kept(case)
    if found.key is not None:
        return weak(found.weakness) or [ok(f"encrypted with key {found.key.id} from {found.key.source}")]
    return weak(found.weakness) or [
        ok("in plain text: safe from other users, and not in a backup (see notion-oauth key)")
    ]


async def _would_be_kept(case: CheckContext) -> list[Finding]:
    encryption = await case.encryption.get()
    if encryption is None:
        return [ok("no token; the next would be in plain text (see notion-oauth key)")]
    first = (await run_in_daemon_thread(encryption.all_keys))[0]
    return [ok(f"no token; the next would be encrypted with key {first.id} from {first.source}")]


async def registrations(case: CheckContext) -> Sequence[Finding]:
    """The clients that are kept, and how."""
    found = await case.registrations.get()
    weaknesses = weak(permissions.mode_weakness(case.beside(".clients")))
    if found is None:
        return [ok("none yet")]
    issuers = sorted({each.issuer for each in found.content})
    return [ok(f"{len(found.content)} at {', '.join(issuers) or 'no issuer'}"), *weaknesses, *weak(found.weakness)]


def session_key(case: CheckContext) -> Sequence[Finding]:
    """What the service's cookies are sealed with."""
    if case.settings.secret_keys:
        return [ok("from NOTION_OAUTH_SECRET_KEY")]
    path = keys.key_file(case.settings)
    if not keys.session_key_available(case.settings, fix=False):
        return [ok("none yet; the service makes one when it starts")]
    return [ok(f"in {path.name}"), *weak(permissions.mode_weakness(path))]


async def login(case: CheckContext) -> Sequence[Finding]:
    """Who is signed in, and for how long."""
    found = await case.login.there()
    if found is None:
        return [warning("Not signed in.", SIGN_IN)]
    if isinstance(found.content, EndedLogin):
        because = end_reasons.describe_end(found.content, case.settings.lifetimes)
        return [failure(f"The login has ended: {because}.", SIGN_IN_AGAIN)]
    tokens, server_url = found.content, case.settings.server_url
    if tokens.resource is not None and not resource_covers(tokens.resource, server_url):
        message = f"The stored login is for {tokens.resource}, not for the server that is set."
        return [failure(message, ResourceMismatch.default_hint)]
    status = login_status(tokens, now=case.clock(), lifetimes=case.settings.lifetimes)
    return [_token(status), *_of_the_future(case, tokens), *_grant(case, status)]


def _token(status: LoginStatus) -> Finding:
    if status.status == "unauthenticated":
        return failure("The access token has expired, and there is none to refresh it with.", SIGN_IN_AGAIN)
    if status.status == "expired":
        return ok("signed in; the access token has expired, and the next use refreshes it")
    if status.expires_in_seconds is None:
        return ok("signed in")
    left = humanize.format_duration(timedelta(seconds=status.expires_in_seconds))
    return ok(f"signed in; the access token is good for {left}")


def _of_the_future(case: CheckContext, tokens: TokenSet) -> list[Finding]:
    if tokens.updated_at - case.clock() <= lifetime.CLOCK_SKEW:
        return []
    message = (
        f"The tokens are from {humanize.format_time(tokens.updated_at)}, which is yet to come: a clock is or was wrong."
    )
    return [warning(message, "Set the clock; then run: notion-oauth refresh")]


def _grant(case: CheckContext, status: LoginStatus) -> list[Finding]:
    if status.warning is not None:
        said, _, hint = status.warning.partition(". ")
        return [warning(f"{said}.", hint)]
    if not status.refreshable or status.login_ends_at is None:
        return []
    days = (status.login_ends_at - case.clock()).days
    return [
        ok(f"it can live for {days} days if nothing refreshes it, until {humanize.format_time(status.login_ends_at)}")
    ]
