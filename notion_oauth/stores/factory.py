"""Create the token store for the settings."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

from notion_oauth.errors import ConfigurationError, Hint
from notion_oauth.files.encryption import KEY_SETTING, Encryption
from notion_oauth.settings import Settings
from notion_oauth.storage import LOCK_WAIT, JsonFileStore, TokenStore
from notion_oauth.stores.database import Database
from notion_oauth.stores.sql_documents import LEASE, DatabaseStore

MAX_REQUESTS = 6  # under one lock: five for discovery and one refresh, if another program stored the login
LOCK_MARGIN = timedelta(seconds=10)  # for disk access
KEEP = 2 / 3  # of the time after which the server ends an idle login
SAVE_MARGIN = timedelta(seconds=15)  # to save tokens in a database before the lease ends, if a connection breaks


def encryption_for(settings: Settings) -> Encryption | None:
    """Return the encryption of the settings, or None. Raises ConfigurationError if the package keyring is missing."""
    if settings.encryption_key is None:
        return None
    return Encryption(settings.encryption_key, key_file=settings.encryption_key_file)


def create_store(settings: Settings) -> TokenStore:
    """Return the store of the settings: a database, or else the token file. Connects to nothing.

    Raises ConfigurationError, also if a package is missing.
    """
    database = database_for(settings)
    if database is None:
        return file_store(settings)
    if settings.timeout_delta + SAVE_MARGIN > LEASE:
        longest = (LEASE - SAVE_MARGIN).total_seconds()
        raise ConfigurationError(
            f"NOTION_OAUTH_TIMEOUT is {settings.timeout:g} seconds. With a database, it can be {longest:g} at most: "
            "the lock of a login must last for longer than a request.",
            hint=f"Set NOTION_OAUTH_TIMEOUT to {longest:g} or less.",
        )
    if settings.is_public and not settings.secret_keys:
        raise ConfigurationError(
            "With a database, a service on a public URL needs NOTION_OAUTH_SECRET_KEY: all instances use the same key.",
            hint=Hint(
                "Set it to the same random value in all instances. Make one", other_command="openssl rand -hex 32"
            ),
        )
    if settings.is_public and settings.encryption_key is None:
        raise ConfigurationError(
            f"With a database, a service on a public URL needs {KEY_SETTING}: backups of a database have many readers.",
            hint=Hint("Make a key, and set it in all instances", "key"),
        )
    return DatabaseStore(
        database,
        lock_wait=_lock_wait(settings),
        keep_after=KEEP * settings.lifetimes.idle,
        encryption=encryption_for(settings),
    )


def database_for(settings: Settings) -> Database | None:
    """Return the database of the settings, or None. Raises ConfigurationError."""
    if settings.database is None:
        return None
    url = settings.database.get_secret_value()
    if url.startswith("sqlite:"):
        from notion_oauth.stores.sqlite import SqliteDatabase  # noqa: PLC0415 - few programs need it

        return SqliteDatabase(Path(unquote(url.removeprefix("sqlite:///"))).expanduser().absolute())
    from notion_oauth.stores.postgresql import PostgresqlDatabase  # noqa: PLC0415 - an extra

    return PostgresqlDatabase(url)


def file_store(settings: Settings) -> JsonFileStore:
    """Return the file store of the settings. Raises as `encryption_for` does."""
    return JsonFileStore(settings.token_file, lock_wait=_lock_wait(settings), encryption=encryption_for(settings))


def _lock_wait(settings: Settings) -> timedelta:
    """Longer than another process can hold the lock while it waits for a slow server."""
    return max(LOCK_WAIT, MAX_REQUESTS * settings.timeout_delta + LOCK_MARGIN)
