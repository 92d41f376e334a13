"""The tables of the reference in docs/: commands, exit codes, routes, errors, log events and public names.

Those of the settings and of the MCP clients are compared by the tests of these.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
import typer
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient

import notion_oauth
from notion_oauth import Settings, create_app, errors
from notion_oauth.cli import options
from notion_oauth.cli.main import app as command_line
from notion_oauth.models import EndedLogin, EndReason
from notion_oauth.observability.audit import Audit, Event
from notion_oauth.service import NotionOAuth
from notion_oauth.tokens.code_claims import CodeAlreadySent
from notion_oauth.tokens.revocation import SignOut
from notion_oauth.web import responses
from tests.support.paths import ROOT
from tests.support.signing_in import sign_in

DOCS = ROOT / "docs"
HOST = "https://service.example"


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next one of the same level."""
    level = heading.partition(" ")[0]
    text = f"\n{(DOCS / page).read_text()}"
    assert f"\n{heading}\n" in text
    return text.partition(f"\n{heading}\n")[2].partition(f"\n{level} ")[0]


def first_cells(text: str) -> set[str]:
    """The names in backquotes in the first column of the tables."""
    rows = re.findall(r"^\| ([^|]*`[^|]*) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_commands_are_all_commands() -> None:
    documented = set(re.findall(r"^\| `notion-oauth (\w+)", (DOCS / "commands.md").read_text(), re.MULTILINE))
    group: Any = typer.main.get_command(command_line)
    assert documented == set(group.list_commands(typer.Context(group)))


def options_of(group: Any, above: typer.Context) -> Iterator[Any]:
    for name in group.list_commands(above):
        command = group.get_command(above, name)
        yield from (each for each in command.params if each.param_type_name == "option")
        if hasattr(command, "list_commands"):
            yield from options_of(command, typer.Context(command, parent=above))


def test_options_name_their_values() -> None:
    """The site and --help would show the name of a type, or of a function."""
    group: Any = typer.main.get_command(command_line)
    named = [
        each.metavar or getattr(each.type, "choices", None)
        for each in options_of(group, typer.Context(group))
        if not each.is_flag
    ]
    assert len(named) > 60
    assert all(named)


def test_exit_codes_are_the_ones_in_use() -> None:
    documented = {
        int(code) for code in re.findall(r"^\| (\d+) \|", section("commands.md", "## Exit codes"), re.MULTILINE)
    }
    used = {code for _, code in options.EXIT_CODES} | {options.FAILED, options.INTERRUPTED}
    assert documented == {0} | used


def test_python_api_has_every_public_name() -> None:
    documented = set(re.findall(r"^- `(\w+)`", (DOCS / "python-api.md").read_text(), re.MULTILINE))
    assert documented == {name for name in notion_oauth.__all__ if not name.startswith("__")}


# The HTTP API


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """A service that has all routes."""
    settings = Settings(
        token_file=tmp_path_factory.mktemp("service") / "tokens.json",
        public_url=HOST,
        secret_key=SecretStr("k" * 40),
        operator_secret=SecretStr("o" * 20),
        gateway=True,
        api_docs=True,
    )
    return create_app(settings)


def described_routes(service: FastAPI) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in service.openapi()["paths"].items():
        for method, described in methods.items():
            yield f"{method.upper()} {path}", described


def test_each_route_has_a_section_with_its_parameters(service: FastAPI) -> None:
    routes = dict(described_routes(service))
    documented = set(re.findall(r"^## ((?:GET|POST) \S+)$", (DOCS / "http-api.md").read_text(), re.MULTILINE))
    assert documented == routes.keys()
    for route, described in routes.items():
        parameters = {each["name"] for each in described.get("parameters", ())}
        if parameters:
            assert first_cells(section("http-api.md", f"## {route}")) == parameters


def test_each_route_of_the_service_is_in_the_first_table(service: FastAPI) -> None:
    table = (DOCS / "http-api.md").read_text().partition("\n## ")[0]
    documented = {name.rpartition(" ")[2] for name in first_cells(table)}
    assert documented == {route.path for route in service.routes} | {"/healthz", "/readyz"}  # type: ignore[attr-defined]
    with TestClient(service, base_url=HOST) as client:
        assert {client.get(path).status_code for path in ("/healthz", "/readyz", "/openapi.json")} == {200}


def test_fields_of_the_forms_are_documented(service: FastAPI) -> None:
    forms = [
        each["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]["properties"]
        for _, each in described_routes(service)
        if "requestBody" in each
    ]
    assert len(forms) == 4
    assert first_cells(section("http-api.md", "## The forms of these routes")) == set().union(*forms)


def test_fields_of_the_status_are_documented(service: FastAPI) -> None:
    documented = first_cells(section("http-api.md", "## GET /auth/status"))
    assert documented == set(service.openapi()["components"]["schemas"]["StatusShown"]["properties"])


def test_reasons_for_the_end_of_a_login_are_documented() -> None:
    (row,) = re.findall(r"^\| `ended_reason` \| (.*) \|$", section("http-api.md", "## GET /auth/status"), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == set(get_args(EndReason))


def kinds(kind: type[errors.NotionOAuthError]) -> Iterator[type[errors.NotionOAuthError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from kinds(each)


def test_each_error_is_documented_with_its_status() -> None:
    table = re.findall(r"^\| (\d{3}) \| ([^|]*) \|", section("http-api.md", "## Errors"), re.MULTILINE)
    documented = {(int(status), code) for status, codes in table for code in re.findall(r"`(\w+)`", codes)}
    own = [each for each in kinds(errors.NotionOAuthError) if each.__module__ == errors.__name__]
    assert documented == {(responses.status_code(each.__new__(each)), each.code) for each in own}
    assert CodeAlreadySent not in own  # no response has it


def test_statuses_of_the_openapi_document_are_documented(service: FastAPI) -> None:
    statuses = {int(code) for _, each in described_routes(service) for code in each["responses"]}
    documented = {
        int(code) for code in re.findall(r"^\| (\d{3}) \|", section("http-api.md", "## Errors"), re.MULTILINE)
    }
    assert statuses == documented | {200, 303}


# The log


def test_log_events_are_documented() -> None:
    assert first_cells(section("logs.md", "## Events")) == {*get_args(Event), "request"}


@pytest.mark.anyio
async def test_log_fields_are_documented(
    settings: Settings, service: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "notion_oauth")
    oauth = NotionOAuth(settings)
    tokens = await sign_in(oauth)
    await oauth.refresh()
    await oauth.sign_out()
    audit = Audit("default")
    ended = EndedLogin(ended_at=datetime.now(UTC), reason="idle", error="invalid_grant", description="Too old.")
    audit.ended(tokens, ended)
    audit.relayed("tools/call", "200", 0.1, "a session")
    with TestClient(service, base_url=HOST) as client:
        client.get("/healthz")
    written = {name for record in caplog.records for name in getattr(record, "facts", ())}
    documented = first_cells(section("logs.md", "## Fields"))
    assert documented == written | {"request_id"}  # which the handler adds


def test_outcomes_of_a_sign_out_are_documented() -> None:
    (row,) = re.findall(r"^\| `revocation` \| of `sign_out`: (.*) \|$", section("logs.md", "## Fields"), re.MULTILINE)
    never_logged = {SignOut.NOT_REMOVED}  # then the sign-out has failed
    assert set(re.findall(r"`(\w+)`", row)) == {each.name.lower() for each in set(SignOut) - never_logged}
