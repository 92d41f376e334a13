"""Every setting: read from the environment, validated, named when it is wrong, and listed in docs/settings.md."""

from __future__ import annotations

import os
import pickle
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from notion_oauth.errors import ConfigurationError
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.settings import PREFIX, Settings, load_settings, parse_proxies
from tests.support.paths import ROOT

SETTINGS_DOC = ROOT / "docs" / "settings.md"

VALUES = {
    "SERVER_URL": "https://other.example/mcp",
    "TOKEN_FILE": "stored/tokens.json",
    "ENV_FILE": "stored/settings.env",
    "PROFILE": "work",
    "PUBLIC_URL": "https://me.example/notion",
    "TRUSTED_PROXIES": "10.0.0.1, 10.1.0.0/16 2001:db8::/32,unix",
    "SECRET_KEY": "canary-" + "k" * 40,
    "OPERATOR_SECRET": "canary-operator-secret",
    "RATE_LIMIT": "5/second;100/hour",
    "STATUS_RATE_LIMIT": "0",
    "REFRESH_FLOOR": "0",
    "DATABASE_URL": "postgresql://me:canary@db.example/logins?sslmode=verify-full",
    "RATE_LIMIT_STORAGE": "redis://:canary@localhost:6379/0",
    "API_DOCS": "true",
    "ENCRYPTION_KEY": "canary_" + "k" * 36 + "=",
    "CLIENT_NAME": "Mine",
    "ISSUER": "https://auth.example",
    "CLIENT_ID": "by-hand",
    "CLIENT_SECRET": "canary-client-secret",
    "CLIENT_AUTH_METHOD": "client_secret_post",
    "CLIENT_METADATA_URL": "https://me.example/client.json",
    "COMPAT": "no-resource, unlisted-pkce",
    "TIMEOUT": "2.5",
    "CA_FILE": "company.pem",
    "ALLOW_PRIVATE_ADDRESSES": "true",
    "RETRY_FOR": "7",
    "REFRESH_WINDOW": "600",
    "KEEP_FRESH": "false",
    "GATEWAY": "true",
    "GRANT_DAYS": "90",
    "IDLE_DAYS": "14",
    "LOG_LEVEL": "Debug",
    "LOG_FORMAT": "json",
    "TELEMETRY": "true",
}


def test_every_setting_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stored").mkdir()
    (tmp_path / "stored/settings.env").write_text("NOTION_OAUTH_CLIENT_NAME=of less priority\n")
    assert {name.upper() for name in Settings.model_fields} == set(VALUES)
    for name, value in VALUES.items():
        monkeypatch.setenv(PREFIX + name, value)
    settings = load_settings()
    assert settings.server_url == VALUES["SERVER_URL"]
    assert settings.token_file == tmp_path / "stored/tokens.json"
    assert settings.env_file == tmp_path / "stored/settings.env"
    assert settings.public_url == VALUES["PUBLIC_URL"]
    assert [str(network) for network in parse_proxies(settings.trusted_proxies or "")[0]] == [
        "10.0.0.1/32",
        "10.1.0.0/16",
        "2001:db8::/32",
    ]
    assert parse_proxies(settings.trusted_proxies or "")[1]
    assert settings.secret_key is not None
    assert settings.secret_key.get_secret_value() == VALUES["SECRET_KEY"]
    assert (settings.client_name, settings.timeout, settings.timeout_delta.total_seconds()) == ("Mine", 2.5, 2.5)
    assert settings.issuer == VALUES["ISSUER"]
    assert settings.preregistered is not None
    assert settings.preregistered.client_id == VALUES["CLIENT_ID"]
    assert settings.preregistered.token_endpoint_auth_method == VALUES["CLIENT_AUTH_METHOD"]
    assert settings.client_metadata_url == VALUES["CLIENT_METADATA_URL"]
    assert settings.compat_words == ("no-resource", "unlisted-pkce")
    assert "canary" not in repr(settings)
    assert (settings.retry_for, settings.keep_fresh) == (7, False)
    assert (settings.ca_file, settings.allow_private_addresses) == (tmp_path / "company.pem", True)
    assert (settings.log_level, settings.log_format, settings.telemetry) == ("debug", "json", True)
    assert settings.lifetimes == Lifetimes(timedelta(minutes=10), grant=timedelta(days=90), idle=timedelta(days=14))


def test_env_file_is_read_only_if_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("NOTION_OAUTH_CLIENT_NAME='From the file'\nSOMETHING_ELSE=1\n")
    assert load_settings().client_name == Settings().client_name == "notion-oauth"
    assert load_settings(env_file=Path(".env")).client_name == "From the file"
    assert Settings(env_file=Path(".env")).client_name == "From the file"
    monkeypatch.setenv("NOTION_OAUTH_ENV_FILE", ".env")
    assert load_settings().client_name == "From the file"
    assert Settings(env_file=None).client_name == "notion-oauth"


def test_clone_reads_the_env_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    (tmp_path / ".env").write_text("NOTION_OAUTH_CLIENT_NAME=of the working directory\n")
    assert load_settings(clone=clone).client_name == "notion-oauth"
    (clone / ".env").write_text("NOTION_OAUTH_CLIENT_NAME=of the clone\n")
    assert load_settings(clone=clone).client_name == "of the clone"
    assert load_settings(clone=clone, env_file=Path(".env")).client_name == "of the working directory"
    monkeypatch.setenv("NOTION_OAUTH_ENV_FILE", ".env")
    assert load_settings(clone=clone).client_name == "of the working directory"


def test_token_file_and_why_it_is_that_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone, directory = tmp_path / "clone", tmp_path / "settings"
    for each in (clone, directory):
        each.mkdir()

    def used(**options: Any) -> tuple[Path, str]:
        settings = load_settings(**options)
        return settings.token_file, settings.token_file_origin

    assert used() == (tmp_path / "data/notion-oauth/tokens.json", "user_data")
    assert used(clone=clone) == (clone / ".notion-tokens.json", "clone")
    (directory / "my.env").write_text("NOTION_OAUTH_TOKEN_FILE=of-the-file.json\n")
    file = directory / "my.env"
    assert used(clone=clone, env_file=file) == (directory / "of-the-file.json", "env_file")  # relative to that file
    monkeypatch.setenv("NOTION_OAUTH_TOKEN_FILE", "of-the-environment.json")
    assert used(clone=clone, env_file=file) == (tmp_path / "of-the-environment.json", "environment")
    assert used(clone=clone, env_file=file, token_file=Path("t")) == (tmp_path / "t", "option")


def test_values_of_an_env_file_are_literal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    (tmp_path / ".env").write_text('NOTION_OAUTH_CLIENT_NAME="${AWS_SECRET_ACCESS_KEY}"\n')
    assert load_settings(env_file=Path(".env")).client_name == "${AWS_SECRET_ACCESS_KEY}"


@pytest.mark.parametrize("kind", ["fifo", "directory", "missing", "large"])
def test_env_file_that_cannot_be_read_is_reported(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "my.env"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "large":
        path.write_bytes(b"#" * 2_000_000)
    with pytest.raises(ConfigurationError, match=r"my\.env cannot be read: |There is no file .*my\.env\."):
        load_settings(env_file=path)


@pytest.mark.parametrize("quote", ["'", '"'])
def test_value_in_quotes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quote: str) -> None:
    """As `docker --env-file` passes it on. In an env file of ours, quotes have their usual meaning."""
    monkeypatch.setenv("NOTION_OAUTH_CLIENT_NAME", f"{quote}canary{quote}")
    with pytest.raises(ConfigurationError, match="NOTION_OAUTH_CLIENT_NAME: the value is in quotes") as caught:
        load_settings()
    assert "canary" not in str(caught.value)
    monkeypatch.setenv("NOTION_OAUTH_CLIENT_NAME", f"{quote}Mine{quote} and yours")
    assert load_settings().client_name == f"{quote}Mine{quote} and yours"
    (tmp_path / "my.env").write_text(f"NOTION_OAUTH_ISSUER={quote}https://auth.example{quote}\n")
    assert load_settings(env_file=tmp_path / "my.env").issuer == "https://auth.example"


def test_server_of_a_login_that_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is Notion's, whatever an env file says."""
    (tmp_path / "my.env").write_text("NOTION_OAUTH_SERVER_URL=https://file.example/mcp\n")
    settings = load_settings(env_file=tmp_path / "my.env")
    assert settings.server_url == "https://file.example/mcp"
    for each in (settings, pickle.loads(pickle.dumps(settings))):  # noqa: S301 - our own
        assert each.server_of_unbound_login == "https://mcp.notion.com/mcp"
    given = load_settings(env_file=tmp_path / "my.env", server_url="https://option.example/mcp")
    assert given.server_of_unbound_login == "https://option.example/mcp"
    monkeypatch.setenv("NOTION_OAUTH_SERVER_URL", "https://variable.example/mcp")
    assert load_settings(env_file=tmp_path / "my.env").server_of_unbound_login == "https://variable.example/mcp"


def test_user_without_a_home_directory_is_told_to_name_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where the system does not know the user
    with pytest.raises(ConfigurationError, match="data directory is unknown"):
        load_settings()


def test_empty_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTION_OAUTH_PUBLIC_URL", "")
    assert load_settings().public_url is None


def test_variable_may_be_in_small_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("notion_oauth_client_name", "named")
    assert load_settings().client_name == "named"


def test_argument_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTION_OAUTH_SERVER_URL", "https://other.example/mcp")
    assert (
        load_settings(server_url="https://given.example/mcp", token_file=None).server_url == "https://given.example/mcp"
    )


@pytest.mark.spec("MCP §Communication Security", "Use only redirect URIs with https or on loopback")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SERVER_URL", "http://canary.example/mcp", "not https"),
        ("SERVER_URL", "canary", "not an https URL"),
        ("SERVER_URL", "https://canary:canary@h.example/", "user name"),
        ("PROFILE", "canary/../x", "use at most 64 letters"),
        ("PUBLIC_URL", "http://canary.example", "not https"),
        ("PUBLIC_URL", "https://h.example/?canary=1", "must not have a query"),
        ("TRUSTED_PROXIES", "10.0.0.1,canary", "neither an address"),
        ("TRUSTED_PROXIES", "*", "neither an address"),
        ("SECRET_KEY", "canary", "shorter than 32 characters"),
        ("SECRET_KEY", "canary-" + "k" * 40 + ",canary", "shorter than 32 characters"),
        ("OPERATOR_SECRET", "canary", "shorter than 16 characters"),
        ("ENCRYPTION_KEY", "canary", "is not a key: create one with the command key"),
        ("ENCRYPTION_KEY", "canary_" + "k" * 36, "is not a key"),
        ("ENCRYPTION_KEY", "keyring, canary", "is not a key"),
        ("ENCRYPTION_KEY", " , ", "is not a key"),
        ("CLIENT_NAME", "canary" * 20, "at most 100 characters"),
        ("COMPAT", "canary", "another word than unlisted-pkce, no-resource, no-prompt, refresh-scope"),
        ("TIMEOUT", "canary", "valid number"),
        ("LOG_LEVEL", "canary", "'debug', 'info'"),
        ("LOG_FORMAT", "canary", "'text' or 'json'"),
        ("TELEMETRY", "canary", "valid boolean"),
        ("TIMEOUT", "0", "greater than 0"),
        ("TIMEOUT", "-1", "greater than 0"),
        ("TIMEOUT", "301", "less than or equal to 300"),
        ("TIMEOUT", "nan", "finite|greater than 0"),
    ],
)
def test_wrong_setting_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_settings()
    assert PREFIX + name in str(caught.value)
    assert "canary" not in str(caught.value)


def test_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings(token_file="~/tokens.json").token_file == tmp_path / "tokens.json"
    with pytest.raises(ConfigurationError, match="--token-file"):
        load_settings(token_file="~nobody-of-that-name/tokens.json")


def test_settings_table_matches_the_fields() -> None:
    rows = re.findall(
        r"^\| `(NOTION_OAUTH_\w+)` \| (?:`([^`]*)`)? ?\| (.+) \|$", SETTINGS_DOC.read_text(), re.MULTILINE
    )
    documented = {name: (default, meaning) for name, default, meaning in rows}
    actual = {
        PREFIX + name.upper(): (
            "" if field.default is None or field.default_factory is not None else str(field.default),
            field.description,
        )
        for name, field in Settings.model_fields.items()
    }
    assert documented == actual
