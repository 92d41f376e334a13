"""Files and cookies written by version 0.1 are read as version 0.1 reads them, so that users stay signed in.

All values are made up. The encryption key of the sealed files and the session key protect nothing.
"""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from typer.testing import CliRunner

from notion_oauth.app import create_app
from notion_oauth.cli.main import app as command_line
from notion_oauth.errors import StoreEncrypted
from notion_oauth.files.encryption import Encryption
from notion_oauth.models import ClientInformation, TokenSet
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.transport.client import Transport
from tests.support.stores import load_ended_login, load_login, save_login, save_registration

FILES = Path(__file__).with_name("files_of_version_0_1")
ENCRYPTION_KEY = base64.urlsafe_b64encode(b"made-up key for tests, no secret").decode()
SESSION_KEY = (FILES / "tokens.json.session-key").read_text().strip()
STATE = "made-up-state-" + "s" * 29
WRITTEN_AT = datetime(2025, 1, 2, 12, 0, tzinfo=UTC)
UPDATED_AT = WRITTEN_AT + timedelta(milliseconds=250)
PUBLIC = "https://notion.example"
JSON = {"Accept": "application/json"}

ALL_FIELDS = TokenSet(
    access_token=SecretStr("made-up-access-token"),
    token_type="Bearer",
    expires_in=3600,
    expires_at=datetime(2099, 1, 1, tzinfo=UTC),
    refresh_token=SecretStr("made-up-refresh-token"),
    scope="default read",
    requested_scope="default read write",
    client=ClientInformation(
        client_id="made-up-client",
        client_secret=SecretStr("made-up-client-secret"),
        client_secret_expires_at=4070908800,
        token_endpoint_auth_method="client_secret_post",
    ),
    issuer="https://mcp.notion.com",
    resource="https://mcp.notion.com/mcp",
    token_endpoint="https://mcp.notion.com/token",
    revocation_endpoint="https://mcp.notion.com/revoke",
    introspection_endpoint="https://mcp.notion.com/introspect",
    token_endpoint_auth_methods_supported=("client_secret_post", "none"),
    revocation_endpoint_auth_methods_supported=("client_secret_post",),
    introspection_endpoint_auth_methods_supported=("client_secret_basic",),
    authorized_at=UPDATED_AT - timedelta(days=2),
    refreshed_at=UPDATED_AT,
    updated_at=UPDATED_AT,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The token file in a copy of the directory; a checkout does not preserve the permissions."""
    copy = Path(shutil.copytree(FILES, tmp_path / "copy"))
    for each in copy.iterdir():
        each.chmod(0o600)
    return copy / "tokens.json"


@pytest.fixture
def store(file: Path) -> JsonFileStore:
    return JsonFileStore(file)


@pytest.fixture
def with_key(file: Path) -> JsonFileStore:
    return JsonFileStore(file, encryption=Encryption(SecretStr(ENCRYPTION_KEY)))


@pytest.fixture
def other(tmp_path: Path) -> JsonFileStore:
    """An empty store, to see what is written now."""
    return JsonFileStore(tmp_path / "other" / "tokens.json")


def content(file: Path) -> Any:
    return json.loads(file.read_text())


def test_login(store: JsonFileStore, other: JsonFileStore) -> None:
    found = anyio.run(load_login, store, "default")
    assert found == ALL_FIELDS
    anyio.run(save_login, other, "default", found)
    assert content(other.path("default")) == content(FILES / "tokens.json")


def test_login_of_seven_fields(store: JsonFileStore) -> None:
    """The format of other programs."""
    assert len(content(FILES / "tokens.json.seven-fields.profile")) == 7
    assert anyio.run(load_login, store, "seven-fields") == TokenSet(
        access_token=SecretStr("made-up-access-token"),
        token_type="bearer",
        expires_in=3600,
        expires_at=UPDATED_AT + timedelta(hours=1),
        refresh_token=SecretStr("made-up-refresh-token"),
        client=ClientInformation(client_id="made-up-client"),
        updated_at=UPDATED_AT,
    )


def test_ended_login(store: JsonFileStore, other: JsonFileStore) -> None:
    assert anyio.run(load_login, store, "ended") is None
    found = anyio.run(load_ended_login, store, "ended")
    assert found is not None
    assert (found.reason, found.error, found.description) == ("idle", "invalid_grant", "made-up description")
    assert (found.ended_at, found.authorized_at, found.refreshed_at) == (
        UPDATED_AT,
        UPDATED_AT - timedelta(days=40),
        UPDATED_AT - timedelta(days=31),
    )
    assert (found.issuer, found.resource) == ("https://mcp.notion.com", "https://mcp.notion.com/mcp")
    assert (found.scope, found.requested_scope) == ("default", "default")
    anyio.run(save_login, other, "ended", found)
    assert content(other.path("ended")) == content(FILES / "tokens.json.ended.profile")


def test_registrations(store: JsonFileStore, other: JsonFileStore) -> None:
    """Each entry is saved to another file: what was not read would be missing there."""
    found = anyio.run(store.load_registrations, "default")
    assert [each.client.client_id for each in found] == ["made-up-client", "claimed", "more-scopes", "preregistered"]
    assert found[0].client == ALL_FIELDS.client
    for registration in found:
        anyio.run(save_registration, other, "default", registration)
    [last_changed] = other.path("default").parent.glob("*.clients")
    assert content(last_changed) == content(FILES / "tokens.json.clients")


def test_sealed_files(store: JsonFileStore, with_key: JsonFileStore) -> None:
    assert anyio.run(load_login, with_key, "sealed") == ALL_FIELDS
    [registration] = anyio.run(with_key.load_registrations, "sealed")
    assert registration.client == ALL_FIELDS.client
    with pytest.raises(StoreEncrypted):
        anyio.run(load_login, store, "sealed")


def test_sealed_files_are_not_reported_as_weak(with_key: JsonFileStore) -> None:
    protection = anyio.run(with_key.protection, "sealed")
    assert (protection.key_id, protection.weaknesses) == (content(FILES / "tokens.json.sealed.profile")["key_id"], ())


def test_profiles(store: JsonFileStore) -> None:
    visitor = content_of_cookie("visitor")["notion_oauth.profile"]
    assert set(anyio.run(store.profiles)) == {"default", "ended", "sealed", "seven-fields", visitor}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTION_OAUTH_RETRY_FOR": "0"},
        {"NOTION_OAUTH_RETRY_FOR": "0", "NOTION_OAUTH_ENCRYPTION_KEY": ENCRYPTION_KEY},
    ],
    ids=["fast path", "with settings", "with a key"],
)
def test_command_prints_the_token(file: Path, environment: dict[str, str]) -> None:
    profile = "sealed" if "NOTION_OAUTH_ENCRYPTION_KEY" in environment else "default"
    arguments = ["token", "--token-file", str(file), "--profile", profile]
    assert CliRunner().invoke(command_line, arguments, env=environment).stdout == "made-up-access-token\n"


# Cookies of a service


def cookie(name: str) -> str:
    found: str = content(FILES / "cookies.json")[name]
    return found


def content_of_cookie(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(cookie(name).split(".")[0]))
    return found


@pytest.fixture
def sandbox() -> Sandbox:
    """Called in this process; nothing listens on its port."""
    return Sandbox()


Serve = Callable[..., TestClient]


@pytest.fixture
def serve(sandbox: Sandbox, file: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A browser in front of the service at the time when the cookies were made."""
    monkeypatch.setattr(time, "time", WRITTEN_AT.timestamp)

    def serve(cookie_name: str, value: str, *, base_url: str, **directory_entries: Any) -> TestClient:
        settings = Settings(server_url=sandbox.mcp_url, token_file=file, retry_for=0, **directory_entries)
        transport = Transport(timeout=timedelta(seconds=10), httpx_transport=httpx.ASGITransport(sandbox.app))
        client = OAuthClient(transport, clock=lambda: WRITTEN_AT)
        oauth = NotionOAuth(settings, client=client, clock=lambda: WRITTEN_AT)
        return TestClient(
            create_app(oauth=oauth),
            base_url=base_url,
            client=("127.0.0.1", 50000),
            cookies={cookie_name: value},
            headers=JSON,
            follow_redirects=False,
        )

    return serve


def test_pending_sign_in_is_completed(serve: Serve, sandbox: Sandbox, file: Path) -> None:
    file.unlink()
    browser = serve("notion_oauth_session", cookie("pending sign-in"), base_url="http://localhost")
    answer = {"access_token": "made-up-new-token", "token_type": "Bearer", "expires_in": 3600}
    sandbox.fail_next("/token", status=200, body=json.dumps(answer), content_type="application/json")
    query = {"state": STATE, "code": "made-up-code", "iss": sandbox.issuer}
    done = browser.get("/auth/callback", params=query)
    assert (done.status_code, done.json()["status"]) == (200, "authenticated")
    assert content(file)["access_token"] == "made-up-new-token"
    [asked] = sandbox.requests_to("/token")
    assert asked.form["code_verifier"] == "made-up-code-verifier-" + "v" * 42


def test_visitor_keeps_the_login(serve: Serve) -> None:
    browser = serve(
        "__Host-notion_oauth_session",
        cookie("visitor"),
        base_url=PUBLIC,
        public_url=PUBLIC,
        secret_key=SESSION_KEY,
    )
    assert browser.get("/auth/status").json()["status"] == "authenticated"


def test_operator_stays_unlocked(serve: Serve, file: Path) -> None:
    file.unlink()
    browser = serve(
        "__Host-notion_oauth_session",
        cookie("operator"),
        base_url=PUBLIC,
        public_url=PUBLIC,
        secret_key=SESSION_KEY,
        operator_secret="made-up-operator-secret",
    )
    assert browser.get("/auth/status").json() == {"status": "unauthenticated"}
    browser.cookies.clear()
    assert browser.get("/auth/status").status_code == 401
