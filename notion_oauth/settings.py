"""All settings, read from the environment (prefix `NOTION_OAUTH_`) or from a file that is named, such as `.env`."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from notion_oauth import profile_names
from notion_oauth.errors import ConfigurationError
from notion_oauth.files import encryption, env_file
from notion_oauth.files.default_profile import read_default_profile
from notion_oauth.files.locations import CLONE_TOKEN_FILE, Origin, user_token_file
from notion_oauth.models import AuthMethod, ClientInformation
from notion_oauth.protocol.compat import parse_compat
from notion_oauth.protocol.lifetime import Lifetimes
from notion_oauth.protocol.urls import url_problem

PREFIX = "NOTION_OAUTH_"
UNIX = "unix"  # in the setting trusted_proxies: all connections through a Unix domain socket
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
MIN_OPERATOR_SECRET = 16  # characters; too many to guess at five tries a minute
MIN_SECRET_KEY = 32  # characters; 32 random hexadecimal digits are 128 bits
_PATHS = ("token_file", "ca_file")  # relative to the file with settings that names them
_CLONE = "clone"  # key of a value that is not a setting


class Settings(BaseModel):
    """All settings, by their names in lower case and without the prefix: `Settings(server_url="https://mcp.example/mcp")`.

    An argument has priority over the environment, and that over the file in `env_file`. `NotionOAuth()` without
    settings also uses the profile that `profile use` has chosen. Raises pydantic's ValidationError for a wrong value.
    """

    # The description of each field is also its row in docs/settings.md; a test compares them

    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    server_url: str = Field(
        default=profile_names.DEFAULT_SERVER_URL, description="URL of the MCP server to sign in to."
    )
    token_file: Path = Field(
        default_factory=user_token_file,
        description="Path of the token file. By default `tokens.json` in your user's data directory; for `cli.py` and "
        "`main.py` of a clone, `.notion-tokens.json` beside them.",
    )
    env_file: Path | None = Field(
        default=None,
        description="Path of a file with settings, such as `.env`. By default none is read; `cli.py` and `main.py` of "
        "a clone read the `.env` beside them.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="URL of the database for the logins, instead of the token file: `sqlite:///PATH` for the processes "
        "of one machine, or `postgresql://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full` for any number of machines "
        "(needs the extra `postgres`). `notion-oauth migrate` creates the tables.",
    )
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
        default="notion-oauth", description="Application name that the server shows on its consent page."
    )
    issuer: str | None = Field(
        default=None,
        description="Authorization server to use if the MCP server lists several. It must match a listed issuer, "
        "apart from the final slash of `https://host/`.",
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
    compat: str | None = Field(
        default=None,
        description="What you knowingly allow a server that differs from the specifications: `unlisted-pkce`, "
        "`no-resource`, `no-prompt`, `refresh-scope`, separated by commas or spaces.",
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
    gateway: bool = Field(
        default=False,
        description="Whether the service is also an MCP server at `/mcp`: the gateway, for clients that send the "
        "operator's secret or the local secret as a bearer token.",
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

    _origins: Mapping[str, Origin] = PrivateAttr(default={})

    @model_validator(mode="wrap")
    @classmethod
    def _from_all_sources(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Add to the arguments what they leave out: the environment, the file with settings, a clone's defaults."""
        if not isinstance(values, dict):
            return handler(values)
        given, variables = values, _variables(cls)
        _check_quotes(variables)
        in_clone: dict[str, Any] = {}
        if (clone := given.get(_CLONE)) is not None:
            in_clone = {"token_file": clone / CLONE_TOKEN_FILE}
        named = given.get("env_file") if "env_file" in given else find_env_file(None, clone)
        in_file = {} if named is None else _settings_in(Path(named))
        settings = handler({**in_clone, **in_file, "env_file": named, **variables, **given})
        settings._origins = {  # noqa: SLF001 - its own
            **dict.fromkeys(in_clone, "clone"),
            **dict.fromkeys(in_file, "env_file"),
            **dict.fromkeys(variables, "environment"),
            **dict.fromkeys(given, "option"),
        }
        return settings

    def __reduce__(self) -> tuple[Callable[..., Settings], tuple[object, ...]]:
        """Pickle without secrets: the process that unpickles reads them from its environment or the same env file.

        Raises ConfigurationError if a secret is from neither of these.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields}
        read = _secrets_outside_code(type(self), self.env_file)
        secret = {}
        for name, value in values.items():
            if isinstance(value, SecretStr) and value.get_secret_value() != encryption.USE_KEYRING:
                secret[name] = value.get_secret_value() == read.get(name)
        if missing := [name for name, is_readable in secret.items() if not is_readable]:
            variable = PREFIX + missing[0].upper()
            raise ConfigurationError(
                f"The settings cannot be pickled: {missing[0]} is neither from the environment nor from an env file, "
                "and pickles must not contain secrets.",
                hint=f"Set {variable} in the environment or an env file, or create the object in the other process.",
            )
        plain = {name: value for name, value in values.items() if name not in secret}
        return _unpickle, (type(self), plain, tuple(secret), dict(self._origins))

    @property
    def token_file_origin(self) -> Origin:
        """Why this token file is used."""
        return self._origins.get("token_file", "user_data")

    def is_set(self, name: str) -> bool:
        """Whether an argument, the environment or an env file sets it."""
        return name in self._origins

    @property
    def given(self) -> frozenset[str]:
        """The settings that an argument, an option or a variable of the environment has set."""
        names = (name for name, origin in self._origins.items() if origin in ("option", "environment"))
        return frozenset(names) & type(self).model_fields.keys()

    @property
    def server_of_unbound_login(self) -> str:
        """URL of the MCP server that a stored login without `resource` belongs to.

        It is Notion's, unless an argument, an option or an environment variable names another: a file with settings
        must not send such a login to a server.
        """
        named = self._origins.get("server_url") in ("option", "environment")
        return self.server_url if named else profile_names.DEFAULT_SERVER_URL

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
    def compat_words(self) -> tuple[str, ...]:
        return parse_compat(self.compat or "")

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
    def database(self) -> SecretStr | None:
        """The URL of the database; None for the token file, also if only that one is an argument or an option."""
        named = [name for name in ("token_file", "database_url") if self._origins.get(name) == "option"]
        return None if named == ["token_file"] else self.database_url

    @property
    def encryption_key_file(self) -> Path | None:
        """The file with settings that contains the key; None if the key is from elsewhere."""
        return self.env_file if self._origins.get("encryption_key") == "env_file" else None

    @field_validator("server_url", "public_url", "issuer", "client_metadata_url")
    @classmethod
    def _check_url(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and (reason := url_problem(value)):
            is_server = info.field_name == "server_url" and "://" not in value
            example = f", such as {profile_names.DEFAULT_SERVER_URL}" if is_server else ""
            raise ValueError(f"the URL {reason}{example}")
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

    @field_validator("compat")
    @classmethod
    def _check_compat(cls, value: str | None) -> str | None:
        parse_compat(value or "")
        return value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("token_file", "env_file", "ca_file")
    @classmethod
    def _expand_path(cls, value: Path | None) -> Path | None:
        """Return the absolute path, so that messages name it and a change of the working directory has no effect."""
        if value is None:
            return None
        try:
            path = value.expanduser()
        except RuntimeError:
            raise ValueError("~ cannot be expanded, because the home directory is unknown") from None
        if path.name in ("", "..") or "\0" in str(path):
            raise ValueError("it is not the path of a file")
        try:
            return path.absolute()
        except OSError:
            raise ValueError("the path is relative, and the working directory does not exist") from None

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            scheme, _, rest = value.get_secret_value().partition("://")
            if scheme not in ("postgresql", "postgres", "sqlite"):
                raise ValueError("it begins with neither postgresql:// nor sqlite:///")
            if scheme == "sqlite" and (not rest.startswith("/") or not rest.strip("/")):
                raise ValueError("it names no file: write sqlite:///PATH")
        return value

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


def _variables(settings: type[Settings]) -> dict[str, str]:
    """Return the settings that environment variables set, in any case of letters; an empty variable sets nothing."""
    variables = {name.upper(): value for name, value in os.environ.items() if value}
    return {name: variables[key] for name in settings.model_fields if (key := PREFIX + name.upper()) in variables}


def _secrets_outside_code(settings: type[Settings], path: Path | None) -> dict[str, object]:
    """Return the settings that are in the environment or, with less precedence, in the file at `path`.

    Raises ConfigurationError if that file cannot be read.
    """
    return {**({} if path is None else _settings_in(path)), **_variables(settings)}


def _unpickle(
    settings: type[Settings], values: dict[str, object], secret: tuple[str, ...], origins: dict[str, Origin]
) -> Settings:
    """Return pickled settings with the secrets of this process. Raises ConfigurationError if one is missing."""
    path = values["env_file"]
    read = _secrets_outside_code(settings, path if isinstance(path, Path) else None) if secret else {}
    for name in secret:
        if not read.get(name):
            raise ConfigurationError(
                f"{PREFIX}{name.upper()} is not set in this process. It was set where the settings were pickled.",
                hint="Set it in the environment or in the env file of this process.",
            )
    found = settings(**values, **{name: read[name] for name in secret})
    found._origins = origins  # noqa: SLF001 - as where they were pickled
    return found


def find_env_file(named: Path | None, clone: Path | None) -> Path | None:
    """Return the file with settings to read: the one that is named, by an option or the environment, or a clone's.

    `clone` is the directory of a clone's `cli.py` and `main.py`; None for the installed command and the library.
    """
    found = named or _variables(Settings).get("env_file")
    if found is None and clone is not None and os.path.lexists(clone / env_file.NAME):
        found = clone / env_file.NAME
    return None if found is None else Path(found)


def _settings_in(path: Path) -> dict[str, Any]:
    """Return the settings in a file, by field. A relative path counts from the file. Raises ConfigurationError."""
    try:
        path = path.expanduser().absolute()
    except (OSError, RuntimeError):
        raise ConfigurationError(f"The path {path} cannot be made absolute.", hint="Name an absolute path.") from None
    variables = env_file.read_env_file(path)
    fields = Settings.model_fields.keys() - {"env_file"}
    found: dict[str, Any] = {name: value for name in fields if (value := variables.get(PREFIX + name.upper()))}
    return {**found, **{name: _beside(path, found[name]) for name in _PATHS if name in found}}


def _beside(path: Path, value: str) -> str:
    return value if value.startswith("~") else str(path.parent / value)


def _check_quotes(variables: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for values in quotes: `docker --env-file` makes the quotes a part of the value."""
    quoted = [
        PREFIX + name.upper()
        for name, value in variables.items()
        if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    ]
    if quoted:
        raise ConfigurationError(
            f"Wrong setting {', '.join(quoted)}: the value is in quotes, and the quotes are a part of it.",
            hint="Remove the quotes where it is set: docker, for example, does not remove those in an --env-file.",
        )


def load_settings(*, clone: Path | None = None, default_profile: bool = True, **overrides: object) -> Settings:
    """Read the settings from the environment. Overrides, the options of a command, take precedence unless None.

    `clone` is the directory of a clone's `cli.py` and `main.py`: the token file and the `.env` beside them are the
    defaults. If no profile is set, it is the one that `profile use` has stored, unless `default_profile` is false.
    Raises ConfigurationError, which names each wrong setting and the reason, never the value; StorageError.
    """
    given = {name: value for name, value in {**overrides, _CLONE: clone}.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False, include_context=False)
        wrong = "; ".join(f"{_name(detail['loc'], overrides)}: {_reason(detail)}" for detail in details)
        what = "option" if wrong.startswith("--") else "setting"
        raise ConfigurationError(f"Wrong {what} {wrong}.", hint=f"Correct the {what} and start again.") from None
    if not default_profile or settings.is_set("profile"):
        return settings
    return settings.model_copy(update={"profile": read_default_profile(settings.token_file)})


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
