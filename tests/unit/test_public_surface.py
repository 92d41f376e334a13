"""Everything that users and their programs rely on, compared with the recorded `public_surface.json`.

A difference is a change for users. Where it is intended, record it anew and review the diff of the data file:

    RECORD_PUBLIC_SURFACE=1 uv run pytest -n 0 tests/unit/test_public_surface.py
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import anyio
import httpx
import pytest
import typer
import typer.main
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner

from notion_oauth import errors
from notion_oauth.app import create_app
from notion_oauth.cli.doctor.findings import Result
from notion_oauth.cli.main import app as command_line
from notion_oauth.cli.options import exit_code
from notion_oauth.files.encryption import Encryption, new_key
from notion_oauth.models import ClientInformation, EndedLogin, Introspection, Registration, TokenSet
from notion_oauth.observability.audit import Event
from notion_oauth.observability.context import PROFILE, REQUEST_ID
from notion_oauth.observability.log_format import JsonLines
from notion_oauth.protocol.authorization import parse_authorization_response
from notion_oauth.router import create_router
from notion_oauth.sandbox import Sandbox, SandboxOptions
from notion_oauth.service import NotionOAuth
from notion_oauth.settings import PREFIX, Settings
from notion_oauth.storage import JsonFileStore
from notion_oauth.tokens import telemetry
from notion_oauth.tokens.oauth_client import OAuthClient
from notion_oauth.tokens.revocation import SignOut
from notion_oauth.transport.client import Transport
from notion_oauth.web.dependency import ValidToken
from notion_oauth.web.responses import problem, status_code
from notion_oauth.web.sessions.cookie import SessionCookieMiddleware
from notion_oauth.web.sessions.encryption import SESSION, cookie_encryption
from tests.support.stores import save_login, save_registration

RECORDED = Path(__file__).with_name("public_surface.json")
HOME, PUBLIC, ELSEWHERE = "http://localhost", "https://notion.example", "203.0.113.9"
REDIRECT_URI = "http://127.0.0.1:4321/callback"
OPERATOR_SECRET = "made-up-operator-secret"
SESSION_KEY = "made-up-session-key-" + "k" * 20
JSON = {"Accept": "application/json"}


def check(surface: str, found: Any) -> None:
    """Compare with what is recorded under that name."""
    found = json.loads(json.dumps(found))
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    if os.environ.get("RECORD_PUBLIC_SURFACE"):
        text = json.dumps({**recorded, surface: found}, indent=2, sort_keys=True, ensure_ascii=False)
        RECORDED.write_text(text + "\n")
        return
    before, after = (json.dumps(each, indent=2, sort_keys=True).splitlines() for each in (recorded[surface], found))
    difference = difflib.unified_diff(before, after, f"{surface}, recorded", f"{surface}, now", n=8, lineterm="")
    assert found == recorded[surface], "\n" + "\n".join(difference)


def without_words(schema: Any) -> Any:
    """A JSON schema without its titles and descriptions."""
    if isinstance(schema, dict):
        prose = {name for name in ("title", "description") if isinstance(schema.get(name), str)}
        return {name: without_words(value) for name, value in schema.items() if name not in prose}
    return [without_words(each) for each in schema] if isinstance(schema, list) else schema


# Logins, and a practice server in this process


def login(**changes: Any) -> TokenSet:
    now = datetime.now(UTC)
    client = ClientInformation(
        client_id="made-up-client",
        client_secret=SecretStr("made-up-client-secret"),
        token_endpoint_auth_method="client_secret_basic",
    )
    fields: dict[str, Any] = {
        "access_token": SecretStr("made-up-access-token"),
        "expires_in": 3600,
        "expires_at": now + timedelta(hours=1),
        "refresh_token": SecretStr("made-up-refresh-token"),
        "scope": "default",
        "requested_scope": "default",
        "client": client,
        "issuer": "https://mcp.notion.com",
        "resource": "https://mcp.notion.com/mcp",
        "token_endpoint": "https://mcp.notion.com/token",
        "revocation_endpoint": "https://mcp.notion.com/token",
        "token_endpoint_auth_methods_supported": ("client_secret_basic", "none"),
        "revocation_endpoint_auth_methods_supported": ("client_secret_basic",),
        "introspection_endpoint_auth_methods_supported": ("client_secret_basic",),
        "authorized_at": now,
        "refreshed_at": now,
        "updated_at": now,
    }
    return TokenSet(**{**fields, **changes})


def ended_login() -> EndedLogin:
    now = datetime.now(UTC)
    return EndedLogin(
        ended_at=now,
        reason="revoked",
        error="invalid_grant",
        description="OAuth grant revoked",
        authorized_at=now,
        refreshed_at=now,
        issuer="https://mcp.notion.com",
        resource="https://mcp.notion.com/mcp",
        scope="default",
        requested_scope="default",
    )


@pytest.fixture
def sandbox() -> Sandbox:
    """Called in this process; nothing listens on its port."""
    return Sandbox(options=SandboxOptions(offer_introspection=True))


@pytest.fixture
def settings(sandbox: Sandbox, tmp_path: Path) -> Settings:
    file = tmp_path / "logins" / "tokens.json"
    return Settings(server_url=sandbox.mcp_url, token_file=file, retry_for=0, refresh_floor=0, rate_limit="0")


@pytest.fixture
def network(sandbox: Sandbox) -> httpx.AsyncBaseTransport:
    return httpx.ASGITransport(sandbox.app)


@pytest.fixture
def oauth(settings: Settings, network: httpx.AsyncBaseTransport) -> NotionOAuth:
    return over(settings, network)


def over(settings: Settings, network: httpx.AsyncBaseTransport) -> NotionOAuth:
    client = OAuthClient(Transport(timeout=timedelta(seconds=10), httpx_transport=network))
    return NotionOAuth(settings, client=client)


async def consented(network: httpx.AsyncBaseTransport, url: str) -> httpx.URL:
    """Where the server sends the browser of a person who agrees."""
    async with httpx.AsyncClient(transport=network) as browser:
        return httpx.URL((await browser.get(url)).headers["location"])


async def sign_in(oauth: NotionOAuth, network: httpx.AsyncBaseTransport) -> None:
    begun = await oauth.begin_authorization(REDIRECT_URI)
    back = await consented(network, begun.url.get_secret_value())
    await oauth.complete_authorization(begun.pending, parse_authorization_response(back.params.multi_items()))


class Browser(TestClient):
    """Requests pages, and records the cookies that are set and the keys of the sessions in them."""

    def __init__(self, application: FastAPI, base_url: str = HOME, client: str = "127.0.0.1") -> None:
        super().__init__(
            application,
            base_url=base_url,
            client=(client, 50000),
            headers={"Accept": "text/html"},
            follow_redirects=False,
            raise_server_exceptions=False,
        )
        self.session_keys: set[str] = set()
        self.set_cookies: set[str] = set()
        self.event_hooks = {"response": [self._remember]}
        middleware: list[Any] = [*application.user_middleware]
        keys = [key for each in middleware if each.cls is SessionCookieMiddleware for key in each.kwargs["keys"]]
        self._encryption = cookie_encryption(keys, SESSION) if keys else None

    def _remember(self, response: Any) -> None:
        for cookie in response.headers.get_list("set-cookie"):
            name, _, rest = cookie.partition("=")
            value, *attributes = rest.split("; ")
            if value in ("null", ""):
                continue
            if name.endswith("_session") and self._encryption is not None:
                self.session_keys |= json.loads(self._encryption.decrypt(value.rsplit(".", 2)[0])).keys()
            self.set_cookies.add("; ".join([re.sub("[0-9a-f]{32}", "HEX", name), *sorted(attributes)]))

    def csrf_token(self) -> str:
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.get("/").text)
        assert found, "the page has no form"
        return found.group(1)

    def post_form(self, path: str, headers: dict[str, str] | None = None, **fields: str) -> Any:
        return self.post(path, data={"csrf_token": self.csrf_token(), **fields}, headers=headers)

    def sign_in(self, network: httpx.AsyncBaseTransport, headers: dict[str, str] | None = None) -> Any:
        begun = self.get("/auth/login")
        back = anyio.run(consented, network, begun.headers["location"])
        return self.get(back.raw_path.decode(), headers=headers)


# Settings


def test_settings() -> None:
    prefix = PREFIX
    fields = without_words(Settings.model_json_schema())["properties"]
    check("settings", {prefix + name.upper(): schema for name, schema in fields.items()})


@pytest.mark.parametrize(("setting", "least"), [("NOTION_OAUTH_SECRET_KEY", 32), ("NOTION_OAUTH_OPERATOR_SECRET", 16)])
def test_shortest_secrets(setting: str, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(setting, "k" * least)
    Settings()
    monkeypatch.setenv(setting, "k" * (least - 1))
    with pytest.raises(ValidationError):
        Settings()


def test_each_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    values = {
        "SERVER_URL": "https://a.example/mcp",
        "TOKEN_FILE": str(tmp_path / "tokens.json"),
        "ENV_FILE": str(tmp_path / "settings.env"),
        "PROFILE": "work",
        "PUBLIC_URL": PUBLIC,
        "TRUSTED_PROXIES": "10.0.0.1,unix",
        "SECRET_KEY": SESSION_KEY,
        "OPERATOR_SECRET": OPERATOR_SECRET,
        "RATE_LIMIT": "1/minute",
        "STATUS_RATE_LIMIT": "2/minute",
        "REFRESH_FLOOR": "1",
        "RATE_LIMIT_STORAGE": "memory://",
        "DATABASE_URL": "sqlite:///tokens.db",
        "API_DOCS": "true",
        "ENCRYPTION_KEY": "keyring",
        "CLIENT_NAME": "a name",
        "ISSUER": "https://a.example",
        "CLIENT_ID": "made-up-client",
        "CLIENT_SECRET": "made-up-client-secret",
        "CLIENT_AUTH_METHOD": "none",
        "CLIENT_METADATA_URL": "https://a.example/client.json",
        "COMPAT": "no-resource",
        "TIMEOUT": "1",
        "CA_FILE": str(tmp_path / "ca.pem"),
        "ALLOW_PRIVATE_ADDRESSES": "true",
        "RETRY_FOR": "1",
        "REFRESH_WINDOW": "1",
        "KEEP_FRESH": "false",
        "GATEWAY": "true",
        "GRANT_DAYS": "1",
        "IDLE_DAYS": "1",
        "LOG_LEVEL": "debug",
        "LOG_FORMAT": "json",
        "TELEMETRY": "true",
    }
    (tmp_path / "settings.env").write_text("")
    for name, value in values.items():
        monkeypatch.setenv(f"NOTION_OAUTH_{name}", value)
    assert Settings().model_fields_set == {name.lower() for name in values} == set(Settings.model_fields)


# The command line


def test_commands() -> None:
    found: dict[str, Any] = {}

    def walk(command: Any, name: str) -> None:
        context = typer.Context(command)
        found[name] = [parameter_of(each) for each in command.params]
        for each in command.list_commands(context) if hasattr(command, "list_commands") else ():
            walk(command.get_command(context, each), f"{name} {each}")

    walk(typer.main.get_command(command_line), "notion-oauth")
    check("commands", found)


def parameter_of(parameter: Any) -> dict[str, Any]:
    option = parameter.param_type_name == "option"
    kind = parameter.type
    default = parameter.default
    facts = {
        "names": [*parameter.opts, *parameter.secondary_opts] if option else [parameter.human_readable_name],
        "kind": parameter.param_type_name,
        "type": parameter.metavar or kind.name,
        "required": parameter.required or None,
        "default": None if default is None or callable(default) else str(default),
        "flag": getattr(parameter, "is_flag", None) or None,
        "counted": getattr(parameter, "count", None) or None,
        "nargs": None if parameter.nargs == 1 else parameter.nargs,
        "repeated": parameter.multiple or None,
        "min": getattr(kind, "min", None),
        "max": getattr(kind, "max", None),
        "environment": [parameter.envvar] if parameter.envvar else None,
        "environment_hint": re.findall(r"\[(NOTION_\w+)\]", getattr(parameter, "help", None) or "") or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


ERRORS: dict[str, errors.NotionOAuthError] = {
    "any error of ours": errors.NotionOAuthError("-"),
    "configuration": errors.ConfigurationError("-"),
    "store: failed": errors.StorageError("-"),
    "store: damaged": errors.StoreDamaged("-"),
    "store: no key opens it": errors.StoreEncrypted("-"),
    "store: keychain gives no key": errors.KeyUnavailable("-"),
    "store: locked for too long": errors.StoreBusy("-"),
    "store: lock lost": errors.LockLost("-"),
    "store: not reachable": errors.StoreUnavailable("-"),
    "store: another login is there": errors.LoginExists("-"),
    "store: login was moved to a database": errors.LoginMoved("-"),
    "not signed in": errors.NotSignedIn("-"),
    "login is for another server": errors.ResourceMismatch("-"),
    "login has ended": errors.SignInRequired("-"),
    "more consent is required": errors.StepUpRequired("-"),
    "transient": errors.TransientError("-"),
    "network": errors.NetworkError("-"),
    "new token rejected": errors.NewTokenRejected("-"),
    "server unavailable": errors.ServerUnavailable("-"),
    "server redirects": errors.UnexpectedRedirect("-"),
    "metadata": errors.MetadataError("-"),
    "metadata: not a document": errors.MetadataNotJson("-"),
    "refused": errors.OAuthError("-", error="invalid_request"),
    "registration refused": errors.RegistrationRefused("-", error="invalid_client_metadata"),
    "authorization refused": errors.AuthorizationRefused("-", error="access_denied"),
    "token refused": errors.TokenRefused("-", error="invalid_grant"),
    "application does not know the user": errors.UserNotIdentified("-"),
    "operator's secret is required": errors.OperatorRequired("-"),
    "request forbidden": errors.RequestForbidden("-"),
    "wrong operator secret": errors.WrongOperatorSecret("-"),
    "bad request": errors.BadRequest("-"),
    "too many requests": errors.TooManyRequests("-"),
    "host is not allowed": errors.HostNotAllowed("-"),
    "plain http": errors.InsecureRequest("-"),
    "authorization response": errors.AuthorizationResponseError("-"),
    "authorization response: state": errors.StateMismatch("-"),
    "authorization response: too late": errors.AuthorizationExpired("-"),
    "authorization response: issuer": errors.IssuerMismatch("-"),
}


def test_exit_codes_and_http_statuses_of_errors() -> None:
    check("exit_codes", {label: exit_code(error) for label, error in ERRORS.items()})
    check("http_statuses", {label: status_code(error) for label, error in ERRORS.items()})


def test_names_of_errors_in_json() -> None:
    """The value of `error` in JSON responses. Logs (`reason`) and telemetry (`error.type`) show the same name."""
    check("error_names", {label: problem(error)["error"] for label, error in ERRORS.items()})


def test_every_kind_of_error_is_listed() -> None:
    def kinds(kind: type[errors.NotionOAuthError]) -> set[type[errors.NotionOAuthError]]:
        ours = [each for each in kind.__subclasses__() if each.__module__ == errors.__name__]
        return {kind}.union(*map(kinds, ours))

    assert kinds(errors.NotionOAuthError) == {type(error) for error in ERRORS.values()}


def interrupted(*_: object, **__: object) -> str:
    """A person presses Ctrl-C."""
    raise KeyboardInterrupt


def test_exit_codes_of_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTION_OAUTH_SERVER_URL", "http://127.0.0.1:9/mcp")
    run = CliRunner().invoke
    found = {
        "help": run(command_line, ["--help"]).exit_code,
        "logout without a login": run(command_line, ["logout"]).exit_code,
        "status without a login": run(command_line, ["status"]).exit_code,
        "token without a login": run(command_line, ["token"]).exit_code,
        "no such option": run(command_line, ["status", "--no-such-option"]).exit_code,
        "wrong setting": run(command_line, ["token", "--server-url", "ftp://a.example"]).exit_code,
        "a check of doctor failed": run(command_line, ["doctor", "--json"]).exit_code,
    }
    with monkeypatch.context() as patched:
        patched.setattr(json, "dumps", interrupted)
        found["interrupted"] = run(command_line, ["status", "--json"]).exit_code
    check("exit_codes_of_commands", found)


# HTTP


def applications(settings: Settings) -> dict[str, FastAPI]:
    public = settings.model_copy(update={"public_url": PUBLIC, "secret_key": SecretStr(SESSION_KEY)})
    operated = public.model_copy(update={"operator_secret": SecretStr(OPERATOR_SECRET)})
    return {"local": create_app(settings), "public": create_app(public), "operator": create_app(operated)}


def test_routes(settings: Settings) -> None:
    served = applications(settings)
    check("routes", {kind: routes_of(application) for kind, application in served.items()})
    schemas = served["operator"].openapi()["components"]["schemas"]
    check("response_schemas", {name: sorted(schema["properties"]) for name, schema in schemas.items()})


def routes_of(application: FastAPI) -> dict[str, Any]:
    paths = application.openapi()["paths"]
    found: dict[str, Any] = {}
    for route in application.routes:
        for method in sorted(route.methods or ()) if isinstance(route, APIRoute) else ():
            assert isinstance(route, APIRoute)
            described = paths.get(route.path, {}).get(method.lower(), {})
            forms = described.get("requestBody", {}).get("content", {})
            facts = {
                "name": route.name,
                "query": {each["name"]: each["schema"] for each in described.get("parameters", ())},
                "form": {kind: sorted(form["schema"]["properties"]) for kind, form in forms.items()},
                "responses": {code: answered_with(answer) for code, answer in described.get("responses", {}).items()},
            }
            found[f"{method} {route.path}"] = {name: fact for name, fact in facts.items() if fact}
    return found


def answered_with(answer: dict[str, Any]) -> str:
    """The media types of a response, with the name of their schema."""
    content = answer.get("content", {})
    named = {kind: body.get("schema", {}).get("$ref", "").rpartition("/")[2] for kind, body in content.items()}
    return ", ".join(f"{kind} {schema}".rstrip() for kind, schema in sorted(named.items()))


def test_health(settings: Settings) -> None:
    browser = Browser(create_app(settings))
    found = {path: seen(browser.get(path)) for path in ("/healthz", "/readyz")}
    found["POST /readyz"] = seen(browser.post("/readyz"))
    failing = Browser(create_app(settings))
    for file in settings.token_file.parent.iterdir():
        file.unlink()
    settings.token_file.parent.rmdir()
    settings.token_file.parent.write_text("a file where the directory should be")
    found["/readyz, failing"] = seen(failing.get("/readyz"))
    check("health", found)


def seen(answer: Any) -> dict[str, Any]:
    return {"code": answer.status_code, "body": answer.json()}


def test_cookies_and_session_keys(settings: Settings, network: httpx.AsyncBaseTransport, oauth: NotionOAuth) -> None:
    public = settings.model_copy(update={"public_url": PUBLIC})
    operated = public.model_copy(update={"operator_secret": SecretStr(OPERATOR_SECRET)})
    local = Browser(create_app(oauth=oauth))
    local.sign_in(network)
    local.post_form("/auth/refresh")
    visitor = Browser(create_app(oauth=over(public, network)), PUBLIC, ELSEWHERE)
    visitor.sign_in(network)
    visitor.get("/auth/status")
    operator = Browser(create_app(oauth=over(operated, network)), PUBLIC, ELSEWHERE)
    operator.post_form("/auth/operator", secret=OPERATOR_SECRET)
    browsers = {"local": local, "public": visitor, "operator": operator}
    check("cookies", {kind: sorted(browser.set_cookies) for kind, browser in browsers.items()})
    check("session_keys", {kind: sorted(browser.session_keys) for kind, browser in browsers.items()})


def test_request_id_and_security_headers(settings: Settings) -> None:
    found = {}
    for kind, application in applications(settings).items():
        browser = Browser(application, HOME if kind == "local" else PUBLIC)
        headers = browser.get("/auth/status", headers=JSON).headers
        found[kind] = sorted(headers.keys() - {"content-length"})
    check("response_headers", found)


# JSON


def store_logins(file: Path) -> None:
    """Store one login of each kind, each under its own profile."""

    async def save() -> None:
        store = JsonFileStore(file)
        await save_login(store, "signed-in", login())
        over = datetime.now(UTC) - timedelta(minutes=1)
        await save_login(store, "expired", login(expires_at=over))
        await save_login(store, "ended", ended_login())
        await save_login(store, "elsewhere", login(resource="https://other.example/mcp"))

    anyio.run(save)


def as_json(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CliRunner().invoke(command_line, [*arguments, "--json"]).stdout)
    return found


def shape(value: Any) -> Any:
    """JSON with the types of its values in place of the values."""
    return {key: shape(each) for key, each in value.items()} if isinstance(value, dict) else type(value).__name__


def test_json_of_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    monkeypatch.setenv("NOTION_OAUTH_TOKEN_FILE", str(file))
    store_logins(file)
    kinds = ("signed-in", "expired", "unauthenticated", "ended")
    found = {f"status of {kind}": shape(as_json("status", "--profile", kind)) for kind in kinds}
    found["status --remote without introspection"] = shape(as_json("status", "--profile", "signed-in", "--remote"))
    found["status --remote of expired"] = shape(as_json("status", "--profile", "expired", "--remote"))
    found["introspection"] = shape(Introspection(active=True).model_dump(mode="json"))
    found["logout"] = as_json("logout", "--profile", "ended")
    found["profiles"] = shape(as_json("profiles"))
    monkeypatch.setenv("NOTION_OAUTH_ENCRYPTION_KEY", new_key())
    found["reseal"] = as_json("reseal")
    found["status of sealed"] = shape(as_json("status", "--profile", "signed-in"))
    check("json_of_commands", found)
    check("values_of_status", sorted({as_json("status", "--profile", kind)["status"] for kind in kinds}))


def test_outcomes_of_logout() -> None:
    check("logout_outcomes", sorted(outcome.name.lower() for outcome in SignOut))


def test_reasons_of_an_ended_login() -> None:
    check("ended_reasons", sorted(get_args(EndedLogin.model_fields["reason"].annotation)))


def test_json_of_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTION_OAUTH_SERVER_URL", "http://127.0.0.1:9/mcp")
    report = as_json("doctor")
    assert report["result"] == "failure"
    check(
        "doctor",
        {
            "keys": sorted(report),
            "keys of a check": sorted(set().union(*report["checks"])),
            "checks": list(dict.fromkeys(row["check"] for row in report["checks"])),
            "results": get_args(Result),
        },
    )


def test_json_over_http(settings: Settings, network: httpx.AsyncBaseTransport, oauth: NotionOAuth) -> None:
    browser = Browser(create_app(oauth=oauth))
    found = {
        "status of unauthenticated": shape(browser.get("/auth/status", headers=JSON).json()),
        "problem": shape(browser.get("/auth/callback?state=made-up&code=made-up", headers=JSON).json()),
        "no such page": shape(browser.get("/no-such-page", headers=JSON).json()),
        "signed in": shape(browser.sign_in(network, JSON).json()),
        "status of signed-in": shape(browser.get("/auth/status", headers=JSON).json()),
        "refresh": shape(browser.post_form("/auth/refresh", JSON).json()),
        "logout": shape(browser.post_form("/auth/logout", JSON).json()),
    }
    anyio.run(save_login, oauth.store, "default", ended_login())
    found["status of ended"] = shape(browser.get("/auth/status", headers=JSON).json())
    public = Browser(create_app(settings.model_copy(update={"public_url": PUBLIC})), PUBLIC, ELSEWHERE)
    found["client metadata"] = shape(public.get("/auth/client-metadata.json").json())
    application = FastAPI()
    application.include_router(create_router(oauth))

    @application.get("/", dependencies=[Depends(ValidToken(oauth))])
    def endpoint() -> None: ...

    refused = Browser(application).get("/")
    found["ValidToken without a login"] = shape(refused.json()) | {
        "WWW-Authenticate": refused.headers["www-authenticate"]
    }
    check("json_over_http", found)


# Files


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    public = ClientInformation(client_id="made-up-client")
    now = datetime.now(UTC)

    async def save() -> None:
        plain, sealed = JsonFileStore(file), JsonFileStore(file, encryption=Encryption(SecretStr(new_key())))
        async with plain.exclusive("default") as hold:
            await hold.save(login())
        entry: dict[str, Any] = {"issuer": "https://a.example", "redirect_uri": REDIRECT_URI, "client": public}
        for more in (
            {},
            {"registered_at": now, "scope": "default", "registered_scope": "default", "claimed": True},
            {"extended_scope": True},
            {"preregistered": True},
        ):
            await save_registration(plain, "default", Registration(**{**entry, **more}))
        await save_login(plain, "ended", ended_login())
        await save_login(sealed, "sealed", login())
        await save_registration(sealed, "sealed", Registration(**entry))

    anyio.run(save)
    content = {path.name: path.read_text() for path in sorted(tmp_path.iterdir())}
    documents = {name: json.loads(text) for name, text in content.items() if text}
    registrations = documents["tokens.json.clients"]["registrations"]
    found = {name: shape(document) for name, document in documents.items()}
    found["tokens.json.clients"] = {"registrations": sorted(set().union(*registrations))}
    check("files", {"names": sorted(content), "keys": found})


def test_files_of_a_service(settings: Settings, network: httpx.AsyncBaseTransport) -> None:
    for url in (None, PUBLIC):
        changed = settings.model_copy(update={"public_url": url})
        browser = Browser(create_app(oauth=over(changed, network)), url or HOME, ELSEWHERE if url else "127.0.0.1")
        browser.sign_in(network)
    names = (file.name for file in settings.token_file.parent.iterdir())
    check("files_of_a_service", sorted(re.sub(r"-[0-9a-f]{32}\.", "-HEX.", name) for name in names))


# Logs


def test_audit_events() -> None:
    check("audit_events", sorted(get_args(Event)))


def test_log_lines(
    settings: Settings,
    sandbox: Sandbox,
    network: httpx.AsyncBaseTransport,
    oauth: NotionOAuth,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "notion_oauth")

    async def live() -> None:
        await sign_in(oauth, network)
        await oauth.refresh()
        sandbox.fail_next("/token", status=503)
        with pytest.raises(errors.TransientError):
            await oauth.refresh()
        sandbox.fail_next("/token", status=503)
        await oauth.sign_out()
        await sign_in(oauth, network)
        await oauth.sign_out()
        begun = await oauth.begin_authorization(REDIRECT_URI)
        refusal = [
            ("state", begun.pending.state.get_secret_value()),
            ("iss", sandbox.issuer),
            ("error", "access_denied"),
        ]
        with pytest.raises(errors.AuthorizationRefused):
            await oauth.complete_authorization(begun.pending, parse_authorization_response(refusal))
        sandbox.forget_clients()
        sandbox.fail_next("/register", status=400, error="invalid_client_metadata")
        with pytest.raises(errors.RegistrationRefused):
            await sign_in(oauth, network)
        await sign_in(oauth, network)
        sandbox.revoke_grants()
        with pytest.raises(errors.SignInRequired):
            await oauth.refresh()

    anyio.run(live)
    operated = settings.model_copy(update={"public_url": PUBLIC, "operator_secret": SecretStr(OPERATOR_SECRET)})
    browser = Browser(create_app(operated), PUBLIC, ELSEWHERE)
    for secret in ("made-up-wrong-secret", OPERATOR_SECRET):
        browser.post_form("/auth/operator", secret=secret)
    browser.post_form("/auth/lock")
    found: dict[str, list[str]] = {}
    levels: dict[str, str] = {}
    for record in caplog.records:
        known = vars(record)
        if "event" in known:
            outcome = known["facts"].get("outcome", "")
            line = f"{record.name} {known['event']} {outcome}".rstrip()
            found[line] = sorted({*found.get(line, ()), *known["facts"]})
            levels[line] = record.levelname
    check("log_lines", found)
    check("log_levels", levels)


def test_json_log_lines() -> None:
    about = {"event": "refresh", "facts": {"outcome": "success"}}
    record = logging.makeLogRecord({"name": "notion_oauth.audit", "levelno": 20, "levelname": "INFO", **about})
    record.exc_info = (ValueError, ValueError("made up"), None)
    tokens = REQUEST_ID.set("made-up"), PROFILE.set("work")
    try:
        check("json_log_line", sorted(json.loads(JsonLines().format(record))))
    finally:
        REQUEST_ID.reset(tokens[0])
        PROFILE.reset(tokens[1])


# Telemetry


def test_telemetry(
    settings: Settings, sandbox: Sandbox, network: httpx.AsyncBaseTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, reader, provider = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    # The providers of a process can be set once, and other tests have theirs
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    monkeypatch.setattr(metrics, "get_meter", meters.get_meter)
    client = OAuthClient(
        telemetry.TracedTransport(timeout=timedelta(seconds=10), httpx_transport=network), span=telemetry.span
    )
    oauth = NotionOAuth(settings.model_copy(update={"telemetry": True}), client=client)

    async def live() -> None:
        await sign_in(oauth, network)
        await oauth.refresh()
        await oauth.introspect()
        await sign_in(oauth, network)  # asks whether the server still knows the client
        await oauth.sign_out()
        await sign_in(oauth, network)
        sandbox.revoke_grants()
        with pytest.raises(errors.SignInRequired):
            await oauth.refresh()

    anyio.run(live)
    spans: dict[str, list[str]] = {}
    for span in exporter.get_finished_spans():
        spans[span.name] = sorted({*spans.get(span.name, ()), *(span.attributes or {})})
    check("spans", spans)
    data = reader.get_metrics_data()
    assert data is not None
    found = [
        (scope.scope, each) for part in data.resource_metrics for scope in part.scope_metrics for each in scope.metrics
    ]
    check(
        "metrics",
        {
            metric.name: {
                "meter": scope.name,
                "unit": metric.unit,
                "attributes": sorted(set().union(*(point.attributes or {} for point in metric.data.data_points))),
            }
            for scope, metric in found
        },
    )
