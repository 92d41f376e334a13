"""Token files that other programs write: read if the meaning is clear, refused with the reason otherwise."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from notion_oauth.cli.fast_path import read_fast
from notion_oauth.errors import StoreDamaged
from notion_oauth.models import TokenSet
from notion_oauth.storage import JsonFileStore
from tests.support.stores import load_login
from tests.unit.files.test_json_file_store import SEVEN

pytestmark = pytest.mark.anyio
SECONDS = 1764000000


async def read(path: Path, **changes: Any) -> TokenSet:
    path.write_text(json.dumps({**SEVEN, **changes}))
    login = await load_login(JsonFileStore(path), "default")
    assert login is not None
    return login


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


@pytest.mark.parametrize("scope", [["a", "b"], "a b"])
async def test_scope_may_be_a_list(path: Path, scope: object) -> None:
    login = await read(path, scope=scope, requested_scope=scope)
    assert (login.scope, login.requested_scope) == ("a b", "a b")


@pytest.mark.parametrize("time", [SECONDS, SECONDS * 1000, float(SECONDS), str(SECONDS), "2025-11-24T16:00:00Z"])
async def test_times_may_be_in_seconds_or_text(path: Path, time: object) -> None:
    login = await read(path, updated_at=time, expires_at=time, refreshed_at=time, client_secret_expires_at=time)
    expected = datetime.fromtimestamp(SECONDS, UTC)
    assert (login.updated_at, login.expires_at, login.refreshed_at) == (expected, expected, expected)
    assert login.client is not None
    assert login.client.client_secret_expires_at == SECONDS


async def test_lifetime_counts_from_a_time_in_seconds(path: Path) -> None:
    login = await read(path, updated_at=SECONDS, expires_in="60")
    assert login.expires_at == datetime.fromtimestamp(SECONDS + 60, UTC)


@pytest.mark.parametrize("value", ["", 7, [], {}, True, "/token", "http://h.example/token", "javascript:x"])
async def test_unusable_optional_fields_are_left_out(path: Path, value: object) -> None:
    """Without a token endpoint, the next refresh discovers it."""
    endpoints = ("token_endpoint", "revocation_endpoint", "introspection_endpoint")
    more = ("scope", "client_secret_expires_at", "token_endpoint_auth_methods_supported", "token_endpoint_auth_method")
    changes = dict.fromkeys((*endpoints, *more[1:]), value)
    login = await read(path, **changes, scope=[value] if isinstance(value, int) else None)
    assert [getattr(login, name) for name in (*endpoints, "scope")] == [None] * 4
    assert login.client is not None
    assert login.client.token_endpoint_auth_method is None


async def test_client_id_may_be_a_number(path: Path) -> None:
    login = await read(path, client_id=1234)
    assert login.client is not None
    assert login.client.client_id == "1234"


async def test_space_around_secrets_is_removed(path: Path) -> None:
    login = await read(path, access_token="Bearer t\n", refresh_token="r\r\n", client_secret=" s\n", client_id="c\n")
    assert (login.access_token, login.refresh_token) == (SecretStr("t"), SecretStr("r"))
    assert login.client is not None
    assert (login.client.client_id, login.client.client_secret) == ("c", SecretStr("s"))


@pytest.mark.parametrize("name", ["access_token", "refresh_token", "client_id", "client_secret"])
async def test_secret_with_a_line_break_inside_is_refused(path: Path, name: str) -> None:
    """The server would refuse it for good, and the login would end."""
    with pytest.raises(StoreDamaged, match=f"its {name} contains a character") as caught:
        await read(path, **{name: "canary-1\ncanary-2"})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("broken", ["t\n", "a\nb", "a b", "ü"])
async def test_fast_path_hands_out_no_broken_token(path: Path, broken: str) -> None:
    whole = {
        **SEVEN,
        "token_endpoint": "https://h.example/token",
        "token_endpoint_auth_methods_supported": [],
        "client_secret_expires_at": 0,
        "expires_at": datetime.now(UTC).timestamp() * 1000 + 3_600_000,
    }
    for token, found in (("t", True), (broken, False)):
        path.write_text(json.dumps({**whole, "access_token": token}))
        path.chmod(0o600)
        assert (read_fast(None, path, None) is not None) is found
