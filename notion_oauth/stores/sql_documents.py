"""Documents in a database: one row per profile, with a lease as its lock.

A holder takes the lease with one statement, and no connection is open while it waits for a server. Each lease has a
fence, a number that grows, and each change is made only if the row still has the holder's fence. So a holder that was
stopped for longer than its lease changes nothing. Tokens that it has received are set aside in the row, for the holder
that comes next. All times are those of the database.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NoReturn, TypeVar

import anyio
import anyio.to_thread

from notion_oauth.clock import uptime
from notion_oauth.concurrency import run_shielded
from notion_oauth.errors import (
    ConfigurationError,
    LockLost,
    StorageError,
    StoreBusy,
    StoreUnavailable,
    WarningWithHint,
)
from notion_oauth.files.encryption import Encryption
from notion_oauth.profile_names import PROFILE_NAME, VISITOR_PROFILE
from notion_oauth.storage import LOCK_WAIT, PAGE, Cooldown, Kind, Reservation, TokenStore
from notion_oauth.stores.database import Database, Row
from notion_oauth.stores.pool import Pool
from notion_oauth.stores.schema import check

LEASE = timedelta(seconds=60)  # how long others wait for a holder that has died
FIRST_POLL, LAST_POLL = 0.02, 0.25  # seconds between two looks at a lease that another holder has
REMOVE_INTERVAL = 60.0  # seconds between two removals of ended claims
MAX_REMOVED = 1000  # ended claims at once
MAX_DUE = 1000  # profiles at once
KEEP_AFTER = timedelta(days=20)  # without a refresh; Notion ends a login after 30
KEEP_SPREAD = 0.1  # so that logins that were refreshed at the same time are not due at the same time
KEEP_AGAIN = timedelta(days=1)  # after a failure
VISITORS_FOR = timedelta(days=30)  # a visitor's cookie ends that long after its last use
PER_SECOND = (0.01, 5.0)  # logins that all instances keep, at least and at most
_LOG = logging.getLogger(__name__)

_READ = "SELECT {kind} FROM notion_oauth_logins WHERE profile = :profile"
_PROFILES = """
SELECT profile FROM notion_oauth_logins WHERE profile > :after AND (login IS NOT NULL{or_registered})
ORDER BY profile LIMIT :limit"""
_LAST_CHANGED = """
SELECT profile, changed_at FROM notion_oauth_logins WHERE profile > :after AND changed_at < :before
ORDER BY profile LIMIT :limit"""
_DUE = "SELECT profile FROM notion_oauth_logins WHERE due_at < :before ORDER BY due_at LIMIT :limit"
_STARTING_WITH = """
SELECT profile, CASE WHEN set_aside IS NULL AND (login IS NULL OR substr(login, 1, :length) = :start)
AND (registrations IS NULL OR substr(registrations, 1, :length) = :start) THEN 1 ELSE 0 END
FROM notion_oauth_logins WHERE profile > :after AND (login IS NOT NULL OR registrations IS NOT NULL)
ORDER BY profile LIMIT :limit"""
_FORGET = "DELETE FROM notion_oauth_logins WHERE profile = :profile"

# A lease that ends more than ten minutes too late counts as over: the clock was set back, as by a failover
# `owner` is taken again by the process that has it, and could not tell that it took or released the lease
_LOCK = """
INSERT INTO notion_oauth_logins AS stored (profile, changed_at, fence, owner, lease_until)
VALUES (:profile, {now}, 1, :owner, {now} + :lease)
ON CONFLICT (profile) DO UPDATE SET fence = stored.fence + 1, owner = :owner, lease_until = {now} + :lease
WHERE stored.lease_until <= {now} OR stored.lease_until > {now} + :lease + 600 OR stored.owner = :owner
RETURNING fence, login, registrations, attempt, set_aside,
failure, {now} - failed_at, (SELECT paused_until - {now} FROM notion_oauth_pace)"""
_IS_LOCKED = """
SELECT 1 FROM notion_oauth_logins WHERE profile = :profile
AND lease_until > {now} AND lease_until <= {now} + :lease + 600"""
_CHANGE = """
UPDATE notion_oauth_logins SET {change} WHERE profile = :profile AND fence = :fence AND owner = :owner RETURNING 1"""
_UNLOCK = "owner = '', lease_until = 0, attempt = :attempt"
_RELEASE = ", lease_until = 0"  # with the owner left in the row: the statement may be run twice
_RESERVE = "attempt = :attempt, lease_until = {now} + :lease"  # no column of an index: the row stays in place
_WRITE = {
    # Of tokens that were set aside, those stay that this holder has not seen
    "login": """login = :content, due_at = :due_at, changed_at = {now}, attempt = NULL,
    failure = NULL, set_aside = NULLIF(set_aside, :seen), used_at = CASE WHEN :kept THEN used_at ELSE {now} END,
    keep_at = CASE WHEN :kept AND used_at + :used_for < {now} + :keep_after THEN NULL ELSE {now} + :keep_after END""",
    "registrations": "registrations = :content, changed_at = {now}",
}
_DELETE = {
    "login": """login = NULL, due_at = NULL, keep_at = NULL, changed_at = {now}, attempt = NULL, set_aside = NULL,
    failure = NULL""",
    "registrations": "registrations = NULL, changed_at = {now}",
}
# Of logins that are due to be kept; one that cannot be refreshed is tried again on another day. In a query of its own,
# the time is read once: otherwise PostgreSQL reads it for each row, and compares all of them without the index
_CLAIM_UNUSED = """
UPDATE notion_oauth_logins SET fence = fence + 1, owner = :owner, lease_until = {now} + :lease, keep_at = {now} + :again
WHERE profile IN (
    SELECT profile FROM notion_oauth_logins WHERE keep_at <= (SELECT {now}) AND lease_until <= {now}
    ORDER BY keep_at LIMIT :limit {skip_locked}
)
RETURNING profile"""
_PACE = """
UPDATE notion_oauth_pace SET next_at = {now} + :count / per_second,
per_second = CASE WHEN per_second * 1.1 < :most THEN per_second * 1.1 ELSE :most END
WHERE next_at <= {now} AND paused_until <= {now} RETURNING 1"""
_SLOW_DOWN = """
UPDATE notion_oauth_pace SET per_second = CASE WHEN per_second / 2 > :least THEN per_second / 2 ELSE :least END,
next_at = CASE WHEN next_at > {now} + :pause THEN next_at ELSE {now} + :pause END"""
_FAIL = "failure = :failure, failed_at = {now}"
# Not twice in a row for the same login: the server may refuse its requests alone
_PAUSE_ALL = """
UPDATE notion_oauth_pace SET paused_by = :profile,
paused_until = CASE WHEN paused_until > {now} + :pause THEN paused_until ELSE {now} + :pause END
WHERE paused_by <> :profile"""
_RESERVED = "SELECT attempt, set_aside FROM notion_oauth_logins WHERE profile = :profile"
# Without a lease. Of several holders that have lost it, the last one has the newest tokens
_SET_ASIDE = """
UPDATE notion_oauth_logins SET set_aside = :content, set_aside_fence = :fence, changed_at = {now}
WHERE profile = :profile AND set_aside_fence <= :fence"""

# `claimant` makes it known again to a caller that could not tell that it has made the claim
_CLAIM = """
INSERT INTO notion_oauth_claims AS stored (name, claimant, ends_at) VALUES (:name, :claimant, {now} + :lifetime)
ON CONFLICT (name) DO UPDATE SET claimant = :claimant, ends_at = {now} + :lifetime, outcome = NULL
WHERE stored.ends_at <= {now} OR stored.claimant = :claimant
RETURNING 1"""
_SETTLE = "UPDATE notion_oauth_claims SET outcome = :outcome WHERE name = :name AND ends_at > {now}"
_OUTCOME = "SELECT outcome FROM notion_oauth_claims WHERE name = :name AND ends_at > {now}"
_REMOVE_CLAIM = "DELETE FROM notion_oauth_claims WHERE name = :name"
_REMOVE_CLAIMS = """
DELETE FROM notion_oauth_claims WHERE name IN (
    SELECT name FROM notion_oauth_claims WHERE ends_at <= (SELECT {now}) LIMIT :limit {skip_locked}
)"""

T = TypeVar("T")


class DatabaseStore(TokenStore):
    """Stores logins in a database, for all processes and machines that use it.

    `lease` is how long the lock of a login lasts without its holder: others wait for that long after its death. It
    must be longer than a request for tokens.
    """

    has_leases = True
    max_refreshes = 400  # each opens only a connection; a process may often open no more than 1024

    def __init__(
        self,
        database: Database,
        *,
        lock_wait: timedelta = LOCK_WAIT,
        lease: timedelta = LEASE,
        keep_after: timedelta = KEEP_AFTER,
        encryption: Encryption | None = None,
    ) -> None:
        pool = Pool(database, sealed=encryption is not None)
        documents = SqlDocuments(pool, lock_wait=lock_wait, lease=lease, keep_after=keep_after)
        super().__init__(documents, encryption=encryption)
        self._database, self._sql_documents = database, documents

    async def claim_unused(self, limit: int) -> Sequence[str] | None:
        return await self._sql_documents.claim_unused(limit)

    async def slow_down(self, pause: timedelta) -> None:
        await self._sql_documents.slow_down(pause)

    async def encrypted(self, *, after: str = "", limit: int = PAGE) -> Mapping[str, bool]:
        if self.encryption is None:
            return await super().encrypted(after=after, limit=limit)
        start = await anyio.to_thread.run_sync(self.encryption.start)
        return await self._sql_documents.starting_with(start, after=after, limit=limit)

    def check_usable(self) -> None:
        try:
            self._database.run(partial(check, self._database))
        except StorageError as error:  # a service starts without its database, and is not ready until that is back
            _LOG.warning("%s", error)

    def __reduce__(self) -> NoReturn:
        raise ConfigurationError(
            "A DatabaseStore cannot be pickled: pickles must not contain the password of the database.",
            hint="Set NOTION_OAUTH_DATABASE_URL, and pickle an object that was made without a store.",
        )


class SqlDocuments:
    """Documents in the rows of a database."""

    def __init__(self, pool: Pool, *, lock_wait: timedelta, lease: timedelta, keep_after: timedelta) -> None:
        self._pool = pool
        self._execute, self._execute_together = pool.execute, pool.execute_together
        self._lock_wait = lock_wait
        self._lease = lease.total_seconds()
        self._keep_after = keep_after.total_seconds()
        self._unreleased: dict[str, tuple[str, float]] = {}  # owners whose leases may not be over, and until when
        self._kept: dict[str, str] = {}  # owners of leases that were claimed to keep a login
        self._removed_at = float("-inf")

    def name(self, profile: str, kind: Kind) -> str:
        return f"The {kind} of profile {profile} in the {self._pool.database.name}"

    def version(self, profile: str) -> object | None:  # noqa: ARG002 - the database would have to be asked
        return None

    async def read(self, profile: str, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        rows = await self._execute_together(_READ.replace("{kind}", kind), key=_checked(profile), profile=profile)
        return await _decoded(rows[0][0] if rows else None, decode, slow=slow)

    async def check_writable(self, profile: str, size: int) -> None:  # noqa: ARG002 - a row of any profile shows it
        probe = secrets.token_hex(16)
        await self._execute_together(_CLAIM, key=probe, name=probe, claimant=probe, lifetime=0)
        await self._execute_together(_REMOVE_CLAIM, key=probe, name=probe)

    async def profiles(self, *, after: str, limit: int, registered: bool) -> Sequence[str]:
        statement = _PROFILES.replace("{or_registered}", " OR registrations IS NOT NULL" if registered else "")
        return [row[0] for row in await self._execute(statement, after=after, limit=limit)]

    async def last_changed(self, *, after: str, limit: int, before: datetime) -> Mapping[str, datetime]:
        rows = await self._execute(_LAST_CHANGED, after=after, limit=limit, before=before.timestamp())
        return {profile: datetime.fromtimestamp(changed_at, UTC) for profile, changed_at in rows}

    async def due(self, before: datetime) -> Sequence[str]:
        return [row[0] for row in await self._execute(_DUE, before=before.timestamp(), limit=MAX_DUE)]

    async def starting_with(self, start: bytes, *, after: str, limit: int) -> Mapping[str, bool]:
        """One page of profiles with a login or registrations, and whether all documents of each start with this."""
        found = {"start": start, "length": len(start), "after": after, "limit": limit}
        return {profile: bool(starts) for profile, starts in await self._execute(_STARTING_WITH, **found)}

    async def forget(self, profile: str) -> None:
        await self._execute(_FORGET, profile=profile)

    def protection(self, profile: str) -> tuple[int | None, Sequence[WarningWithHint]]:  # noqa: ARG002 - the same for all
        return self._pool.database.protection()

    async def claim(self, key: str, lifetime: timedelta) -> bool:
        if uptime() - self._removed_at >= REMOVE_INTERVAL:
            self._removed_at = uptime()
            await self._execute(_REMOVE_CLAIMS, limit=MAX_REMOVED)
        claim: dict[str, Any] = {"name": key, "claimant": secrets.token_hex(8), "lifetime": lifetime.total_seconds()}
        return bool(await self._execute_together(_CLAIM, key=key, **claim))

    async def settle(self, key: str, outcome: bytes) -> None:
        await self._execute_together(_SETTLE, key=key, name=key, outcome=outcome)

    async def outcome(self, key: str) -> bytes | None:
        rows = await self._execute_together(_OUTCOME, key=key, name=key)
        return _bytes(rows[0][0]) if rows else None

    @asynccontextmanager
    async def exclusive(self, profile: str) -> AsyncIterator[_SqlHold]:
        owner = self._owner(_checked(profile))
        kept = self._kept.pop(profile, None) == owner
        hold = _SqlHold(self._pool, profile, owner, self._lease, kept=kept, keep_after=self._keep_after)
        try:
            await self._lock(hold)
            yield hold
        finally:
            if hold.may_have_lease and not await run_shielded(hold.unlock):
                self._unreleased.setdefault(profile, (hold.owner, uptime() + self._lease))

    async def claim_unused(self, limit: int) -> Sequence[str] | None:
        """Take the leases of logins that nobody has used for long. The next hold of each has the lease."""
        if not await self._execute(_PACE, count=limit, most=PER_SECOND[1]):
            return None
        owner, again = secrets.token_hex(8), KEEP_AGAIN.total_seconds()
        claim = partial(self._execute, _CLAIM_UNUSED, owner=owner, lease=self._lease, again=again, limit=limit)
        profiles = [row[0] for row in await run_shielded(claim)]
        for profile in profiles:
            self._unreleased[profile] = owner, uptime() + self._lease
            self._kept[profile] = owner
        return profiles

    async def slow_down(self, pause: timedelta) -> None:
        await self._execute(_SLOW_DOWN, least=PER_SECOND[0], pause=pause.total_seconds())

    def _owner(self, profile: str) -> str:
        """Return a new owner, or the one that may still have the lease: its hold is over."""
        for name in [name for name, (_, until) in list(self._unreleased.items()) if until < uptime()]:
            self._unreleased.pop(name, None)
        unreleased = self._unreleased.pop(profile, None)
        return secrets.token_hex(8) if unreleased is None else unreleased[0]

    async def _lock(self, hold: _SqlHold) -> None:
        deadline, poll = anyio.current_time() + self._lock_wait.total_seconds(), FIRST_POLL
        while not await hold.lock():
            while True:  # without a connection, and without a change of the row
                if anyio.current_time() >= deadline:
                    waited = f"{self._lock_wait.total_seconds():g} seconds"
                    raise StoreBusy(f"Others have held the lock of profile {hold.profile} for more than {waited}.")
                await anyio.sleep(random.uniform(poll / 2, poll))  # noqa: S311 - not for security
                poll = min(1.5 * poll, LAST_POLL)
                if not await self._execute_together(
                    _IS_LOCKED, key=hold.profile, profile=hold.profile, lease=self._lease
                ):
                    break


class _SqlHold:
    """Reads and changes the row of one profile while its lease, or nobody else's, is in the row."""

    def __init__(self, pool: Pool, profile: str, owner: str, lease: float, *, kept: bool, keep_after: float) -> None:
        self._execute = partial(pool.execute_together, key=profile, profile=profile)
        self.profile = profile
        self.owner = owner
        self._lease = lease
        self._kept, self._keep_after = kept, keep_after
        self._fence: int | None = None
        self._contents: dict[Kind, bytes | None] = {}
        self._attempt: bytes | None = None
        self._set_aside: bytes | None = None
        self._marker = b""  # of the last reservation
        self._fresh = False  # whether what is reserved has just been read
        self._used_for = VISITORS_FOR.total_seconds() if VISITOR_PROFILE.match(profile) else float("inf")
        self.cooldown: Cooldown | None = None
        self._is_unsure = False  # whether the lease may be in the row, although it was not seen there

    async def lock(self) -> bool:
        """Take the lease. Returns whether it was free."""
        self._is_unsure = True
        lock: dict[str, Any] = {"owner": self.owner, "lease": self._lease}
        return bool(await self._execute(_LOCK, shielded=True, then=self._locked, **lock))

    def _locked(self, rows: list[Row]) -> None:
        self._is_unsure = False
        if rows:
            fence, login, registrations, attempt, set_aside, failure, age, pause = rows[0]
            self._fence, self._fresh = fence, True
            self._contents = {"login": _bytes(login), "registrations": _bytes(registrations)}
            self._attempt, self._set_aside = _bytes(attempt), _bytes(set_aside)
            self.cooldown = Cooldown(_bytes(failure), age or 0.0, pause or 0.0)

    @property
    def may_have_lease(self) -> bool:
        """Whether there is a lease to release."""
        return self._is_unsure or self._fence is not None

    async def unlock(self) -> bool:
        """Release the lease. Returns False if it may be in the row until it ends."""
        if self._is_unsure:
            return False  # the database was not reached a moment ago
        if self._fence is not None:
            try:
                await self._change(_UNLOCK, attempt=self._attempt)
            except LockLost:
                pass
            except StorageError:
                return False
        return True

    async def _change(self, change: str, **parameters: Any) -> None:
        """Change the row. Raises LockLost, without a change, if another holder has taken the lease."""
        statement = _CHANGE.replace("{change}", change)
        held: dict[str, Any] = {"fence": self._fence, "owner": self.owner}
        try:
            changed = await self._execute(statement, shielded=True, **held, **parameters)
        except StoreUnavailable:
            self._is_unsure = True
            raise
        self._is_unsure = False
        if not changed:
            raise LockLost(f"The lock of profile {self.profile} has expired, and another process has taken it.")

    async def read(self, kind: Kind, decode: Callable[[bytes], T], *, slow: bool = False) -> T | None:
        return await _decoded(self._contents[kind], decode, slow=slow)

    async def reserve(self, marker: bytes, size: int) -> None:  # noqa: ARG002 - a database reserves no space
        """Store the marker, and let the lease begin anew: the request that follows has all of it."""
        await self._change(_RESERVE, attempt=marker, lease=self._lease)
        self._attempt = self._marker = marker

    async def reserved(self) -> Sequence[Reservation]:
        if not self._fresh:
            rows = await self._execute(_RESERVED)
            self._attempt, self._set_aside = (_bytes(each) for each in _only(rows, (None, None)))
        self._fresh = False
        found: list[Reservation] = [] if self._attempt is None else [(self._attempt, None)]
        if self._set_aside is not None:
            marker, _, content = self._set_aside.partition(b"\n")
            found.append((content, marker))
        return found

    async def release(self) -> None:
        self._attempt = None  # in the row, at the end of the hold

    async def write(
        self, kind: Kind, content: bytes, *, expires_at: datetime | None = None, last: bool = False
    ) -> None:
        due_at = None if expires_at is None else expires_at.timestamp()
        keep_after = None if due_at is None else self._keep_after * random.uniform(1 - KEEP_SPREAD, 1 + KEEP_SPREAD)  # noqa: S311
        kept = {"kept": self._kept, "keep_after": keep_after, "used_for": self._used_for}
        change = _WRITE[kind] + _RELEASE if last else _WRITE[kind]
        await self._change(change, content=content, due_at=due_at, seen=self._set_aside, **kept)
        if last:
            self._fence = None  # so that nothing can be changed any more
        self._contents[kind] = content
        if kind == "login":
            self._attempt = self._set_aside = None

    async def set_aside(self, content: bytes) -> None:
        aside = b"\n".join((self._marker, content))
        await self._execute(_SET_ASIDE, shielded=True, fence=self._fence, content=aside)

    async def record_failure(self, failure: bytes, *, pause_all: float) -> None:
        if pause_all:
            await self._execute(_PAUSE_ALL, key="", pause=pause_all)  # the row of all, before those of profiles
        await self._change(_FAIL, failure=failure)

    async def delete(self, kind: Kind) -> bool:
        await self._change(_DELETE[kind])
        deleted, self._contents[kind] = self._contents[kind], None
        if kind == "login":
            self._attempt = self._set_aside = None
        return deleted is not None


def _checked(profile: str) -> str:
    if not PROFILE_NAME.match(profile):
        raise ConfigurationError(
            "A profile name consists of letters, digits, - and _ (64 at most).", hint="Choose another name."
        )
    return profile


def _only(rows: list[Row], default: Row) -> Row:
    return rows[0] if rows else default


def _bytes(value: Any) -> bytes | None:
    """Return the bytes in a column. In SQLite, an administrator's statement may have left text there."""
    if isinstance(value, str):
        return value.encode()
    return None if value is None else bytes(value)


async def _decoded(content: Any, decode: Callable[[bytes], T], *, slow: bool) -> T | None:
    """Decode a document; `slow` if that may block."""
    if content is None:
        return None
    if slow:
        return await anyio.to_thread.run_sync(decode, bytes(content))
    return decode(bytes(content))
