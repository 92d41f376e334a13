"""Pickles and copies of NotionOAuth and BearerAuth: they work in a spawned process, and hold no secret."""

# ruff: noqa: S301 - the pickles are those of this test

from __future__ import annotations

import copy
import multiprocessing
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from pydantic import SecretStr

from notion_oauth.auth import httpx2_auth, httpx_auth
from notion_oauth.errors import ConfigurationError
from notion_oauth.files.encryption import Encryption, new_key
from notion_oauth.interactive.sign_in import sign_in as sign_in_with_user
from notion_oauth.sandbox import Sandbox
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.stores.memory import MemoryStore
from tests.support.signing_in import age, sign_in

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
BEARERS = pytest.mark.parametrize("bearer", [httpx_auth.BearerAuth, httpx2_auth.BearerAuth], ids=["httpx", "httpx2"])
SECRETS = {
    "client_secret": "canary-client-secret",
    "secret_key": "canary-session-key-0123456789abcdef",
    "operator_secret": "canary-operator-secret",
    "rate_limit_storage": "redis://:canary-password@localhost",
    "encryption_key": new_key(),
}


def post(auth: Any, url: str) -> int:
    """Send a request. Also called in a spawned process."""
    library: Any = httpx if isinstance(auth, httpx.Auth) else httpx2
    with library.Client(auth=auth, trust_env=False, timeout=60) as client:
        status: int = client.post(url, json=PING).status_code
    return status


@pytest.mark.slow
@BEARERS
def test_spawned_process_uses_a_pickled_auth(bearer: Any, sandbox: Sandbox, settings: Settings) -> None:
    oauth = NotionOAuth(settings)
    anyio.run(sign_in, oauth)
    age(settings.token_file, minutes=120)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(post, (bearer(oauth), settings.server_url)) == 200
    assert post(bearer(oauth), settings.server_url) == 200
    assert sandbox.live_grants == 1


@BEARERS
def test_pickles_and_copies_hold_no_secret(
    bearer: Any, settings: Settings, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(f"NOTION_OAUTH_{name.upper()}", value)
    monkeypatch.setenv("NOTION_OAUTH_CLIENT_ID", "canary-client")
    configured = Settings(server_url=settings.server_url, token_file=settings.token_file, env_file=None)
    oauth = NotionOAuth(configured).for_profile("work")
    anyio.run(sign_in, NotionOAuth(settings, profile="work"))
    auth = bearer(oauth, authorize=partial(sign_in_with_user, oauth))
    token = anyio.run(oauth.tokens.token).get_secret_value()
    stored = anyio.run(oauth.tokens.stored)
    assert stored.refresh_token is not None
    content = pickle.dumps(auth)
    for secret in (*SECRETS.values(), token, stored.refresh_token.get_secret_value()):
        assert secret.encode() not in content
    again = pickle.loads(content)
    assert post(again, settings.server_url) == 200
    other = pickle.loads(pickle.dumps(oauth))
    assert (other.settings, other.profile) == (configured, "work")
    assert anyio.run(other.tokens.token).get_secret_value() == token


def test_missing_secret_is_reported(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTION_OAUTH_OPERATOR_SECRET", SECRETS["operator_secret"])
    content = pickle.dumps(Settings(token_file=settings.token_file, env_file=None))
    monkeypatch.delenv("NOTION_OAUTH_OPERATOR_SECRET")
    with pytest.raises(ConfigurationError, match=r"^NOTION_OAUTH_OPERATOR_SECRET is not set in this process\."):
        pickle.loads(content)


@pytest.mark.parametrize("name", SECRETS)
def test_secret_from_code_cannot_be_pickled(name: str, settings: Settings) -> None:
    values = {"client_id": "client", name: SecretStr(SECRETS[name])}
    oauth = NotionOAuth(Settings(token_file=settings.token_file, env_file=None, **values))
    with pytest.raises(ConfigurationError, match=f"{name} is neither from the environment nor") as caught:
        pickle.dumps(oauth)
    assert f"NOTION_OAUTH_{name.upper()}" in str(caught.value.hint)
    assert SECRETS[name] not in str(caught.value)
    assert copy.deepcopy(oauth).settings == oauth.settings


def test_secret_in_dotenv_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"NOTION_OAUTH_ENCRYPTION_KEY={SECRETS['encryption_key']}\n")
    settings = Settings(token_file=tmp_path / "tokens.json", env_file=Path(".env"))
    content = pickle.dumps(settings)
    assert SECRETS["encryption_key"].encode() not in content
    monkeypatch.chdir("/")
    assert pickle.loads(content) == settings


def test_environment_changes_no_other_setting(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickle.dumps(settings)
    monkeypatch.setenv("NOTION_OAUTH_TOKEN_FILE", "/elsewhere/tokens.json")
    monkeypatch.setenv("NOTION_OAUTH_OPERATOR_SECRET", SECRETS["operator_secret"])
    assert pickle.loads(content) == settings


def test_stores(settings: Settings) -> None:
    plain = NotionOAuth(settings, store=JsonFileStore(settings.token_file))
    assert pickle.loads(pickle.dumps(plain)).store.path("work") == plain.store.path("work")  # type: ignore[attr-defined]
    encryption = Encryption(SecretStr(SECRETS["encryption_key"]))
    for store in (JsonFileStore(settings.token_file, encryption=encryption), MemoryStore()):
        with pytest.raises(ConfigurationError, match="cannot be pickled"):
            pickle.dumps(NotionOAuth(settings, store=store))


@BEARERS
def test_deep_copies_share_the_stored_login(bearer: Any, settings: Settings, sandbox: Sandbox) -> None:
    """Also one that exists only in memory."""
    oauth = NotionOAuth(settings, store=MemoryStore())
    anyio.run(sign_in, oauth)
    auth = bearer(oauth)
    for copied in (copy.deepcopy(auth), copy.copy(auth)):
        assert copied is not auth
        assert post(copied, settings.server_url) == 200
    assert copy.deepcopy(oauth).store is oauth.store
