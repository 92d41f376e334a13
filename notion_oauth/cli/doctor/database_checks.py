"""Checks of the database: whether it can be reached, its tables, what it promises, and its clock."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from notion_oauth.cli.doctor.context import CheckContext
from notion_oauth.cli.doctor.findings import Finding, failure, ok, warning, warnings_for
from notion_oauth.concurrency import run_in_daemon_thread
from notion_oauth.errors import StoreUnavailable
from notion_oauth.stores.database import Database, Row
from notion_oauth.stores.factory import create_store, database_for

MAX_CLOCK_DIFFERENCE = 5.0  # seconds; leases use only the clock of the database
_PROMISES = "SELECT {version}, {synchronous_commit}, {read_only}, {has_late_standby}, {now}"


async def database(context: CheckContext) -> Sequence[Finding]:
    """The database in NOTION_OAUTH_DATABASE_URL."""
    try:
        await context.file_size.get()
    except StoreUnavailable as error:  # whose hint is to run doctor
        return [failure(error.message, "Check that the server runs, and all parts of NOTION_OAUTH_DATABASE_URL.")]
    found = database_for(context.settings)
    assert found is not None  # noqa: S101 - this check is made only with a database
    create_store(context.settings)  # raises for settings that do not fit a database
    version, synchronous_commit, read_only, has_late_standby, now = await run_in_daemon_thread(partial(_ask, found))
    findings = [
        ok(f"{found.name}, version {version}, with the tables of this version"),
        *warnings_for(*found.protection()[1]),
    ]
    if read_only:
        message = "The database takes no changes: it is a standby, or read-only."
        findings.append(failure(message, "Name all servers in the URL, and add target_session_attrs=read-write."))
    if has_late_standby:
        message = "The database confirms changes before its standby has them."
        hint = "Set synchronous_standby_names: a failover may otherwise undo a refresh, and lose the login."
        findings.append(warning(message, hint))
    if synchronous_commit == "off":
        message = "The database confirms changes before they are safe (synchronous_commit is off)."
        findings.append(warning(message, "Turn it on: a crash may otherwise undo a refresh, and lose the login."))
    difference = abs(context.clock().timestamp() - now)
    if difference > MAX_CLOCK_DIFFERENCE:
        message = f"The clocks of this machine and of the database differ by {difference:.1f} seconds."
        findings.append(warning(message, "Synchronize both clocks."))
    return findings


def _ask(found: Database) -> Row:
    return found.run(lambda connection: connection.execute(found.sql(_PROMISES), {}))[0]
