"""The tables of the database stores, and their migration: plain SQL that only adds.

So the version before runs beside the new one, and instances can be replaced one by one: first `migrate`, then they.
Times are in seconds since 1970, by the clock of the database.
"""

from __future__ import annotations

from notion_oauth.errors import ConfigurationError, Hint
from notion_oauth.stores.database import Connection, Database

MIGRATE = Hint("Create the tables", "migrate")

# Each is run once, in a transaction. Statements end with a semicolon
MIGRATIONS = (
    """
CREATE TABLE notion_oauth_logins (
    profile {name} PRIMARY KEY,
    login {blob},
    registrations {blob},
    due_at double precision,
    used_at double precision,
    keep_at double precision,
    changed_at double precision NOT NULL,
    fence bigint NOT NULL,
    owner text NOT NULL,
    lease_until double precision NOT NULL,
    attempt {blob},
    set_aside {blob},
    set_aside_fence bigint NOT NULL DEFAULT 0
){table_options};
CREATE INDEX notion_oauth_logins_due_at ON notion_oauth_logins (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX notion_oauth_logins_keep_at ON notion_oauth_logins (keep_at) WHERE keep_at IS NOT NULL;
CREATE TABLE notion_oauth_claims (
    name text PRIMARY KEY,
    claimant text NOT NULL,
    ends_at double precision NOT NULL,
    outcome {blob}
);
CREATE INDEX notion_oauth_claims_ends_at ON notion_oauth_claims (ends_at);
CREATE TABLE notion_oauth_pace (
    next_at double precision NOT NULL,
    per_second double precision NOT NULL
);
INSERT INTO notion_oauth_pace VALUES (0, 1);
""",
    """
ALTER TABLE notion_oauth_logins ADD COLUMN failed_at double precision;
ALTER TABLE notion_oauth_logins ADD COLUMN failure {blob};
ALTER TABLE notion_oauth_pace ADD COLUMN paused_until double precision NOT NULL DEFAULT 0;
ALTER TABLE notion_oauth_pace ADD COLUMN paused_by text NOT NULL DEFAULT '';
CREATE INDEX notion_oauth_logins_changed_at ON notion_oauth_logins (changed_at);
""",
)
VERSION = len(MIGRATIONS)
_VERSION_TABLE = "CREATE TABLE notion_oauth_schema (version integer NOT NULL);"


def check(database: Database, connection: Connection) -> None:
    """Raise ConfigurationError unless the tables are those of this version."""
    found = version(database, connection)
    if found == 0:
        raise ConfigurationError(f"The {database.name} has no tables of notion-oauth.", hint=MIGRATE)
    if found < VERSION:
        message = f"The {database.name} has tables of an earlier version ({found}; this one needs {VERSION})."
        raise ConfigurationError(message, hint=Hint("Bring them up to date", "migrate"))
    if found > VERSION:
        message = f"The {database.name} has tables of a later version ({found}; this one knows {VERSION})."
        raise ConfigurationError(message, hint="Install that version of notion-oauth.")


def version(database: Database, connection: Connection) -> int:
    """Return the version of the tables; 0 if there are none."""
    if not connection.execute(database.sql("{has_table}"), {}):
        return 0
    found: int = connection.execute("SELECT version FROM notion_oauth_schema", {})[0][0]
    return found


def migrate(database: Database) -> int:
    """Bring the tables up to date, in one transaction. Returns their version before. Raises as `check` does."""
    database.create()
    return database.run(lambda connection: _migrate(database, connection))


def _migrate(database: Database, connection: Connection) -> int:
    connection.execute(database.sql("{begin}"), {})
    connection.execute(database.sql("{lock}"), {})  # others that migrate wait until the transaction ends
    found = version(database, connection)
    if found > VERSION:
        check(database, connection)
    for statement in statements(database, found):
        connection.execute(statement, {})
    connection.execute("COMMIT", {})
    return found


def statements(database: Database, found: int) -> list[str]:
    """Return the statements that bring tables of the version `found` up to date."""
    if found >= VERSION:
        return []
    scripts = [database.sql(each) for each in ("{lock_timeout};", *MIGRATIONS[found:])]
    record = f"UPDATE notion_oauth_schema SET version = {VERSION};"  # noqa: S608
    if found == 0:
        scripts.insert(0, _VERSION_TABLE)
        record = f"INSERT INTO notion_oauth_schema VALUES ({VERSION});"  # noqa: S608
    return [f"{each.strip()};" for script in (*scripts, record) for each in script.split(";") if each.strip()]


def script(database: Database, found: int) -> str:
    """Return the same as SQL for the operator of the database to run."""
    return "\n".join([database.sql("{begin};"), *statements(database, found), "COMMIT;"])
