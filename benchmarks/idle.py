"""`python -m benchmarks.idle URL`: what an instance costs that nobody uses, with few and with very many logins.

The URL is that of a PostgreSQL server on this machine, as a role that may create databases. For each size, the run
creates a database, fills it with logins of visitors, and starts an instance on it. All are measured at the same time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from benchmarks.databases import SIZES, login
from benchmarks.servers import Server, serving
from benchmarks.tables import Table
from notion_oauth.files.encryption import new_key
from notion_oauth.files.token_file_format import encode_tokens
from notion_oauth.stores import schema
from notion_oauth.stores.postgresql import PostgresqlDatabase

SECONDS, SETTLE = 120, 10
# Visitors of the last thirty days: most tokens have expired, and no login is due to be kept today
_FILL = """
INSERT INTO notion_oauth_logins (profile, login, changed_at, fence, owner, lease_until, due_at, used_at, keep_at)
SELECT 'web-' || md5(CAST(n AS text)), :login, {now} - age, 1, '', 0, {now} - age + 3600, {now} - age,
{now} + 86400 + age
FROM (SELECT n, random() * 2592000 AS age FROM generate_series(1, CAST(:size AS bigint)) AS n) AS visitors"""
_BACKENDS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"""


@dataclass(frozen=True)
class Instance:
    size: int  # of its database, in logins
    server: Server
    url: str

    def processor_seconds(self) -> tuple[float, float]:
        """Processor time of the instance, and of the processes of PostgreSQL for its connections."""
        with psycopg.connect(self.url) as connection:
            backends = [pid for (pid,) in connection.execute(_BACKENDS.encode())]
        return processor_seconds(self.server.pid), sum(map(processor_seconds, backends))


def processor_seconds(pid: int) -> float:
    """Processor time of all threads of a process, in nanoseconds' precision: clock_getcpuclockid(3) on Linux."""
    return time.clock_gettime((~pid << 3) | 2)


@contextmanager
def filled_database(url: str, size: int) -> Iterator[str]:
    """Yields the URL of a database with that number of logins."""
    name = f"notion_oauth_idle_{size}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    try:
        own = urlsplit(url)._replace(path=f"/{name}").geturl()
        database = PostgresqlDatabase(own)
        schema.migrate(database)

        def run(statement: str, **parameters: object) -> None:
            database.run(lambda connection: connection.execute(database.sql(statement), parameters))

        run(_FILL, login=encode_tokens(login()), size=size)
        run("VACUUM ANALYZE notion_oauth_logins")
        run("CHECKPOINT")
        yield own
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def start(url: str, directory: Path) -> AbstractContextManager[Server]:
    directory.mkdir()
    settings = {
        "server_url": "http://127.0.0.1:9/mcp",  # nobody asks, so it is not needed
        "public_url": "https://notion.example",
        "database_url": url,
        "secret_key": "k" * 40,
        "encryption_key": new_key(),
    }
    return serving("main:app", directory, **settings)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("url", help="of a PostgreSQL server on this machine")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of logins, ascending")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    arguments = parser.parse_args()
    columns = ("Logins", "Start", f"{arguments.seconds:.0f} seconds", "Ratio", "Memory", "Ratio", "PostgreSQL")
    intro = (
        "`uvicorn main:app` with a public URL; all at the same time. Processor time of the first"
        f" {SETTLE} seconds, and of those that follow. PostgreSQL's is that of both, for its connections."
    )
    table = Table("An instance that nobody uses", intro, columns)
    with ExitStack() as running, tempfile.TemporaryDirectory() as directory:
        urls = [running.enter_context(filled_database(arguments.url, size)) for size in arguments.sizes]
        instances = [
            Instance(size, running.enter_context(start(url, Path(directory) / str(size))), url)
            for size, url in zip(arguments.sizes, urls, strict=True)
        ]
        time.sleep(SETTLE)
        before = [each.processor_seconds() for each in instances]
        time.sleep(arguments.seconds)
        after = [each.processor_seconds() for each in instances]
        memory = [each.server.resident_bytes() for each in instances]
    used = [late[0] - early[0] for early, late in zip(before, after, strict=True)]
    for number, each in enumerate(instances):
        table.add(
            f"{each.size:,}",
            f"{before[number][0] * 1000:.0f} ms",
            f"{used[number] * 1000:.0f} ms",
            f"{used[number] / used[0]:.2f}x",
            f"{memory[number] / 1e6:.0f} MB",
            f"{memory[number] / memory[0]:.2f}x",
            f"{after[number][1] * 1000:.0f} ms",
        )
    print(table.markdown())


if __name__ == "__main__":
    main()
