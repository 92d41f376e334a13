"""The secret of the gateway's HTTP face."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from notion_oauth.errors import StoreDamaged
from notion_oauth.gateway.local_secret import local_secret, secret_file
from notion_oauth.settings import Settings
from notion_oauth.web.sessions.keys import session_keys


def test_the_secret_is_generated_once_and_is_not_the_session_key(settings: Settings) -> None:
    with ThreadPoolExecutor(16) as pool:
        secrets = set(pool.map(local_secret, [settings] * 64))
    assert len(secrets) == 1
    assert secrets != set(session_keys(settings))
    assert len(secrets.pop().get_secret_value()) == 64
    assert secret_file(settings).stat().st_mode & 0o777 == 0o600


def test_a_damaged_file_is_not_replaced(settings: Settings) -> None:
    secret_file(settings).write_text("short")
    with pytest.raises(StoreDamaged, match="has no valid gateway secret"):
        local_secret(settings)
