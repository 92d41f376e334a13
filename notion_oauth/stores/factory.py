"""The token store that the settings mean."""

from __future__ import annotations

from datetime import timedelta

from notion_oauth.files.encryption import Encryption
from notion_oauth.settings import Settings
from notion_oauth.storage import LOCK_WAIT, JsonFileStore

MOST_REQUESTS = 6  # under one lock: five of discovery and a refresh, for a login that another program stored
LOCK_MARGIN = timedelta(seconds=10)  # for the disk


def encryption_for(settings: Settings) -> Encryption | None:
    """What seals for the settings. Raises ConfigurationError where they name a keyring that cannot be asked."""
    if settings.encryption_key is None:
        return None
    return Encryption(settings.encryption_key, key_file=settings.encryption_key_file)


def file_store(settings: Settings) -> JsonFileStore:
    """The store that the settings mean. Raises as `encryption_for` does."""
    # Longer than another can hold the lock who is patient with a slow server
    lock_wait = max(LOCK_WAIT, MOST_REQUESTS * settings.timeout_delta + LOCK_MARGIN)
    return JsonFileStore(settings.token_file, lock_wait=lock_wait, encryption=encryption_for(settings))
