"""Every setting: read from the environment, validated, named when it is wrong, and listed in docs/settings.md."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest

from notion_oauth.errors import ConfigurationError
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.settings import PREFIX, Settings, load_settings, parse_proxies
from tests.support.paths import ROOT

SETTINGS_DOC = ROOT / "docs" / "settings.md"

VALUES = {
    "SERVER_URL": "https://other.example/mcp",
    "TOKEN_FILE": "stored/tokens.json",
    "PROFILE": "work",
    "PUBLIC_URL": "https://me.example/notion",
    "TRUSTED_PROXIES": "10.0.0.1, 10.1.0.0/16 2001:db8::/32,unix",
    "SECRET_KEY": "canary-" + "k" * 40,
    "OPERATOR_SECRET": "canary-operator-secret",
    "RATE_LIMIT": "5/second;100/hour",
    "STATUS_RATE_LIMIT": "0",
    "REFRESH_FLOOR": "0",
    "RATE_LIMIT_STORAGE": "redis://:canary@localhost:6379/0",
    "API_DOCS": "true",
    "ENCRYPTION_KEY": "canary_" + "k" * 36 + "=",
    "CLIENT_NAME": "Mine",
    "ISSUER": "https://auth.example",
    "CLIENT_ID": "by-hand",
    "CLIENT_SECRET": "canary-client-secret",
    "CLIENT_AUTH_METHOD": "client_secret_post",
    "CLIENT_METADATA_URL": "https://me.example/client.json",
    "TIMEOUT": "2.5",
    "CA_FILE": "company.pem",
    "ALLOW_PRIVATE_ADDRESSES": "true",
    "RETRY_FOR": "7",
    "REFRESH_WINDOW": "600",
    "KEEP_FRESH": "false",
    "GRANT_DAYS": "90",
    "IDLE_DAYS": "14",
    "LOG_LEVEL": "Debug",
    "LOG_FORMAT": "json",
    "TELEMETRY": "true",
}


def test_every_setting_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name.upper() for name in Settings.model_fields} == set(VALUES)
    for name, value in VALUES.items():
        monkeypatch.setenv(PREFIX + name, value)
    settings = load_settings()
    assert settings.server_url == VALUES["SERVER_URL"]
    assert settings.token_file == Path("stored/tokens.json")
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
    assert "canary" not in repr(settings)
    assert (settings.retry_for, settings.keep_fresh) == (7, False)
    assert (settings.ca_file, settings.allow_private_addresses) == (Path("company.pem"), True)
    assert (settings.log_level, settings.log_format, settings.telemetry) == ("debug", "json", True)
    assert settings.lifetimes == Lifetimes(timedelta(minutes=10), grant=timedelta(days=90), idle=timedelta(days=14))


def test_dotenv_file_in_the_working_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("NOTION_OAUTH_CLIENT_NAME='From the file'\nSOMETHING_ELSE=1\n")
    assert load_settings().client_name == "From the file"


def test_empty_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTION_OAUTH_PUBLIC_URL", "")
    assert load_settings().public_url is None


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
        PREFIX + name.upper(): ("" if field.default is None else str(field.default), field.description)
        for name, field in Settings.model_fields.items()
    }
    assert documented == actual
