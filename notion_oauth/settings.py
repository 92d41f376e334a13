"""All settings, read from the environment (prefix `NOTION_OAUTH_`) or a `.env` file."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from notion_oauth import profile_names
from notion_oauth.errors import ConfigurationError
from notion_oauth.files import encryption
from notion_oauth.models import AuthMethod, ClientInformation
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.protocol.urls import url_problem

PREFIX = "NOTION_OAUTH_"
UNIX = "unix"  # in the setting trusted_proxies: all connections through a Unix domain socket
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
MIN_OPERATOR_SECRET = 16  # characters; too many to guess at five tries a minute
MIN_SECRET_KEY = 32  # characters; 32 random hexadecimal digits are 128 bits


class Settings(BaseSettings):
    """All settings. The description of each field is also its row in docs/settings.md; a test compares them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        env_ignore_empty=True,
    )

    server_url: str = Field(
        default=profile_names.DEFAULT_SERVER_URL, description="URL of the MCP server to sign in to."
    )
    token_file: Path = Field(default=profile_names.DEFAULT_TOKEN_FILE, description="Path of the token file.")
    profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")] = Field(
        default=profile_names.DEFAULT_PROFILE,
        description="Name of the login to use. Each profile is a separate login, for example one for each workspace.",
    )
    public_url: str | None = Field(
        default=None,
        description="The service's URL as browsers see it. Required unless browsers use a loopback address.",
    )
    trusted_proxies: str | None = Field(
        default=None,
        description="Comma-separated addresses and networks of reverse proxies. The service believes the "
        "`X-Forwarded-For` and `X-Forwarded-Proto` headers that they send. `unix` stands for every client that "
        "connects through a Unix socket.",
    )
    secret_key: SecretStr | None = Field(
        default=None,
        description="Key that signs and encrypts the service's cookies; at least 32 characters. To rotate it, give "
        "several keys, separated by commas: the first signs and encrypts, and all are accepted.",
    )
    operator_secret: SecretStr | None = Field(
        default=None,
        description="Secret that the operator enters once in each browser session before the service shows or uses "
        "its single login; at least 16 characters. Without it, each browser session on a public URL has its own "
        "login.",
    )
    rate_limit: str = Field(
        default="30/minute",
        description="How often one client address may sign in, refresh and sign out. `0` means no limit.",
    )
    status_rate_limit: str = Field(
        default="300/minute",
        description="How often one client address may read the status on a public URL. `0` means no limit.",
    )
    refresh_floor: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = Field(
        default=30.0,
        description="Minimum number of seconds between two refreshes of a still valid token that a page or a "
        "script requests.",
    )
    rate_limit_storage: SecretStr | None = Field(
        default=None,
        description="URL of a database that counts these requests for all workers together, such as "
        "`redis://localhost:6379/0` (needs the extra `redis`). Without it, each worker counts its own.",
    )
    api_docs: bool = Field(
        default=False,
        description="Whether the service has the pages `/docs` and `/redoc`, which load scripts from "
        "cdn.jsdelivr.net, and on a public URL also `/openapi.json`.",
    )
    encryption_key: SecretStr | None = Field(
        default=None,
        description="Key that encrypts the stored tokens and client registrations; `notion-oauth key` makes one. "
        "To rotate it, give several keys, separated by commas or spaces: the first encrypts, and all decrypt. "
        "`keyring` stands for the key in the system keyring.",
    )
    client_name: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        default="notion-oauth", description="Application name that Notion shows on its consent page."
    )
    issuer: str | None = Field(
        default=None,
        description="Authorization server to use if the MCP server lists several. It must match a listed issuer "
        "exactly.",
    )
    client_id: Annotated[str, Field(min_length=1, max_length=2000)] | None = Field(
        default=None,
        description="ID of a client that you registered yourself. Without it, the program registers a client.",
    )
    client_secret: SecretStr | None = Field(default=None, description="Secret of that client, if it has one.")
    client_auth_method: AuthMethod | None = Field(
        default=None,
        description="How that client authenticates at the token endpoint: none, client_secret_basic or "
        "client_secret_post. By default, one of the methods that the server lists.",
    )
    client_metadata_url: str | None = Field(
        default=None,
        description="HTTPS URL of a client ID metadata document. It is the client ID if the server supports such IDs.",
    )
    timeout: Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)] = Field(
        default=10.0,
        description="Time limit in seconds for one request to a server: DNS, connection, TLS and the whole response.",
    )
    ca_file: Path | None = Field(
        default=None, description="PEM file of certificate authorities to trust in addition to the system's."
    )
    allow_private_addresses: bool = Field(
        default=False,
        description="Whether server metadata may point to this machine or a private network even if the server "
        "itself is elsewhere.",
    )
    retry_for: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = Field(
        default=20.0,
        description="For how many seconds a call for a token retries after temporary failures.",
    )
    refresh_window: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = Field(
        default=300.0,
        description="How many seconds before its expiry a token is refreshed in the background; at most a third "
        "of its lifetime.",
    )
    keep_fresh: bool = Field(
        default=True, description="Whether the service refreshes tokens in the background while it runs."
    )
    grant_days: Annotated[float, Field(gt=0, le=36500, allow_inf_nan=False)] = Field(
        default=180.0,
        description="Days after the sign-in at which the server is expected to end a login. It changes warnings and "
        "cleanup, not the server.",
    )
    idle_days: Annotated[float, Field(gt=0, le=36500, allow_inf_nan=False)] = Field(
        default=30.0, description="Days without a refresh after which the server is expected to end a login."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Lowest level of the log lines that the service writes, and commands with `--verbose`.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Format of the log lines: `text` for people, `json` for programs."
    )
    telemetry: bool = Field(
        default=False, description="Whether to send spans and counters to OpenTelemetry; needs the extra `otel`."
    )

    def __reduce__(self) -> tuple[Callable[..., Settings], tuple[object, ...]]:
        """Pickle without secrets: the process that unpickles reads them from its environment or `.env` file.

        Raises ConfigurationError if a secret is from neither of these.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        read = _secrets_outside_code(type(self))
        secret = {}
        for name, value in values.items():
            if isinstance(value, SecretStr) and value.get_secret_value() != encryption.USE_KEYRING:
                secret[name] = value.get_secret_value() == read.get(name)
        if missing := [name for name, is_readable in secret.items() if not is_readable]:
            variable = PREFIX + missing[0].upper()
            raise ConfigurationError(
                f"The settings cannot be pickled: {missing[0]} is neither from the environment nor from the file .env, "
                "and pickles must not contain secrets.",
                hint=f"Set {variable} in the environment or the file .env, or create the object in the other process.",
            )
        return _unpickle, (type(self), {k: v for k, v in values.items() if k not in secret}, tuple(secret))

    @property
    def preregistered(self) -> ClientInformation | None:
        """The configured client (`NOTION_OAUTH_CLIENT_ID`); None to register one dynamically."""
        if self.client_id is None:
            return None
        return ClientInformation(
            client_id=self.client_id,
            client_secret=self.client_secret,
            token_endpoint_auth_method=self.client_auth_method,
        )

    @property
    def secret_keys(self) -> tuple[SecretStr, ...]:
        """The configured secret keys: the first signs and encrypts, all are accepted."""
        return tuple(map(SecretStr, _split(self.secret_key.get_secret_value()))) if self.secret_key else ()

    @property
    def is_public(self) -> bool:
        """Whether the service accepts requests from other machines: the public URL is an https URL."""
        return urlsplit(self.public_url or "").scheme == "https"

    @property
    def timeout_delta(self) -> timedelta:
        return timedelta(seconds=self.timeout)

    @property
    def lifetimes(self) -> Lifetimes:
        return Lifetimes(
            refresh_window=timedelta(seconds=self.refresh_window),
            grant=timedelta(days=self.grant_days),
            idle=timedelta(days=self.idle_days),
        )

    @property
    def encryption_key_file(self) -> Path | None:
        """The `.env` that contains the key; None if the key is from the environment or from an argument."""
        if self.encryption_key is None:
            return None
        in_dotenv = DotEnvSettingsSource(Settings)().get("encryption_key")
        return Path(".env").absolute() if in_dotenv == self.encryption_key.get_secret_value() else None

    @field_validator("server_url", "public_url", "issuer", "client_metadata_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is not None and (reason := url_problem(value)):
            raise ValueError(f"the URL {reason}")
        return value

    @field_validator("public_url")
    @classmethod
    def _normalize_public_url(cls, value: str | None) -> str | None:
        if value is not None and "?" in value:
            raise ValueError("the URL must not have a query")
        return value.rstrip("/") if value else value

    @field_validator("client_metadata_url")
    @classmethod
    def _check_client_metadata_url(cls, value: str | None) -> str | None:
        """The URL of a client ID metadata document: https, with a path, without `.` and `..` segments."""
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme != "https" or parts.path in ("", "/"):
            raise ValueError("the URL must be an https URL with a path")
        if {".", ".."} & set(parts.path.split("/")):
            raise ValueError("the URL has a path with . or .. segments")
        return value

    @field_validator("client_secret")
    @classmethod
    def _check_client_secret(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and info.data.get("client_id") is None:
            raise ValueError("it has no effect without NOTION_OAUTH_CLIENT_ID")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_trusted_proxies(cls, value: str | None) -> str | None:
        parse_proxies(value or "")
        return value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("token_file", "ca_file")
    @classmethod
    def _expand_path(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        try:
            path = value.expanduser()
        except RuntimeError:
            raise ValueError("~ cannot be expanded, because the home directory is unknown") from None
        if path.name in ("", "..") or "\0" in str(path):
            raise ValueError("it is not the path of a file")
        return path

    @field_validator("secret_key")
    @classmethod
    def _check_secret_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and any(len(key) < MIN_SECRET_KEY for key in _split(value.get_secret_value())):
            raise ValueError(f"it is shorter than {MIN_SECRET_KEY} characters")
        return value

    @field_validator("operator_secret")
    @classmethod
    def _check_operator_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < MIN_OPERATOR_SECRET:
            raise ValueError(f"it is shorter than {MIN_OPERATOR_SECRET} characters")
        return value

    @field_validator("encryption_key")
    @classmethod
    def _check_encryption_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            encryption.split_keys(value.get_secret_value())
        return value


def _split(text: str) -> list[str]:
    """Return the parts of a comma-separated list; at least one."""
    return [part.strip() for part in text.split(",")]


def _secrets_outside_code(settings: type[Settings]) -> dict[str, object]:
    """Return the settings that are in the environment or, with less precedence, in the file `.env`."""
    found: dict[str, object] = {}
    with suppress(OSError, UnicodeDecodeError):
        found = DotEnvSettingsSource(settings)()
    return {**found, **EnvSettingsSource(settings)()}


def _unpickle(settings: type[Settings], values: dict[str, object], secret: tuple[str, ...]) -> Settings:
    """Return pickled settings with the secrets of this process. Raises ConfigurationError if one is missing."""
    read = _secrets_outside_code(settings)
    for name in secret:
        if not read.get(name):
            raise ConfigurationError(
                f"{PREFIX}{name.upper()} is not set in this process. It was set where the settings were pickled.",
                hint="Set it in the environment or in the file .env of this process.",
            )
    return settings(_env_file=None, **values, **{name: read[name] for name in secret})  # type: ignore[arg-type]


def load_settings(**overrides: object) -> Settings:
    """Read the settings from the environment. Overrides, the options of a command, take precedence unless None.

    Raises ConfigurationError, which names each wrong setting and the reason, never the value.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except (OSError, UnicodeDecodeError):
        raise ConfigurationError(
            "The file .env cannot be read as UTF-8 text.", hint="Fix it, or move it away."
        ) from None
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False, include_context=False)
        wrong = "; ".join(f"{_name(detail['loc'], overrides)}: {_reason(detail)}" for detail in details)
        raise ConfigurationError(f"Wrong setting {wrong}.", hint="Correct the setting and start again.") from None


def _name(location: tuple[int | str, ...], options: Mapping[str, object]) -> str:
    """Return the name that the user has set: an option of a command, or an environment variable."""
    if options.get(str(location[0])) is not None:
        return f"--{str(location[0]).replace('_', '-')}"
    return PREFIX + "_".join(str(part) for part in location).upper()


def _reason(detail: ErrorDetails) -> str:
    if detail["type"] == "string_pattern_mismatch":  # only the profile has a pattern
        return "use at most 64 letters, digits, - and _, and begin with a letter or digit"
    return detail["msg"].removeprefix("Value error, ")


def parse_proxies(text: str) -> tuple[tuple[Network, ...], bool]:
    """Return the networks, and whether Unix domain sockets are trusted. Raises ValueError."""
    names = text.replace(",", " ").split()
    try:
        return tuple(ipaddress.ip_network(name, strict=False) for name in names if name != UNIX), UNIX in names
    except ValueError:
        raise ValueError("it contains an entry that is neither an address, a network nor `unix`") from None
