"""Create the token store for the settings."""

from __future__ import annotations

from datetime import timedelta

from notion_oauth.files.encryption import Encryption
from notion_oauth.settings import Settings
from notion_oauth.storage import LOCK_WAIT, JsonFileStore

MAX_REQUESTS = 6  # under one lock: five for discovery and one refresh, if another program stored the login
LOCK_MARGIN = timedelta(seconds=10)  # for disk access


def encryption_for(settings: Settings) -> Encryption | None:
    """Return the encryption of the settings, or None. Raises ConfigurationError if the package keyring is missing."""
    if settings.encryption_key is None:
        return None
    return Encryption(settings.encryption_key, key_file=settings.encryption_key_file)


def file_store(settings: Settings) -> JsonFileStore:
    """Return the file store of the settings. Raises as `encryption_for` does."""
    # Longer than another process can hold the lock while it waits for a slow server
    lock_wait = max(LOCK_WAIT, MAX_REQUESTS * settings.timeout_delta + LOCK_MARGIN)
    return JsonFileStore(settings.token_file, lock_wait=lock_wait, encryption=encryption_for(settings))
