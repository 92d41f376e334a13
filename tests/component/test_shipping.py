"""What is shipped beside the code: the image, the compose file, the units, and the documents that name parts of it."""

from __future__ import annotations

import base64
import configparser
import json
import os
import re
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from typer.testing import CliRunner
from uvicorn.main import main as uvicorn_command

from notion_oauth.app import create_app
from notion_oauth.cli import main
from notion_oauth.cli.background_server import served
from notion_oauth.settings import PREFIX, Settings, load_settings
from notion_oauth.stores import schema
from notion_oauth.stores.factory import create_store
from notion_oauth.stores.postgresql import PostgresqlDatabase
from notion_oauth.web import request_log
from notion_oauth.web.rate_limits import RateLimits
from tests.support.databases import Postgresql
from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
PROGRAMS = Path(sys.executable).parent
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name / "README.md" for name in ("deploy", "benchmarks", "examples")),
]
SHIPPED = [ROOT / "Dockerfile", *DOCUMENTS, *sorted(file for file in DEPLOY.iterdir() if file.suffix != ".md")]
HOST = "auth.example"


def instructions(name: str) -> list[str]:
    """What follows each instruction of that name in the Dockerfile, without comments, on one line."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines(keepends=True) if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "".join(lines))
    return re.findall(rf"^{name} (.+)$", joined, re.MULTILINE)


def health_command() -> list[str]:
    command: list[str] = json.loads(instructions("HEALTHCHECK")[-1].partition("CMD ")[2])
    return command


def services() -> dict[str, str]:
    """The text of each service of the compose file."""
    text = (DEPLOY / "compose.yaml").read_text().partition("services:\n")[2].partition("\nnetworks:\n")[0]
    parts = re.split(r"^  ([\w-]+):\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def given(text: str) -> dict[str, str]:
    """The settings that a file gives, as NAME=VALUE or as NAME: VALUE."""
    lines = re.findall(rf"^(?: +|Environment=)?{PREFIX}(\w+)(?:=|: )(.*)$", text, re.MULTILINE)
    return {PREFIX + name: value.partition(" #")[0].strip() for name, value in lines}


def unit(name: str) -> configparser.ConfigParser:
    """A unit of systemd; of a key that is there several times, the last."""
    found = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=", comment_prefixes="#")
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(DEPLOY / name)
    return found


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The file of keys, filled in as it says; all that it names, and nothing else."""
    made = {
        f"{PREFIX}SECRET_KEY": secrets.token_hex(32),
        f"{PREFIX}ENCRYPTION_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        f"{PREFIX}OPERATOR_SECRET": secrets.token_hex(16),
        f"{PREFIX}PUBLIC_URL": f"https://{HOST}",
    }
    assert given((DEPLOY / "notion-oauth.env.example").read_text()) == dict.fromkeys(made, "")
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.relative_to(ROOT)))
def test_only_settings_that_exist_are_named(file: Path) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", file.read_text())) <= known


# The image


def test_every_command_of_the_image_is_run_without_a_shell() -> None:
    commands = [*map(json.loads, instructions("RUN") + instructions("CMD")), health_command()]
    assert len(commands) > 3
    assert all(command and all(isinstance(word, str) for word in command) for command in commands)


def test_the_image_is_made_of_what_is_there_and_of_nothing_else() -> None:
    copied = [words.split()[:-1] for words in instructions("COPY") if "--from" not in words]
    names = {source.rstrip("/") for sources in copied for source in sources}
    assert {name for name in names if not (ROOT / name).exists()} == set()
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert patterns[0] == "*"
    assert {pattern[1:] for pattern in patterns if pattern.startswith("!")} == names


def test_dependencies_are_installed_with_their_hashes_and_as_wheels() -> None:
    commands = [json.loads(command) for command in instructions("RUN")]
    install = next(command for command in commands if "requirements.lock" in command)
    assert "--require-hashes" in install
    assert install[install.index("--only-binary") + 1] == ":all:"
    assert ["uv", "pip", "install", "--no-deps", "."] in commands


def test_the_image_serves_as_a_user_without_rights() -> None:
    user, volume, folder = (instructions(name)[-1] for name in ("USER", "VOLUME", "WORKDIR"))
    assert all(int(number) >= 1000 for number in user.split(":"))
    assert f"{PREFIX}TOKEN_FILE={volume}/" in instructions("ENV")[-1]
    assert not folder.startswith(volume), "uvicorn imports what lies in its working folder"
    for service in services().values():
        for line in ("read_only: true", "cap_drop: [ALL]", 'security_opt: ["no-new-privileges:true"]'):
            assert f"    {line}\n" in service
    assert "ports:" not in services()["notion-oauth"]


@contextmanager
def running(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The port that the server listens on: on loopback alone, and a free one in the place of 8000."""
    words = [{"8000": "0", "0.0.0.0": "127.0.0.1"}.get(word, word) for word in command]
    program = [str(PROGRAMS / words[0]), *words[1:]]
    with subprocess.Popen(program, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next((line for line in process.stderr if "running on" in line), "")
        try:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            assert found, line
            yield found[1]
        finally:
            process.terminate()
            process.communicate(timeout=20)


@pytest.mark.slow
def test_the_health_check_tells_a_service_that_is_well_from_one_that_is_not(tmp_path: Path) -> None:
    """Whatever the environment says of proxies, and whatever lies in the working folder."""
    (tmp_path / "http.py").write_text("raise SystemExit(7)")
    environment = os.environ | {"http_proxy": "http://127.0.0.1:9", f"{PREFIX}PUBLIC_URL": f"https://{HOST}"}

    def checked(port: str) -> int:
        words = [word.replace("8000", port) for word in health_command()]
        program = [str(PROGRAMS / words[0]), *words[1:]]
        return subprocess.run(
            program, check=False, cwd=tmp_path, env=environment, capture_output=True, timeout=60
        ).returncode

    folder = tmp_path / "served"
    folder.mkdir()
    with running(json.loads(instructions("CMD")[-1]), folder, environment) as port:
        assert checked(port) == 0
    assert checked(port) == 1
    with served(Response(status_code=503)) as url:
        assert checked(url.rpartition(":")[2]) == 1


def options_of(command: list[str]) -> dict[str, Any]:
    """What uvicorn makes of its command line. Raises click.UsageError for an option that it does not know."""
    assert Path(command[0]).name == "uvicorn"
    return uvicorn_command.make_context("uvicorn", command[1:]).params


@pytest.mark.parametrize(
    ("command", "host"),
    [
        (json.loads(instructions("CMD")[-1]), "0.0.0.0"),
        (unit("notion-oauth.service")["Service"]["ExecStart"].split(), "127.0.0.1"),
    ],
    ids=["image", "unit"],
)
def test_the_service_is_started_as_the_readme_says_and_believes_no_header_by_itself(
    command: list[str], host: str
) -> None:
    options = options_of(command)
    assert (options["app"], options["factory"]) == ("notion_oauth.app:create_app", True)
    assert (options["host"], options["port"], options["proxy_headers"]) == (host, 8000, False)


def test_documentation_starts_a_public_service_without_proxy_headers() -> None:
    section = (ROOT / "README.md").read_text().partition("## Deploy\n")[2].partition("\n## ")[0]
    for text in (section, (ROOT / "docs" / "deploying.md").read_text()):
        commands = re.findall(r"^uv run (uvicorn .*)$", text, re.MULTILINE)
        assert commands
        for command in commands:
            assert options_of(shlex.split(command, comments=True))["proxy_headers"] is False


# The compose file


@pytest.mark.anyio
async def test_the_proxy_of_the_compose_file_is_believed_and_nobody_else(
    keys: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of https and, in the log too, of the client."""
    caplog.set_level("INFO", "notion_oauth.request")
    service, proxy = services()["notion-oauth"], services()["caddy"]
    for name, value in given(service).items():
        monkeypatch.setenv(name, re.sub(r"\$\{SITE:\?[^}]*\}", HOST, value))
    app = create_app(load_settings())
    address = re.findall(r"ipv4_address: (\S+)", proxy)

    async def answered(client: str) -> int:
        transport = httpx.ASGITransport(app, client=(client, 50000))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{HOST}") as visitor:
            headers = {"Accept": "text/html", "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}
            return (await visitor.get("/", headers=headers)).status_code

    assert len(address) == 1
    assert await answered(address[0]) in (200, 401)  # the page, or the question for the operator's secret
    assert await answered(address[0] + "0") == 403
    logged = [record.facts["client"] for record in caplog.records if hasattr(record, "facts")]
    assert logged == ["203.0.113.7", address[0] + "0"]


def test_the_service_and_its_proxy_meet_in_one_network_that_leads_nowhere_else() -> None:
    """In a second one the proxy would come from another address, which is not trusted."""
    networks = [
        set(re.findall(r"^      ([\w-]+):", text.partition("    networks:\n")[2], re.MULTILINE))
        for text in services().values()
    ]
    assert set.intersection(*networks) == {"inside"}
    assert "  inside:\n    internal: true\n" in (DEPLOY / "compose.yaml").read_text()


def test_the_proxy_passes_on_to_the_service_and_logs_no_code() -> None:
    configured = (DEPLOY / "Caddyfile").read_text()
    assert f"reverse_proxy {{$UPSTREAMS:{next(iter(services()))}:{instructions('EXPOSE')[-1]}}} {{\n" in configured
    left_out = configured.partition("request>uri query {")[2].partition("}")[0]
    assert set(left_out.split()) == {"delete", "code", "state"}


def test_the_proxy_hands_on_no_request_id_that_a_client_has_chosen() -> None:
    """It is a named proxy: whatever id it sends is believed."""
    passed_on = (DEPLOY / "Caddyfile").read_text().partition("reverse_proxy ")[2].partition("\n\t}")[0]
    orders = [line.split() for line in passed_on.splitlines()]
    assert ["header_up", request_log.HEADER, "{http.request.uuid}"] in orders


# The compose file with PostgreSQL


@pytest.fixture(scope="module")
def several() -> dict[str, Any]:
    found: dict[str, Any] = import_module("yaml").safe_load((DEPLOY / "compose.postgresql.yaml").read_text())
    return found


INSTANCES = ["notion-oauth-1", "notion-oauth-2"]


def condition(service: dict[str, Any], other: str) -> str:
    found: str = service["depends_on"][other]["condition"]
    return found


def test_the_tables_are_there_before_the_instances_and_these_are_ready_before_the_proxy(
    several: dict[str, Any],
) -> None:
    services = several["services"]
    assert condition(services["migrate"], "postgresql") == "service_healthy"
    assert services["migrate"]["command"] == ["notion-oauth", "migrate"]
    assert services["migrate"]["restart"] == "no"
    for name in INSTANCES:
        assert condition(services[name], "migrate") == "service_completed_successfully"
        assert condition(services["caddy"], name) == "service_healthy"
        check = [word.replace("/readyz", "/healthz") for word in services[name]["healthcheck"]["test"]]
        assert check == ["CMD", *health_command()], "as in the image, of another path"


def test_only_the_proxy_is_reached_from_outside_and_only_instances_reach_the_database(
    several: dict[str, Any],
) -> None:
    services, networks = several["services"], several["networks"]
    assert [name for name, service in services.items() if "ports" in service] == ["caddy"]
    assert {name for name, network in networks.items() if network and network.get("internal")} == {"inside", "storage"}
    members = {
        network: {name for name, service in services.items() if network in service["networks"]} for network in networks
    }
    assert members["storage"] == {*INSTANCES, "migrate", "postgresql", "valkey"}
    assert members["inside"] == {*INSTANCES, "caddy"}
    for service in services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_the_proxy_passes_on_to_all_instances_and_each_believes_it_alone(several: dict[str, Any]) -> None:
    services = several["services"]
    port = instructions("EXPOSE")[-1]
    assert services["caddy"]["environment"]["UPSTREAMS"].split() == [f"{name}:{port}" for name in INSTANCES]
    address = services["caddy"]["networks"]["inside"]["ipv4_address"]
    for name in INSTANCES:
        assert services[name]["environment"][f"{PREFIX}TRUSTED_PROXIES"] == address


def test_settings_of_the_instances_are_accepted(
    several: dict[str, Any], keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The passwords are in an env file, which libpq reads: the compose file has none."""
    given_variables = several["services"]["notion-oauth-1"]["environment"]
    for name, value in given_variables.items():
        monkeypatch.setenv(name, re.sub(r"\$\{SITE:\?[^}]*\}", HOST, value))
    store = create_store(load_settings())
    assert store.has_leases
    RateLimits(load_settings())
    passwords = (DEPLOY / "database.env.example").read_text()
    assert re.findall(r"^(\w+)=(.*)$", passwords, re.MULTILINE) == [("POSTGRES_PASSWORD", ""), ("PGPASSWORD", "")]
    assert [name for name, service in several["services"].items() if "database.env" in service.get("env_file", [])] == [
        *INSTANCES,
        "migrate",
        "postgresql",
    ]
    assert '--set=password="$PGPASSWORD"' in (DEPLOY / "postgresql-init.sh").read_text()


@pytest.mark.xdist_group("postgresql")
def test_the_script_of_the_database_makes_a_role_without_rights_elsewhere(
    postgresql: Postgresql, tmp_path: Path
) -> None:
    server = {"PGHOST": "127.0.0.1", "PGPORT": str(postgresql.port), "PGPASSWORD": "it's a 'password'"}
    subprocess.run([DEPLOY / "postgresql-init.sh"], check=True, env=os.environ | server, capture_output=True)
    try:
        role = (
            "SELECT rolsuper OR rolcreatedb OR rolcreaterole, rolcanlogin FROM pg_roles WHERE rolname = 'notion_oauth'"
        )
        assert postgresql.execute(role) == [(False, True)]
        database = PostgresqlDatabase(f"postgresql://notion_oauth@127.0.0.1:{postgresql.port}/notion_oauth")
        assert schema.migrate(database) == 0
    finally:
        postgresql.execute("DROP DATABASE notion_oauth")
        postgresql.execute("DROP ROLE notion_oauth")


def test_packages_of_several_instances_are_in_the_image() -> None:
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert {"psycopg", "psycopg-binary", "redis"} <= pinned


# The units


def test_the_unit_gives_no_rights() -> None:
    service = unit("notion-oauth.service")["Service"]
    asked = {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "CapabilityBoundingSet": "",
        "MemoryDenyWriteExecute": "yes",
        "SystemCallFilter": "~@privileged @resources",
        "StateDirectoryMode": "0700",
        "LimitCORE": "0",
    }
    assert {name: service[name] for name in asked} == asked
    kept = given((DEPLOY / "notion-oauth.service").read_text())[f"{PREFIX}TOKEN_FILE"]
    assert kept.startswith(f"%S/{service['StateDirectory']}/")


def test_the_timer_runs_a_command_that_exists() -> None:
    name = "notion-oauth-refresh"
    program, *words = unit(f"{name}.service")["Service"]["ExecStart"].split()
    assert Path(program).name == "notion-oauth"
    assert CliRunner().invoke(main.app, words).exit_code == 3, "not signed in"
    assert unit(f"{name}.timer")["Timer"]["Persistent"] == "true"


# The documents


def anchors(document: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(document: Path) -> None:
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", document.read_text()):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


def test_the_threat_model_names_tests_that_exist() -> None:
    files = (ROOT / "tests").rglob("test_*.py")
    defined = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text()))
    assert named - defined == set()


def test_the_threat_model_names_modules_that_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)`", (ROOT / "SECURITY.md").read_text())
    assert {name for name in named if not (ROOT / "notion_oauth" / name).exists()} == set()


def test_whatever_is_said_to_stop_an_attack_names_where_and_which_test() -> None:
    tables = (
        (ROOT / "SECURITY.md").read_text().split("| Attack | What stops it | Module | Test |\n|---|---|---|---|\n")[1:]
    )
    rows = [row for table in tables for row in table.partition("\n\n")[0].splitlines()]
    assert len(rows) > 20
    for row in rows:
        module, test = row.strip("| ").split(" | ")[2:]
        assert re.search(r"`[\w/]+\.py`", module), row
        assert re.search(r"`test_\w+`", test), row


def test_the_unit_of_the_gateway_starts_a_command_that_exists() -> None:
    program, *words = unit("notion-oauth-mcp.service")["Service"]["ExecStart"].split()
    assert program == "%h/.local/bin/notion-oauth"
    assert CliRunner().invoke(main.app, [*words, "--help"]).exit_code == 0
