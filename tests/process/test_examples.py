"""Each program in examples/, started as its own text says, against the practice server."""

from __future__ import annotations

import json
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.gateway.connecting import wait_until
from tests.support.clone import Clone
from tests.support.mcp_server import serve_protected_mcp
from tests.support.paths import ROOT
from tests.support.servers import free_port
from tests.support.signing_in import sign_in

pytestmark = [pytest.mark.slow, pytest.mark.anyio]
EXAMPLES = ROOT / "examples"
NOT_SIGNED_IN = "Not signed in. Sign in with: notion-oauth login\n"


def commands(name: str) -> list[str]:
    """The commands in the text at the head of an example."""
    head = re.split(r'\n"""\n|\nset -', (EXAMPLES / name).read_text())[0]
    return re.findall(r"^(?:# )?    (.*(?:uv run|\.sh) .*)$", head, re.MULTILINE)


def crontab() -> list[str]:
    """The commands in the crontab."""
    lines = (EXAMPLES / "crontab").read_text().splitlines()
    return [re.sub(r"^(\S+ ){5}", "", line) for line in lines if not line.startswith("#")]


PROGRAMS = [
    *commands("script.py"),
    *(command.replace("PAGE ...", "self self") for command in commands("script_async.py")),
    *commands("mcp_sdk.py"),
]
CALLS = [command for command in PROGRAMS if "self" in command]


def test_every_example_is_in_the_table() -> None:
    table = re.findall(r"^\| \[([\w.]+)\]\(", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert {*table, "README.md"} == {file.name for file in EXAMPLES.iterdir() if file.is_file()}


def test_table_has_the_commands_that_the_examples_have() -> None:
    rows = re.findall(r"^\| \[([\w.]+)\].* \| `(.*)` \|$", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    for name, command in rows:
        own = [each.replace("PAGE ...", "self self").replace("PAGE FILE", "self self.json") for each in commands(name)]
        assert command in (own or ["crontab -e"])


@pytest.mark.parametrize("command", PROGRAMS)
async def test_programs_list_and_call_tools(clone: Clone, command: str) -> None:
    await sign_in(clone.oauth)
    done = clone.run(command)
    assert done.returncode == 0, done.stderr
    if command in CALLS:
        assert "Practice workspace" in done.stdout
    else:
        assert done.stdout == "notion-fetch\n"


@pytest.mark.parametrize("command", [*PROGRAMS, *commands("agent.py")])
def test_programs_say_that_nobody_is_signed_in(clone: Clone, command: str) -> None:
    done = clone.run(command)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", NOT_SIGNED_IN)


@pytest.mark.parametrize("command", CALLS)
async def test_refusal_of_a_tool_is_a_failure(clone: Clone, command: str) -> None:
    await sign_in(clone.oauth)
    done = clone.run(command.replace("self", "other"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "This practice server supports only" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["script.py", "mcp_sdk.py"])
async def test_arguments_that_are_not_json_are_explained(clone: Clone, name: str) -> None:
    await sign_in(clone.oauth)
    done = clone.run(f"uv run examples/{name} notion-fetch id=self")
    assert (done.returncode, done.stdout) == (1, "")
    assert "The arguments of a tool are JSON, such as" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["script.py", "mcp_sdk.py"])
async def test_programs_work_with_a_server_of_sessions_and_streams(clone: Clone, name: str) -> None:
    """The MCP SDK's own server, which also speaks the newest version."""
    with serve_protected_mcp() as (server, _):
        clone.server_url = server.url
        await sign_in(clone.oauth)
        done = clone.run(f'uv run examples/{name} echo \'{{"word": "größe"}}\'')
    assert (done.returncode, done.stdout) == (0, "größe\n"), done.stderr
    assert done.stderr == ("MCP 2026-07-28\n" if name == "mcp_sdk.py" else "")


async def test_sdk_uses_the_older_version_if_the_server_has_no_other(clone: Clone) -> None:
    await sign_in(clone.oauth)
    assert clone.run("uv run examples/mcp_sdk.py").stderr == "MCP 2025-11-25\n"


@contextmanager
def application(clone: Clone) -> Iterator[str]:
    """The application with accounts, as its text starts it, on a free port. Yields its URL."""
    (command,) = commands("fastapi_users.py")
    port = free_port()
    process = clone.start("exec " + command.replace("8001", str(port)))
    url = f"http://localhost:{port}"
    try:
        with httpx.Client(trust_env=False) as client:
            wait_until(lambda: _answers(client, url) or process.poll() is not None, 60)
        assert process.poll() is None, process.communicate()[1]
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=60)


def _answers(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).is_success
    except httpx.TransportError:
        return False


def user(url: str) -> httpx.Client:
    return httpx.Client(base_url=url, follow_redirects=True, trust_env=False, timeout=20)


def test_users_of_an_application_have_separate_logins(clone: Clone) -> None:
    with application(clone) as url, user(url) as ann, user(url) as bob, user(url) as stranger:
        for client, name in ((ann, "ann"), (bob, "bob")):
            page = client.post("/account", data={"name": name, "password": f"{name}'s password", "new": "1"})
            assert "Your login at Notion" in page.text
        assert "/auth/login" in ann.get("/pages/self").json()["detail"]["login"]
        assert "You are signed in" in ann.get("/auth/login", headers={"Accept": "text/html"}).text
        assert "Practice workspace" in ann.get("/pages/self").json()[0]
        assert [client.get("/pages/self").status_code for client in (bob, stranger)] == [401, 401]
        assert bob.get("/auth/status", headers={"Accept": "*/*"}).json()["status"] == "unauthenticated"


def test_account_needs_its_password(clone: Clone) -> None:
    ann = {"name": "ann", "password": "ann's password"}
    with application(clone) as url, user(url) as client:
        assert client.post("/account", data=ann).status_code == 401
        assert client.post("/account", data={**ann, "new": "1"}).status_code == 200
        client.post("/leave")
        assert "Your login at Notion" not in client.get("/").text
        for wrong in ({}, {"new": "1"}):  # an account that exists is not replaced
            assert client.post("/account", data={**ann, "password": "other", **wrong}).status_code == 401
        assert "Your login at Notion" in client.post("/account", data=ann).text


class Model(BaseHTTPRequestHandler):
    """A server of models: its model calls the tool `notion-fetch`, and then repeats what the tool has said."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        last = asked["input"][-1]
        output: dict[str, Any] = {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": str(last.get("output")), "annotations": []}],
        }
        if last.get("type") != "function_call_output":
            (tool,) = [each["name"] for each in asked["tools"] if each["name"] == "notion-fetch"]
            output = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": tool}
            output |= {"arguments": '{"id": "self"}', "status": "completed"}
        answer = {"id": "resp_1", "object": "response", "created_at": 1, "model": "m", "output": [output]}
        answer |= {"parallel_tool_calls": False, "tool_choice": "auto", "tools": [], "status": "completed"}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_: Any) -> None:
        """Write nothing."""


@pytest.fixture
def model_url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Model) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


async def test_agent_calls_notion_through_the_gateway(clone: Clone, model_url: str) -> None:
    await sign_in(clone.oauth)
    (command,) = commands("agent.py")
    done = clone.run(command, OPENAI_BASE_URL=model_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Practice workspace" in done.stdout


async def test_agent_without_a_key_says_what_is_missing(clone: Clone) -> None:
    await sign_in(clone.oauth)
    (command,) = commands("agent.py")
    done = clone.run(command.removeprefix("OPENAI_API_KEY=... "))
    assert (done.returncode, done.stdout) == (1, "")
    assert "OPENAI_API_KEY" in done.stderr
    assert "Traceback" not in done.stderr


def as_cron(clone: Clone, command: str) -> Any:
    """Run a line of the crontab with cron's environment, and the settings that the user has repeated in the crontab."""
    needed = {name: value for name, value in clone.environment.items() if name.startswith(("COV", "XDG", "NOTION"))}
    words = [f"{name}={value}" for name, value in needed.items()]
    cron = ["env", "-i", f"HOME={clone.home}", "PATH=/usr/bin:/bin", "LOGNAME=ann", "SHELL=/bin/sh", *words]
    return clone.run(shlex.join([*cron, "/bin/sh", "-c", command.replace("/path/to/clone", str(clone.directory))]))


@pytest.mark.parametrize("command", crontab())
async def test_cron_job_prints_nothing_if_it_works(clone: Clone, command: str) -> None:
    await sign_in(clone.oauth)
    done = as_cron(clone, command)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    if "cron.sh" in command:
        file = clone.home / "notion-self.json"
        assert json.loads(file.read_text())["self"]["workspace"]["name"] == "Practice workspace"
        assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("command", crontab())
def test_cron_job_says_what_fails(clone: Clone, command: str) -> None:
    done = as_cron(clone, command)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", f"Error: {NOT_SIGNED_IN}")
    assert not list(Path(clone.home).glob("*.json"))


async def test_cron_job_keeps_the_file_if_the_request_fails(clone: Clone) -> None:
    await sign_in(clone.oauth)
    (command,) = commands("cron.sh")
    (clone.home / "page").write_text("as before")
    done = clone.run(command.replace("PAGE FILE", f"other {clone.home / 'page'}"))
    assert (done.returncode, done.stdout) == (1, "")
    assert (clone.home / "page").read_text() == "as before"
